//! `imgfetch` and the kinds of TLS that servers have: nginx with each kind of key, version and key exchange.

use std::fmt::Write as _;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::fetch_support::{Publisher, cat, disk, run, scratch, text, until};

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn openssl(home: &Path, words: &str) {
    run(Command::new("openssl").args(words.split(' ')).current_dir(home));
}

/// An authority with one kind of key, and a server's certificate of another.
fn certificates(home: &Path, name: &str, authority: &str, key: &str) {
    openssl(
        home,
        &format!(
            "req -x509 -newkey {authority} -nodes -days 2 -subj /CN=ca-{name} -keyout {name}-ca.key -out {name}-ca.pem"
        ),
    );
    openssl(home, &format!("req -newkey {key} -nodes -subj /CN=mirror -keyout {name}.key -out {name}.csr"));
    openssl(
        home,
        &format!(
            "x509 -req -in {name}.csr -CA {name}-ca.pem -CAkey {name}-ca.key -CAcreateserial -extfile ext -days 2 -out {name}.pem"
        ),
    );
}

#[test]
fn each_kind_of_certificate_version_and_key_exchange_is_spoken_or_named() {
    const P256: &str = "ec -pkeyopt ec_paramgen_curve:prime256v1";
    const P384: &str = "ec -pkeyopt ec_paramgen_curve:secp384r1";
    const P521: &str = "ec -pkeyopt ec_paramgen_curve:secp521r1";
    let publisher = Publisher::new();
    let disk = disk(4 * 4096, 4);
    let home = scratch();
    let root = home.path();
    for (path, bytes) in publisher.publish(2, &[("host", &disk)]) {
        let path = root.join("tree").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    fs::write(root.join("ext"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    for (name, authority, key) in [
        ("p256", P256, P256),
        ("p384", P384, P384),
        ("p384-by-p256", P256, P384),
        ("p521", P256, P521),
        ("rsa", "rsa:2048", "rsa:2048"),
        ("rsa4096", "rsa:4096", "rsa:4096"),
        ("ed25519", "ed25519", "ed25519"),
    ] {
        certificates(root, name, authority, key);
    }
    let nothing = "has nothing in common with us";
    let cases: Vec<(&str, &str, Option<&str>)> = vec![
        ("p256", "ssl_protocols TLSv1.2;", None),
        ("p256", "ssl_protocols TLSv1.3;", None),
        ("p384", "ssl_protocols TLSv1.2;", None),
        ("p384", "ssl_protocols TLSv1.3;", None),
        ("p384-by-p256", "ssl_protocols TLSv1.2;", None),
        ("p384", "ssl_protocols TLSv1.2; ssl_ecdh_curve secp384r1;", None),
        ("p384", "ssl_protocols TLSv1.3; ssl_ecdh_curve secp384r1;", None),
        ("rsa", "ssl_protocols TLSv1.2; ssl_ecdh_curve secp384r1;", None),
        ("rsa", "ssl_protocols TLSv1.3; ssl_ecdh_curve X25519;", None),
        ("rsa4096", "ssl_protocols TLSv1.2;", None),
        ("ed25519", "ssl_protocols TLSv1.2;", None),
        ("ed25519", "ssl_protocols TLSv1.3;", None),
        ("p521", "ssl_protocols TLSv1.3;", Some("this program takes TLS 1.2 and 1.3 with AES-GCM")),
        ("rsa", "ssl_protocols TLSv1.3; ssl_ecdh_curve secp521r1;", Some(nothing)),
        ("rsa", "ssl_protocols TLSv1.2; ssl_ciphers ECDHE-RSA-CHACHA20-POLY1305;", Some(nothing)),
        ("rsa", "ssl_protocols TLSv1.2; ssl_ciphers AES128-GCM-SHA256;", Some(nothing)),
    ];
    let ports: Vec<_> = cases
        .iter()
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect::<Vec<_>>()
        .iter()
        .map(|listener| listener.local_addr().unwrap().port())
        .collect();
    let mut config = "daemon off; master_process off; pid nginx.pid; error_log stderr; events {}
        http { access_log off; client_body_temp_path b; proxy_temp_path p; fastcgi_temp_path f;
        uwsgi_temp_path u; scgi_temp_path s;\n"
        .to_owned();
    for ((name, words, _), port) in cases.iter().zip(&ports) {
        let key = format!("ssl_certificate {name}.pem; ssl_certificate_key {name}.key;");
        writeln!(config, "server {{ listen 127.0.0.1:{port} ssl; root tree; {key} {words} }}").unwrap();
    }
    fs::write(root.join("nginx.conf"), config + "}\n").unwrap();
    let mut nginx = Command::new("nginx");
    let log = fs::File::create(root.join("log")).unwrap();
    nginx.args(["-p", text(root), "-c", "nginx.conf"]).stdin(Stdio::null()).stderr(log);
    let mut nginx = Running(nginx.spawn().unwrap());
    until("nginx listens", || {
        let ended = nginx.0.try_wait().unwrap();
        assert!(ended.is_none(), "{}", fs::read_to_string(root.join("log")).unwrap());
        ports.iter().all(|port| TcpStream::connect(("127.0.0.1", *port)).is_ok())
    });
    for ((name, words, said), port) in cases.iter().zip(&ports) {
        let ca = root.join(format!("{name}-ca.pem"));
        let found = cat(
            &[&format!("https://127.0.0.1:{port}/")],
            &publisher.public(),
            &["--ca", text(&ca), "--deadline", "3s"],
        );
        let errors = found.errors();
        match said {
            None => {
                assert!(found.output.status.success(), "{name}, {words} {errors}");
                assert!(found.output.stdout == disk, "{name}, {words}");
            }
            Some(said) => {
                assert_eq!(found.output.status.code(), Some(1), "{name}, {words}");
                assert!(
                    errors.contains(said) && !errors.contains("is the network up"),
                    "{name}, {words} {errors}"
                );
            }
        }
    }
}
