//! Overlays from their directories: contents by reference, templates rendered.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use minijinja::Value;
use walkdir::WalkDir;

use crate::project::folder::Project;
pub use crate::recipe::Findings;
use crate::sys::spool::ContentFiles;
use crate::templates::{TemplateError, render_text};
use crate::tree::overlay::{EntryKind, Overlay, OverlayEntry, Rules};
use crate::tree::{Content, ContentSource, Extent};
use system::files::{FileError, read_at_most};

/// Files up to this length are held in memory, larger ones stay open.
const INLINE: u64 = 64 << 10;
/// Longest template and longest rules, bytes.
const TEXT_LIMIT: u64 = 1 << 20;
/// Ending of files that are templates; they lose it.
const TEMPLATE: &str = ".j2";
/// Files that keep a directory in git and are not part of an overlay.
const KEEP: &str = ".gitkeep";

/// Why an overlay can't be read.
#[derive(Debug, thiserror::Error)]
pub enum LoadOverlayError {
    /// A file of it can't be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// Its rules have faults.
    #[error(transparent)]
    Rules(#[from] Findings),
    /// A template in it gives no text.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// Not text where it must be.
    #[error("{}: not UTF-8 text", .0.display())]
    NotText(PathBuf),
    /// Something other than a directory, a file or a link.
    #[error(
        "{}: neither a directory, a file nor a symbolic link; create devices and pipes with `make:` in {rules}",
        path.display()
    )]
    Kind { path: PathBuf, rules: String },
    /// A file and a template for the same file.
    #[error("{}: exists as a file and as a template; keep one of the two", .0.display())]
    Twice(PathBuf),
}

/// Reads the overlay `overlays/NAME` of a project with its rules in `overlays/NAME.yaml`, if there are any.
/// Files whose names end in `.j2` are templates, rendered with `values`. The order of the directory has no
/// part in what comes out.
///
/// # Errors
/// [`LoadOverlayError`].
pub fn load(
    project: &Project,
    name: &str,
    values: &Value,
    spools: &mut ContentFiles,
) -> Result<Overlay, LoadOverlayError> {
    let shown = format!("overlays/{name}");
    let rules_name = format!("{shown}.yaml");
    let dir = project.overlay(name);
    let rules = match text_of(&project.root().join(&rules_name)) {
        Ok(text) => Rules::parse(&rules_name, &text)?,
        Err(LoadOverlayError::File(error)) if is_missing(&error) => Rules::default(),
        Err(error) => return Err(error),
    };
    let mut entries: Vec<OverlayEntry> = Vec::new();
    let walk = WalkDir::new(&dir).min_depth(1).sort_by_file_name();
    for found in walk {
        let found = found.map_err(|error| {
            let path = error.path().unwrap_or(&dir).to_path_buf();
            let source = error.into_io_error().unwrap_or_else(|| io::ErrorKind::Other.into());
            FileError::new(&path, "read", source)
        })?;
        let path = found.path();
        if found.file_name() == OsStr::new(KEEP) {
            continue;
        }
        let mut within = path.strip_prefix(&dir).unwrap_or(path).as_os_str().as_bytes().to_vec();
        let kind = if found.file_type().is_dir() {
            EntryKind::Directory
        } else if found.file_type().is_symlink() {
            let target = fs::read_link(path).map_err(|error| FileError::new(path, "read", error))?;
            EntryKind::Symlink(target.into_os_string().as_bytes().to_vec())
        } else if found.file_type().is_file() {
            let metadata = fs::metadata(path).map_err(|error| FileError::new(path, "read", error))?;
            let executable = metadata.permissions().mode() & 0o111 != 0;
            let content = match within.strip_suffix(TEMPLATE.as_bytes()) {
                Some(rest) => {
                    let text = text_of(path)?;
                    let name = format!("{shown}/{}", String::from_utf8_lossy(&within));
                    within = rest.to_vec();
                    Content::inline(render_text(&name, &text, values.clone())?.into_bytes())
                }
                None => content_of(path, metadata.len(), spools)?,
            };
            EntryKind::File { content, executable }
        } else {
            return Err(LoadOverlayError::Kind { path: path.into(), rules: rules_name });
        };
        if entries.iter().any(|entry| entry.path == within) {
            return Err(LoadOverlayError::Twice(dir.join(OsStr::from_bytes(&within))));
        }
        entries.push(OverlayEntry { path: within, kind });
    }
    Ok(Overlay { name: shown, entries, rules })
}

