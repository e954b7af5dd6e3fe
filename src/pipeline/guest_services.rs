//! The services of a build for the kinds of guests: third-party files, the cache, programs, the project's files.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sha2::Digest as _;

use crate::debian::{PackageSet, Script, TreePlan};
use crate::downloads::third_party::ThirdPartySources;
use crate::ext2::ReadAt;
use crate::foreign::sums::Sum;
use crate::guests::BoxError;
use crate::guests::services::{
    Argument, BuildServices, Inputs, PackageTree, ProgramRun, ReadSeek, ServiceError, ThirdPartyFiles,
    WriteFile,
};
use crate::pipeline::Request;
use crate::pipeline::step_cache::StepCache;
use crate::pipeline::steps::systems::SystemError;
use crate::pipeline::steps::tree::{self, TreeMaker};
use crate::project::overlay;
use crate::recipe::{Debian, Guest, HostName, OverlayName, ProjectPath};
use crate::sys::image_file::ImageFile;
use crate::sys::process::{Tool, ToolError};
use crate::sys::progress::Unit;
use crate::sys::spool::ContentFiles;
use crate::templates::context;
use crate::tree::overlay::{EntryKind, Overlay};
use crate::tree::{Contents, Kind, Meta, Node, SpoolId, Tree};
use formats::digest::Sha256;
use formats::names::ImageName;
use system::files::{self, FileError, Scratch};

/// A script for mmdebstrap of more than this is refused.
const MAX_SCRIPT: u64 = 1 << 20;
/// Bytes copied at a time.
const BUFFER: u64 = 1 << 20;

/// The services of a build.
pub struct GuestServices<'a> {
    request: &'a Request<'a>,
    sources: &'a ThirdPartySources<'a>,
    cache: &'a StepCache<'a>,
    logs: PathBuf,
    /// The plans of trees of Debian packages that are to be made, by their images' names.
    plans: BTreeMap<String, TreePlan>,
    /// The contents of all trees.
    pub spools: ContentFiles,
}

impl<'a> GuestServices<'a> {
    /// Those of a build. `sources` has the third-party files, `cache` the trees of Debian packages; `logs` is the
    /// directory for logs of programs.
    pub fn new(
        request: &'a Request<'a>,
        sources: &'a ThirdPartySources<'a>,
        cache: &'a StepCache<'a>,
        logs: PathBuf,
    ) -> Self {
        GuestServices { request, sources, cache, logs, plans: BTreeMap::new(), spools: ContentFiles::new() }
    }

    /// Plans a tree of Debian packages.
    ///
    /// # Errors
    /// [`SystemError::Tree`].
    pub fn plan_tree(&self, name: &str, set: &PackageSet) -> Result<TreePlan, SystemError> {
        Ok(self.tree_maker().plan(name, set)?)
    }

    /// Makes a planned tree, or takes it out of the cache by the hash of its inputs.
    ///
    /// # Errors
    /// [`SystemError::Tree`].
    pub fn set_tree(&mut self, name: &str, plan: &TreePlan, key: Sha256) -> Result<PackageTree, SystemError> {
        let mut spools = std::mem::take(&mut self.spools);
        let made = self.tree_maker().make_planned(name, plan, key, &mut spools);
        self.spools = spools;
        let made = made?;
        Ok(PackageTree { tree: made.tree, newest: made.epoch, cached: made.cached })
    }

