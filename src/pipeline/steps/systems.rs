//! Step: the trees of the host, the guests and the boot kit, with overlays, as they will be in their images.

use std::path::Path;

use crate::debian::boot_tools;
use crate::downloads::third_party::ThirdPartySources;
use crate::ext2::Profile;
use crate::guests::services::PackageTree;
use crate::guests::{
    self, BoxError, BuildServices, DataDisk, GuestConfig, GuestContents, GuestError, GuestTree, ServiceError,
};
use crate::iso::grub::Grub;
use crate::pipeline::guest_services::GuestServices;
use crate::pipeline::step_cache::StepCache;
use crate::pipeline::step_inputs::StepInputs;
use crate::pipeline::step_runner::{StepRun, StepRunner};
use crate::pipeline::steps::disks::GuestDisk;
use crate::pipeline::steps::tree::{self, MakeTreeError};
use crate::pipeline::{OutputDirectory, Request};
use crate::project::overlay::LoadOverlayError;
use crate::recipe::{self, Guest, HOST_IMAGE, HostSystem};
use crate::sys::spool::ContentFiles;
use crate::tree::overlay::OverlayError;
use crate::tree::{FileTime, Meta, Tree};
use formats::names::{BadName, ImageName};
use system::files::FileError;

/// A system on its way into an image.
#[derive(Debug)]
pub struct SystemTree {
    pub name: ImageName,
    /// Its root file system.
    pub tree: Tree,
    /// What the recipe says of its file system.
    pub image: recipe::FileSystemOptions,
    pub profile: Profile,
    /// Whether it starts with a Linux kernel and a miniroot of ours.
    pub linux: bool,
}

/// All systems of a build.
#[derive(Debug)]
pub struct Systems {
    pub host: SystemTree,
    /// The guests that have a tree, in the recipe's order.
    pub guests: Vec<SystemTree>,
    /// The disks of the others.
    pub disks: Vec<GuestDisk>,
    /// GRUB, busybox and certificates.
    pub kit: Tree,
    /// Where the contents of all trees are.
    pub spools: ContentFiles,
    /// The newest date of anything in them, seconds since 1970: the date of all that is made of them.
    pub epoch: i64,
}

impl Systems {
    /// Returns all systems, the host first.
    pub fn all(&self) -> impl Iterator<Item = &SystemTree> {
        std::iter::once(&self.host).chain(&self.guests)
    }

    /// The date of all that is made of the trees, as a node has it.
    pub fn time(&self) -> FileTime {
        FileTime { secs: self.epoch, nanos: 0 }
    }
}