fn content_of(path: &Path, len: u64, spools: &mut ContentFiles) -> Result<Content, FileError> {
    if len <= INLINE {
        return Ok(Content::inline(read_at_most(path, INLINE)?));
    }
    let source = ContentSource::Spool { spool: spools.open(path)?, offset: 0 };
    Ok(Content { len, extents: vec![Extent { at: 0, len, source }] })
}

fn text_of(path: &Path) -> Result<String, LoadOverlayError> {
    let bytes = read_at_most(path, TEXT_LIMIT)?;
    String::from_utf8(bytes).map_err(|_| LoadOverlayError::NotText(path.into()))
}

fn is_missing(error: &FileError) -> bool {
    matches!(error, FileError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::templates::context;
    use crate::tree::dump::dump;
    use crate::tree::{Meta, Tree};
    use system::files::Scratch;

    fn project() -> (Scratch, Project) {
        let room = Scratch::directory(std::env::temp_dir()).unwrap();
        let dir = room.path().join("overlays/x/etc");
        fs::create_dir_all(dir.join("empty")).unwrap();
        fs::write(dir.join("empty/.gitkeep"), "").unwrap();
        fs::write(dir.join("issue.j2"), "{{ name }}!\n").unwrap();
        fs::write(dir.join("run"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(dir.join("run"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(dir.join("large"), vec![7; 100_000]).unwrap();
        std::os::unix::fs::symlink("../gone", dir.join("link")).unwrap();
        let project = Project::of(&room.path().join("recipe.yaml"));
        (room, project)
    }

    #[test]
    fn a_directory_is_read_with_templates_rendered() {
        let (room, project) = project();
        fs::write(room.path().join("overlays/x.yaml"), "paths: {/etc/issue: {mode: 0600}}\n").unwrap();
        let mut spools = ContentFiles::new();
        let overlay = load(&project, "x", &context! { name => "demo" }, &mut spools).unwrap();
        let mut tree = Tree::new(Meta { mode: 0o755, ..Meta::default() });
        overlay.apply(&mut tree, &spools, 9).unwrap();
        insta::assert_snapshot!(dump(&tree, &spools).unwrap(), @r"
        d 0755 0:0 0.000000000 /
        d 0755 0:0 9.000000000 /etc
        d 0755 0:0 9.000000000 /etc/empty
        f 0600 0:0 9.000000000 /etc/issue 6 sha256:ef36fa401366d588060a89fdbca9a12a4ecb2d88e07db1215577333e60020222
        f 0644 0:0 9.000000000 /etc/large 100000 sha256:2c4b101169bf328cd4a882e640a8b57eb3acf76518b3d105869905cf629e791c
        l 0777 0:0 9.000000000 /etc/link -> ../gone
        f 0755 0:0 9.000000000 /etc/run 10 sha256:a8076d3d28d21e02012b20eaf7dbf75409a6277134439025f282e368e3305abf
        ");
    }

    #[test]
    fn what_can_not_be_read_is_an_error_with_its_path() {
        let (room, project) = project();
        let etc = room.path().join("overlays/x/etc");
        let fail = || load(&project, "x", &context! {}, &mut ContentFiles::new()).unwrap_err().to_string();
        let real = |path: &str| project.root().join(path).display().to_string();
        assert_eq!(fail(), "overlays/x/etc/issue.j2:1: `name` is not known here; known: ");
        fs::write(etc.join("issue.j2"), "text").unwrap();
        fs::write(etc.join("issue"), "text").unwrap();
        assert_eq!(
            fail(),
            format!(
                "{}: exists as a file and as a template; keep one of the two",
                real("overlays/x/etc/issue")
            )
        );
        fs::remove_file(etc.join("issue.j2")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, etc.join("pipe"), 0o644.into()).unwrap();
        assert_eq!(
            fail(),
            format!(
                "{}: neither a directory, a file nor a symbolic link; create devices and pipes with `make:` in \
                 overlays/x.yaml",
                real("overlays/x/etc/pipe")
            )
        );
        fs::remove_file(etc.join("pipe")).unwrap();
        fs::write(room.path().join("overlays/x.yaml"), "pathz: {}\n").unwrap();
        assert!(fail().starts_with("error: overlays/x.yaml:1:1: unknown key `pathz`"));
        let error = load(&project, "y", &context! {}, &mut ContentFiles::new()).unwrap_err();
        assert_eq!(error.to_string(), format!("{}: can't read", real("overlays/y")));
    }
}
