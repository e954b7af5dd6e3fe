//! Step: the trees of the host, the guests and the boot kit, with overlays, as they will be in their images.

use crate::debian::{PackageSet, Script, boot_tools};
use crate::downloads::third_party::ThirdPartySources;
use crate::ext2::{InodeSize, Profile};
use crate::guests::{self, GuestError};
use crate::iso::grub::Grub;
use crate::pipeline::step_runner::{Steps, Told};
use crate::pipeline::steps::disks::{self, Disk, DiskError};
use crate::pipeline::steps::knoppix;
use crate::pipeline::steps::netbsd::{self, MakeNetBsdError};
use crate::pipeline::steps::plan9;
use crate::pipeline::steps::tree::{DebianTree, MakeTreeError, TreeMaker};
use crate::pipeline::{Output, Request};
use crate::project::overlay::{self, LoadOverlayError};
use crate::recipe::{
    self, Debian, Flavour, Guest, GuestKind, HostName, Knoppix, KnoppixForm, OverlayName, ProjectPath,
};
use crate::sys::spool::Spools;
use crate::templates::context;
use crate::tree::overlay::OverlayError;
use crate::tree::{Content, Kind, Meta, Node, Time, Tree, TreeError};
use formats::names::{BadName, ImageName};
use system::files::{self, FileError};

/// A script for mmdebstrap of more than this is none.
const MAX_SCRIPT: u64 = 1 << 20;

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
    pub disks: Vec<Disk>,
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
    /// A file of ours has no place in it.
    #[error("system `{name}`: its own files can't be put into it")]
    Own {
        /// Which system.
        name: ImageName,
        /// Why.
        source: TreeError,
    },
    /// What guests need.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// A NetBSD system.
    #[error(transparent)]
    NetBsd(#[from] MakeNetBsdError),
    /// A disk that is taken as it is.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The name of a second disk, which is made of a guest's.
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
    let logs = out.logs();
    let maker = TreeMaker {
        cache: request.cache,
        logs: &logs,
        mirrors: request.mirrors,
        mode: request.mode,
        epoch: request.epoch,
        offline: request.offline,
        progress: request.progress,
    };
    let sources = ThirdPartySources::new(request.sources, request.cache, request.offline, request.progress);
    let mut works = Works { request, maker, sources, steps, spools: Spools::new(), epoch: 0 };
    let recipe = request.recipe;

    let host = &recipe.host;
    let kit = works.tree("kit", &boot_tools::set(host.system.boot_tools(), &Grub::images()))?.tree;
    let name = recipe::Host::image_name();
    let host = match &host.system {
        recipe::HostSystem::Debian(debian) => {
            works.debian(name, debian, &host.overlays, &host.hostname, host.image)?
        }
        recipe::HostSystem::Knoppix(knoppix, _) => {
            works.knoppix(name, knoppix, &host.overlays, &host.hostname, host.image)?
        }
    };
    let (mut guests, mut disks) = (Vec::new(), Vec::new());
    for guest in &recipe.guests {
        match works.guest(guest)? {
            Made::Tree(system) => guests.push(*system),
            Made::Disk(disk) => disks.push(disk),
        }
        if let GuestKind::Plan9(plan9) = &guest.kind
            && plan9.data > 0
        {
            guests.push(second_disk(guest, plan9, works.epoch)?);
        }
    }
    let Works { spools, epoch, .. } = works;
    let mut systems = Systems { host, guests, disks, kit, spools, epoch };
    let described: Vec<_> = recipe.guests.iter().map(guests::Guest::of).collect();
    let time = systems.time();
    guests::install_in_host(&mut systems.host.tree, &described, &request.project.templates(), time)?;
    Ok(systems)
}

/// An empty file system for what a Plan 9 writes. 9legacy's ext2srv damages one with inodes of 256 bytes.
fn second_disk(guest: &Guest, plan9: &recipe::Plan9, epoch: i64) -> Result<System, BadName> {
    let (inode_size, profile) = match plan9.flavour {
        Flavour::Legacy => (InodeSize::Small, Profile::Legacy9),
        // Its ext4srv writes the types of entries, and NetBSD's limits suit it.
        Flavour::Front => (InodeSize::Large, Profile::NetBsd),
    };
    let mtime = Time { secs: epoch, nanos: 0 };
    Ok(System {
        name: format!("{}-data", guest.name).parse()?,
        tree: Tree::new(Meta { mode: 0o777, mtime, ..Meta::default() }),
        image: recipe::FileSystemOptions { free: plan9.data, inode_size, zero_freed: false },
        profile,
        linux: false,
    })
}

/// What a guest has become.
enum Made {
    Tree(Box<System>),
    Disk(Disk),
}

/// What making one system after the other needs.
struct Works<'a, 's> {
    request: &'a Request<'a>,
    maker: TreeMaker<'a>,
    sources: ThirdPartySources<'a>,
    steps: &'s mut Steps,
    spools: Spools,
    epoch: i64,
}

