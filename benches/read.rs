//! How fast a disk is read through FUSE: cold from a loopback nginx, from the cache on disk, from RAM, and from the
//! kernel's own page cache, each beside what could be had without us.
//!
//! `cargo bench --bench read -- OUT KEY IMGFETCH`: OUT is a build with an image `host`, KEY its public key, IMGFETCH the
//! static client. Wants /usr/sbin/nginx, curl and python3 (its zlib is C). All rates are of bytes of the disk that are
//! no zeros, in millions a second.

mod mounted;

use std::fs::{self, File};
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use formats::block::FetchedFile;
use formats::index::{BlockContents, Index};
use formats::release::MirrorPath;
use mounted::Mounted;

/// Bytes that a reader asks for at once.
const STEP: usize = 1 << 20;

struct Nginx(Child, u16);

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn nginx(root: &Path, work: &Path) -> Nginx {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (root, at) = (root.display(), work.display());
    let config = format!(
        "daemon off; pid {at}/pid; error_log {at}/error.log; user root; worker_processes 2; events {{}}
         http {{ access_log off; sendfile on; keepalive_requests 100000; client_body_temp_path {at}/b;
           proxy_temp_path {at}/p; fastcgi_temp_path {at}/f; uwsgi_temp_path {at}/u; scgi_temp_path {at}/s;
           server {{ listen 127.0.0.1:{port}; root {root}; }} }}"
    );
    fs::write(work.join("nginx.conf"), config).unwrap();
    let conf = work.join("nginx.conf");
    let child = Command::new("/usr/sbin/nginx").arg("-c").arg(conf).spawn().expect("nginx is installed");
    let start = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(start.elapsed() < Duration::from_secs(10), "nginx listens");
        std::thread::sleep(Duration::from_millis(10));
    }
    Nginx(child, port)
}

/// What holds the image: runs of blocks that are no zeros, as offset and length.
fn runs(index: &Index) -> Vec<(u64, u64)> {
    let size = u64::from(index.header().block_size.get());
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for (block, target) in (0_u64..).zip(index.targets()) {
        if matches!(target, BlockContents::Zero) {
            continue;
        }
        match runs.last_mut() {
            Some((start, len)) if *start + *len == block * size => *len += size,
            _ => runs.push((block * size, size)),
        }
    }
    runs
}

/// Reads them all, in order: bytes and time.
fn read(disk: &File, runs: &[(u64, u64)]) -> (u64, Duration) {
    let start = Instant::now();
    let mut bytes = vec![0; STEP];
    let mut total = 0;
    for &(offset, len) in runs {
        let mut at = 0;
        while at < len {
            let want = usize::try_from(len - at).unwrap().min(STEP);
            let got = disk.read_at(&mut bytes[..want], offset + at).unwrap();
            if got == 0 {
                break;
            }
            at += got as u64;
        }
        total += at;
    }
    (total, start.elapsed())
}

fn said(what: &str, (bytes, time): (u64, Duration)) -> f64 {
    let rate = bytes as f64 / time.as_secs_f64() / 1e6;
    println!("{what:<44} {rate:>6.0} MB/s");
    rate
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let [out, key, client] = &words[..] else { panic!("OUT KEY IMGFETCH") };
    let (out, key, client) = (Path::new(out), Path::new(key), Path::new(client));
    let work = tempfile::tempdir().unwrap();
    let work = work.path();
    let dirs = fs::read_dir(out.join("mirror/images/host")).unwrap().flatten();
    // A release that changed only the prefetch list has no index of its own.
    let indexes = dirs.map(|entry| entry.path().join("index.idx")).filter(|path| path.exists());
    let index = Index::decode(&fs::read(indexes.max().unwrap()).unwrap()[..]).unwrap();
    let runs = runs(&index);
    let whole: u64 = runs.iter().map(|(_, len)| len).sum();
    let files: Vec<String> =
        index.objects().iter().map(|object| MirrorPath::Block(object.name).to_string()).collect();
    let raw: u64 = index.objects().iter().map(|object| u64::from(object.raw_len)).sum();
    println!("{} blocks, {raw} bytes of them, {whole} of the disk", files.len());
    let server = nginx(&out.join("mirror"), work);
    let mirror = format!("http://127.0.0.1:{}/", server.1);

    // From memory, not from a disk that others use.
    files.iter().for_each(|file| drop(fs::read(out.join("mirror").join(file)).unwrap()));
    // One core: read, inflate, hash.
    let start = Instant::now();
    for (object, file) in index.objects().iter().zip(&files) {
        let file = fs::read(out.join("mirror").join(file)).unwrap();
        let block = FetchedFile::new(*object, &file).inflate().unwrap().verify().unwrap();
        std::hint::black_box(block.bytes());
    }
    let core = said("one core inflates and hashes", (raw, start.elapsed()));

    let list: String = files.iter().map(|file| format!("url={mirror}{file}\noutput=-\n")).collect();
    fs::write(work.join("list"), list).unwrap();
    let start = Instant::now();
    let mut curl = Command::new("curl")
        .args(["-s", "-K"])
        .arg(work.join("list"))
        .stdout(Stdio::piped())
        .spawn()
        .expect("curl is installed");
    let inflate = "import sys,zlib
data=b''; out=0
while True:
    more=sys.stdin.buffer.read(1<<20)
    if not more: break
    data+=more
    while data:
        d=zlib.decompressobj(); raw=d.decompress(data)
        if not d.eof: break
        out+=len(raw); data=d.unused_data
print(out)";
    let inflated = Command::new("python3")
        .args(["-c", inflate])
        .stdin(curl.stdout.take().unwrap())
        .output()
        .expect("python3 is installed");
    curl.wait().unwrap();
    let time = start.elapsed();
    assert_eq!(String::from_utf8_lossy(&inflated.stdout).trim().parse(), Ok(raw));
    let peer = said("cold: curl | python3's zlib", (raw, time));

    let start = Instant::now();
    let mut cat = Command::new(client)
        .args(["cat", "--image", "host", "--mirror", &mirror, "--key"])
        .arg(key)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out_of_it = cat.stdout.take().unwrap();
    let mut buffer = vec![0; STEP];
    while out_of_it.read(&mut buffer).unwrap() > 0 {}
    assert!(cat.wait().unwrap().success());
    let ours = said("cold: imgfetch cat", (whole, start.elapsed()));
    println!("    {:.2} x", ours / peer);

    let cache = work.join("cache");
    let cache = cache.to_str().unwrap();
    {
        let cold =
            Mounted::new(client, &mirror, key, work.join("a"), &["--status", "none", "--cache", cache]);
        let rate = said("cold: imgfetch mount, into a cache", read(&cold.disk(), &runs));
        println!("    {:.2} x", rate / peer);
        // What is not yet written.
        std::thread::sleep(Duration::from_secs(1));
    }
    {
        let ram = ["--status", "none", "--cache", cache, "--ram", "2GiB", "--no-list"];
        let warm = Mounted::new(client, &mirror, key, work.join("b"), &ram);
        let disk = warm.disk();
        let rate = said("warm: from the cache on disk", read(&disk, &runs));
        println!("    {:.2} x of one core", rate / core);
        // What could not be kept in the cache comes into RAM now.
        read(&disk, &runs);
        for _ in 0..3 {
            rustix::fs::fadvise(&disk, 0, None, rustix::fs::Advice::DontNeed).unwrap();
            said("from our RAM cache, through FUSE", read(&disk, &runs));
        }
        said("from the kernel's page cache", read(&disk, &runs));
    }
    drop(server);
}
