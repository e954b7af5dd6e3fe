//! A recipe's directory: where overlays, templates, scripts and keys are found.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::guests::add_host_packages;
use crate::recipe::lock::{self, Lock, LockError};
pub use crate::recipe::{Findings, ProjectFile, ProjectFiles, ProjectPath, Recipe};
use crate::templates::{TemplateError, Templates, check_own};
use system::files::{FileError, read_at_most};

/// A recipe of more than this is none.
const MAX_RECIPE: u64 = 1 << 20;
/// Largest template, in bytes.
const MAX_TEMPLATE: u64 = 1 << 20;

/// Why a recipe can't be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    File(#[from] FileError),
    /// It is not UTF-8.
    #[error("{}:{line}: not UTF-8 text", path.display())]
    NotText {
        path: PathBuf,
        /// The line of the first wrong byte, from 1.
        line: usize,
    },
    #[error(transparent)]
    Faulty(#[from] Findings),
    #[error("{}", path.display())]
    Lock { path: PathBuf, source: LockError },
}

/// Where the lock of a recipe is: beside it, `.lock` for `.yaml`.
pub fn lock_path(recipe: &Path) -> PathBuf {
    recipe.with_extension("lock")
}

/// Checksums of the third-party files; nothing if the recipe has no lock.
///
/// # Errors
/// [`LoadError`].
pub fn lock(recipe: &Path) -> Result<Lock, LoadError> {
    let path = lock_path(recipe);
    let bytes = match read_at_most(&path, lock::LIMIT) {
        Err(FileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Ok(Lock::default());
        }
        read => read?,
    };
    Lock::parse(&String::from_utf8_lossy(&bytes)).map_err(|source| LoadError::Lock { path, source })
}

/// The directory that a recipe's paths begin at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Project {
    root: PathBuf,
}

impl Project {
    /// The project of a recipe: the parent of the directory `recipes` that it lies in, else its own directory.
    pub fn of(recipe: &Path) -> Self {
        // Through `..` and links, so that `cd recipes; imgfactory check demo.yaml` finds it too.
        let absolute = fs::canonicalize(recipe).or_else(|_| std::path::absolute(recipe));
        let recipe = absolute.as_deref().unwrap_or(recipe);
        let dir = recipe.parent().unwrap_or(Path::new("."));
        let root = match dir.parent() {
            Some(parent) if dir.ends_with("recipes") => parent,
            _ => dir,
        };
        Project { root: root.into() }
    }

    /// Reads and checks a recipe, adds the packages that Xen and guests need, and says where its project is.
    ///
    /// # Errors
    /// [`LoadError`]; of faults all at once.
    pub fn load(recipe: &Path) -> Result<(Project, Recipe), LoadError> {
        let project = Project::of(recipe);
        let bytes = read_at_most(recipe, MAX_RECIPE)?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let good = error.utf8_error().valid_up_to();
            let line = error.as_bytes()[..good].iter().filter(|&&byte| byte == b'\n').count() + 1;
            LoadError::NotText { path: recipe.into(), line }
        })?;
        let mut parsed = Recipe::parse(&recipe.display().to_string(), &text, &project)?;
        add_host_packages(&mut parsed);
        Ok((project, parsed))
    }

    /// The project root, as an absolute path.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where a path of the recipe is.
    pub fn path(&self, path: &ProjectPath) -> PathBuf {
        self.root.join(path.as_str())
    }

    /// `overlays/NAME` of the project.
    pub fn overlay(&self, name: &str) -> PathBuf {
        self.root.join("overlays").join(name)
    }

    /// Looks over the project's own templates without rendering them.
    ///
    /// # Errors
    /// [`FileError`] when one can't be read; what is wrong with them is the result.
    pub fn check_templates(&self) -> Result<Vec<TemplateError>, FileError> {
        let root = self.root.join("templates");
        let mut wrong = Vec::new();
        for path in files_below(&root)? {
            let name = path.strip_prefix(&root).unwrap_or(&path).to_string_lossy();
            let bytes = read_at_most(&path, MAX_TEMPLATE)?;
            match String::from_utf8(bytes) {
                Ok(text) => wrong.extend(check_own(&name, &text).err()),
                Err(error) => {
                    let source = io::Error::new(io::ErrorKind::InvalidData, error);
                    wrong.push(TemplateError::Read { name: name.into(), source });
                }
            }
        }
        Ok(wrong)
    }

    /// Templates: the project's own, else those that are built in.
    pub fn templates(&self) -> Templates<'_> {
        Templates::new(|name| {
            // Names come from the program, never from a recipe.
            match read_at_most(self.root.join("templates").join(name), MAX_TEMPLATE) {
                Ok(bytes) => {
                    let text = String::from_utf8(bytes);
                    text.map(Some).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
                }
                Err(FileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error.into()),
            }
        })
    }
}

