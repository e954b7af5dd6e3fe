//! Trees to make images of: one with everything, and random ones.

use std::collections::{BTreeMap, BTreeSet};

use imgfactory::tree::{Content, ContentSource, Contents, Extent, FileTime, Kind, Meta, Node, SpoolId, Tree};
use proptest::prelude::*;

/// `user::rw-, user:4242:rw-, group::r--, mask::rw-, other::r--` as getxattr(2) gives it.
pub const ACL: &[u8] = b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x02\0\x06\0\x92\x10\0\0\x04\0\x04\0\xff\xff\xff\xff\x10\0\x06\0\xff\xff\xff\xff\x20\0\x04\0\xff\xff\xff\xff";
/// `cap_net_raw+ep`.
pub const CAPABILITY: &[u8] = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// What [`random_tree`] and [`everything`] refer to: one spool of bytes that look random.
pub fn spools() -> Vec<Vec<u8>> {
    let mut state = 1u32;
    let byte = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_le_bytes()[3]
    };
    vec![(0..1 << 20).map(byte).collect()]
}

pub fn meta(mode: u16, secs: i64) -> Meta {
    Meta { mode, mtime: FileTime { secs, nanos: 0 }, ..Meta::default() }
}

pub fn xattrs(pairs: &[(&str, &[u8])]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    pairs.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.to_vec())).collect()
}

pub fn file(bytes: &[u8]) -> Kind {
    Kind::File(Content::inline(bytes))
}

/// A file with a piece of `len` bytes of the spool at each of `pieces`, which ascend.
pub fn sparse(size: u64, pieces: &[(u64, u64)]) -> Kind {
    let source = |at: u64| ContentSource::Spool { spool: SpoolId(0), offset: at % 4099 };
    let extents = pieces.iter().map(|&(at, len)| Extent { at, len, source: source(at) });
    Kind::File(Content { len: size, extents: extents.collect() })
}

/// Puts a node of mode 0644, root's and of 1970, at `path`.
pub fn put(tree: &mut Tree, path: &str, kind: Kind) {
    tree.insert(path.as_bytes(), Node { meta: meta(0o644, 0), kind }).unwrap();
}

/// A small tree with one of everything that an image can have.
pub fn everything() -> Tree {
    const SECS: i64 = 1_700_000_000;
    let mut tree = Tree::new(meta(0o755, SECS));
    let mut put = |path: &[u8], mode: u16, kind: Kind| {
        tree.insert(path, Node { meta: meta(mode, SECS), kind }).unwrap();
    };
    put(b"etc", 0o755, Kind::Directory(BTreeMap::new()));
    put(b"etc/hostname", 0o644, file(b"demo\n"));
    put(b"etc/empty", 0o600, file(b""));
    put(b"etc/mtab", 0o777, Kind::Symlink(b"../proc/self/mounts".to_vec()));
    put(b"etc/edge59", 0o777, Kind::Symlink(vec![b'e'; 59]));
    put(b"etc/edge60", 0o777, Kind::Symlink(vec![b'e'; 60]));
    put(b"etc/edge4095", 0o777, Kind::Symlink([&[b'/'; 3895][..], &[b'x'; 200]].concat()));
    put(b"tmp", 0o1777, Kind::Directory(BTreeMap::new()));
    put(b"usr/bin/su", 0o4755, sparse(49153, &[(0, 49153)]));
    put(b"usr/bin/ping", 0o755, file(b"ping"));
    put(b"usr/share/file-\xff-\xfe-not-utf8", 0o644, file(b"bytes"));
    put(&[b"usr/share/", &[b'n'; 255][..]].concat(), 0o644, file(b"long name"));
    put(b"dev/null", 0o666, Kind::CharDevice { major: 1, minor: 3 });
    put(b"dev/many", 0o660, Kind::BlockDevice { major: 259, minor: 70000 });
    put(b"dev/edge", 0o660, Kind::BlockDevice { major: 255, minor: 255 });
    put(b"dev/over", 0o660, Kind::CharDevice { major: 255, minor: 256 });
    put(b"dev/most", 0o660, Kind::CharDevice { major: 4095, minor: 1_048_575 });
    put(b"dev/zero-zero", 0o000, Kind::CharDevice { major: 0, minor: 0 });
    put(b"run/fifo", 0o600, Kind::Fifo);
    put(b"run/socket", 0o755, Kind::Socket);
    put(b"var/all-hole", 0o644, sparse(10_000_000, &[]));
    put(b"var/ends-in-hole", 0o644, sparse(100_000, &[(4096, 10)]));
    // Data right before and after where single, double and triple indirect blocks begin.
    put(b"var/single", 0o644, sparse(13 * 4096, &[(11 * 4096, 8192)]));
    put(b"var/double", 0o644, sparse(1037 * 4096, &[(1035 * 4096, 8192)]));
    put(b"var/triple", 0o644, sparse((1_049_613 << 12) - 7, &[(1_049_611 << 12, 8185)]));
    put(b"var/far", 0o644, sparse(1 << 40, &[(5, 1), ((1 << 40) - 1, 1)]));
    for nth in 0..600 {
        let name = format!("var/many/{nth:04}-{}", "x".repeat(nth % 40));
        put(name.as_bytes(), 0o644, file(b""));
    }

    let su = tree.lookup(b"usr/bin/su").unwrap();
    tree.link(b"usr/bin/another-name-of-su", su).unwrap();
    tree.link(b"etc/su", su).unwrap();
    let mut change = |path: &[u8], change: &dyn Fn(&mut Meta)| {
        let id = tree.lookup(path).unwrap();
        change(&mut tree.node_mut(id).meta);
    };
    change(b"usr/bin/ping", &|meta| meta.xattrs = xattrs(&[("security.capability", CAPABILITY)]));
    change(b"etc", &|meta| {
        meta.xattrs = xattrs(&[("system.posix_acl_access", ACL), ("system.posix_acl_default", ACL)]);
    });
    change(b"etc/hostname", &|meta| {
        meta.xattrs = xattrs(&[("user.a", b""), ("user.big", &[b'v'; 3000]), ("user.\u{e9}", b"odd")]);
    });
    change(b"etc/mtab", &|meta| meta.xattrs = xattrs(&[("trusted.t", b"on a symlink")]));
    change(b"etc/edge60", &|meta| meta.xattrs = xattrs(&[("trusted.t", &[7; 100])]));
    change(b"etc/edge59", &|meta| meta.xattrs = xattrs(&[("trusted.t", &[7; 100])]));
    change(b"dev/null", &|meta| (meta.uid, meta.gid) = (65_536, 4_294_967_294));
    change(b"tmp", &|meta| meta.mtime = FileTime { secs: 2_500_000_000, nanos: 123_456_789 });
    change(b"run", &|meta| meta.mtime = FileTime { secs: -5, nanos: 999_999_999 });
    change(b"var", &|meta| meta.mtime = FileTime { secs: 10_737_418_239, nanos: 1 });
    tree
}