    fn tree_maker(&self) -> TreeMaker<'_> {
        let Request { mirrors, mode, epoch, offline, progress, .. } = *self.request;
        TreeMaker { cache: self.cache, logs: &self.logs, mirrors, mode, epoch, offline, progress }
    }

    fn debian_plan(&self, image: &str, debian: &Debian) -> Result<TreePlan, SystemError> {
        self.plan_tree(image, &PackageSet::of(debian, self.scripts(debian)?))
    }

    /// Reads an overlay; its larger files become content files.
    fn load_overlay(
        &self,
        name: &ImageName,
        overlay: &OverlayName,
        hostname: &HostName,
        spools: &mut ContentFiles,
    ) -> Result<Overlay, SystemError> {
        let distribution = self.request.recipe.name.as_str();
        let values = context! { name => distribution, image => name.as_str(), hostname => hostname.as_ref() };
        overlay::load(self.request.project, overlay.as_ref(), &values, spools).map_err(|source| {
            SystemError::LoadOverlay { name: name.clone(), overlay: overlay.to_string(), source }
        })
    }

    /// Applies overlays, in order, to the tree of the image `name`.
    ///
    /// # Errors
    /// [`SystemError::LoadOverlay`], [`SystemError::Overlay`].
    pub fn apply(
        &mut self,
        name: &ImageName,
        overlays: &[OverlayName],
        hostname: &HostName,
        tree: &mut Tree,
        newest: i64,
    ) -> Result<(), SystemError> {
        let mut spools = std::mem::take(&mut self.spools);
        let applied = overlays.iter().try_for_each(|overlay| {
            let loaded = self.load_overlay(name, overlay, hostname, &mut spools)?;
            loaded.apply(tree, &spools, newest).map_err(|source| SystemError::Overlay {
                name: name.clone(),
                overlay: overlay.to_string(),
                source,
            })
        });
        self.spools = spools;
        applied
    }

    /// The scripts of a recipe's `customise`.
    fn scripts(&self, debian: &Debian) -> Result<Vec<Script>, FileError> {
        let read = |path: &ProjectPath| {
            let text = files::read_at_most(self.request.project.path(path), MAX_SCRIPT)?;
            Ok(Script { name: path.to_string(), text })
        };
        debian.customise.iter().map(read).collect()
    }

    /// The program, ready to run in a scratch directory.
    fn tool(&self, program: &ProgramRun<'_>, scratch: &Path) -> Result<Tool, FileError> {
        let absolute =
            |path: &Path| std::path::absolute(path).map_err(|error| FileError::new(path, "find", error));
        let scratch = absolute(scratch)?;
        let mut tool = Tool::new(program.name).log(self.logs.join(&program.log));
        for argument in &program.arguments {
            tool = match argument {
                Argument::Text(text) => tool.arg(text),
                Argument::Path(path) => tool.arg(absolute(path)?),
                Argument::Scratch { before, path } => {
                    let mut text = std::ffi::OsString::from(before);
                    text.push(scratch.join(path));
                    tool.arg(text)
                }
            };
        }
        for (name, value) in &program.environment {
            tool = tool.env(name, value);
        }
        tool = tool.limit(program.limit).file_limit(program.max_bytes);
        if let Some(tree) = program.files {
            let files = scratch.join(ProgramRun::FILES);
            lay_out(tree, &self.spools, &files)?;
            tool = tool.current_dir(files);
        }
        Ok(tool)
    }

    /// Runs a program in a scratch directory and copies its result to `out`.
    fn run_to(&self, program: &ProgramRun<'_>, out: &mut dyn Write) -> Result<(), ProgramError> {
        let scratch = Scratch::directory(self.request.cache)?;
        let result = scratch.path().join(program.result.unwrap_or("standard-output"));
        let mut tool = self.tool(program, scratch.path())?;
        if program.result.is_none() {
            let file = File::create(&result).map_err(|error| FileError::new(&result, "create", error))?;
            tool = tool.stdout_to(file);
        }
        tool.run()?;
        let mut made = File::open(&result).map_err(|error| FileError::new(&result, "open", error))?;
        io::copy(&mut made, out).map_err(|error| FileError::new(&result, "copy", error))?;
        Ok(())
    }
}

