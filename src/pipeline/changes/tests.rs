use super::*;
use crate::ext2::{InodeSize, Profile};
use crate::pipeline::steps::image::{BuiltImage, ImageSpec, LayoutChoices, PreviousImage, make};
use crate::repository::store::Store;
use crate::sys::progress::Silent;
use crate::tree::{Content, Kind, Meta, Node, Tree};
use formats::block::Codec;
use formats::names::BlockSize;
use formats::report::size;
use system::files::Scratch;

/// A tree with packages: name, version, and the text that its file repeats.
fn tree(packages: &[(&str, &str, &str)]) -> Tree {
    let mut tree = Tree::new(Meta::default());
    let mut put = |path: String, text: String| {
        let kind = Kind::File(Content::inline(text.into_bytes()));
        tree.insert(path.as_bytes(), Node { meta: Meta::default(), kind }).unwrap();
    };
    let mut status = String::new();
    for (name, version, text) in packages {
        put(format!("usr/lib/{name}"), text.repeat(20_000));
        put(format!("var/lib/dpkg/info/{name}.list"), format!("/usr/lib/{name}\n"));
        status.push_str(&format!("Package: {name}\nVersion: {version}\n\n"));
    }
    put("var/lib/dpkg/status".to_owned(), status);
    tree
}

fn release(
    tree: &Tree,
    serial: u64,
    before: Option<&PreviousImage>,
    store: &mut Store,
) -> (BuiltImage, Publication) {
    let serial = Serial::new(serial).unwrap();
    let spec = ImageSpec {
        name: "host".parse().unwrap(),
        serial,
        block_size: BlockSize::new(16 << 10).unwrap(),
        codec: Codec::default(),
        epoch: 1_700_000_000,
        free: 1 << 20,
        zero_freed: false,
        inode_size: InodeSize::default(),
        profile: Profile::default(),
        parent: None,
        first: Vec::new(),
        choices: LayoutChoices::default(),
    };
    let contents: Vec<Vec<u8>> = vec![vec![]];
    let made = make(&spec, tree, &contents, before, store, &Silent).unwrap();
    let images = vec![(made.split.index.clone(), made.layout.clone())];
    let files = vec![(MirrorPath::Latest, 500), (MirrorPath::Release(serial), 700)];
    let publication = Publication { name: "demo".parse().unwrap(), serial, images, files };
    (made, publication)
}

#[test]
fn changes_are_told_by_package_with_both_versions_and_those_that_are_gone() {
    let dir = Scratch::directory(std::env::temp_dir()).unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    let old = tree(&[("libold", "1", "o"), ("libsame", "3", "same"), ("libtwo", "2.0", "two")]);
    let (made, first) = release(&old, 1, None, &mut store);
    let before = PreviousImage { index: made.split.index, map: made.layout.unwrap(), base: None };

    let new = tree(&[("libnew", "4", "n"), ("libsame", "3", "same"), ("libtwo", "2.1", "2")]);
    let (made, second) = release(&new, 2, Some(&before), &mut store);
    let changes = ReleaseChanges::between(Some(&first), &second);
    let text = changes.text();
    let detail = changes.images[0].detail.as_ref().unwrap();
    let told = |name: &str| {
        let found = detail.packages.iter().find(|package| package.name == name)?;
        Some((found.from.as_deref(), found.to.as_deref(), found.files))
    };
    // Of each package a file and its list.
    assert_eq!(told("libold"), Some((Some("1"), None, 2)), "{text}");
    assert_eq!(told("libtwo"), Some((Some("2.0"), Some("2.1"), 1)), "{text}");
    assert_eq!(told("libnew"), Some((None, Some("4"), 2)), "{text}");
    assert_eq!(told("libsame"), None, "{text}");
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    let ends = |end: &str| lines.iter().any(|line| line.ends_with(end));
    assert!(ends("libold 1, gone") && ends("libtwo 2.0 -> 2.1") && ends("libnew 4, new"), "{text}");
    assert_eq!(changes.new_blocks, made.split.figures.written);
    assert_eq!(changes.new_bytes, made.split.figures.written_bytes);
    // `latest` and the release, beside the blocks.
    assert_eq!((changes.other_bytes, changes.client_bytes), (1200, changes.new_bytes + 1200));

    // To take a file away sends no page of a file: there is no floor to be held against.
    let mut less = old.clone();
    assert!(less.remove(b"usr/lib/libold"));
    let (_, third) = release(&less, 3, Some(&before), &mut store);
    let text = ReleaseChanges::between(Some(&first), &third).text();
    assert!(text.contains("\n  0 new pages\n"), "{text}");

    // Holes everywhere: of four files one is left.
    let mut many = Tree::new(Meta::default());
    let contents = |nth: u32| nth.to_le_bytes().repeat(1500);
    for nth in 0..400 {
        let kind = Kind::File(Content::inline(contents(nth)));
        many.insert(format!("srv/{nth:03}").as_bytes(), Node { meta: Meta::default(), kind }).unwrap();
    }
    let (made, full) = release(&many, 4, None, &mut store);
    assert!(!ReleaseChanges::between(None, &full).text().contains("fresh layout"));
    let before = PreviousImage { index: made.split.index, map: made.layout.unwrap(), base: None };
    (0..400)
        .filter(|nth| nth % 4 > 0)
        .for_each(|nth| assert!(many.remove(format!("srv/{nth:03}").as_bytes())));
    let (_, sparse) = release(&many, 5, Some(&before), &mut store);
    let changes = ReleaseChanges::between(Some(&full), &sparse);
    assert!(changes.images[0].detail.as_ref().unwrap().repack.advised, "{}", changes.text());
    assert!(changes.text().contains("a fresh layout would pay by now: `build --repack` sends about"));

    let same = ReleaseChanges::between(Some(&second), &second);
    assert_eq!((same.new_blocks, same.other_bytes), (0, 500));
    assert!(same.text().contains("image host: nothing changes"), "{}", same.text());
}

#[test]
fn a_boot_that_reads_here_and_there_is_told_what_a_fresh_layout_would_spare_it() {
    let dir = Scratch::directory(std::env::temp_dir()).unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    let mut many = Tree::new(Meta::default());
    let name = |nth: u32| format!("srv/{nth:03}").into_bytes();
    for nth in 0..400_u32 {
        let kind = Kind::File(Content::inline(nth.to_le_bytes().repeat(500)));
        many.insert(&name(nth), Node { meta: Meta::default(), kind }).unwrap();
    }
    let (_, publication) = release(&many, 1, None, &mut store);
    let told = |first: &[Vec<u8>]| {
        let changes = ReleaseChanges::between(Some(&publication), &publication);
        let changes = changes.with_boots(&publication, |_| Ok::<_, ()>(first.to_vec())).unwrap();
        (changes.images[0].boot, changes.text())
    };
    assert_eq!(told(&[]).0, None);
    let scattered: Vec<_> = (0..400).step_by(10).map(name).collect();
    let (boot, text) = told(&scattered);
    let boot = boot.unwrap();
    assert!(boot.repack_advised && boot.blocks > boot.least * 2, "{boot:?}");
    let advice = format!(
        "lie in {} blocks, {} would hold them; `build --repack` puts them together and sends {} once\n",
        boot.blocks,
        boot.least,
        size(boot.repack_bytes)
    );
    assert!(text.contains(&advice), "{text}");
    let (boot, text) = told(&(0..400).map(name).collect::<Vec<_>>());
    assert!(!boot.unwrap().repack_advised && !text.contains("--repack"), "{text}");
}