/// A way to make a node of a random tree. Numbers pick among what is there.
#[derive(Clone, Debug)]
enum Random {
    Directory,
    File { size: u64, pieces: Vec<(u64, u64)> },
    Symlink(usize),
    Device { major: u32, minor: u32, block: bool },
    Fifo,
    Socket,
    Link(usize),
    Many { count: usize, name: usize },
}

fn random_kind() -> impl Strategy<Value = Random> {
    let edge =
        prop::sample::select(vec![0u64, 11, 12, 13, 1035, 1036, 1037, 2059, 2060, 1_049_611, 1_049_612]);
    let pieces = prop::collection::vec((edge, 0u64..8192, 1u64..20_000), 0..4);
    let sparse = (pieces, 0u64..10_000).prop_map(|(mut pieces, tail)| {
        pieces.sort_unstable();
        let mut at = 0;
        let mut placed = vec![];
        for (block, offset, len) in pieces {
            let start = (block * 4096 + offset).max(at);
            placed.push((start, len));
            at = start + len;
        }
        Random::File { size: at + tail, pieces: placed }
    });
    prop_oneof![
        3 => Just(Random::Directory),
        4 => (1u64..200_000).prop_map(|size| Random::File { size, pieces: vec![(0, size)] }),
        3 => sparse,
        2 => prop_oneof![1usize..4096, 55usize..65].prop_map(Random::Symlink),
        1 => (0u32..4096, 0u32..1 << 20, any::<bool>())
            .prop_map(|(major, minor, block)| Random::Device { major, minor, block }),
        1 => (0u32..256, 0u32..256, any::<bool>())
            .prop_map(|(major, minor, block)| Random::Device { major, minor, block }),
        1 => Just(Random::Fifo),
        1 => Just(Random::Socket),
        2 => any::<usize>().prop_map(Random::Link),
        1 => (1usize..400, 1usize..250).prop_map(|(count, name)| Random::Many { count, name }),
    ]
}

fn random_name() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_map(|byte| if byte == 0 || byte == b'/' { b'_' } else { byte });
    let length = prop_oneof![5 => 1usize..12, 1 => 240usize..256];
    length
        .prop_flat_map(move |len| prop::collection::vec(byte.clone(), len))
        .prop_filter("dots", |name| name != b"." && name != b"..")
}

fn random_meta() -> impl Strategy<Value = Meta> {
    let secs = prop_oneof![-2_147_483_648i64..10_737_418_240, 1_600_000_000i64..1_800_000_000];
    let value = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..40),
        1 => prop::collection::vec(any::<u8>(), 1000..1200)
    ];
    let named = prop::collection::btree_map("(trusted|security)\\.[a-z]{1,20}", value, 0..4);
    let owner = prop_oneof![Just(0u32), 0u32..2000, any::<u32>().prop_map(|id| id.min(u32::MAX - 1))];
    (0u16..0o10000, owner.clone(), owner, secs, 0u32..1_000_000_000, prop::option::weighted(0.3, named))
        .prop_map(|(mode, uid, gid, secs, nanos, named)| {
            let xattrs =
                named.unwrap_or_default().into_iter().map(|(name, value)| (name.into_bytes(), value));
            Meta { mode, uid, gid, mtime: FileTime { secs, nanos }, xattrs: xattrs.collect() }
        })
}

