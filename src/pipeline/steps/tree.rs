//! Step: Debian packages -> a normalised tree, from the cache where nothing has changed.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use crate::debian::{ArchiveMirrors, MmdebstrapMode, PackageSet, SetError, TreePlan};
use crate::downloads::apt::{self, FetchError};
use crate::pipeline::step_cache::{StepCache, TREES};
use crate::pipeline::step_inputs::StepInputs;
use crate::sys;
use crate::sys::process::{Tool, ToolError};
use crate::sys::progress::{Progress, Unit};
use crate::sys::spool::ContentFiles;
use crate::tree::tar::TarError;
use crate::tree::{Tree, normalise::normalise, tar};
use formats::digest::Sha256;
use formats::report::{date, elapsed, size};
use system::files::{FileError, Scratch};

/// What making trees depends on beside what goes into them.
pub struct TreeMaker<'a> {
    /// Where archives are kept.
    pub cache: &'a StepCache<'a>,
    /// Where mmdebstrap's output goes.
    pub logs: &'a Path,
    pub mirrors: &'a ArchiveMirrors,
    /// Root, or an ordinary user.
    pub mode: MmdebstrapMode,
    /// SOURCE_DATE_EPOCH; without, the date of the newest InRelease.
    pub epoch: Option<i64>,
    /// Use InRelease files and trees of the cache and no network.
    pub offline: bool,
    /// Where progress is shown.
    pub progress: &'a dyn Progress,
}

/// A tree from Debian packages.
#[derive(Debug)]
pub struct DebianTree {
    /// Normalised; its contents are in the content files.
    pub tree: Tree,
    /// No time in it is later; seconds since 1970.
    pub epoch: i64,
    /// Whether it came out of the cache.
    pub cached: bool,
    /// Bytes of its archive.
    pub archive: u64,
}

/// A tree that could not be made.
#[derive(Debug, thiserror::Error)]
#[error("tree {name}")]
pub struct MakeTreeError {
    pub name: String,
    pub source: Box<TreeFault>,
}

