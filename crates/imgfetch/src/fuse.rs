//! The virtual disk as a file: a FUSE file system with a directory and, in it, `disk`.
//!
//! fuser's thread takes a request and gives it to the engine at once; the answer comes from whatever thread has
//! the bytes, so a read that waits for the network holds up nobody else. The kernel keeps what was read (the
//! disk never changes while it is mounted), and reads ahead.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::linux::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fuser::{
    Config, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, KernelConfig,
    LockOwner, MountOption, OpenAccMode, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEntry,
    ReplyOpen, ReplyStatfs, Request, Session, SessionACL,
};

use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use crate::engine::Engine;
use formats::release::Reading;

/// The name of the served file below the mount point.
pub const DISK: &str = "disk";
const DISK_INO: INodeNo = INodeNo(2);
/// How long the kernel may cache attributes: served files never change.
const FOREVER: Duration = Duration::from_secs(365 * 86_400);
/// What the kernel reads ahead, in KiB, where we may say so: a block of the usual size and half of the next.
const READ_AHEAD_KIB: u32 = 512;
/// Requests that the kernel sends without waiting for the answers of others.
const MAX_BACKGROUND: u16 = 64;
/// How long the kernel may take to let go of a file that was closed.
const LETTING_GO: Duration = Duration::from_secs(2);

/// Why the disk can't be mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// Not a directory to mount on.
    #[error("{mountpoint}: not a directory to mount on")]
    NoDirectory {
        mountpoint: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The kernel, or fusermount3, does not want to.
    #[error("{mountpoint}: can't mount{}", hint(.source))]
    Refused {
        mountpoint: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => {
            " (is there /dev/fuse, and for ordinary users fusermount3? `modprobe fuse`)"
        }
        io::ErrorKind::PermissionDenied => {
            " (only root may mount without fusermount3; other users can't have --allow-other unless \
             /etc/fuse.conf has user_allow_other)"
        }
        _ => "",
    }
}

/// The mounted disk. Dropping it unmounts, if nobody uses the disk.
#[derive(Debug)]
pub struct Mounted {
    mountpoint: PathBuf,
    over: Arc<AtomicBool>,
}

/// Mounts the disk of this engine on a directory, for our own user or for all. `ended` is called when it is
/// unmounted, by whomever. With `reading`, pages are noted there as they are read, and the kernel keeps none and reads
/// none ahead.
///
/// # Errors
/// [`MountError`].
pub fn mount(
    engine: Arc<Engine>,
    mountpoint: &Path,
    allow_other: bool,
    reading: Option<Arc<Mutex<Reading>>>,
    ended: impl FnOnce() + Send + 'static,
) -> Result<Mounted, MountError> {
    let shown = mountpoint.display().to_string();
    let refused = |source| MountError::Refused { mountpoint: shown.clone(), source };
    match fs::metadata(mountpoint) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => {
            let source = io::ErrorKind::NotADirectory.into();
            return Err(MountError::NoDirectory { mountpoint: shown, source });
        }
        Err(source) => return Err(MountError::NoDirectory { mountpoint: shown, source }),
    }
    let header = engine.index().header();
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::RO,
        MountOption::NoAtime,
        MountOption::NoExec,
        MountOption::DefaultPermissions,
        MountOption::Subtype("imgfetch".into()),
        // A comma would end the option.
        MountOption::FSName(format!("{}-{}", header.image, header.serial)),
    ];
    config.acl = if allow_other { SessionACL::All } else { SessionACL::Owner };
    // Reads are only handed on; a second thread is for those that RAM can answer.
    config.n_threads = Some(2);
    let session = Session::new(Disk::new(engine, reading), mountpoint, &config).map_err(refused)?;
    let over = Arc::new(AtomicBool::new(false));
    let mounted = Mounted { mountpoint: mountpoint.into(), over: Arc::clone(&over) };
    let serve = move || {
        if let Err(error) = session.run() {
            log::error!("the disk is no longer served: {error}");
        }
        over.store(true, Ordering::Release);
        ended();
    };
    crate::threads::start("fuse", serve).map_err(refused)?;
    read_ahead(mountpoint);
    Ok(mounted)
}

/// Tells the kernel to read further ahead than its 128 KiB. fuser can only ask for less, so this goes by sysfs,
/// and only for root; where there is no /sys it stays as it is.
fn read_ahead(mountpoint: &Path) {
    let Ok(found) = fs::metadata(mountpoint) else { return };
    let (major, minor) = (rustix::fs::major(found.st_dev()), rustix::fs::minor(found.st_dev()));
    let knob = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    if let Err(error) = fs::write(&knob, READ_AHEAD_KIB.to_string()) {
        detail!("{knob}: {error}; the kernel keeps its own read-ahead");
    }
}

