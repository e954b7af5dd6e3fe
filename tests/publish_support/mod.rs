//! For the tests of publishing: builds in small, and servers that we did not write.
#![allow(dead_code, reason = "each test binary uses a part")]

pub mod https;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use formats::block::{Block, Codec, Object};
use formats::index::{Header, Index};
use formats::names::{BlockSize, ImageName, UnixTime};
use formats::release::{Mirror, TrustedKeys, Upload};
use imgfactory::compress::Compressor;
use imgfactory::pipeline::previous_release::PreviousRelease;
use imgfactory::pipeline::step_runner::StepRunner;
use imgfactory::pipeline::steps::release::commit;
use imgfactory::project::keys::KeyFiles;
use imgfactory::release::Draft;
use imgfactory::release::SigningKey;
use imgfactory::repository::store::{BlockOrigin, Offered, Store};
use rustix::process::{Pid, Signal};
use system::clock;
use system::files::Scratch;

use crate::programs;
use https::Certificate;

/// Bytes of a block.
pub const BLOCK: usize = 4096;

/// An output directory as a build leaves it: `mirror/` and `upload.txt`.
pub struct Out {
    pub dir: Scratch,
    pub key: SigningKey,
    /// Name of the distribution.
    pub name: &'static str,
    pub mirrors: Vec<String>,
    /// Seconds for which blocks stay, and by which everything is older than now.
    pub retain: u64,
    pub ago: u64,
}

impl Out {
    pub fn new() -> Self {
        let dir = Scratch::directory(std::env::temp_dir()).unwrap();
        let key = KeyFiles::new(&dir.path().join("key")).create(None).unwrap();
        Out { dir, key, name: "demo", mirrors: vec![], retain: 90 * 86_400, ago: 0 }
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    pub fn mirror(&self) -> PathBuf {
        self.path().join("mirror")
    }

    pub fn public(&self) -> String {
        self.key.public_base64()
    }

    /// The name of its key pair.
    pub fn key_name(&self) -> String {
        self.dir.path().join("key").display().to_string()
    }

    /// Builds a release whose disk has these blocks; 0 is a block of zeros.
    pub fn build(&self, disk: &[u32]) -> Upload {
        self.build_in(&self.path(), disk)
    }

    /// The same in this output directory.
    pub fn build_in(&self, out: &Path, disk: &[u32]) -> Upload {
        let mut store = Store::open(out.join("mirror")).unwrap();
        let (name, image): (ImageName, ImageName) = (self.name.parse().unwrap(), "host".parse().unwrap());
        let keys = TrustedKeys::parse(&self.key.public_text()).unwrap();
        let previous = PreviousRelease::read(&mut store, None, &name, &keys).unwrap();
        let now = UnixTime(clock::now().0 - self.ago);
        let header = Header {
            image: image.clone(),
            serial: previous.next,
            block_size: BlockSize::new(BLOCK.try_into().unwrap()).unwrap(),
            size: (BLOCK * disk.len()) as u64,
            published: now,
            parent: previous.parent(&image),
        };
        let mut compressor = Compressor::new(Codec::zlib(6).unwrap());
        let mut block = |number: u32| -> Option<Object> {
            let block = (number > 0).then(|| Block::seal(raw(number)))?;
            let origin = || BlockOrigin::Image { image: image.clone(), block: number, at: 0 };
            match store.offer(&block, origin, &mut compressor).unwrap() {
                Offered::Written(object) | Offered::Found(object) => Some(object),
                Offered::Collides(with) => panic!("collides with {with}"),
            }
        };
        let blocks: Vec<_> = disk.iter().map(|number| block(*number)).collect();
        let mirror =
            |url: &String| Mirror { url: url.parse().unwrap(), max_connections: None, location: None };
        let draft = Draft {
            name,
            serial: previous.next,
            lists: Vec::new(),
            layouts: Default::default(),
            indexes: vec![Index::assemble(header, blocks).unwrap()],
            mirrors: self.mirrors.iter().map(mirror).collect(),
            published: now,
            retain_for: self.retain,
            fresh_for: 7 * 86_400 + self.ago,
        };
        commit(&store, &out.join("upload.txt"), draft, &previous, &self.key, &mut StepRunner::default())
            .unwrap()
    }

    /// `imgfactory publish` of it.
    pub fn publish(&self, to: &str, words: &[&str]) -> Output {
        self.command("publish").args(["--to", to]).args(words).output().unwrap()
    }

    /// `imgfactory COMMAND OUT --key ...`.
    pub fn command(&self, command: &str) -> Command {
        let mut found = imgfactory();
        found.arg(command).arg(self.path()).args(["--key", &self.public()]);
        found
    }
}

/// Raw bytes of block `number`: they compress a little.
pub fn raw(number: u32) -> Vec<u8> {
    let mut state = u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(BLOCK);
    while bytes.len() < BLOCK {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
        bytes.extend_from_slice(b"compress");
    }
    bytes
}

pub fn imgfactory() -> Command {
    let mut command = Command::new(programs::imgfactory());
    for name in ["http_proxy", "https_proxy", "all_proxy", "HTTPS_PROXY", "ALL_PROXY", "no_proxy", "NO_PROXY"]
    {
        command.env_remove(name);
    }
    command.env_remove("SSL_CERT_FILE");
    command.stdin(Stdio::null());
    command
}

/// What a program printed; panics when it failed.
pub fn good(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{printed}{errors}");
    printed
}

/// What a program said when it failed; panics when it did not.
pub fn bad(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{}{errors}", String::from_utf8_lossy(&output.stdout));
    errors
}

pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    good(&output)
}

