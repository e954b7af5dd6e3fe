//! For the tests of the client: disks published as mirrors in memory, and a server with scripted faults.
#![allow(dead_code, reason = "each test binary uses a part")]

pub mod fault_server;
pub mod network;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use formats::block::{Block, Codec, Object};
use formats::digest::Digest;
use formats::index::{Header, Index};
use formats::names::{BlockSize, ImageName, Serial, UnixTime};
use formats::release::{
    Dlahead, ImageFiles, Latest, Mirror, MirrorPath, Mirrors, PrefetchBlock, Release, Stored,
};
use imgfactory::compress::Compressor;
use imgfactory::release::SigningKey;
use system::files::Scratch;

use crate::programs;

/// Files of a mirror by path.
pub type Tree = BTreeMap<String, Vec<u8>>;

/// Lets what has to be in time go first: from here on, this thread and those that it starts take what others leave.
pub fn stand_back() {
    rustix::process::nice(19).unwrap();
}

/// A day, in seconds.
pub const DAY: i64 = 86_400;

/// Bytes that compress a little, differ everywhere, and have a run of zeros.
pub fn disk(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
        bytes.extend_from_slice(b"compress");
    }
    bytes.truncate(len);
    let zeros = len / 2..len / 2 + len / 8;
    bytes[zeros].fill(0);
    bytes
}

/// What to publish and how.
pub struct Publisher {
    pub key: SigningKey,
    pub name: &'static str,
    pub block_size: u32,
    /// Seconds from now until `latest` expires, and since it was published.
    pub expires_in: i64,
    pub published_ago: i64,
    /// Blocks to list in the prefetch list.
    pub ahead: usize,
    pub mirrors: Vec<Mirror>,
}

impl Publisher {
    pub fn new() -> Self {
        let key = SigningKey::generate().unwrap();
        Publisher {
            key,
            name: "demo",
            block_size: 4096,
            expires_in: 7 * DAY,
            published_ago: 60,
            ahead: 0,
            mirrors: Vec::new(),
        }
    }

    pub fn public(&self) -> String {
        self.key.public_base64()
    }

    /// A mirror that has one release of these images.
    pub fn publish(&self, serial: u64, images: &[(&str, &[u8])]) -> Tree {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let after = |secs: i64| UnixTime(now.checked_add_signed(secs).unwrap());
        let published = after(-self.published_ago);
        let serial = Serial::new(serial).unwrap();
        let name: ImageName = self.name.parse().unwrap();
        let mut tree = Tree::new();
        let mut files = Vec::new();
        for (image, disk) in images {
            let image: ImageName = image.parse().unwrap();
            let index = self.split(&image, serial, published, disk, &mut tree);
            let text = index.to_text();
            let stored = Stored { serial, digest: Digest::of(&text) };
            let mut image_files = ImageFiles::of_index(image.clone(), stored);
            tree.insert(image_files.index_path().to_string(), text);
            if self.ahead > 0 {
                let entry = |object: &Object| PrefetchBlock {
                    phase: "boot".parse().unwrap(),
                    name: object.name,
                    first_read_ms: 0,
                    reads: 1,
                };
                let entries = index.objects().iter().take(self.ahead).map(entry).collect();
                let mut text = Vec::new();
                Dlahead { image, serial, entries }.encode(&mut text).unwrap();
                image_files.dlahead = Some(Stored { serial, digest: Digest::of(&text) });
                tree.insert(image_files.dlahead_path().unwrap().to_string(), text);
            }
            files.push(image_files);
        }
        let release =
            Release { name: name.clone(), serial, published, retain_until: after(99 * DAY), images: files };
        let release = self.key.sign(&release).unwrap();
        let mirrors = self.key.sign(&Mirrors { name: name.clone(), mirrors: self.mirrors.clone() }).unwrap();
        let latest = Latest {
            name,
            serial,
            release: Digest::of(&release),
            mirrors: Digest::of(&mirrors),
            published,
            expires: after(self.expires_in),
            min_serial: Serial::FIRST,
        };
        tree.insert("latest".into(), self.key.sign(&latest).unwrap());
        tree.insert(MirrorPath::Release(serial).to_string(), release);
        tree.insert("mirrors.txt".into(), mirrors);
        tree
    }