/// Why a program's result is not in the cache.
#[derive(Debug, thiserror::Error)]
enum ProgramError {
    #[error(transparent)]
    Tool(#[from] ToolError),
    #[error(transparent)]
    File(#[from] FileError),
}

/// An error of the cache, or of what was to be written to it.
struct DeriveError(BoxError);

impl From<FileError> for DeriveError {
    fn from(error: FileError) -> Self {
        DeriveError(error.into())
    }
}

impl ThirdPartyFiles for GuestServices<'_> {
    fn locked(&self, url: &str) -> Option<Sum> {
        self.request.lock.sums.get(url).copied()
    }

    fn text(&self, urls: &[String], limit: u64) -> Result<Vec<u8>, ServiceError> {
        self.sources.text(urls, limit).map_err(ServiceError::new)
    }
}

impl BuildServices for GuestServices<'_> {
    fn fetch(&self, urls: &[String], sum: &Sum) -> Result<PathBuf, ServiceError> {
        self.sources.get(urls, sum).map_err(ServiceError::new)
    }

    fn derive(&self, name: &str, write: WriteFile<'_>) -> Result<PathBuf, ServiceError> {
        let made = self.sources.derived(name, |out| write(out).map_err(DeriveError));
        made.map_err(|DeriveError(error)| ServiceError(error))
    }

    fn derive_by(&self, name: &str, program: &ProgramRun<'_>) -> Result<PathBuf, ServiceError> {
        let made = self.sources.derived(name, |out| self.run_to(program, out));
        made.map_err(ServiceError::new)
    }

    fn output_of(&self, program: &ProgramRun<'_>) -> Result<Vec<u8>, ServiceError> {
        let scratch = Scratch::directory(self.request.cache).map_err(ServiceError::new)?;
        let tool = self.tool(program, scratch.path()).map_err(ServiceError::new)?;
        tool.output().map_err(ServiceError::new)
    }

    fn open(&self, path: &Path) -> Result<Box<dyn ReadSeek>, ServiceError> {
        let opened = File::open(path).map_err(|error| FileError::new(path, "open", error));
        Ok(Box::new(opened.map_err(ServiceError::new)?))
    }

    fn open_at(&self, path: &Path) -> Result<Box<dyn ReadAt>, ServiceError> {
        Ok(Box::new(ImageFile::open(path).map_err(ServiceError::new)?))
    }

    fn spool(&mut self, path: &Path) -> Result<SpoolId, ServiceError> {
        self.spools.open(path).map_err(ServiceError::new)
    }

    fn contents(&self) -> &dyn Contents {
        &self.spools
    }

    fn project_file(&self, path: &ProjectPath, limit: u64) -> Result<Vec<u8>, ServiceError> {
        files::read_at_most(self.request.project.path(path), limit).map_err(ServiceError::new)
    }

    fn progress(&self, task: &str, bytes: u64) -> Box<dyn Fn(u64) + '_> {
        let task = self.request.progress.start(task, bytes, Unit::Bytes);
        Box::new(move |done| task.advance(done))
    }

    fn debian_inputs(&mut self, image: &str, debian: &Debian) -> Result<Inputs, ServiceError> {
        let plan = self.debian_plan(image, debian).map_err(ServiceError::new)?;
        let inputs = plan.inputs();
        self.plans.insert(image.to_owned(), plan);
        Ok(inputs)
    }

    fn debian_tree(&mut self, image: &str, debian: &Debian) -> Result<PackageTree, ServiceError> {
        let plan = match self.plans.remove(image) {
            Some(plan) => plan,
            None => self.debian_plan(image, debian).map_err(ServiceError::new)?,
        };
        // The key of the step, whose inputs are those of the plan.
        let key = tree::inputs(&plan).hash();
        self.set_tree(image, &plan, key).map_err(ServiceError::new)
    }

    fn overlay_inputs(&self, guest: &Guest) -> Result<Inputs, ServiceError> {
        let input = |overlay| -> Result<_, SystemError> {
            let mut spools = ContentFiles::new();
            let loaded = self.load_overlay(&guest.name, overlay, &guest.hostname, &mut spools)?;
            let digest = overlay_digest(&loaded, &spools)?;
            Ok((loaded.name, digest.to_string()))
        };
        guest.overlays.iter().map(input).collect::<Result<_, _>>().map_err(ServiceError::new)
    }

    fn apply_overlays(&mut self, guest: &Guest, tree: &mut Tree, newest: i64) -> Result<(), ServiceError> {
        self.apply(&guest.name, &guest.overlays, &guest.hostname, tree, newest).map_err(ServiceError::new)
    }
}

