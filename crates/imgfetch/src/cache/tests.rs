use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::AtomicUsize;

use super::*;
use formats::digest::Sha256;
use formats::names::{ImageName, Serial};
use formats::release::MirrorPath;
use system::files::Scratch;

/// A block of its own and its file.
fn block(seed: u8) -> (Object, Vec<u8>) {
    let raw: Vec<u8> = (0..4096_u32).map(|at| (at.wrapping_mul(u32::from(seed) + 3) >> 3) as u8).collect();
    let file = miniz_oxide::deflate::compress_to_vec_zlib(&raw, 6);
    let object = Object {
        name: BlockName::of(&raw),
        sha256: Sha256::of(&raw),
        raw_len: 4096,
        file_len: u32::try_from(file.len()).unwrap(),
    };
    (object, file)
}

fn cache(max: Option<u64>) -> (Scratch, Cache) {
    let scratch = Scratch::directory(std::env::temp_dir()).unwrap();
    let cache = Cache::open(&scratch.path().join("cache"), max).unwrap();
    (scratch, cache)
}

fn is_hit(loaded: &Loaded) -> bool {
    matches!(loaded, Loaded::Hit(_))
}

#[test]
fn what_was_stored_is_loaded_also_by_the_next_run() {
    let (scratch, cache) = cache(None);
    let (object, file) = block(1);
    assert!(matches!(cache.load(&object), Loaded::Miss));
    assert!(cache.store(object.name, &file));
    assert!(is_hit(&cache.load(&object)) && cache.has(&object));
    drop(cache);
    let cache = Cache::open(&scratch.path().join("cache"), None).unwrap();
    assert!(is_hit(&cache.load(&object)));
    cache.scan();
    assert_eq!(cache.contents(), (1, file.len() as u64));
}

#[test]
fn damage_of_any_kind_is_seen_and_removed() {
    let (_scratch, cache) = cache(None);
    let (object, file) = block(1);
    let (other, other_file) = block(2);
    let flipped = |at: usize| {
        let mut file = file.clone();
        file[at] ^= 1;
        file
    };
    let cases = [
        ("cut", file[..file.len() - 1].to_vec()),
        ("empty", Vec::new()),
        ("longer", [&file[..], b"x"].concat()),
        ("another block", other_file),
        ("flipped in the middle", flipped(file.len() / 2)),
        ("flipped at the end", flipped(file.len() - 1)),
    ];
    for (what, bytes) in cases {
        cache.store(object.name, &bytes);
        assert!(matches!(cache.load(&object), Loaded::Damaged(_)), "{what}");
        assert!(!cache.root().join(object.name.path()).exists(), "{what}");
        assert!(matches!(cache.load(&object), Loaded::Miss), "{what}");
    }
    // Things that are no files are left alone, and nothing blocks.
    let path = cache.root().join(other.name.path());
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR).unwrap();
    assert!(matches!(cache.load(&other), Loaded::Miss));
    fs::remove_file(&path).unwrap();
    symlink("/dev/zero", &path).unwrap();
    assert!(matches!(cache.load(&other), Loaded::Miss));
    assert!(!cache.has(&other));
}

#[test]
fn a_crash_leaves_nothing_in_tmp_and_a_living_sharer_is_not_disturbed() {
    let (scratch, first) = cache(None);
    let root = scratch.path().join("cache");
    fs::write(root.join("tmp/99-1"), "half").unwrap();
    let second = Cache::open(&root, None).unwrap();
    assert!(root.join("tmp/99-1").exists(), "the first may be writing it");
    drop((first, second));
    let third = Cache::open(&root, None).unwrap();
    assert!(!root.join("tmp/99-1").exists());
    let (object, file) = block(1);
    assert!(third.store(object.name, &file));
}

#[test]
fn a_cache_removed_under_us_is_made_again() {
    let (_scratch, cache) = cache(None);
    let (object, file) = block(1);
    cache.store(object.name, &file);
    fs::remove_dir_all(cache.root()).unwrap();
    assert!(matches!(cache.load(&object), Loaded::Miss));
    assert!(cache.store(object.name, &file));
    assert!(is_hit(&cache.load(&object)));
}

#[test]
fn a_disk_that_can_not_be_written_is_complained_of_once_and_left_alone_for_a_while() {
    let (_scratch, cache) = cache(None);
    let (object, file) = block(1);
    // Root may write anywhere, but not below a file.
    fs::remove_dir_all(cache.root().join("tmp")).unwrap();
    fs::write(cache.root().join("tmp"), "").unwrap();
    assert!(!cache.store(object.name, &file));
    fs::remove_file(cache.root().join("tmp")).unwrap();
    assert!(!cache.store(object.name, &file), "the pause");
    assert_eq!(cache.write_errors(), 1);
    cache.writing().paused_until = None;
    assert!(cache.store(object.name, &file));
}

