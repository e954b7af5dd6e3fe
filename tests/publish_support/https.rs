//! The same servers behind TLS, with certificates of a company's own authority, and a proxy that leads there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use system::files::Scratch;

use super::{Server, free_port, run, scratch};

/// A certificate authority of our own, and what it signed for 127.0.0.1 and localhost.
pub struct Authority {
    home: Scratch,
}

/// What a server presents.
pub struct Certificate {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    pub fn new() -> Self {
        let authority = Authority { home: scratch() };
        let (key, ca) = (authority.at("ca.key"), authority.at("ca.crt"));
        openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", text(&key)]);
        openssl(&[
            "req",
            "-x509",
            "-new",
            "-key",
            text(&key),
            "-subj",
            "/CN=Example Corp CA",
            "-days",
            "30",
            "-out",
            text(&ca),
        ]);
        authority
    }

    fn at(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// The file for `--ca`.
    pub fn file(&self) -> PathBuf {
        self.at("ca.crt")
    }

    /// A certificate whose key `openssl genpkey` makes with these words.
    pub fn certificate(&self, name: &str, key_words: &[&str]) -> Certificate {
        let (key, request, certificate) = (
            self.at(&format!("{name}.key")),
            self.at(&format!("{name}.csr")),
            self.at(&format!("{name}.crt")),
        );
        openssl(&[&["genpkey"], key_words, &["-out", text(&key)]].concat());
        openssl(&["req", "-new", "-key", text(&key), "-subj", "/CN=127.0.0.1", "-out", text(&request)]);
        let names = self.at("names");
        fs::write(&names, "subjectAltName=IP:127.0.0.1,DNS:localhost\n").unwrap();
        openssl(&[
            "x509",
            "-req",
            "-in",
            text(&request),
            "-CA",
            text(&self.file()),
            "-CAkey",
            text(&self.at("ca.key")),
            "-CAcreateserial",
            "-days",
            "30",
            "-extfile",
            text(&names),
            "-out",
            text(&certificate),
        ]);
        Certificate { certificate, key }
    }

    pub fn p256(&self) -> Certificate {
        self.certificate("server", &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"])
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn openssl(words: &[&str]) {
    run(Command::new("openssl").args(words));
}

/// nginx in front of a server of this machine: TLS, and all else as it comes. With more lines for its `server`.
pub fn tls_front(presented: &Certificate, to: &str, more: &str) -> (Server, String) {
    let home = scratch();
    let port = free_port();
    let to = to.trim_end_matches('/');
    let config = format!(
        "daemon off;\npid pid;\nerror_log stderr;\nevents {{}}\nhttp {{\n  access_log off;\n  client_max_body_size 64m;\n  \
         client_body_temp_path body;\n  proxy_temp_path proxy;\n  fastcgi_temp_path f;\n  uwsgi_temp_path u;\n  scgi_temp_path s;\n  \
         server {{\n    listen 127.0.0.1:{port} ssl;\n    ssl_certificate {};\n    ssl_certificate_key {};\n    {more}\n    \
         location / {{\n      proxy_pass {to};\n      proxy_set_header Host $http_host;\n      proxy_http_version 1.1;\n      \
         proxy_request_buffering off;\n    }}\n  }}\n}}\n",
        text(&presented.certificate),
        text(&presented.key)
    );
    fs::write(home.path().join("nginx.conf"), config).unwrap();
    let prefix = home.path().to_path_buf();
    let server =
        Server::start(home, Command::new("nginx").arg("-p").arg(&prefix).args(["-c", "nginx.conf"]), port);
    (server, format!("https://127.0.0.1:{port}/"))
}

/// squid as it is commonly set up: CONNECT for the ports of TLS only, which are these here; `user` wants one with a
/// password, `me` and `secret`.
pub fn squid(tls_ports: &[u16], user: bool) -> (Server, String) {
    squid_by(tls_ports, user, None)
}

/// The same, itself behind TLS if there is a certificate.
pub fn squid_by(tls_ports: &[u16], user: bool, tls: Option<&Certificate>) -> (Server, String) {
    let home = scratch();
    let port = free_port();
    let at = |name: &str| home.path().join(name).display().to_string();
    let ports = tls_ports.iter().map(|port| format!(" {port}")).collect::<String>();
    let login = if user {
        fs::write(at("login"), "#!/bin/sh\nwhile read -r user password; do [ \"$user $password\" = 'me secret' ] && echo OK || echo ERR; done\n").unwrap();
        run(Command::new("chmod").args(["755", &at("login")]));
        format!(
            "auth_param basic program {}\nacl known proxy_auth REQUIRED\nhttp_access deny !known\n",
            at("login")
        )
    } else {
        String::new()
    };
    // Started by root it works as another user.
    let root = rustix::process::geteuid().is_root();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let identity = if root { "cache_effective_user proxy\n" } else { "" };
    let listen = match tls {
        None => format!("http_port 127.0.0.1:{port}"),
        Some(tls) => {
            for (from, to) in [(&tls.certificate, "crt"), (&tls.key, "key")] {
                fs::copy(from, at(to)).unwrap();
                fs::set_permissions(at(to), fs::Permissions::from_mode(0o644)).unwrap();
            }
            format!("https_port 127.0.0.1:{port} tls-cert={} tls-key={}", at("crt"), at("key"))
        }
    };
    let config = format!(
        "{listen}\nacl SSL_ports port 443{ports}\nacl CONNECT method CONNECT\n\
         http_access deny CONNECT !SSL_ports\n{login}http_access allow localhost\nhttp_access deny all\n\
         {identity}pid_filename {}\naccess_log stdio:{}\ncache_log {}\ncache deny all\ncoredump_dir {}\n\
         shutdown_lifetime 0 seconds\nvisible_hostname proxy.example\npinger_enable off\nnetdb_filename none\n\
         via off\nforwarded_for delete\n",
        at("pid"),
        at("access"),
        at("cache.log"),
        home.path().display()
    );
    fs::write(at("squid.conf"), config).unwrap();
    let file = at("squid.conf");
    // A name of its own: squids of one name share memory.
    let name = format!("test{port}");
    let server = Server::start(home, Command::new("squid").args(["-N", "-n", &name, "-f", &file]), port);
    (server, format!("127.0.0.1:{port}"))
}

/// The port of a URL of this machine.
pub fn port(url: &str) -> u16 {
    url.rsplit(':').next().unwrap().trim_end_matches('/').parse().unwrap()
}