impl Mounted {
    /// Whether it has been unmounted.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Unmounts. (fuser can do it once only, even if the disk is busy then.)
    ///
    /// # Errors
    /// What the system says: `ResourceBusy` while somebody uses the disk.
    pub fn unmount(&self) -> io::Result<()> {
        let until = Instant::now() + LETTING_GO;
        loop {
            match self.unmount_at_once() {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < until => {
                    thread::sleep(Duration::from_millis(50));
                }
                result => return result,
            }
        }
    }

    fn unmount_at_once(&self) -> io::Result<()> {
        match rustix::mount::unmount(&self.mountpoint, UnmountFlags::NOFOLLOW) {
            Err(Errno::PERM) => {
                let tool = Command::new("fusermount3").arg("-u").arg("--").arg(&self.mountpoint).output()?;
                if tool.status.success() {
                    return Ok(());
                }
                Err(io::Error::other(String::from_utf8_lossy(&tool.stderr).trim().to_owned()))
            }
            result => Ok(result?),
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if !self.is_over()
            && let Err(error) = self.unmount()
        {
            log::warn!("{}: still mounted: {error}", self.mountpoint.display());
        }
    }
}

#[derive(Debug)]
struct Disk {
    engine: Arc<Engine>,
    reading: Option<Arc<Mutex<Reading>>>,
    directory: FileAttr,
    disk: FileAttr,
}

impl Disk {
    fn new(engine: Arc<Engine>, reading: Option<Arc<Mutex<Reading>>>) -> Self {
        let header = engine.index().header();
        let made =
            UNIX_EPOCH.checked_add(Duration::from_secs(header.published.0)).unwrap_or(SystemTime::now());
        let directory = FileAttr {
            ino: INodeNo::ROOT,
            size: 0,
            blocks: 0,
            atime: made,
            mtime: made,
            ctime: made,
            crtime: made,
            kind: FileType::Directory,
            perm: 0o555,
            nlink: 2,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            rdev: 0,
            blksize: header.block_size.get(),
            flags: 0,
        };
        let disk = FileAttr {
            ino: DISK_INO,
            size: header.size,
            blocks: header.size.div_ceil(512),
            kind: FileType::RegularFile,
            perm: 0o444,
            nlink: 1,
            ..directory
        };
        Disk { engine, reading, directory, disk }
    }

    fn attr(&self, ino: INodeNo) -> Option<&FileAttr> {
        match ino {
            INodeNo::ROOT => Some(&self.directory),
            DISK_INO => Some(&self.disk),
            _ => None,
        }
    }
}

impl Filesystem for Disk {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Both only ask; the kernel's own limits stay.
        if let Err(most) = config.set_max_readahead(READ_AHEAD_KIB << 10) {
            let _ = config.set_max_readahead(most);
        }
        let _ = config.set_max_background(MAX_BACKGROUND);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent == INodeNo::ROOT && name == DISK {
            reply.entry(&FOREVER, &self.disk, Generation(0));
        } else {
            reply.error(fuser::Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attr(ino) {
            Some(attr) => reply.attr(&FOREVER, attr),
            None => reply.error(fuser::Errno::ENOENT),
        }
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if ino != DISK_INO {
            reply.error(fuser::Errno::EISDIR);
        } else if flags.acc_mode() != OpenAccMode::O_RDONLY {
            reply.error(fuser::Errno::EROFS);
        } else {
            // What is noted is to be what somebody reads, not what the kernel reads ahead.
            let how = match self.reading {
                Some(_) => FopenFlags::FOPEN_DIRECT_IO,
                None => FopenFlags::FOPEN_KEEP_CACHE,
            };
            reply.opened(FileHandle(0), how | FopenFlags::FOPEN_NOFLUSH);
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        if ino != DISK_INO {
            return reply.error(fuser::Errno::EISDIR);
        }
        if let Some(reading) = &self.reading {
            // Whole after every page.
            reading.lock().unwrap_or_else(PoisonError::into_inner).add(offset, size);
        }
        // What went wrong is in the log and the status; the reader can only be told that it did.
        let answer = |result: Result<&[u8], &_>| match result {
            Ok(bytes) => reply.data(bytes),
            Err(_) => reply.error(fuser::Errno::EIO),
        };
        self.engine.read(offset, size, Box::new(answer));
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        if ino != INodeNo::ROOT {
            return reply.error(fuser::Errno::ENOTDIR);
        }
        let entries = [
            (INodeNo::ROOT, FileType::Directory, "."),
            (INodeNo::ROOT, FileType::Directory, ".."),
            (DISK_INO, FileType::RegularFile, DISK),
        ];
        for (next, (ino, kind, name)) in (1_u64..).zip(entries) {
            if next > offset && reply.add(ino, next, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let block = self.engine.index().header().block_size.get();
        let blocks = self.engine.index().block_count().into();
        reply.statfs(blocks, 0, 0, 2, 0, block, 255, block);
    }
}
