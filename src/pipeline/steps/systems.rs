//! Step: the trees of the host, the guests and the boot kit, with overlays, as they will be in their images.

use crate::debian::boot_tools;
use crate::downloads::third_party::ThirdPartySources;
use crate::ext2::Profile;
use crate::guests::{
    self, BoxError, DataDisk, GuestConfig, GuestContents, GuestError, GuestTree, ServiceError,
};
use crate::iso::grub::Grub;
use crate::pipeline::guest_services::GuestServices;
use crate::pipeline::step_runner::{Steps, Told};
use crate::pipeline::steps::disks::GuestDisk;
use crate::pipeline::steps::tree::MakeTreeError;
use crate::pipeline::{Output, Request};
use crate::project::overlay::LoadOverlayError;
use crate::recipe::{self, Guest, HOST_IMAGE, HostSystem};
use crate::sys::spool::Spools;
use crate::tree::overlay::OverlayError;
use crate::tree::{Meta, Time, Tree};
use formats::names::{BadName, ImageName};
use system::files::FileError;

/// A system on its way into an image.
#[derive(Debug)]
pub struct System {
    /// Name of its image.
    pub name: ImageName,
    /// Its root file system.
    pub tree: Tree,
    /// What the recipe says of its file system.
    pub image: recipe::FileSystemOptions,
    /// What reads it.
    pub profile: Profile,
    /// Whether it starts with a Linux kernel and a miniroot of ours.
    pub linux: bool,
}

/// All systems of a build.
#[derive(Debug)]
pub struct Systems {
    /// The host.
    pub host: System,
    /// The guests that have a tree, in the recipe's order.
    pub guests: Vec<System>,
    /// The disks of the others.
    pub disks: Vec<GuestDisk>,
    /// GRUB, busybox and certificates.
    pub kit: Tree,
    /// Where the contents of all trees are.
    pub spools: Spools,
    /// The newest date of anything in them, seconds since 1970: the date of all that is made of them.
    pub epoch: i64,
}

impl Systems {
    /// The host first.
    pub fn all(&self) -> impl Iterator<Item = &System> {
        std::iter::once(&self.host).chain(&self.guests)
    }

    /// The date of all that is made of the trees, as a node has it.
    pub fn time(&self) -> Time {
        Time { secs: self.epoch, nanos: 0 }
    }
}

/// Why a system can't be made.
#[derive(Debug, thiserror::Error)]
pub enum SystemError {
    /// Its packages.
    #[error(transparent)]
    Tree(#[from] MakeTreeError),
    /// An overlay can't be read.
    #[error("system `{name}`: overlay `{overlay}`")]
    LoadOverlay {
        /// Which system.
        name: ImageName,
        /// Which overlay.
        overlay: String,
        /// Why.
        source: LoadOverlayError,
    },
    /// An overlay does not fit.
    #[error("system `{name}`: overlay `{overlay}`")]
    Overlay {
        /// Which system.
        name: ImageName,
        /// Which overlay.
        overlay: String,
        /// Why.
        source: OverlayError,
    },
    /// What guests need in the host.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// The contents of an image.
    #[error("{whose}")]
    Contents {
        /// The host, or the guest and the release that it is made of.
        whose: String,
        /// Why.
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
pub fn make(request: &Request<'_>, out: &Output, steps: &mut Steps) -> Result<Systems, SystemError> {
    let sources = ThirdPartySources::new(request.sources, request.cache, request.offline, request.progress);
    let mut services = GuestServices::new(request, &sources, out.logs());
    let recipe = request.recipe;
    let kit = boot_tools::set(recipe.host.system.boot_tools(), &Grub::images());
    let kit = steps.run(
        "tree kit",
        |kit: &guests::services::PackageTree| step_inputs(kit.cached, &kit.inputs),
        || services.set_tree("kit", &kit),
    )?;
    let (host, newest) = host(&recipe.host, &mut services, steps)?;
    let mut epoch = kit.newest.max(newest);
    let (mut trees, mut disks) = (Vec::new(), Vec::new());
    for guest in &recipe.guests {
        match contents(guest, &mut services, steps)? {
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

/// The host, and the newest time in it.
fn host(
    host: &recipe::Host,
    services: &mut GuestServices<'_>,
    steps: &mut Steps,
) -> Result<(System, i64), SystemError> {
    let name = recipe::Host::image_name();
    let made = steps.run(
        format!("tree {name}"),
        |tree: &GuestTree| step_inputs(tree.cached, &tree.inputs),
        || {
            match &host.system {
                HostSystem::Debian(debian) => {
                    guests::debian::tree(HOST_IMAGE, debian, &host.hostname, services).map_err(BoxError::from)
                }
                HostSystem::Knoppix(knoppix, _) => guests::knoppix::tree(&knoppix.source, services),
            }
            .map_err(|error| failed("host".to_owned(), error))
        },
    )?;
    let newest = made.newest;
    let mut host_system = system(name, made, host.image);
    services.apply(&host_system.name, &host.overlays, &host.hostname, &mut host_system.tree, newest)?;
    Ok((host_system, newest))
}

/// The contents of a guest's image, with its overlays.
fn contents(
    guest: &Guest,
    services: &mut GuestServices<'_>,
    steps: &mut Steps,
) -> Result<GuestContents, SystemError> {
    let builder = guests::builder(&guest.kind);
    let what = if guest.kind.is_tree() { "tree" } else { "disk" };
    let told = |made: &GuestContents| match made {
        GuestContents::Tree(tree) => step_inputs(tree.cached, &tree.inputs),
        GuestContents::Disk(_) => Told::default(),
    };
    let mut made = steps.run(format!("{what} {}", guest.name), told, || {
        let made = builder.build(guest, services);
        made.map_err(|error| {
            let release = builder.release().map_or(String::new(), |release| format!(": {release}"));
            failed(format!("guest `{}`{release}", guest.name), error)
        })
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
    contents(guest, services, &mut Steps::default())
}

fn step_inputs(cached: bool, inputs: &[String]) -> Told {
    Told { cached, inputs: inputs.to_vec() }
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

fn system(name: ImageName, made: GuestTree, image: recipe::FileSystemOptions) -> System {
    System { name, tree: made.tree, image, profile: made.profile, linux: made.linux }
}

/// A guest's second disk.
fn data_disk(guest: &Guest, disk: DataDisk, epoch: i64) -> Result<System, BadName> {
    let mtime = Time { secs: epoch, nanos: 0 };
    Ok(System {
        name: guests::kind::data_image_name(guest.name.as_str()).parse()?,
        tree: Tree::new(Meta { mode: 0o777, mtime, ..Meta::default() }),
        image: recipe::FileSystemOptions { free: disk.free, inode_size: disk.inode_size, zero_freed: false },
        profile: disk.profile,
        linux: false,
    })
}