/// Regular files below a directory, sorted; none if it is missing.
fn files_below(dir: &Path) -> Result<Vec<PathBuf>, FileError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.and_then(Iterator::collect::<io::Result<Vec<_>>>),
    };
    let mut files = Vec::new();
    for entry in entries.map_err(|error| FileError::new(dir, "read", error))? {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files.extend(files_below(&path)?),
            Ok(kind) if kind.is_file() => files.push(path),
            _ => {}
        }
    }
    files.sort();
    Ok(files)
}

impl ProjectFiles for Project {
    fn overlays(&self) -> Vec<String> {
        let entries = fs::read_dir(self.root.join("overlays")).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries
            .filter(|entry| entry.path().is_dir())
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }

    fn file(&self, path: &ProjectPath) -> ProjectFile {
        let path = self.path(path);
        if !path.is_file() {
            ProjectFile::Missing
        } else if rustix::fs::access(&path, rustix::fs::Access::EXEC_OK).is_ok() {
            ProjectFile::Executable
        } else {
            ProjectFile::Plain
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::templates::context;
    use formats::report::report;
    use system::files::Scratch;

    /// A project with a recipe `recipes/x.yaml`.
    fn project(recipe: &[u8]) -> (Scratch, PathBuf) {
        let room = Scratch::directory(std::env::temp_dir()).unwrap();
        for dir in ["recipes", "overlays/b", "overlays/a", "templates"] {
            fs::create_dir_all(room.path().join(dir)).unwrap();
        }
        fs::write(room.path().join("overlays/a.yaml"), "").unwrap();
        fs::write(room.path().join("templates/own"), "{{ x }}!\n").unwrap();
        let path = room.path().join("recipes/x.yaml");
        fs::write(&path, recipe).unwrap();
        (room, path)
    }

    #[test]
    fn a_recipe_is_loaded_with_its_project() {
        let (room, path) = project(b"name: x\nhost: {debian: {}, overlays: [b]}\n");
        let (project, recipe) = Project::load(&path).unwrap();
        assert_eq!(project.root(), fs::canonicalize(room.path()).unwrap());
        assert_eq!(recipe.name.as_str(), "x");
        assert_eq!(project.overlays(), ["a", "b"]);
        assert_eq!(project.templates().render("own", context! { x => 1 }).unwrap(), "1!\n");

        let alone = room.path().join("alone.yaml");
        fs::write(&alone, "").unwrap();
        assert_eq!(Project::of(&alone), project);
    }

    #[test]
    fn the_templates_of_this_repository_are_those_that_are_built_in() {
        let here = Project { root: env!("CARGO_MANIFEST_DIR").into() };
        let templates = here.root.join("templates");
        let mut files: Vec<PathBuf> = crate::templates::names().map(|name| templates.join(name)).collect();
        files.sort();
        assert_eq!(files_below(&templates).unwrap(), files);
        let wrong = here.check_templates().unwrap();
        assert!(wrong.is_empty(), "{wrong:?}");
    }

    #[test]
    fn templates_that_nothing_uses_or_that_are_none_are_all_named() {
        let (room, path) = project(b"");
        fs::write(room.path().join("templates/grub.cfg"), "{% for %}").unwrap();
        fs::write(room.path().join("templates/z"), b"\xff").unwrap();
        let wrong = Project::of(&path).check_templates().unwrap();
        let places: Vec<String> =
            wrong.iter().map(|error| error.to_string().split(": ").next().unwrap().to_owned()).collect();
        assert_eq!(places, ["templates/grub.cfg:1", "templates/own", "templates/z"]);
    }

    #[test]
    fn what_can_not_be_read_is_told_from_what_is_wrong() {
        let (room, path) = project(b"name: x\n# \xff\n");
        let shown = path.display();
        assert_eq!(Project::load(&path).unwrap_err().to_string(), format!("{shown}:2: not UTF-8 text"));
        let missing = room.path().join("recipes/y.yaml");
        assert_eq!(
            report(&Project::load(&missing).unwrap_err()),
            format!(
                "error: {}: can't read\n  caused by: No such file or directory (os error 2)",
                missing.display()
            )
        );
        fs::write(&path, "name: x\n").unwrap();
        let said = Project::load(&path).unwrap_err().to_string();
        assert!(said.starts_with(&format!("error: {shown}:1:1: no `host` here\n")), "{said}");
    }
}
