//! What the client reads: texts of releases, block files, its cache, answers of servers.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use formats::block::{Block, Codec, FetchedFile, Object};
use formats::index::Index;
use formats::names::ImageName;
use formats::release::{
    Dlahead, Document, Latest, MirrorPath, Mirrors, Reads, Release, Successors, TrustedKeys, Verified,
};
use formats::url::MirrorUrl;
use imgfactory::compress::Compressor;
use imgfetch::cache::Cache;
use system::http::{Get, Http, HttpOptions, Timeouts};

use crate::fetch_support::{self, Publisher, disk, scratch};
use crate::fuzz;

/// A document that is accepted says what it says, to the byte.
fn document<T: Document>(bytes: &[u8]) -> String {
    match T::decode_text(bytes) {
        Ok(document) => {
            assert!(document.to_text().as_bytes() == bytes, "written otherwise");
            "accepted".into()
        }
        Err(error) => error.to_string(),
    }
}

/// The text of a signed file, and the file.
fn signed(tree: &fetch_support::Tree, path: &str) -> [Vec<u8>; 2] {
    let file = tree[path].clone();
    let end = file.windows(5).rposition(|window| window == b"\nend\n").expect("an end") + 5;
    [file[..end].to_vec(), file]
}

fn tree() -> (Publisher, fetch_support::Tree) {
    let publisher = Publisher { ahead: 5, ..Publisher::new() };
    let tree = publisher.publish(42, &[("host", &disk(30 * 4096 + 100, 3)), ("guest", &disk(5 * 4096, 4))]);
    (publisher, tree)
}

#[test]
fn fuzz_latest() {
    fuzz("latest", signed(&tree().1, "latest").into(), document::<Latest>);
}

#[test]
fn fuzz_release() {
    fuzz("release", signed(&tree().1, "releases/42.txt").into(), document::<Release>);
}

#[test]
fn fuzz_mirrors() {
    let text = b"imgfactory-mirrors 1\nname: demo\nmirror http://a.example/ max-conn=4\nend\n".to_vec();
    let [own, file] = signed(&tree().1, "mirrors.txt");
    fuzz("mirrors.txt", vec![text, own, file], document::<Mirrors>);
}

#[test]
fn fuzz_signatures_and_keys() {
    let (publisher, tree) = tree();
    let keys = TrustedKeys::parse(&publisher.public()).unwrap();
    let file = tree["latest"].clone();
    let honest = Verified::<Latest>::open(&file, &keys).unwrap().to_text();
    let seeds = vec![file, tree["releases/42.txt"].clone(), publisher.public().into_bytes()];
    fuzz("signature", seeds, |bytes| {
        let _ = TrustedKeys::parse(&String::from_utf8_lossy(bytes));
        let _ = Verified::<Successors>::open(bytes, &keys);
        match Verified::<Latest>::open(bytes, &keys) {
            Ok(latest) => {
                assert_eq!(latest.to_text(), honest, "a forgery");
                "accepted".into()
            }
            Err(error) => error.to_string(),
        }
    });
}

#[test]
fn fuzz_index() {
    let (_, tree) = tree();
    let seeds = ["host", "guest"].map(|image| tree[&format!("images/{image}/42/index.idx")].clone());
    fuzz("index.idx", seeds.into(), |bytes| match Index::decode(bytes) {
        Ok(index) => {
            assert!(index.to_text() == bytes, "written otherwise");
            "accepted".into()
        }
        Err(error) => error.to_string(),
    });
}

#[test]
fn fuzz_dlahead() {
    let seed = tree().1["images/host/42/dlahead"].clone();
    fuzz("dlahead", vec![seed], |bytes| match Dlahead::decode(bytes) {
        Ok(list) => {
            let mut text = Vec::new();
            list.encode(&mut text).unwrap();
            assert_eq!(Dlahead::decode(&text[..]).unwrap(), list);
            "accepted".into()
        }
        Err(error) => error.to_string(),
    });
}

#[test]
fn fuzz_reads() {
    let seed = b"imgfactory-reads 1\nimage: host\nserial: 42\n# what for\n10 2\n0 2\n12 2\nend\n";
    fuzz("reads", vec![seed.to_vec()], |bytes| match Reads::decode(bytes) {
        Ok(reads) => {
            let mut text = Vec::new();
            reads.encode(&mut text).unwrap();
            assert_eq!(Reads::decode(&text[..]).unwrap(), reads);
            "accepted".into()
        }
        Err(error) => error.to_string(),
    });
}