/// Why there is no tree.
#[derive(Debug, thiserror::Error)]
pub enum TreeFault {
    /// The set makes no sense.
    #[error(transparent)]
    Set(#[from] SetError),
    /// An archive's InRelease file can't be had.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// Files would get times of tomorrow, and stay as they are made.
    #[error(
        "SOURCE_DATE_EPOCH would be {epoch}, but now is {now}: it must not be in the future; check the clock"
    )]
    Future {
        /// Seconds since 1970.
        epoch: i64,
        /// Seconds since 1970.
        now: i64,
    },
    /// Nothing in the cache fits.
    #[error("not in the cache for these inputs; build it without --offline")]
    Offline,
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// mmdebstrap's archive can't be understood.
    #[error("{}", path.display())]
    Archive {
        path: PathBuf,
        /// What is wrong with it.
        source: TarError,
    },
    /// Contents can't be read.
    #[error("can't normalise it")]
    Normalise(#[source] io::Error),
    #[error(transparent)]
    File(#[from] FileError),
}

/// What the tree of a plan depends on.
pub fn inputs(plan: &TreePlan) -> StepInputs {
    plan.inputs().into_iter().collect()
}

impl TreeMaker<'_> {
    /// The tree of `set`, made or taken from the cache: [`TreeMaker::plan`], then [`TreeMaker::make_planned`].
    ///
    /// # Errors
    /// [`MakeTreeError`].
    pub fn make(
        &self,
        name: &str,
        set: &PackageSet,
        spools: &mut ContentFiles,
    ) -> Result<DebianTree, MakeTreeError> {
        let plan = self.plan(name, set)?;
        self.make_planned(name, &plan, inputs(&plan).hash(), spools)
    }

    /// All that decides what is in the tree of `set`: the archives' InRelease files are fetched.
    ///
    /// # Errors
    /// [`MakeTreeError`].
    pub fn plan(&self, name: &str, set: &PackageSet) -> Result<TreePlan, MakeTreeError> {
        self.try_plan(name, set).map_err(|fault| MakeTreeError { name: name.into(), source: Box::new(fault) })
    }

    /// A planned tree, made or taken from the cache, where `key` is the hash of its inputs. `name` (letters, digits,
    /// `-`) is what people call it. Its archive becomes one of the content files.
    ///
    /// # Errors
    /// [`MakeTreeError`]; nothing half-made stays in the cache.
    pub fn make_planned(
        &self,
        name: &str,
        plan: &TreePlan,
        key: Sha256,
        spools: &mut ContentFiles,
    ) -> Result<DebianTree, MakeTreeError> {
        let made = self.try_make(name, plan, key, spools);
        made.map_err(|fault| MakeTreeError { name: name.into(), source: Box::new(fault) })
    }

    fn try_make(
        &self,
        name: &str,
        plan: &TreePlan,
        key: Sha256,
        spools: &mut ContentFiles,
    ) -> Result<DebianTree, TreeFault> {
        let epoch = plan.epoch();
        if let Some(archive) = self.cache.find(TREES, name, key)? {
            match self.read(&archive, epoch, spools) {
                Ok((tree, bytes)) => {
                    let since = date(plan.newest());
                    self.progress.say(&format!("tree {name}: cached (unchanged since {since})"));
                    return Ok(DebianTree { tree, epoch, cached: true, archive: bytes });
                }
                Err(TreeFault::Archive { source, .. }) => {
                    let text = format!("tree {name}: the cached one is damaged ({source}) and is made again");
                    self.progress.say(&text);
                }
                Err(error) => return Err(error),
            }
        }
        if self.offline {
            return Err(TreeFault::Offline);
        }
        let started = Instant::now();
        let archive = self.run(name, plan, key)?;
        let (tree, bytes) = self.read(&archive, epoch, spools)?;
        let (took, large) = (elapsed(started.elapsed()), size(bytes));
        self.progress.say(&format!("tree {name}: made in {took}, archive of {large}"));
        Ok(DebianTree { tree, epoch, cached: false, archive: bytes })
    }

    fn try_plan(&self, name: &str, set: &PackageSet) -> Result<TreePlan, TreeFault> {
        let sources = set.sources(self.mirrors)?;
        let kept = self.cache.dir().join("inrelease");
        let log = self.logs.join(format!("{name}-inrelease.log"));
        let inreleases = apt::inreleases(&sources, &kept, &log, self.offline)?;
        let sources = sources.into_iter().zip(inreleases).collect();
        let plan = TreePlan::new(set.clone(), sources, self.epoch)?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        if plan.epoch() > now {
            return Err(TreeFault::Future { epoch: plan.epoch(), now });
        }
        Ok(plan)
    }

    /// Runs mmdebstrap. Its archive is kept in the cache when it is whole.
    fn run(&self, name: &str, plan: &TreePlan, key: Sha256) -> Result<PathBuf, TreeFault> {
        // In a user namespace, hooks run as another user, who must be able to read their files.
        let room = Scratch::directory(sys::temporary_directory())?;
        set_mode(room.path(), 0o755)?;
        for file in plan.files(&apt::own_options()) {
            let path = room.path().join(&file.name);
            fs::write(&path, &file.bytes).map_err(|error| FileError::new(&path, "write", error))?;
            set_mode(&path, if file.executable { 0o755 } else { 0o644 })?;
        }
        let output = self.cache.begin(TREES)?;
        let file = output.as_file().try_clone();
        let file = file.map_err(|error| FileError::new(output.path(), "open", error))?;
        let mut tool = Tool::new("mmdebstrap")
            .args(plan.arguments(self.mode, room.path()))
            .log(self.logs.join(format!("{name}-mmdebstrap.log")))
            .stdout_to(file);
        for (variable, value) in plan.environment() {
            tool = tool.env(variable, value);
        }
        let task = self.progress.start(&format!("tree {name}: mmdebstrap"), 0, Unit::Things("steps"));
        tool.run()?;
        drop(task);
        Ok(self.cache.insert(TREES, name, key, output)?)
    }

    /// Reads and normalises the tree in an archive, and says how long that is.
    fn read(&self, archive: &Path, epoch: i64, spools: &mut ContentFiles) -> Result<(Tree, u64), TreeFault> {
        let failed = |error| FileError::new(archive, "read", error);
        let file = File::open(archive).map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        let spool = spools.open(archive)?;
        let mut tree =
            tar::read(file, spool).map_err(|source| TreeFault::Archive { path: archive.into(), source })?;
        normalise(&mut tree, spools, epoch).map_err(TreeFault::Normalise)?;
        Ok((tree, bytes))
    }
}

fn set_mode(path: &Path, mode: u32) -> Result<(), FileError> {
    let set = fs::set_permissions(path, Permissions::from_mode(mode));
    set.map_err(|error| FileError::new(path, "set the mode of", error))
}