/// The digest of an overlay: its files, and its rules.
fn overlay_digest(overlay: &Overlay, contents: &dyn Contents) -> Result<Sha256, FileError> {
    let mut sum = sha2::Sha256::new();
    let mut part = |bytes: &[u8]| {
        sum.update((bytes.len() as u64).to_le_bytes());
        sum.update(bytes);
    };
    part(overlay.rules.text.as_bytes());
    for entry in &overlay.entries {
        part(&entry.path);
        match &entry.kind {
            EntryKind::Directory => part(b"directory"),
            EntryKind::Symlink(target) => {
                part(b"link");
                part(target);
            }
            EntryKind::File { content, executable } => {
                let bytes = content.read_all(contents);
                let bytes = bytes.map_err(|error| FileError::new(overlay.name.as_ref(), "read", error))?;
                part(if *executable { b"program" } else { b"file" });
                part(&bytes);
            }
        }
    }
    Ok(Sha256(sum.finalize().into()))
}

/// Writes the files of a tree, with their modes and dates, to the new directory `to`. Owners are left aside, and nodes
/// that are neither directories, files nor symbolic links.
fn lay_out(tree: &Tree, contents: &dyn Contents, to: &Path) -> Result<(), FileError> {
    // A directory comes before what is in it, and gets its mode and date after that.
    let mut directories = Vec::new();
    for (path, id) in tree.walk() {
        let at = to.join(std::ffi::OsStr::from_bytes(&path));
        let failed = |error| FileError::new(&at, "create", error);
        let Node { meta, kind } = tree.node(id);
        match kind {
            Kind::Directory(_) => {
                fs::create_dir(&at).map_err(failed)?;
                directories.push((at, meta));
            }
            Kind::File(content) => {
                let mut file = File::create(&at).map_err(failed)?;
                let mut from = 0;
                let mut buffer = vec![0; usize::try_from(content.len.min(BUFFER)).expect("1 MiB")];
                while from < content.len {
                    let len = usize::try_from((content.len - from).min(BUFFER)).expect("1 MiB");
                    let part = &mut buffer[..len];
                    let inside = Path::new(std::ffi::OsStr::from_bytes(&path));
                    content
                        .read_at(contents, from, part)
                        .map_err(|error| FileError::new(inside, "read", error))?;
                    file.write_all(part).map_err(|error| FileError::new(&at, "write", error))?;
                    from += part.len() as u64;
                }
                set_mode_and_date(&at, meta)?;
            }
            Kind::Symlink(target) => {
                let target = std::ffi::OsStr::from_bytes(target);
                std::os::unix::fs::symlink(target, &at).map_err(failed)?;
            }
            _ => {}
        }
    }
    directories.iter().rev().try_for_each(|(at, meta)| set_mode_and_date(at, meta))
}

/// Gives a file its mode and date. The user of this process, who need not be root, can still read it.
fn set_mode_and_date(at: &Path, meta: &Meta) -> Result<(), FileError> {
    let failed = |error| FileError::new(at, "change", error);
    let date = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(meta.mtime.secs).unwrap_or(0));
    let file = File::open(at).map_err(failed)?;
    file.set_modified(date).map_err(failed)?;
    let readable = if file.metadata().map_err(failed)?.is_dir() { 0o500 } else { 0o400 };
    let mode = fs::Permissions::from_mode(u32::from(meta.mode & 0o7777) | readable);
    file.set_permissions(mode).map_err(failed)
}