impl Works<'_, '_> {
    fn guest(&mut self, guest: &Guest) -> Result<Made, SystemError> {
        let name = guest.name.clone();
        match &guest.kind {
            GuestKind::Debian(debian) => {
                let system = self.debian(name, debian, &guest.overlays, &guest.hostname, guest.image)?;
                Ok(Made::Tree(Box::new(system)))
            }
            GuestKind::NetBsd(recipe) => {
                let (request, sources, spools) = (self.request, &self.sources, &mut self.spools);
                let (mut tree, epoch) = self.steps.run(format!("tree {name}"), Told::nothing, || {
                    netbsd::make(request, sources, guest, recipe, spools)
                })?;
                self.epoch = self.epoch.max(epoch);
                for overlay in &guest.overlays {
                    self.lay(&name, overlay.as_ref(), &guest.hostname, &mut tree, epoch)?;
                }
                let (image, profile) = (guest.image, Profile::NetBsd);
                Ok(Made::Tree(Box::new(System { name, tree, image, profile, linux: false })))
            }
            GuestKind::Knoppix(knoppix) if knoppix.form == KnoppixForm::Tree => {
                let system = self.knoppix(name, knoppix, &guest.overlays, &guest.hostname, guest.image)?;
                Ok(Made::Tree(Box::new(system)))
            }
            GuestKind::Plan9(recipe) if !guest.overlays.is_empty() => {
                self.plan9(name, guest, recipe).map(Made::Disk)
            }
            GuestKind::Disk(_) | GuestKind::Plan9(_) | GuestKind::Knoppix(_) => {
                let (request, sources) = (self.request, &self.sources);
                let disk = self
                    .steps
                    .run(format!("disk {name}"), Told::nothing, || disks::make(request, sources, guest))?;
                Ok(Made::Disk(disk))
            }
        }
    }

    /// A Plan 9 whose medium is made anew, with overlays.
    fn plan9(&mut self, name: ImageName, guest: &Guest, recipe: &recipe::Plan9) -> Result<Disk, SystemError> {
        let fault = |fault| DiskError { guest: guest.name.to_string(), source: Box::new(fault) };
        let (request, sources, spools) = (self.request, &self.sources, &mut self.spools);
        let apart = plan9::apart(request, sources, recipe, spools);
        let mut apart = apart.map_err(fault)?;
        for overlay in &guest.overlays {
            self.lay(&name, overlay.as_ref(), &guest.hostname, &mut apart.tree, apart.newest)?;
        }
        let (sources, spools) = (&self.sources, &self.spools);
        let made = self.steps.run(format!("disk {name}"), Told::nothing, || {
            plan9::together(request, sources, guest, recipe, &apart, spools)
        });
        Ok(made.map_err(fault)?)
    }

    /// The files of a KNOPPIX. It keeps its own host name.
    fn knoppix(
        &mut self,
        name: ImageName,
        knoppix: &Knoppix,
        overlays: &[OverlayName],
        hostname: &HostName,
        image: recipe::FileSystemOptions,
    ) -> Result<System, SystemError> {
        let (request, sources, spools) = (self.request, &self.sources, &mut self.spools);
        let made = self.steps.run(format!("tree {name}"), Told::nothing, || {
            knoppix::tree(request, sources, &knoppix.origins, spools)
        });
        let (mut tree, epoch) =
            made.map_err(|fault| DiskError { guest: name.to_string(), source: Box::new(fault) })?;
        self.epoch = self.epoch.max(epoch);
        for overlay in overlays {
            self.lay(&name, overlay.as_ref(), hostname, &mut tree, epoch)?;
        }
        Ok(System { name, tree, image, profile: Profile::Linux, linux: true })
    }

    fn debian(
        &mut self,
        name: ImageName,
        debian: &Debian,
        overlays: &[OverlayName],
        hostname: &HostName,
        image: recipe::FileSystemOptions,
    ) -> Result<System, SystemError> {
        let set = PackageSet::of(debian, self.scripts(debian)?);
        let DebianTree { mut tree, epoch, .. } = self.tree(name.as_str(), &set)?;
        let time = Time { secs: epoch, nanos: 0 };
        call(&mut tree, hostname, time).map_err(|source| SystemError::Own { name: name.clone(), source })?;
        for overlay in overlays {
            self.lay(&name, overlay.as_ref(), hostname, &mut tree, epoch)?;
        }
        Ok(System { name, tree, image, profile: Profile::Linux, linux: true })
    }

    fn lay(
        &mut self,
        name: &ImageName,
        overlay: &str,
        hostname: &HostName,
        tree: &mut Tree,
        epoch: i64,
    ) -> Result<(), SystemError> {
        let distribution = self.request.recipe.name.as_str();
        let values = context! { name => distribution, image => name.as_str(), hostname => hostname.as_ref() };
        overlay::load(self.request.project, overlay, &values, &mut self.spools)
            .map_err(|source| SystemError::LoadOverlay {
                name: name.clone(),
                overlay: overlay.into(),
                source,
            })?
            .apply(tree, &self.spools, epoch)
            .map_err(|source| SystemError::Overlay { name: name.clone(), overlay: overlay.into(), source })
    }

    fn tree(&mut self, name: &str, set: &PackageSet) -> Result<DebianTree, MakeTreeError> {
        let made = self.steps.run(
            format!("tree {name}"),
            |made: &DebianTree| Told { cached: made.cached, inputs: made.inputs.clone() },
            || self.maker.make(name, set, &mut self.spools),
        )?;
        self.epoch = self.epoch.max(made.epoch);
        Ok(made)
    }

    fn scripts(&self, debian: &Debian) -> Result<Vec<Script>, FileError> {
        let read = |path: &ProjectPath| {
            let text = files::read_at_most(self.request.project.path(path), MAX_SCRIPT)?;
            Ok(Script { name: path.to_string(), text })
        };
        debian.customise.iter().map(read).collect()
    }
}

/// Gives a system its host name.
fn call(tree: &mut Tree, name: &HostName, mtime: Time) -> Result<(), TreeError> {
    let hosts = format!(
        "127.0.0.1\tlocalhost\n127.0.1.1\t{name}\n\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
    );
    for (path, text) in [("etc/hostname", format!("{name}\n")), ("etc/hosts", hosts)] {
        let meta = Meta { mode: 0o644, mtime, ..Meta::default() };
        let kind = Kind::File(Content::inline(text.into_bytes()));
        tree.insert(path.as_bytes(), Node { meta, kind })?;
    }
    Ok(())
}
