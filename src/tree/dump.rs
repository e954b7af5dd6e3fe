//! A tree as text, one line an entry: for people, for goldens, and to compare two trees.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;

use formats::digest::hex;
use sha2::{Digest, Sha256};

use super::{Content, Contents, Kind, NodeId, Tree};

/// Bytes read at a time for a digest.
const CHUNK: usize = 256 * 1024;

/// Every entry of `tree` in the order of [`Tree::walk`], one line each:
///
/// ```text
/// d 0755 0:0 1700000000.000000000 /etc
/// f 0644 0:0 1700000000.000000000 /etc/hostname 5 sha256:2cf2…
/// l 0777 0:0 1700000000.000000000 /bin -> usr/bin
/// h /usr/bin/perl5.40 = /usr/bin/perl
/// c 0666 0:0 1700000000.000000000 /dev/null 1,3 user.note=0a0b
/// ```
///
/// Bytes outside printable ASCII are escaped as in Rust; attributes come last, their values in hex.
///
/// # Errors
/// Those of reading contents.
pub fn dump(tree: &Tree, contents: &dyn Contents) -> io::Result<String> {
    let mut out = String::new();
    let mut first_names: BTreeMap<NodeId, Vec<u8>> = BTreeMap::new();
    for (path, id) in tree.walk() {
        let node = tree.node(id);
        if let Some(first) = first_names.get(&id) {
            let _ = writeln!(out, "h /{} = /{}", path.escape_ascii(), first.escape_ascii());
            continue;
        }
        let (letter, detail) = match &node.kind {
            Kind::Directory(_) => ('d', String::new()),
            Kind::File(content) => ('f', format!(" {} sha256:{}", content.len, digest(content, contents)?)),
            Kind::Symlink(target) => ('l', format!(" -> {}", target.escape_ascii())),
            Kind::CharDevice { major, minor } => ('c', format!(" {major},{minor}")),
            Kind::BlockDevice { major, minor } => ('b', format!(" {major},{minor}")),
            Kind::Fifo => ('p', String::new()),
            Kind::Socket => ('s', String::new()),
        };
        let meta = &node.meta;
        let _ = write!(
            out,
            "{letter} {:04o} {}:{} {}.{:09} /{}{detail}",
            meta.mode,
            meta.uid,
            meta.gid,
            meta.mtime.secs,
            meta.mtime.nanos,
            path.escape_ascii(),
        );
        for (name, value) in &meta.xattrs {
            let _ = write!(out, " {}={}", name.escape_ascii(), hex(value));
        }
        out.push('\n');
        if !matches!(node.kind, Kind::Directory(_)) {
            first_names.insert(id, path);
        }
    }
    Ok(out)
}

/// SHA-256 of a file's bytes, holes as zeros, in hex.
fn digest(content: &Content, contents: &dyn Contents) -> io::Result<String> {
    let mut sha = Sha256::new();
    let mut buf = vec![0; CHUNK.min(usize::try_from(content.len).unwrap_or(CHUNK))];
    let mut at = 0;
    while at < content.len {
        let len = buf.len().min(usize::try_from(content.len - at).unwrap_or(usize::MAX));
        content.read_at(contents, at, &mut buf[..len])?;
        sha.update(&buf[..len]);
        at += len as u64;
    }
    Ok(hex(&sha.finalize()))
}
