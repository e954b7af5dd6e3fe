//! Step: what the machine and each guest start with: kernel, hypervisor, miniroot.

use std::io;
use std::sync::Arc;

use crate::debian::boot_tools::{BootTools, BootToolsError};
use crate::guests::{self, GuestError};
use crate::iso::xen::{self, XenError};
use crate::miniroot::{
    self, File, Kernel, KernelError, MinirootInputs, MinirootPackError, PlanError, ScriptValues, Selection,
};
use crate::pipeline::Request;
use crate::pipeline::step_cache::{MINIROOTS, StepCache};
use crate::pipeline::step_inputs::StepInputs;
use crate::pipeline::step_runner::{StartedStep, StepRunner};
use crate::pipeline::steps::systems::{SystemTree, Systems};
use crate::recipe::HOST_IMAGE;
use crate::templates::TemplateError;
use crate::tree::{Content, Contents, Kind, Node, NodeId, Tree};
use formats::digest::Sha256;
use system::files::FileError;

/// Changes when [`miniroot::pack`] writes other bytes for the same tree.
const PACKING: u32 = 1;
/// Where a guest finds its root file system: the first disk that the host gives it.
const GUEST_DISK: &str = "/dev/xvda";
/// Modules that a guest's miniroot needs beside those of every root: Xen's disk, and QEMU's if the kernel has it.
const GUEST_MODULES: [&str; 2] = ["xen-blkfront", "guest"];

/// What the machine starts with.
#[derive(Debug)]
pub struct BootFiles {
    pub kernel: Vec<u8>,
    /// The hypervisor, if the recipe has it.
    pub xen: Option<Vec<u8>>,
    /// The miniroot that fetches the host's root file system.
    pub miniroot: Vec<u8>,
}

