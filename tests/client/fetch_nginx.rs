//! `imgfetch` and a server that we did not write, with TLS.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use system::files::Scratch;

use crate::fetch_support::{Publisher, cat, disk, run, scratch, text, until};

struct Nginx {
    child: Child,
    http: u16,
    https: u16,
    expired: u16,
    home: Scratch,
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn openssl(home: &Path, words: &str) {
    run(Command::new("openssl").args(words.split(' ')).current_dir(home));
}

/// Serves `home/tree` by HTTP and HTTPS, and `/away/` leads from one to the other.
fn nginx(home: Scratch) -> Nginx {
    let root = home.path();
    let ec = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(root, &format!("req -x509 {ec} -days 2 -subj /CN=authority -keyout ca.key -out ca.pem"));
    openssl(root, &format!("req {ec} -subj /CN=mirror -keyout server.key -out server.csr"));
    fs::write(root.join("ext"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    let signed = "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -extfile ext";
    openssl(root, &format!("{signed} -days 2 -out server.pem"));
    // Over since yesterday.
    openssl(root, &format!("{signed} -days -1 -out expired.pem"));
    let (http, https, expired) = (free_port(), free_port(), free_port());
    let config = format!(
        "daemon off; master_process off; pid nginx.pid; error_log stderr; events {{}}
         http {{ access_log off; client_body_temp_path b; proxy_temp_path p; fastcgi_temp_path f;
           uwsgi_temp_path u; scgi_temp_path s;
           server {{ listen 127.0.0.1:{http}; root tree;
             location /away/ {{ rewrite ^/away/(.*)$ https://127.0.0.1:{https}/$1 redirect; }} }}
           server {{ listen 127.0.0.1:{https} ssl; root tree; gzip on; gzip_types *; gzip_min_length 1;
             ssl_certificate server.pem; ssl_certificate_key server.key;
             location /away/ {{ rewrite ^/away/(.*)$ http://127.0.0.1:{http}/$1 redirect; }} }}
           server {{ listen 127.0.0.1:{expired} ssl; root tree;
             ssl_certificate expired.pem; ssl_certificate_key server.key; }} }}"
    );
    fs::write(root.join("nginx.conf"), config).unwrap();
    let child = Command::new("nginx")
        .args(["-p", text(root), "-c", "nginx.conf"])
        .stdin(Stdio::null())
        .stderr(fs::File::create(root.join("log")).unwrap())
        .spawn()
        .unwrap();
    let mut nginx = Nginx { child, http, https, expired, home };
    until("nginx listens", || {
        // Its own words are better than a timeout.
        let ended = nginx.child.try_wait().unwrap();
        let log = || fs::read_to_string(nginx.home.path().join("log")).unwrap();
        assert!(ended.is_none(), "{}", log());
        TcpStream::connect(("127.0.0.1", https)).is_ok()
    });
    nginx
}

#[test]
fn nginx_serves_by_http_and_https_and_certificates_are_checked() {
    let publisher = Publisher::new();
    let disk = disk(60 * 4096, 4);
    let home = scratch();
    for (path, bytes) in publisher.publish(2, &[("host", &disk)]) {
        let path = home.path().join("tree").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let nginx = nginx(home);
    let (http, https) = (nginx.http, nginx.https);
    let ca = nginx.home.path().join("ca.pem");
    let ca = ["--ca", text(&ca), "--deadline", "4s"];
    let key = publisher.public();
    for (url, words) in [
        (format!("http://127.0.0.1:{http}/"), &[][..]),
        (format!("https://127.0.0.1:{https}/"), &ca),
        (format!("http://127.0.0.1:{http}/away/"), &ca),
    ] {
        let found = cat(&[&url], &key, words);
        assert!(found.output.status.success(), "{url}: {}", found.errors());
        assert!(found.output.stdout == disk, "{url}");
    }
    for (url, words, said) in [
        (
            format!("https://127.0.0.1:{https}/"),
            &["--deadline", "2s"][..],
            "the server's certificate is of an authority that is not known here; if it is your own, name its file \
             with --ca or SSL_CERT_FILE",
        ),
        (format!("https://127.0.0.1:{}/", nginx.expired), &ca, "check the clock: it shows 20"),
        (
            format!("https://localhost:{https}/"),
            &ca,
            "the server's certificate is for another name; check the address",
        ),
        (
            format!("https://127.0.0.1:{https}/away/"),
            &ca,
            "redirect refused: from https to `http://127.0.0.1:",
        ),
    ] {
        let found = cat(&[&url], &key, words);
        assert_eq!(found.output.status.code(), Some(1), "{url}");
        assert!(found.errors().contains(said), "{url}: {}", found.errors());
        assert!(!found.errors().contains("is the network up"), "{url}: {}", found.errors());
    }
}