/// Trees of up to `nodes` steps; some steps make whole directories of files.
pub fn random_tree(nodes: usize) -> impl Strategy<Value = Tree> {
    let step = (any::<usize>(), random_name(), random_kind(), random_meta());
    (random_meta(), prop::collection::vec(step, 0..nodes)).prop_map(|(root, steps)| {
        let mut tree = Tree::new(Meta { xattrs: BTreeMap::new(), ..root });
        let mut directories: Vec<Vec<u8>> = vec![vec![]];
        let mut files = vec![];
        for (parent, name, kind, mut meta) in steps {
            let path = [&directories[parent % directories.len()][..], b"/", &name].concat();
            if tree.lookup(&path).is_some() {
                continue;
            }
            // `user.` is for files and directories only, and ACLs too; the kernel hides others.
            let user = meta.mtime.nanos % 3 == 0;
            let many = match kind {
                Random::Many { count, name } => Some((count, name)),
                _ => None,
            };
            let kind = match kind {
                Random::Directory | Random::Many { .. } => {
                    if user {
                        meta.xattrs.insert(b"system.posix_acl_default".to_vec(), ACL.to_vec());
                    }
                    Kind::Directory(BTreeMap::new())
                }
                Random::File { size, ref pieces } => {
                    if user {
                        meta.xattrs.insert(b"user.of-a-file".to_vec(), vec![b'u'; name.len()]);
                        meta.xattrs.insert(b"system.posix_acl_access".to_vec(), ACL.to_vec());
                    }
                    sparse(size, pieces)
                }
                Random::Symlink(len) => Kind::Symlink(vec![b't'; len]),
                Random::Device { major, minor, block: true } => Kind::BlockDevice { major, minor },
                Random::Device { major, minor, block: false } => Kind::CharDevice { major, minor },
                Random::Fifo => Kind::Fifo,
                Random::Socket => Kind::Socket,
                Random::Link(which) => {
                    if let Some(&target) = files.get(which % files.len().max(1)) {
                        tree.link(&path, target).unwrap();
                    }
                    continue;
                }
            };
            let is_directory = matches!(kind, Kind::Directory(_));
            let id = tree.insert(&path, Node { meta, kind }).unwrap();
            if let Some((count, length)) = many {
                for nth in 0..count {
                    let name = format!("{nth:03}{}", "m".repeat(length));
                    let below = [&path[..], b"/", name.as_bytes()].concat();
                    tree.insert(&below, Node { meta: Meta::default(), kind: file(b"") }).unwrap();
                }
            }
            if is_directory { directories.push(path) } else { files.push(id) }
        }
        tree
    })
}

/// A tree as lines that can be compared: also which paths are one inode, where holes are, and what the bytes
/// are.
pub fn listing(tree: &Tree, contents: &dyn Contents) -> Vec<String> {
    let mut first_path: BTreeMap<_, Vec<u8>> = BTreeMap::new();
    let links = tree.link_counts();
    tree.walk()
        .map(|(path, id)| {
            let node = tree.node(id);
            let kind = match &node.kind {
                Kind::Directory(_) => "directory".to_owned(),
                Kind::File(content) => describe(content, contents),
                other => format!("{other:?}"),
            };
            let first = first_path.entry(id).or_insert_with(|| path.clone());
            format!(
                "{} = {} links {} {:?} {kind}",
                path.escape_ascii(),
                first.escape_ascii(),
                links[id.index()],
                node.meta
            )
        })
        .collect()
}

fn describe(content: &Content, contents: &dyn Contents) -> String {
    let mut text = format!("file of {}", content.len);
    let mut ranges: Vec<(u64, u64)> = vec![];
    for extent in &content.extents {
        let start = extent.at / 4096 * 4096;
        let end = (extent.at + extent.len).next_multiple_of(4096).min(content.len);
        match ranges.last_mut() {
            Some((_, last)) if start <= *last => *last = end.max(*last),
            _ => ranges.push((start, end)),
        }
    }
    for (start, end) in ranges {
        let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
        content.read_at(contents, start, &mut bytes).unwrap();
        text += &format!(" {start}-{end} {}", formats::digest::Sha256::of(&bytes));
    }
    text
}

/// The tree as inodes of 128 bytes hold it: whole seconds from 1901 to 2038.
pub fn small_inodes(tree: &Tree) -> Tree {
    with_times(tree, |time| FileTime { secs: time.secs.clamp(i32::MIN.into(), i32::MAX.into()), nanos: 0 })
}

/// The tree with every time changed.
pub fn with_times(tree: &Tree, change: impl Fn(FileTime) -> FileTime) -> Tree {
    let mut changed = tree.clone();
    let ids: BTreeSet<_> = tree.walk().map(|(_, id)| id).collect();
    for id in ids {
        let mtime = &mut changed.node_mut(id).meta.mtime;
        *mtime = change(*mtime);
    }
    changed
}