#[test]
fn above_the_mark_old_blocks_go_and_the_boot_stays() {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let blocks: Vec<_> = (10..60).map(block).collect();
    let len = u64::from(blocks[0].0.file_len);
    let (_scratch, cache) = cache(Some(20 * len));
    cache.protect([blocks[0].0.name]);
    for (object, file) in &blocks {
        COUNT.fetch_add(usize::from(cache.store(object.name, file)), Ordering::Relaxed);
        assert!(cache.contents().1 <= 16 * len + len, "80 % of the room for 20");
    }
    assert_eq!(COUNT.load(Ordering::Relaxed), blocks.len());
    assert!(is_hit(&cache.load(&blocks[0].0)));
    assert!(matches!(cache.load(&blocks[1].0), Loaded::Miss));
    assert!(is_hit(&cache.load(&blocks[49].0)));
}

#[test]
fn serials_only_go_up_and_nonsense_is_not_taken_for_none() {
    let (_scratch, cache) = cache(None);
    let name: ImageName = "demo".parse().unwrap();
    let serial = |n| Serial::new(n).unwrap();
    assert_eq!(cache.accepted_serial(&name).unwrap(), None);
    for (given, kept) in [(41, 41), (43, 43), (42, 43)] {
        cache.accept_serial(&name, serial(given), false).unwrap();
        assert_eq!(cache.accepted_serial(&name).unwrap(), Some(serial(kept)));
    }
    for text in ["", "x\n", "43", "043\n", "0\n", "99999999999999999999\n"] {
        fs::write(cache.root().join("state/demo.serial"), text).unwrap();
        assert!(cache.accepted_serial(&name).is_err(), "{text:?}");
    }
}

#[test]
fn a_directory_of_another_version_is_refused() {
    let (scratch, cache) = cache(None);
    fs::write(cache.root().join("VERSION"), "imgfactory-cache 2\n").unwrap();
    let root = scratch.path().join("cache");
    let said = Cache::open(&root, None).unwrap_err().to_string();
    assert!(
        said.ends_with("(VERSION is `imgfactory-cache 2`); choose another directory, or empty this one"),
        "{said}"
    );
}

#[test]
fn what_is_not_here_is_read_from_the_medium_below_and_nothing_is_written_there() {
    let (scratch, cache) = cache(None);
    let medium = scratch.path().join("medium");
    let cache = cache.over(&medium);
    let (object, file) = block(1);
    assert!(matches!(cache.load(&object), Loaded::Miss) && !cache.has(&object), "there is no medium yet");
    assert_eq!(cache.on_medium(&MirrorPath::Latest, 100), None);

    let put = |name: &str, bytes: &[u8]| {
        let path = medium.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    put(&object.name.path(), &file);
    assert!(is_hit(&cache.load(&object)) && cache.has(&object));
    assert!(!cache.root().join(object.name.path()).exists(), "it is not copied");
    // Damaged here, whole there.
    cache.store(object.name, b"damaged");
    assert!(is_hit(&cache.load(&object)));
    assert!(!cache.root().join(object.name.path()).exists(), "what was damaged is gone");
    // Damaged there, whole here; and only damaged there.
    put(&object.name.path(), b"damaged");
    assert!(matches!(cache.load(&object), Loaded::Damaged(_)));
    assert!(medium.join(object.name.path()).exists(), "a medium is left alone");
    cache.store(object.name, &file);
    assert!(is_hit(&cache.load(&object)));

    put("latest", b"whatever");
    assert_eq!(cache.on_medium(&MirrorPath::Latest, 100).as_deref(), Some(&b"whatever"[..]));
    assert_eq!(cache.on_medium(&MirrorPath::Latest, 5), None, "no more than is asked for");
}

#[test]
fn a_cache_without_room_says_so_once_it_knows_what_it_has() {
    let (_scratch, cache) = cache(Some(100));
    let (object, file) = block(1);
    assert!(!cache.store(object.name, &file) && !cache.is_full(), "it may have blocks that could go");
    cache.scan();
    assert!(!cache.store(object.name, &file) && cache.is_full());
    assert!(cache.store(object.name, b"x"));
    assert!(!cache.is_full());
}