#[test]
fn fuzz_names_paths_and_addresses() {
    let seeds = [
        "blk/ec/ec87a838931d4d5d2e94a04644788a55",
        "images/host/42/index.idx",
        "releases/42.txt",
        "latest",
        "http://user@mirror.example:8080/a/b/",
        "https://[fe80::1]/x/",
        "mirror.example",
    ];
    fuzz("names", seeds.iter().map(|text| text.as_bytes().to_vec()).collect(), |bytes| {
        let text = String::from_utf8_lossy(bytes);
        if let Ok(path) = text.parse::<MirrorPath>() {
            assert_eq!(path.to_string(), *text);
            let plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\0');
            assert!(path.to_string().split('/').all(plain), "{path}");
            return "a path".into();
        }
        let _ = text.parse::<ImageName>();
        match MirrorUrl::typed(&text) {
            Ok(url) => {
                assert!(url.as_str().starts_with("http://") || url.as_str().starts_with("https://"), "{url}");
                assert!(url.as_str().ends_with('/') && url.as_str().bytes().all(|b| b > b' '), "{url}");
                "an address".into()
            }
            Err(error) => error.to_string(),
        }
    });
}

#[test]
fn fuzz_block_files() {
    let raw = disk(65_536, 8);
    let block = Block::seal(raw.clone());
    let mut seeds: Vec<Vec<u8>> =
        [1, 6, 9].map(|level| Compressor::new(Codec::zlib(level).unwrap()).compress(&raw)).into();
    // A bomb: much from little.
    seeds.push(Compressor::new(Codec::zlib(9).unwrap()).compress(&vec![0; 4 << 20]));
    fuzz("block file", seeds, |bytes| {
        let object = Object {
            name: block.name(),
            sha256: block.sha256(),
            raw_len: 65_536,
            file_len: u32::try_from(bytes.len()).unwrap(),
        };
        match FetchedFile::new(object, bytes).inflate().and_then(|inflated| inflated.verify()) {
            Ok(found) => {
                assert!(found.bytes() == raw, "other bytes");
                "accepted".into()
            }
            Err(damage) => damage.to_string(),
        }
    });
}

#[test]
fn fuzz_files_of_the_cache() {
    let (_, tree) = tree();
    let dir = scratch();
    let cache = Cache::open(dir.path(), None).unwrap();
    let (name, image): (ImageName, ImageName) = ("demo".parse().unwrap(), "host".parse().unwrap());
    std::fs::create_dir_all(dir.path().join("state/demo")).unwrap();
    let index = tree["images/host/42/index.idx"].clone();
    fuzz("cache", vec![b"42\n".to_vec(), index, b"ec87a838931d4d5d2e94a04644788a55\n".to_vec()], |bytes| {
        for file in ["state/demo.serial", "state/demo/host.idx", "state/demo/release", "state/pins"] {
            std::fs::write(dir.path().join(file), bytes).unwrap();
        }
        let stats = cache.stats();
        let _ = (cache.only_name(), cache.saved_release(&name), cache.saved_index(&name, &image));
        match cache.accepted_serial(&name) {
            Ok(serial) => format!("{serial:?} {} maps {} pins", stats.images.len(), stats.pinned),
            Err(error) => formats::report::report(&error),
        }
    });
}

#[test]
fn fuzz_answers_of_servers() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/x", listener.local_addr().unwrap());
    // One answer for all questions: some are asked again.
    let answer = Arc::<Mutex<Vec<u8>>>::default();
    let told = Arc::clone(&answer);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // To the end of the question; then the answer, and the end.
            let _ = stream.read(&mut [0; 4096]);
            let answer = told.lock().unwrap().clone();
            let _ = stream.write_all(&answer);
        }
    });
    let patience = Timeouts {
        first_byte: Duration::from_millis(500),
        stall: Duration::from_millis(500),
        ..Timeouts::default()
    };
    let http = Http::open(&HttpOptions::direct(), 1, patience).unwrap();
    let seeds = [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 503 Busy\r\nRetry-After: 3\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n<html>",
    ];
    fuzz("answer", seeds.iter().map(|text| text.as_bytes().to_vec()).collect(), |bytes| {
        *answer.lock().unwrap() = bytes.to_vec();
        let get =
            Get { new_connection: true, ..Get::new(&url, 100, Instant::now() + Duration::from_secs(1)) };
        match http.get(get) {
            Ok(answer) => {
                assert!(answer.bytes.len() <= 100);
                "accepted".into()
            }
            Err(fault) => fault.to_string(),
        }
    });
}
