//! A directory of this machine as a tree, with all its metadata; contents stay where they are.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::SeekFrom;
use rustix::io::Errno;
use walkdir::WalkDir;

use crate::tree::{
    Content, ContentSource, Contents, Extent, FileTime, Kind, Meta, Node, NodeId, SpoolId, Tree, TreeError,
};
use system::files::FileError;

/// Why a directory did not become a tree.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// A file of it can't be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// It changed while it was read.
    #[error(transparent)]
    Tree(#[from] TreeError),
}

/// The files of a directory that was read. Unlike [`crate::sys::spool::ContentFiles`] it opens them only when needed,
/// as there may be more than can be open.
#[derive(Debug, Default)]
pub struct Directory {
    files: Vec<PathBuf>,
    /// The one that was read last.
    open: Mutex<Option<(SpoolId, Arc<File>)>>,
}

/// What is read of file systems that are mounted below a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mounts {
    /// All but those that the kernel makes up ([`PSEUDO`]).
    Real,
    /// Nothing but the directories on which they are mounted.
    None,
}

/// File systems whose files are the running kernel's, not anyone's: in a chroot, what `mount` made of /proc, /sys, /dev.
/// A tmpfs is not among them: what is in it, somebody wrote there.
const PSEUDO: [&str; 23] = [
    "autofs",
    "binder",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fusectl",
    "hugetlbfs",
    "mqueue",
    "nfsd",
    "proc",
    "pstore",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "smackfs",
    "sysfs",
    "tracefs",
];

/// Reads a directory: types, modes, owners, times, hard links, attributes and holes. Of a file system that is left out
/// its root directory stays, with the date of the directory above it: its own is the time of the mount.
///
/// # Errors
/// [`DirectoryError`]: the first file that can't be read.
pub fn read(dir: &Path, mounts: Mounts) -> Result<(Tree, Directory), DirectoryError> {
    let mut found = Directory::default();
    let mut tree = Tree::new(Meta::default());
    let mut links: HashMap<(u64, u64), NodeId> = HashMap::new();
    // The file system of each directory above the entry, and its date.
    let mut above: Vec<(u64, FileTime)> = Vec::new();
    let mut walk = WalkDir::new(dir).sort_by_file_name().into_iter();
    while let Some(entry) = walk.next() {
        let entry = entry.map_err(|error| {
            let path = error.path().unwrap_or(dir).to_path_buf();
            let source = error.into_io_error().unwrap_or_else(|| io::ErrorKind::Other.into());
            FileError::new(&path, "read", source)
        })?;
        let path = entry.path();
        let failed = |error: io::Error| FileError::new(path, "read", error);
        let metadata = fs::symlink_metadata(path).map_err(failed)?;
        let within = path.strip_prefix(dir).unwrap_or(path).as_os_str().as_bytes();
        let identity = (metadata.dev(), metadata.ino());
        if let Some(&target) = links.get(&identity) {
            tree.link(within, target)?;
            continue;
        }
        let mut mtime = FileTime {
            secs: metadata.mtime(),
            nanos: u32::try_from(metadata.mtime_nsec()).unwrap_or_default(),
        };
        if metadata.is_dir() {
            above.truncate(entry.depth());
            if let Some(&(_, date)) = above.last().filter(|(device, _)| *device != metadata.dev())
                && let Some(what) = left_out(mounts, metadata.dev())
            {
                log::warn!("{}: {what} is mounted there; its files are left out", path.display());
                walk.skip_current_dir();
                mtime = date;
            }
            above.push((metadata.dev(), mtime));
        }
        let kind = found.kind(path, &metadata).map_err(failed)?;
        let meta = Meta {
            // The mask leaves twelve bits, which always fit.
            mode: u16::try_from(metadata.mode() & 0o7777).unwrap_or_default(),
            uid: metadata.uid(),
            gid: metadata.gid(),
            mtime,
            xattrs: xattrs(path).map_err(failed)?,
        };
        let id = tree.insert(within, Node { meta, kind })?;
        if !metadata.is_dir() && metadata.nlink() > 1 {
            links.insert(identity, id);
        }
    }
    Ok((tree, found))
}

/// What file system is mounted there, if its files are to be left out.
fn left_out(mounts: Mounts, device: u64) -> Option<String> {
    match (mounts, file_system(device)) {
        (_, Some(name)) if PSEUDO.contains(&&*name) => Some(format!("a file system of the kernel ({name})")),
        (Mounts::None, Some(name)) => Some(format!("another file system ({name})")),
        (Mounts::None, None) => Some("another file system".into()),
        (Mounts::Real, _) => None,
    }
}

/// The type of a mounted file system, by its device: proc(5), `/proc/pid/mountinfo`.
fn file_system(device: u64) -> Option<String> {
    let number = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    let table = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let line = table.lines().find(|line| line.split(' ').nth(2) == Some(&number))?;
    Some(line.split_once(" - ")?.1.split(' ').next()?.to_owned())
}