/// Every file of a tree that clients may read.
pub fn tree(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            if name.starts_with('.') {
                continue;
            }
            if path.is_dir() {
                open.push(path);
            } else {
                files.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    files
}

/// That two trees are the same; says in which files they are not.
#[track_caller]
pub fn assert_same(found: &Path, wanted: &Path) {
    let (found_files, wanted_files) = (tree(found), tree(wanted));
    let names: BTreeSet<_> = found_files.keys().chain(wanted_files.keys()).collect();
    let differing: Vec<_> =
        names.iter().filter(|name| found_files.get(**name) != wanted_files.get(**name)).collect();
    assert!(differing.is_empty(), "{} is not as {}: {differing:?}", found.display(), wanted.display());
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A server that is ended with its test.
pub struct Server {
    child: Child,
    pub home: Scratch,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Server {
    /// Ends it; its files stay.
    pub fn stop(&mut self) {
        // It ends its own children, if it gets the time for it.
        let _ = rustix::process::kill_process(Pid::from_child(&self.child), Signal::TERM);
        let end = Instant::now() + Duration::from_secs(3);
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn start(home: Scratch, command: &mut Command, port: u16) -> Self {
        let log = home.path().join("log");
        let child = command
            .current_dir(home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let mut server = Server { child, home };
        let end = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = server.child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < end, "{}", fs::read_to_string(&log).unwrap());
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }
}

pub fn scratch() -> Scratch {
    Scratch::directory(std::env::temp_dir()).unwrap()
}

/// nginx with `docs/examples/nginx.conf`: where clients fetch, and where publishers put.
pub fn nginx() -> (Server, String, String) {
    nginx_by(None)
}

/// The same, behind TLS if there is a certificate.
pub fn nginx_by(tls: Option<&Certificate>) -> (Server, String, String) {
    let home = scratch();
    // Its workers are another user when root starts it.
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o777)).unwrap();
    fs::create_dir(home.path().join("tree")).unwrap();
    let (web, dav) = (free_port(), free_port());
    let config = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/examples/nginx.conf"))
        .replace("127.0.0.1:8080", &format!("127.0.0.1:{web}"))
        .replace("127.0.0.1:8081", &format!("127.0.0.1:{dav}"))
        .replace("/srv/mirror", home.path().join("tree").to_str().unwrap());
    let config = match tls {
        None => config,
        Some(Certificate { certificate, key }) => [web, dav].iter().fold(config, |config, port| {
            let secure = format!(
                "listen 127.0.0.1:{port} ssl;\nssl_certificate {};\nssl_certificate_key {};",
                certificate.display(),
                key.display()
            );
            config.replace(&format!("listen 127.0.0.1:{port};"), &secure)
        }),
    };
    fs::write(home.path().join("nginx.conf"), config).unwrap();
    let prefix = home.path().to_path_buf();
    let server =
        Server::start(home, Command::new("nginx").arg("-p").arg(&prefix).args(["-c", "nginx.conf"]), web);
    let scheme = if tls.is_some() { "https" } else { "http" };
    (server, format!("{scheme}://127.0.0.1:{web}/"), format!("{scheme}://127.0.0.1:{dav}/"))
}

/// A web server for a directory, with the part of `docs/examples/nginx.conf` for clients.
pub fn web(root: &Path) -> (Server, String) {
    web_by(root, "", "")
}

/// The same, with more lines for `http` and for `server`.
pub fn web_by(root: &Path, http: &str, server: &str) -> (Server, String) {
    let home = scratch();
    let port = free_port();
    let config = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/examples/nginx.conf"));
    let (clients, _) = config.split_once("    # For publishers").unwrap();
    let config = format!("{clients}}}\n")
        .replace("http {", &format!("http {{ {http}"))
        .replace("etag on;", &format!("etag on; {server}"))
        .replace("127.0.0.1:8080", &format!("127.0.0.1:{port}"))
        .replace("/srv/mirror", root.to_str().unwrap());
    fs::write(home.path().join("nginx.conf"), config).unwrap();
    let prefix = home.path().to_path_buf();
    let server =
        Server::start(home, Command::new("nginx").arg("-p").arg(&prefix).args(["-c", "nginx.conf"]), port);
    (server, format!("http://127.0.0.1:{port}/"))
}

/// The indented blocks of docs/mirrors.md between two marks.
pub fn manual(from: &str, to: &str) -> String {
    let (_, text) = include_str!("../../docs/mirrors.md").split_once(from).unwrap();
    let (text, _) = text.split_once(to).unwrap();
    text.lines().filter_map(|line| line.strip_prefix("    ")).map(|line| format!("{line}\n")).collect()
}

/// Apache as docs/mirrors.md has it, clients on one port, publishers with user and password `p` on another.
pub fn apache() -> (Server, String, String) {
    apache_by(None)
}

/// The same, behind TLS if there is a certificate.
pub fn apache_by(tls: Option<&Certificate>) -> (Server, String, String) {
    let home = scratch();
    let root = rustix::process::geteuid().is_root();
    for dir in ["tree", "locks"] {
        fs::create_dir(home.path().join(dir)).unwrap();
        fs::set_permissions(home.path().join(dir), fs::Permissions::from_mode(0o777)).unwrap();
    }
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (web, dav) = (free_port(), free_port());
    let at = |name: &str| home.path().join(name).display().to_string();
    let hash = run(Command::new("openssl").args(["passwd", "-apr1", "p"]));
    fs::write(at("publishers"), format!("p:{hash}")).unwrap();
    let modules =
        ["mpm_event", "authz_core", "authz_user", "auth_basic", "authn_core", "authn_file", "dav", "dav_fs"];
    let modules = modules.iter().chain(&["headers", "env", "mime", "dir", "ssl", "socache_shmcb"]);
    let modules: String = modules
        .map(|name| format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n"))
        .collect();
    let user = if root { "User www-data\nGroup www-data\n" } else { "" };
    let config = manual("**Apache**:", "**Caddy**:")
        .replace("*:80>", &format!("127.0.0.1:{web}>"))
        .replace("*:8081>", &format!("127.0.0.1:{dav}>"))
        .replace("/srv/mirror", &at("tree"))
        .replace("/var/lib/apache2/dav/lock", &at("locks/lock"))
        .replace("/etc/apache2/publishers", &at("publishers"));
    let config = match tls {
        None => config,
        Some(Certificate { certificate, key }) => {
            let (certificate, key) = (certificate.display(), key.display());
            let secure =
                format!("\nSSLEngine on\nSSLCertificateFile {certificate}\nSSLCertificateKeyFile {key}\n");
            config.replace("\n  DocumentRoot", &format!("{secure}  DocumentRoot"))
        }
    };
    let config = format!(
        "{modules}{user}ServerRoot {0}\nServerName 127.0.0.1\nPidFile pid\nErrorLog errors\nTypesConfig /dev/null\n\
         Mutex file:{0}\nListen 127.0.0.1:{web}\nListen 127.0.0.1:{dav}\n<Directory />\nRequire all denied\n</Directory>\n{config}",
        home.path().display()
    );
    fs::write(at("apache.conf"), config).unwrap();
    let file = at("apache.conf");
    let server =
        Server::start(home, Command::new("/usr/sbin/apache2").args(["-DFOREGROUND", "-f", &file]), web);
    let scheme = if tls.is_some() { "https" } else { "http" };
    (server, format!("{scheme}://127.0.0.1:{web}/"), format!("{scheme}://127.0.0.1:{dav}/"))
}

/// Caddy as docs/mirrors.md has it, for a directory.
pub fn caddy(root: &Path) -> (Server, String) {
    caddy_by(root, None)
}

/// The same, behind TLS if there is a certificate.
pub fn caddy_by(root: &Path, tls: Option<&Certificate>) -> (Server, String) {
    let home = scratch();
    let port = free_port();
    let scheme = if tls.is_some() { "https" } else { "http" };
    let secure = tls.map(|tls| format!("\ntls {} {}", tls.certificate.display(), tls.key.display()));
    let secure = secure.unwrap_or_default();
    let config = manual("**Caddy**:", "No `encode`")
        .replace("mirror.example {", &format!("{scheme}://127.0.0.1:{port} {{{secure}"))
        .replace("/srv/mirror", root.to_str().unwrap());
    fs::write(home.path().join("Caddyfile"), format!("{{\nadmin off\nauto_https off\n}}\n{config}")).unwrap();
    let data = home.path().to_path_buf();
    let mut caddy = Command::new("caddy");
    caddy.args(["run", "--adapter", "caddyfile", "--config", "Caddyfile"]);
    let server = Server::start(home, caddy.env("XDG_DATA_HOME", &data).env("XDG_CONFIG_HOME", &data), port);
    (server, format!("{scheme}://127.0.0.1:{port}/"))
}

/// An rsync daemon with one module.
pub fn rsyncd() -> (Server, String) {
    rsyncd_by("")
}

/// The same, with more lines for the module; its log is `rsyncd.log`.
pub fn rsyncd_by(more: &str) -> (Server, String) {
    let home = scratch();
    let port = free_port();
    fs::create_dir(home.path().join("tree")).unwrap();
    let tree = home.path().join("tree");
    let config = format!(
        "use chroot = no\nreverse lookup = no\nsocket options = TCP_NODELAY\nport = {port}\naddress = 127.0.0.1\n\
         log file = {0}/rsyncd.log\nlock file = {0}/rsyncd.lock\n\
         [mirror]\npath = {1}\nread only = no\nuid = {2}\ngid = {3}\n{more}",
        home.path().display(),
        tree.display(),
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw()
    );
    fs::write(home.path().join("rsyncd.conf"), config).unwrap();
    let mut command = Command::new("rsync");
    command.args(["--daemon", "--no-detach", "--config=rsyncd.conf"]);
    let server = Server::start(home, &mut command, port);
    (server, format!("rsync://127.0.0.1:{port}/mirror/demo/"))
}

/// sshd with a key of its own: the target, and the PATH with the `ssh` that knows the way there.
pub fn sshd() -> (Server, String, String) {
    let home = scratch();
    let port = free_port();
    let at = |name: &str| home.path().join(name).display().to_string();
    for name in ["host", "user"] {
        run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &at(name)]));
    }
    // A home of its own: what the person's shell does at its start is not under test.
    let user = fs::read_to_string(at("user.pub")).unwrap();
    fs::write(at("authorized"), format!("environment=\"HOME={}\" {user}", at("tree"))).unwrap();
    fs::create_dir(at("tree")).unwrap();
    let config = format!(
        "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\n\
         PidFile none\nPasswordAuthentication no\nPermitRootLogin yes\nPermitUserEnvironment yes\n",
        at("host"),
        at("authorized")
    );
    fs::write(at("sshd_config"), config).unwrap();
    // It refuses to run without this directory, which a running system has.
    if rustix::process::geteuid().is_root() {
        fs::create_dir_all("/run/sshd").unwrap();
    }
    fs::create_dir(at("bin")).unwrap();
    let ssh = format!(
        "#!/bin/sh\nexec /usr/bin/ssh -p {port} -i {} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
         -o LogLevel=ERROR -o KexAlgorithms=curve25519-sha256 \"$@\"\n",
        at("user")
    );
    fs::write(at("bin/ssh"), ssh).unwrap();
    fs::set_permissions(at("bin/ssh"), fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", at("bin"), std::env::var("PATH").unwrap());
    let tree = at("tree");
    let config = at("sshd_config");
    let server = Server::start(home, Command::new("/usr/sbin/sshd").args(["-D", "-e", "-f", &config]), port);
    let user = run(Command::new("id").arg("-un"));
    (server, format!("{}@127.0.0.1:{tree}/demo", user.trim()), path)
}

/// s3s-fs, an S3 server that keeps objects in a directory; `ci/setup test` installs it.
pub fn s3() -> (Server, String) {
    let home = scratch();
    let port = free_port();
    fs::create_dir_all(home.path().join("data/bucket")).unwrap();
    let mut command = Command::new("s3s-fs");
    command.args(["--host", "127.0.0.1", "--port", &port.to_string()]);
    command.args(["--access-key", "key", "--secret-key", "secret", "data"]);
    let server = Server::start(home, &mut command, port);
    (server, format!("s3://bucket/demo?endpoint=http://127.0.0.1:{port}"))
}