/// Why a miniroot can't be made. The system's name comes first.
#[derive(Debug, thiserror::Error)]
pub enum MinirootError {
    /// The kernel, or one of its modules.
    #[error("system `{system}`")]
    Kernel { system: String, source: KernelError },
    #[error(transparent)]
    Xen(#[from] XenError),
    /// A file of a tree can't be read.
    #[error("system `{system}`: can't read {what}")]
    Read { system: String, what: &'static str, source: io::Error },
    /// The boot kit lacks something.
    #[error(transparent)]
    Kit(#[from] BootToolsError),
    #[error("the miniroot's scripts")]
    Template(#[from] TemplateError),
    /// It can't be put together.
    #[error("system `{system}`")]
    Plan { system: String, source: PlanError },
    /// It can't be packed.
    #[error("system `{system}`: can't pack its miniroot")]
    Pack { system: String, source: MinirootPackError },
    #[error(transparent)]
    Cache(#[from] FileError),
    /// It has no place in the guest's image.
    #[error(transparent)]
    Guest(#[from] GuestError),
}

/// Makes what the machine starts with.
///
/// # Errors
/// [`MinirootError`].
pub fn make(
    request: &Request<'_>,
    cache: &StepCache<'_>,
    systems: &Systems,
    runner: &mut StepRunner,
) -> Result<BootFiles, MinirootError> {
    let step = runner.start("miniroot");
    let recipe = request.recipe;
    let tree = &systems.host.tree;
    let kernel = find_kernel(HOST_IMAGE, tree, &systems.spools)?;
    let wanted = recipe.boot.modules.iter().map(AsRef::as_ref);
    let modules = Selection::new(&kernel, wanted)
        .map_err(|source| MinirootError::Kernel { system: HOST_IMAGE.into(), source })?;

    let mirrors: String = recipe.mirrors.iter().map(|mirror| format!("{mirror}\n")).collect();
    let mut files = vec![
        file("etc/imgfactory/release.pub", request.public.to_owned()),
        file("etc/imgfactory/mirrors", mirrors),
    ];
    files.extend(scripts(request, systems.epoch, HOST_IMAGE, None)?);
    let ingredients = MinirootInputs {
        modules: &modules,
        busybox: busybox(systems)?,
        imgfetch: Some(request.imgfetch.into()),
        files,
        mtime: systems.time(),
    };
    let miniroot = pack(step, cache, HOST_IMAGE, &ingredients, &systems.spools)?;

    let read = |node: NodeId, what| {
        let content = file_content(tree, node);
        content.read_all(&systems.spools).map_err(|source| MinirootError::Read {
            system: HOST_IMAGE.into(),
            what,
            source,
        })
    };
    let xen = match &recipe.boot.xen {
        Some(_) => Some(read(xen::find(tree)?, "the hypervisor")?),
        None => None,
    };
    Ok(BootFiles { kernel: read(kernel.vmlinuz, "the kernel")?, xen, miniroot })
}

/// Puts kernel and miniroot into each guest's tree.
///
/// # Errors
/// [`MinirootError`].
pub fn install_in_guests(
    request: &Request<'_>,
    cache: &StepCache<'_>,
    systems: &mut Systems,
    runner: &mut StepRunner,
) -> Result<(), MinirootError> {
    let busybox = busybox(systems)?;
    let time = systems.time();
    for index in 0..systems.guests.len() {
        let guest = &systems.guests[index];
        if !guest.linux {
            continue;
        }
        let step = runner.start(format!("miniroot of {}", guest.name));
        let (kernel, initrd) = make_for_guest(request, cache, systems, guest, busybox.clone(), step)?;
        let initrd = Content::inline(initrd);
        guests::install_in_guest(&mut systems.guests[index].tree, kernel, initrd, time)?;
    }
    Ok(())
}

/// A guest's kernel and miniroot. A guest without a kernel of its own gets the host's. The kernel's date is that of its
/// miniroot too: it goes into the image, and that must not change each day that an archive has a new date.
fn make_for_guest(
    request: &Request<'_>,
    cache: &StepCache<'_>,
    systems: &Systems,
    guest: &SystemTree,
    busybox: Arc<[u8]>,
    step: StartedStep<'_>,
) -> Result<(Content, Vec<u8>), MinirootError> {
    let name = guest.name.as_str();
    let own = match find_kernel(name, &guest.tree, &systems.spools) {
        Err(MinirootError::Kernel { source: KernelError::None, .. }) => None,
        found => Some((found?, &guest.tree)),
    };
    let (kernel, tree) = match own {
        Some(own) => own,
        None => (find_kernel(HOST_IMAGE, &systems.host.tree, &systems.spools)?, &systems.host.tree),
    };
    let modules = Selection::new(&kernel, GUEST_MODULES)
        .map_err(|source| MinirootError::Kernel { system: name.into(), source })?;
    let mtime = tree.node(kernel.vmlinuz).meta.mtime;
    let files = scripts(request, mtime.secs, name, Some(GUEST_DISK))?;
    let ingredients = MinirootInputs { modules: &modules, busybox, imgfetch: None, files, mtime };
    let initrd = pack(step, cache, name, &ingredients, &systems.spools)?;
    Ok((file_content(tree, kernel.vmlinuz).clone(), initrd))
}

fn busybox(systems: &Systems) -> Result<Arc<[u8]>, MinirootError> {
    Ok(BootTools { tree: &systems.kit, contents: &systems.spools }.busybox()?.into())
}

fn find_kernel<'t>(
    system: &str,
    tree: &'t Tree,
    contents: &dyn Contents,
) -> Result<Kernel<'t>, MinirootError> {
    Kernel::find(tree, contents).map_err(|source| MinirootError::Kernel { system: system.into(), source })
}

fn scripts(
    request: &Request<'_>,
    built: i64,
    image: &str,
    disk: Option<&str>,
) -> Result<Vec<File>, TemplateError> {
    let settings = ScriptValues { name: request.recipe.name.as_str(), image, built, disk };
    miniroot::scripts(&request.project.templates(), &settings)
}

/// Packs a miniroot, or takes it from the cache: xz of the best kind is slow.
fn pack(
    step: StartedStep<'_>,
    cache: &StepCache<'_>,
    system: &str,
    ingredients: &MinirootInputs<'_>,
    contents: &dyn Contents,
) -> Result<Vec<u8>, MinirootError> {
    let tree = miniroot::plan(ingredients, contents)
        .map_err(|source| MinirootError::Plan { system: system.into(), source })?;
    step.run(inputs(&tree), |run| {
        let earlier = cache.get(MINIROOTS, system, run.key())?;
        run.used_earlier_result(earlier.is_some());
        if let Some(earlier) = earlier {
            return Ok(earlier);
        }
        let packed =
            miniroot::pack(&tree).map_err(|source| MinirootError::Pack { system: system.into(), source })?;
        cache.put(MINIROOTS, system, run.key(), &packed.bytes)?;
        Ok(packed.bytes)
    })
}

/// What a miniroot depends on: each of its files, and how it is packed.
fn inputs(tree: &Tree) -> StepInputs {
    let none: Vec<Vec<u8>> = Vec::new();
    let mut inputs = StepInputs::new().with("packing", PACKING);
    for (path, id) in tree.walk() {
        let Node { meta, kind } = tree.node(id);
        let what = match kind {
            Kind::Directory(_) => "directory".to_owned(),
            // All of a miniroot's contents are in memory.
            Kind::File(content) => content
                .read_all(&none)
                .map_or_else(|error| error.to_string(), |bytes| Sha256::of(&bytes).to_string()),
            other => format!("{other:?}"),
        };
        let (time, mode, path) = (meta.mtime.secs, meta.mode, String::from_utf8_lossy(&path).into_owned());
        inputs.add(format!("/{path}"), format!("{mode:o} {time} {what}"));
    }
    inputs
}

fn file(path: &str, text: String) -> File {
    File { path: path.into(), mode: 0o644, bytes: text.into_bytes().into() }
}

/// What a node that was found as a regular file holds.
fn file_content(tree: &Tree, node: NodeId) -> &Content {
    match &tree.node(node).kind {
        Kind::File(content) => content,
        other => unreachable!("kernels and hypervisors are found as files, not as {other:?}"),
    }
}