impl Directory {
    fn kind(&mut self, path: &Path, metadata: &Metadata) -> io::Result<Kind> {
        let of = metadata.file_type();
        let (major, minor) = (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
        Ok(if of.is_dir() {
            Kind::Directory(BTreeMap::new())
        } else if of.is_symlink() {
            Kind::Symlink(fs::read_link(path)?.into_os_string().as_bytes().to_vec())
        } else if of.is_char_device() {
            Kind::CharDevice { major, minor }
        } else if of.is_block_device() {
            Kind::BlockDevice { major, minor }
        } else if of.is_fifo() {
            Kind::Fifo
        } else if of.is_socket() {
            Kind::Socket
        } else {
            Kind::File(self.content(path, metadata)?)
        })
    }

    fn content(&mut self, path: &Path, metadata: &Metadata) -> io::Result<Content> {
        let len = metadata.len();
        let spool = SpoolId(u32::try_from(self.files.len()).expect("fewer than 2^32 files"));
        let extent =
            |at, end| Extent { at, len: end - at, source: ContentSource::Spool { spool, offset: at } };
        let mut extents = vec![];
        if metadata.blocks().saturating_mul(512) >= len {
            if len > 0 {
                extents.push(extent(0, len));
            }
        } else {
            let file = File::open(path)?;
            let mut at = 0;
            while at < len {
                let start = match rustix::fs::seek(&file, SeekFrom::Data(at)) {
                    Ok(start) => start.min(len),
                    // No data behind this.
                    Err(Errno::NXIO) => break,
                    Err(error) => return Err(error.into()),
                };
                at = rustix::fs::seek(&file, SeekFrom::Hole(start))?.min(len);
                if start < at {
                    extents.push(extent(start, at));
                }
            }
        }
        self.files.push(path.into());
        Ok(Content { len, extents })
    }
}

impl Contents for Directory {
    fn read_exact_at(&self, spool: SpoolId, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let path = self.files.get(spool.0 as usize).ok_or(io::ErrorKind::NotFound)?;
        let failed = |error| -> io::Error { FileError::new(path, "read", error).into() };
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let file = match &*open {
            Some((id, file)) if *id == spool => file.clone(),
            _ => {
                let file = Arc::new(File::open(path).map_err(failed)?);
                *open = Some((spool, file.clone()));
                file
            }
        };
        drop(open);
        file.read_exact_at(buf, offset).map_err(failed)
    }
}

/// All attributes that the system shows us, without following a link; none where the file system has none.
fn xattrs(path: &Path) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    // Linux lets neither a list nor a value be longer: XATTR_LIST_MAX, XATTR_SIZE_MAX.
    const LIMIT: usize = 1 << 16;
    let mut buf = Vec::with_capacity(LIMIT);
    match rustix::fs::llistxattr(path, rustix::buffer::spare_capacity(&mut buf)) {
        Err(Errno::NOTSUP) => return Ok(BTreeMap::new()),
        listed => listed?,
    };
    let mut xattrs = BTreeMap::new();
    let mut value = Vec::new();
    for name in buf.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        value.clear();
        value.reserve(LIMIT);
        match rustix::fs::lgetxattr(path, name, rustix::buffer::spare_capacity(&mut value)) {
            // Shown in the list, but nothing is there: an ACL that says no more than the mode.
            Err(Errno::NODATA) => continue,
            got => got?,
        };
        xattrs.insert(name.to_vec(), value.clone());
    }
    Ok(xattrs)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use system::files::Scratch;

    #[test]
    fn a_directory_becomes_a_tree_with_links_and_holes() {
        let scratch = Scratch::directory(std::env::temp_dir()).unwrap();
        let dir = scratch.path();
        fs::create_dir(dir.join("sub")).unwrap();
        fs::write(dir.join("sub/file"), "contents").unwrap();
        fs::set_permissions(dir.join("sub/file"), fs::Permissions::from_mode(0o4751)).unwrap();
        fs::hard_link(dir.join("sub/file"), dir.join("again")).unwrap();
        symlink("sub/file", dir.join("link")).unwrap();
        let sparse = File::create(dir.join("sparse")).unwrap();
        sparse.write_all_at(&[7; 4096], 1 << 20).unwrap();
        sparse.set_len(3 << 20).unwrap();

        let (tree, contents) = read(dir, Mounts::Real).unwrap();
        let paths: Vec<Vec<u8>> = tree.walk().map(|(path, _)| path).collect();
        assert_eq!(paths, [&b""[..], b"again", b"link", b"sparse", b"sub", b"sub/file"]);
        let file = tree.lookup(b"sub/file").unwrap();
        assert_eq!(tree.lookup(b"again"), Some(file));
        let node = tree.node(file);
        assert_eq!(node.meta.mode, 0o4751);
        let Kind::File(content) = &node.kind else { panic!("{node:?}") };
        let mut bytes = [0; 8];
        content.read_at(&contents, 0, &mut bytes).unwrap();
        assert_eq!(&bytes, b"contents");
        assert_eq!(tree.node(tree.lookup(b"link").unwrap()).kind, Kind::Symlink(b"sub/file".to_vec()));
        let Kind::File(content) = &tree.node(tree.lookup(b"sparse").unwrap()).kind else { panic!() };
        let extents: Vec<_> = content.extents.iter().map(|extent| (extent.at, extent.len)).collect();
        assert_eq!((content.len, &extents[..]), (3 << 20, &[(1 << 20, 4096)][..]));

        fs::remove_file(dir.join("sparse")).unwrap();
        let mut buf = [0];
        let error = content.read_at(&contents, 1 << 20, &mut buf).unwrap_err();
        assert_eq!(error.to_string(), format!("{}: can't read", dir.join("sparse").display()));
    }
}