    fn split(
        &self,
        image: &ImageName,
        serial: Serial,
        published: UnixTime,
        disk: &[u8],
        tree: &mut Tree,
    ) -> Index {
        let mut compressor = Compressor::new(Codec::zlib(6).unwrap());
        let blocks = disk.chunks(self.block_size as usize).map(|raw| {
            if raw.iter().all(|byte| *byte == 0) {
                return None;
            }
            let file = compressor.compress(raw);
            let block = Block::seal(raw.to_vec());
            let object = Object {
                name: block.name(),
                sha256: block.sha256(),
                raw_len: raw.len().try_into().unwrap(),
                file_len: file.len().try_into().unwrap(),
            };
            tree.insert(MirrorPath::Block(object.name).to_string(), file);
            Some(object)
        });
        let header = Header {
            image: image.clone(),
            serial,
            block_size: BlockSize::new(self.block_size).unwrap(),
            size: disk.len() as u64,
            published,
            parent: None,
        };
        Index::assemble(header, blocks.collect::<Vec<_>>()).unwrap()
    }
}

/// Paths of the blocks of a tree.
pub fn block_paths(tree: &Tree) -> Vec<String> {
    tree.keys().filter(|path| path.starts_with("blk/")).cloned().collect()
}

/// A scratch directory. Where the usual place is nearly full a cache would keep nothing: then in memory.
pub fn scratch() -> Scratch {
    keep_mounts_to_ourselves();
    let temporary = std::env::temp_dir();
    let room = rustix::fs::statvfs(&temporary).unwrap();
    let memory = Path::new("/dev/shm");
    let full = room.f_bavail * 4 < room.f_blocks;
    Scratch::directory(if full && memory.is_dir() { memory.into() } else { temporary }).unwrap()
}

/// What is mounted from now on, by this thread and what it starts, nobody else sees. Some would mind: an ordinary user's
/// mmdebstrap can't bind /dev/shm while something is mounted below it.
fn keep_mounts_to_ourselves() {
    use rustix::mount::{MountPropagationFlags, mount_change};
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        // SAFETY: a mount namespace of its own takes nothing away from what this thread has open.
        let alone = unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) };
        // Who is not root mounts by fusermount3 only, and shares.
        if alone.is_ok() {
            mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        }
    });
}

/// `imgfetch` with no proxy and no socket of its own in the usual place.
pub fn imgfetch() -> Command {
    let mut command = Command::new(programs::imgfetch());
    for name in ["http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"]
    {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// What became of `imgfetch cat`, and how long it took.
pub struct Cat {
    pub output: Output,
    pub took: Duration,
}

impl Cat {
    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }
}

/// Runs `imgfetch cat` of image `host` with more words.
pub fn cat(mirrors: &[&str], key: &str, words: &[&str]) -> Cat {
    let start = Instant::now();
    let output = imgfetch()
        .args(["cat", "--mirror", &mirrors.join(","), "--key", key, "--image", "host"])
        .args(words)
        .output()
        .unwrap();
    Cat { output, took: start.elapsed() }
}

/// A mounted disk; unmounted by force when dropped.
pub struct Mount {
    pub mountpoint: PathBuf,
    pub socket: PathBuf,
    scratch: Scratch,
}

impl Mount {
    /// Runs `imgfetch mount` until it is ready.
    pub fn new(mirrors: &[&str], key: &str, words: &[&str]) -> Result<Self, Output> {
        let scratch = scratch();
        let mountpoint = scratch.path().join("mnt");
        let socket = scratch.path().join("status.sock");
        std::fs::create_dir(&mountpoint).unwrap();
        let output = imgfetch()
            .args(["mount", "--mirror", &mirrors.join(","), "--key", key, "--image", "host", "--status"])
            .arg(&socket)
            .args(words)
            .arg(&mountpoint)
            // A pipe that the daemon keeps open would keep us waiting for its end.
            .stderr(std::fs::File::create(scratch.path().join("log")).unwrap())
            .stdout(Stdio::null())
            .status()
            .unwrap();
        let log = std::fs::read(scratch.path().join("log")).unwrap();
        if !output.success() {
            return Err(Output { status: output, stdout: Vec::new(), stderr: log });
        }
        Ok(Mount { mountpoint, socket, scratch })
    }

    pub fn disk(&self) -> PathBuf {
        self.mountpoint.join("disk")
    }

    pub fn status(&self) -> serde_json::Value {
        let output = imgfetch().args(["status", "--socket"]).arg(&self.socket).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// What the client has printed so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.scratch.path().join("log")).unwrap()
    }

    pub fn pid(&self) -> i32 {
        self.status()["pid"].as_i64().unwrap().try_into().unwrap()
    }

    pub fn kill(&self, signal: &str) {
        run(Command::new("kill").args([signal, &self.pid().to_string()]));
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.mountpoint).status();
    }
}

pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Waits until something is so, a minute at most.
pub fn until(what: &str, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !so() {
        assert!(Instant::now() < end, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A path as text.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A mirror where nobody listens.
pub fn refused_url() -> String {
    fault_server::refused()
}
