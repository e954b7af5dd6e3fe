//! `publish`, `gc`, `releases`, `diff`, `mirror` and `build --previous` over HTTPS, as companies have it: with a
//! certificate authority of their own, and through a proxy that lets CONNECT through to ports of TLS only.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use formats::names::ImageName;
use formats::release::TrustedKeys;
use imgfactory::pipeline::previous_release::PreviousRelease;
use imgfactory::repository::published::Published;
use imgfactory::repository::store::Store;
use system::http::HttpOptions;

use crate::programs;
use crate::publish_servers::{Place, whole_life};
use crate::publish_support::https::{Authority, Certificate, port, squid, squid_by, tls_front};
use crate::publish_support::{
    Out, Server, apache_by, bad, caddy_by, good, imgfactory, nginx_by, s3, scratch,
};

/// A server behind TLS: where to publish, where clients fetch, where files are on this disk.
struct Target {
    servers: Vec<Server>,
    to: String,
    url: Option<String>,
    files: &'static str,
    env: Vec<(&'static str, String)>,
    /// Its ports, for the proxy.
    ports: Vec<u16>,
}

fn target(kind: &str, tls: &Certificate) -> Target {
    match kind {
        "nginx" => {
            let (server, url, to) = nginx_by(Some(tls));
            let ports = vec![port(&url), port(&to)];
            Target { servers: vec![server], to, url: Some(url), files: "tree", env: vec![], ports }
        }
        "Apache" => {
            let (server, url, to) = apache_by(Some(tls));
            let ports = vec![port(&url), port(&to)];
            let env = vec![("IMGFACTORY_HTTP_USER", "p".into()), ("IMGFACTORY_HTTP_PASSWORD", "p".into())];
            Target { servers: vec![server], to, url: Some(url), files: "tree", env, ports }
        }
        "S3" | "S3 without lengths" => {
            let (server, plain) = s3();
            // A front that rewrites pages tells no lengths, to HEAD neither.
            let rewrites = "sub_filter_types *; sub_filter 'no such words' 'x';";
            let more = if kind == "S3" { "" } else { rewrites };
            let endpoint = plain.split_once("endpoint=").unwrap().1;
            let (front, url) = tls_front(tls, endpoint, more);
            let ports = vec![port(&url)];
            let to = plain.replace(endpoint, url.trim_end_matches('/'));
            let env = vec![("AWS_ACCESS_KEY_ID", "key".into()), ("AWS_SECRET_ACCESS_KEY", "secret".into())];
            Target { servers: vec![server, front], to, url: None, files: "data/bucket/demo", env, ports }
        }
        other => panic!("{other}"),
    }
}

/// The life of a target by HTTPS. With `by_proxy`, nothing else leads there, and it is squid that says so.
fn life(kind: &str, by_proxy: bool) {
    let authority = Authority::new();
    let found = target(kind, &authority.p256());
    let mut env = found.env.clone();
    env.push(("SSL_CERT_FILE", authority.file().display().to_string()));
    let proxy = by_proxy.then(|| squid(&found.ports, true));
    if let Some((_, address)) = &proxy {
        env.push(("https_proxy", format!("http://me:secret@{address}/")));
        env.push(("no_proxy", "localhost, 10.0.0.0/8, 127.0.0.1:1".into()));
    }
    let files = found.servers[0].path(found.files);
    let out = whole_life(&Place { to: &found.to, files: &files, env, url: found.url.as_deref() });
    if let Some(url) = &found.url {
        let ca = authority.file().display().to_string();
        let proxy = proxy.as_ref().map(|(_, address)| format!("http://me:secret@{address}"));
        assert_eq!(previous(url, &out, Some(&ca), proxy.as_deref().or(Some("none"))), "next is 5");
    }
    if let Some((mut server, _)) = proxy {
        // It notes a tunnel when it ends.
        server.stop();
        let log = fs::read_to_string(server.path("access")).unwrap();
        for port in &found.ports {
            let tunnel = format!("CONNECT 127.0.0.1:{port} me ");
            assert!(log.contains(&tunnel), "{kind}: the log of squid has no `{tunnel}`: {log}");
        }
        assert!(!log.contains("TCP_DENIED/403"), "{kind}: {log}");
    }
}

#[test]
fn nginx_lives_a_whole_life_by_https() {
    life("nginx", false);
}

#[test]
fn nginx_lives_a_whole_life_by_https_through_a_proxy() {
    life("nginx", true);
}

#[test]
fn apache_lives_a_whole_life_by_https() {
    life("Apache", false);
}

#[test]
fn apache_lives_a_whole_life_by_https_through_a_proxy() {
    life("Apache", true);
}

#[test]
fn an_s3_server_lives_a_whole_life_by_https() {
    life("S3", false);
}

#[test]
fn an_s3_server_lives_a_whole_life_by_https_through_a_proxy() {
    life("S3", true);
}

#[test]
fn an_s3_server_behind_a_front_that_tells_no_lengths_lives_a_whole_life() {
    life("S3 without lengths", false);
}

/// What only reads: Caddy has no PUT.
#[test]
fn caddy_is_read_by_https_through_a_proxy() {
    let authority = Authority::new();
    let out = Out::new();
    let home = scratch();
    let dir = home.path().join("www");
    let (_server, url) = caddy_by(&dir, Some(&authority.p256()));
    let (mut proxy, address) = squid(&[port(&url)], false);
    let ca = authority.file().display().to_string();
    let by = |command: &mut Command| -> Output {
        command.args(["--ca", &ca]).env("ALL_PROXY", format!("http://{address}")).output().unwrap()
    };
    let key = out.public();
    for disk in [&[1, 2, 3][..], &[1, 4]] {
        out.build(disk);
        good(&by(out.command("publish").args(["--to", dir.to_str().unwrap(), "--url", &url])));
    }
    let copy = home.path().join("copy");
    good(&by(imgfactory().args(["mirror", "pull", &url, copy.to_str().unwrap(), "--key", &key])));
    for file in ["latest", "releases/2.txt", "images/host/2/index.idx"] {
        assert_eq!(fs::read(copy.join(file)).unwrap(), fs::read(dir.join(file)).unwrap(), "{file}");
    }
    assert!(good(&by(imgfactory().args(["releases", &url, "--key", &key]))).contains("<- latest"));
    assert!(good(&by(imgfactory().args(["mirror", "list", &url, "--key", &key]))).contains(&url));
    good(&by(imgfactory().args(["diff", &format!("{url}@1"), &format!("{url}@2"), "--key", &key])));
    assert_eq!(previous(&url, &out, Some(&ca), Some(&format!("http://{address}"))), "next is 3");
    proxy.stop();
    let log = fs::read_to_string(proxy.path("access")).unwrap();
    assert!(log.matches("CONNECT 127.0.0.1:").count() >= 5, "{log}");
}

/// What `build --previous` reads of a published release.
fn previous(url: &str, out: &Out, ca: Option<&str>, proxy: Option<&str>) -> String {
    let web = HttpOptions {
        ca: ca.map(Into::into),
        proxy: proxy.map(str::to_owned),
        system_authorities: true,
        ..HttpOptions::direct()
    };
    let home = scratch();
    let published = Published::open(Path::new(url), 1, &web).unwrap();
    let mut store = Store::open(home.path().join("mirror")).unwrap();
    let keys = TrustedKeys::parse(&out.key.public_text()).unwrap();
    let name: ImageName = "demo".parse().unwrap();
    match PreviousRelease::read(&mut store, Some(&published), &name, &keys) {
        Ok(previous) => format!("next is {}", previous.next.get()),
        Err(error) => formats::report::report(&error),
    }
}

/// Plain HTTP goes through the proxy in absolute form, also with a body; squid refuses CONNECT to such a port.
#[test]
fn plain_http_is_put_through_a_proxy_without_a_tunnel() {
    let (server, url, dav) = nginx_by(None);
    let (mut proxy, address) = squid(&[], true);
    let env = vec![("http_proxy", format!("me:secret@{address}"))];
    whole_life(&Place { to: &dav, files: &server.path("tree"), env, url: Some(&url) });
    proxy.stop();
    let log = fs::read_to_string(proxy.path("access")).unwrap();
    assert!(
        log.contains(&format!("PUT {dav}latest me ")) && log.contains(&format!("GET {url}latest me ")),
        "{log}"
    );
    assert!(!log.contains("CONNECT"), "{log}");
}

/// A proxy that is itself reached by TLS: a tunnel in it for HTTPS, the whole address for plain HTTP.
#[test]
fn an_https_proxy_leads_to_https_and_to_plain_http() {
    let authority = Authority::new();
    let tls = authority.p256();
    let secure = nginx_by(Some(&tls));
    let plain = nginx_by(None);
    let (mut proxy, address) = squid_by(&[port(&secure.2)], true, Some(&tls));
    let out = Out::new();
    out.build(&[1, 2]);
    for to in [&secure.2, &plain.2] {
        for mut command in [out.command("publish"), imgfactory()] {
            match command.get_args().next() {
                Some(_) => command.args(["--to", to]),
                None => command.args(["releases", to, "--key", &out.public()]),
            };
            command
                .arg("--ca")
                .arg(authority.file())
                .env("all_proxy", format!("https://me:secret@{address}"));
            good(&command.output().unwrap());
        }
    }
    proxy.stop();
    let log = fs::read_to_string(proxy.path("access")).unwrap();
    assert!(log.contains(&format!("CONNECT 127.0.0.1:{} me ", port(&secure.2))), "{log}");
    assert!(log.contains(&format!("PUT {}latest me ", plain.2)), "{log}");
}

/// Each thing that stands in the way, and what is said of it.
#[test]
fn what_keeps_a_publisher_from_an_https_target_is_named() {
    let authority = Authority::new();
    let found = target("nginx", &authority.p256());
    let out = Out::new();
    out.build(&[1]);
    let ca = authority.file().display().to_string();
    let (_proxy, address) = squid(&found.ports, true);
    let (_narrow, narrow) = squid(&[], false);
    let user = format!("http://me:wrong@{address}");
    for (env, said) in [
        (
            &[][..],
            "no secure connection: the server's certificate is of an authority that is not known here; \
             if it is your own, name its file with --ca or SSL_CERT_FILE",
        ),
        (&[("SSL_CERT_FILE", "/nowhere.pem")], "SSL_CERT_FILE=/nowhere.pem: can't read"),
        (
            &[("SSL_CERT_FILE", "/etc/hostname")],
            "contains no certificate in PEM form (-----BEGIN CERTIFICATE-----)",
        ),
        (
            &[("SSL_CERT_FILE", &ca), ("https_proxy", &address)],
            "HTTP 407; it wants a user and a password: write USER:PASSWORD@ before its host",
        ),
        (&[("SSL_CERT_FILE", &ca), ("https_proxy", &user)], "HTTP 407; it wants a user and a password"),
        (
            &[("SSL_CERT_FILE", &ca), ("https_proxy", &narrow)],
            "HTTP 403; perhaps it allows no such host or port",
        ),
        (&[("https_proxy", "socks5://x")], "https_proxy: `socks5://x` is not a proxy"),
    ] {
        let mut command = out.command("publish");
        command.args(["--to", &found.to]).envs(env.iter().copied());
        let told = bad(&command.output().unwrap());
        assert!(told.contains(said), "{env:?}: {told}");
        // Which of the two refuses is named.
        let proxy = told.contains("the proxy refuses: http://127.0.0.1:");
        assert_eq!(proxy, said.starts_with("HTTP 40"), "{told}");
        assert!(!told.contains("panicked") && !told.contains("another target"), "{told}");
    }
    // What the system trusts counts too.
    let script = "mount --make-rprivate / && mount --bind \"$1\" /etc/ssl/certs/ca-certificates.crt && shift && exec \"$@\"";
    let mut system = Command::new("unshare");
    system.args(["--mount", "sh", "-c", script, "sh", &ca]).arg(programs::imgfactory());
    system.arg("publish").arg(out.path()).args(["--key", &out.public(), "--to", &found.to]);
    good(&system.env_remove("https_proxy").env_remove("ALL_PROXY").output().unwrap());
    // A server of plain HTTP under an https address.
    let (_plain, url, _) = nginx_by(None);
    let to = url.replace("http:", "https:");
    let told = bad(&out.publish(&to, &[]));
    assert!(told.contains("the server does not speak TLS on this port"), "{told}");
}