/// Why a system can't be made.
#[derive(Debug, thiserror::Error)]
pub enum SystemError {
    #[error(transparent)]
    Tree(#[from] MakeTreeError),
    /// An overlay can't be read.
    #[error("system `{name}`: overlay `{overlay}`")]
    LoadOverlay { name: ImageName, overlay: String, source: LoadOverlayError },
    /// An overlay does not fit.
    #[error("system `{name}`: overlay `{overlay}`")]
    Overlay { name: ImageName, overlay: String, source: OverlayError },
    /// What guests need in the host.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// The contents of an image.
    #[error("{whose}")]
    Contents {
        /// The host, or the guest and the release that it is made of.
        whose: String,
        source: BoxError,
    },
    /// The name of a guest's second disk.
    #[error(transparent)]
    Name(#[from] BadName),
    /// A script can't be read.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Makes all trees, or takes them out of the cache.
///
/// # Errors
/// [`SystemError`].
pub fn make(
    request: &Request<'_>,
    cache: &StepCache<'_>,
    out: &OutputDirectory,
    runner: &mut StepRunner,
) -> Result<Systems, SystemError> {
    let hold = |path: &Path| cache.hold(path);
    let Request { sources, cache: dir, offline, progress, web, .. } = *request;
    let sources = ThirdPartySources::new(sources, dir, offline, progress, web);
    let sources = sources.holding(&hold);
    let mut services = GuestServices::new(request, &sources, cache, out.logs());
    let recipe = request.recipe;
    let kit = kit(&recipe.host.system, &mut services, runner)?;
    let (host, newest) = host(&recipe.host, &mut services, runner)?;
    let mut epoch = kit.newest.max(newest);
    let (mut trees, mut disks) = (Vec::new(), Vec::new());
    for guest in &recipe.guests {
        match contents(guest, &mut services, runner)? {
            GuestContents::Tree(made) => {
                epoch = epoch.max(made.newest);
                trees.push(system(guest.name.clone(), made, guest.image));
            }
            GuestContents::Disk(contents) => {
                disks.push(GuestDisk { name: guest.name.clone(), contents });
            }
        }
        if let Some(disk) = guests::builder(&guest.kind).data_disk() {
            trees.push(data_disk(guest, disk, epoch)?);
        }
    }
    let spools = services.spools;
    let mut systems = Systems { host, guests: trees, disks, kit: kit.tree, spools, epoch };
    let configs: Vec<_> = recipe.guests.iter().map(GuestConfig::of).collect();
    let time = systems.time();
    guests::install_in_host(&mut systems.host.tree, &configs, &request.project.templates(), time)?;
    Ok(systems)
}

/// GRUB, busybox and certificates.
fn kit(
    host: &HostSystem,
    services: &mut GuestServices<'_>,
    runner: &mut StepRunner,
) -> Result<PackageTree, SystemError> {
    let step = runner.start("boot tools");
    let plan = services.plan_tree("boot-tools", &boot_tools::set(host.boot_tools(), &Grub::images()))?;
    step.run(tree::inputs(&plan), |run| {
        let made = services.set_tree("boot-tools", &plan, run.key())?;
        run.used_earlier_result(made.cached);
        Ok(made)
    })
}

/// The host, and the newest time in it.
fn host(
    host: &recipe::Host,
    services: &mut GuestServices<'_>,
    runner: &mut StepRunner,
) -> Result<(SystemTree, i64), SystemError> {
    let name = recipe::Host::image_name();
    let host_failed = |error| failed("host".to_owned(), error);
    let step = runner.start(format!("tree {name}"));
    let inputs = match &host.system {
        HostSystem::Debian(debian) => {
            services.debian_inputs(HOST_IMAGE, debian).map_err(|error| host_failed(error.into()))?
        }
        HostSystem::Knoppix(knoppix, _) => guests::knoppix::inputs(knoppix, services),
    };
    let made = step.run(inputs.into_iter().collect(), |run| {
        let made = match &host.system {
            HostSystem::Debian(debian) => {
                guests::debian::tree(HOST_IMAGE, debian, &host.hostname, services).map_err(BoxError::from)
            }
            HostSystem::Knoppix(knoppix, _) => guests::knoppix::tree(&knoppix.source, services),
        };
        let made = made.map_err(host_failed)?;
        report_tree(&made, run);
        Ok::<_, SystemError>(made)
    })?;
    let newest = made.newest;
    let mut host_system = system(name, made, host.image);
    services.apply(&host_system.name, &host.overlays, &host.hostname, &mut host_system.tree, newest)?;
    Ok((host_system, newest))
}

/// The contents of a guest's image, with its overlays.
fn contents(
    guest: &Guest,
    services: &mut GuestServices<'_>,
    runner: &mut StepRunner,
) -> Result<GuestContents, SystemError> {
    let builder = guests::builder(&guest.kind);
    let what = if guest.kind.is_tree() { "tree" } else { "disk" };
    let guest_failed = |error| {
        let release = builder.release().map_or(String::new(), |release| format!(": {release}"));
        failed(format!("guest `{}`{release}", guest.name), error)
    };
    let step = runner.start(format!("{what} {}", guest.name));
    let inputs: StepInputs = builder.inputs(guest, services).map_err(guest_failed)?.into_iter().collect();
    let mut made = step.run(inputs, |run| {
        let made = builder.build(guest, services).map_err(guest_failed)?;
        if let GuestContents::Tree(tree) = &made {
            report_tree(tree, run);
        }
        Ok::<_, SystemError>(made)
    })?;
    if let GuestContents::Tree(made) = &mut made {
        services.apply(&guest.name, &guest.overlays, &guest.hostname, &mut made.tree, made.newest)?;
    }
    Ok(made)
}

/// The contents of one guest's image without a build around it. `services` then has what a tree refers to.
///
/// # Errors
/// [`SystemError`].
pub fn guest_contents(guest: &Guest, services: &mut GuestServices<'_>) -> Result<GuestContents, SystemError> {
    contents(guest, services, &mut StepRunner::default())
}

/// Reports whether a tree came out of the cache, or its date, where no input decides that.
fn report_tree(tree: &GuestTree, run: &mut StepRun) {
    match tree.cached {
        Some(cached) => run.used_earlier_result(cached),
        None => run.found("epoch", tree.newest),
    }
}

/// Puts the system's name before an error, unless the error has it already.
fn failed(whose: String, error: BoxError) -> SystemError {
    let source = match error.downcast::<ServiceError>() {
        Ok(service) => match service.0.downcast::<SystemError>() {
            Ok(named) => return *named,
            Err(other) => other,
        },
        Err(other) => other,
    };
    SystemError::Contents { whose, source }
}

fn system(name: ImageName, made: GuestTree, image: recipe::FileSystemOptions) -> SystemTree {
    SystemTree { name, tree: made.tree, image, profile: made.profile, linux: made.linux }
}

/// A guest's second disk.
fn data_disk(guest: &Guest, disk: DataDisk, epoch: i64) -> Result<SystemTree, BadName> {
    let mtime = FileTime { secs: epoch, nanos: 0 };
    Ok(SystemTree {
        name: guests::kind::data_image_name(guest.name.as_str()).parse()?,
        tree: Tree::new(Meta { mode: 0o777, mtime, ..Meta::default() }),
        image: recipe::FileSystemOptions { free: disk.free, inode_size: disk.inode_size, zero_freed: false },
        profile: disk.profile,
        linux: false,
    })
}
