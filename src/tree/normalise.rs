//! Takes out of a tree what differs between two installations of the same packages, or belongs to the
//! machine that made it: logs, caches, backups, random seeds, keys, names.
//!
//! What is left was compared between real installations, as root and unprivileged, to the byte. Overlays come
//! later, so what they bring (a host key, a machine id) stays.

use std::io;

use super::glob::Glob;
use super::pyc;
use super::{Content, Contents, FileTime, Kind, Meta, Node, NodeId, Tree};

/// What a rule does with what its pattern matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RuleAction {
    /// Takes the entry out, whatever it is, with all below it.
    Remove,
    /// Takes it out if it is a regular file.
    RemoveFile,
    /// Takes it out if it is a regular file that is not empty: empty ones were made for their mode.
    RemoveFilled,
    /// Takes out a symbolic link that leads nowhere.
    RemoveDangling,
}

use RuleAction::{Remove, RemoveDangling, RemoveFile, RemoveFilled};

/// What to do where, and why.
const RULES: &[(&str, RuleAction)] = &[
    // Mounts at boot, or emptied then.
    ("run/*", Remove),
    ("tmp/*", Remove),
    ("var/tmp/*", Remove),
    ("dev/shm/*", Remove),
    // Logs have dates and times. Directories stay: services expect theirs.
    ("var/log/**", RemoveFilled),
    // apt's and ldconfig's caches and man-db's index (a gdbm file) hold times and positions.
    ("var/cache/apt/**", RemoveFile),
    ("var/lib/apt/lists/**", RemoveFile),
    ("var/cache/ldconfig/aux-cache", RemoveFile),
    ("var/cache/man/**", RemoveFile),
    // Backups that say what was changed last.
    ("var/cache/debconf/*-old", RemoveFile),
    ("var/lib/dpkg/*-old", RemoveFile),
    ("etc/passwd-", RemoveFile),
    ("etc/shadow-", RemoveFile),
    ("etc/group-", RemoveFile),
    ("etc/gshadow-", RemoveFile),
    ("etc/subuid-", RemoveFile),
    ("etc/subgid-", RemoveFile),
    ("etc/.pwd.lock", RemoveFile),
    // Of one machine only.
    ("etc/hostname", RemoveFile),
    ("etc/resolv.conf", RemoveFile),
    ("var/lib/dbus/machine-id", RemoveFile),
    // Secrets must not be the same in every copy of an image.
    ("etc/ssh/ssh_host_*", RemoveFile),
    ("etc/ssl/private/ssl-cert-snakeoil.key", RemoveFile),
    ("etc/ssl/certs/ssl-cert-snakeoil.pem", RemoveFile),
    ("etc/ssl/certs/*", RemoveDangling),
    ("var/lib/systemd/random-seed", RemoveFile),
    ("var/lib/systemd/credential.secret", RemoveFile),
    ("var/lib/urandom/random-seed", RemoveFile),
    // The miniroot does an initrd's work; these are large and differ every time.
    ("boot/initrd.img-*", RemoveFile),
    ("initrd.img*", RemoveDangling),
    ("var/lib/initramfs-tools/*", RemoveFile),
    // Random names of directories in font caches.
    ("usr/share/fonts/**/.uuid", RemoveFile),
    ("usr/local/share/fonts/**/.uuid", RemoveFile),
];

/// Normalises a tree: takes out what the rules above name, empties /etc/machine-id and the days in /etc/shadow that
/// are not before `epoch` (seconds since 1970), clamps all times to it and has compiled Python fit ([`pyc`]). Gives the paths that it took out, and of the first two those that it changed, sorted.
///
/// An empty machine-id means: a new one at every boot, and no first-boot setup (machine-id(5)).
///
/// # Errors
/// Those of reading contents.
pub fn normalise(tree: &mut Tree, contents: &dyn Contents, epoch: i64) -> io::Result<Vec<Vec<u8>>> {
    let mut changed = Vec::new();
    for (pattern, action) in RULES {
        let glob = Glob::new(pattern.as_bytes());
        for (path, id) in glob.find(tree) {
            let node = tree.node(id);
            let applies = match (action, &node.kind) {
                (Remove, _) | (RemoveFile, Kind::File(_)) => true,
                (RemoveFilled, Kind::File(content)) => content.len > 0,
                (RemoveDangling, Kind::Symlink(_)) => tree.resolve(&path).is_none(),
                _ => false,
            };
            // A path below a directory that was taken out is gone already.
            if applies && tree.remove(&path) {
                changed.push(path);
            }
        }
    }
    if set_machine_id(tree) {
        changed.push(b"etc/machine-id".to_vec());
    }
    if set_shadow_days(tree, contents, epoch)? {
        changed.push(b"etc/shadow".to_vec());
    }
    clamp_times(tree, epoch);
    pyc::tie_by_time(tree, contents)?;
    changed.sort();
    Ok(changed)
}

/// Sets every time later than `epoch` (seconds since 1970) to it.
pub fn clamp_times(tree: &mut Tree, epoch: i64) {
    let latest = FileTime { secs: epoch, nanos: 0 };
    let ids: Vec<NodeId> = tree.walk().map(|(_, id)| id).collect();
    for id in ids {
        let mtime = &mut tree.node_mut(id).meta.mtime;
        *mtime = latest.min(*mtime);
    }
}

/// An empty /etc/machine-id where there is one, or a systemd that would otherwise set up a first boot.
fn set_machine_id(tree: &mut Tree) -> bool {
    let path = b"etc/machine-id";
    let wanted = match tree.lookup(path).map(|id| &tree.node(id).kind) {
        Some(Kind::File(content)) => content.len > 0,
        Some(_) => false,
        None => tree.resolve(b"usr/lib/systemd/systemd").is_some(),
    };
    if wanted {
        let meta = Meta { mode: 0o444, ..Meta::default() };
        let node = Node { meta, kind: Kind::File(Content::default()) };
        tree.insert(path, node).expect("there is a file, or /etc beside systemd");
    }
    wanted
}

/// Days of the last password change (shadow(5), third field): none, where it is that of `epoch` or later. Accounts
/// that were made by unpacking have no such day, and with one every rebuild would change the file. Empty means: no
/// password grows old.
fn set_shadow_days(tree: &mut Tree, contents: &dyn Contents, epoch: i64) -> io::Result<bool> {
    let Some(id) = tree.lookup(b"etc/shadow") else { return Ok(false) };
    let Kind::File(content) = &tree.node(id).kind else { return Ok(false) };
    let text = content.read_all(contents)?;
    let today = epoch.div_euclid(24 * 60 * 60);
    let is_new = |field: &[u8]| {
        std::str::from_utf8(field).is_ok_and(|day| day.parse().is_ok_and(|day: i64| day >= today))
    };
    let lines: Vec<Vec<u8>> = text
        .split(|&byte| byte == b'\n')
        .map(|line| {
            let mut fields: Vec<&[u8]> = line.split(|&byte| byte == b':').collect();
            if let Some(field) = fields.get_mut(2).filter(|field| is_new(field)) {
                *field = b"";
            }
            fields.join(&b':')
        })
        .collect();
    let new = lines.join(&b'\n');
    if new == text {
        return Ok(false);
    }
    tree.node_mut(id).kind = Kind::File(Content::inline(new));
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::dump::dump;

    const EPOCH: i64 = 1_700_000_000;

    fn tree(files: &[(&str, &str)]) -> Tree {
        let mut tree = Tree::new(Meta { mode: 0o755, ..Meta::default() });
        for (path, text) in files {
            let kind = match text.strip_prefix("-> ") {
                Some(target) => Kind::Symlink(target.into()),
                None if path.ends_with('/') => Kind::Directory(Default::default()),
                None => Kind::File(Content::inline(text.as_bytes())),
            };
            tree.insert(path.as_bytes(), Node { meta: Meta::default(), kind }).unwrap();
        }
        tree
    }

    fn paths(tree: &Tree) -> Vec<String> {
        let paths = tree.walk().map(|(path, _)| String::from_utf8(path).unwrap());
        paths.skip(1).collect()
    }

    #[test]
    fn what_belongs_to_one_run_or_one_machine_goes_and_the_rest_stays() {
        let mut tree = tree(&[
            ("boot/initrd.img-6", "x"),
            ("boot/vmlinuz-6", "x"),
            ("etc/hostname", "builder"),
            ("etc/machine-id", "0123"),
            ("etc/passwd", "root:x:0:0::/:"),
            ("etc/passwd-", "root:x:0:0::/:"),
            ("etc/resolv.conf", "-> ../run/systemd/resolve/stub-resolv.conf"),
            ("etc/ssh/ssh_host_rsa_key", "secret"),
            ("etc/ssh/sshd_config", ""),
            ("etc/ssl/certs/ab.0", "-> ca.pem"),
            ("etc/ssl/certs/ca.pem", "-> /usr/share/ca.crt"),
            ("etc/ssl/certs/cd.0", "-> ssl-cert-snakeoil.pem"),
            ("etc/ssl/certs/ssl-cert-snakeoil.pem", "x"),
            ("initrd.img", "-> boot/initrd.img-6"),
            ("run/lock/subsys/", ""),
            ("usr/share/ca.crt", "x"),
            ("var/cache/apt/archives/lock", ""),
            ("var/cache/apt/pkgcache.bin", "x"),
            ("var/lib/dpkg/status", "x"),
            ("var/lib/dpkg/status-old", "x"),
            ("var/log/apt/term.log", "x"),
            ("var/log/wtmp", ""),
            ("vmlinuz", "-> boot/vmlinuz-6"),
        ]);
        let changed = normalise(&mut tree, &Vec::new(), EPOCH).unwrap();
        assert_eq!(
            paths(&tree),
            [
                "boot",
                "boot/vmlinuz-6",
                "etc",
                "etc/machine-id",
                "etc/passwd",
                "etc/resolv.conf",
                "etc/ssh",
                "etc/ssh/sshd_config",
                "etc/ssl",
                "etc/ssl/certs",
                "etc/ssl/certs/ab.0",
                "etc/ssl/certs/ca.pem",
                "run",
                "usr",
                "usr/share",
                "usr/share/ca.crt",
                "var",
                "var/cache",
                "var/cache/apt",
                "var/cache/apt/archives",
                "var/lib",
                "var/lib/dpkg",
                "var/lib/dpkg/status",
                "var/log",
                "var/log/apt",
                "var/log/wtmp",
                "vmlinuz",
            ]
        );
        assert!(changed.contains(&b"run/lock".to_vec()) && changed.contains(&b"etc/machine-id".to_vec()));
        let text = dump(&tree, &Vec::new()).unwrap();
        let empty = "f 0444 0:0 0.000000000 /etc/machine-id 0 sha256:e3b0c442";
        assert!(text.lines().any(|line| line.starts_with(empty)), "{text}");
    }

    #[test]
    fn a_second_time_changes_nothing() {
        let mut tree = tree(&[
            ("etc/shadow", "a:*:20000::\nb:*:::"),
            ("var/log/x", "x"),
            ("usr/lib/systemd/systemd", ""),
        ]);
        assert_eq!(
            normalise(&mut tree, &Vec::new(), EPOCH).unwrap(),
            [&b"etc/machine-id"[..], b"etc/shadow", b"var/log/x"]
        );
        assert_eq!(normalise(&mut tree, &Vec::new(), EPOCH).unwrap(), [b""; 0]);
    }

    #[test]
    fn accounts_do_not_say_on_which_day_they_were_made() {
        // 1,700,000,000 s are 19,675 days.
        let text = "root:*:19676:0:99999:7:::\nnew:*:19675:0:99999:7:::\nold:*:100::::::\nnone:!:::::::\n";
        let mut tree = tree(&[("etc/shadow", text)]);
        normalise(&mut tree, &Vec::new(), EPOCH).unwrap();
        let expected = "root:*::0:99999:7:::\nnew:*::0:99999:7:::\nold:*:100::::::\nnone:!:::::::\n";
        let node = tree.node(tree.lookup(b"etc/shadow").unwrap());
        assert_eq!(node.kind, Kind::File(Content::inline(expected.as_bytes())));
    }

    #[test]
    fn times_are_clamped_to_the_nanosecond() {
        let mut tree = tree(&[("a", "")]);
        let id = tree.lookup(b"a").unwrap();
        for (before, after) in
            [((EPOCH, 1), (EPOCH, 0)), ((EPOCH + 1, 0), (EPOCH, 0)), ((EPOCH - 1, 999), (EPOCH - 1, 999))]
        {
            tree.node_mut(id).meta.mtime = FileTime { secs: before.0, nanos: before.1 };
            clamp_times(&mut tree, EPOCH);
            assert_eq!(tree.node(id).meta.mtime, FileTime { secs: after.0, nanos: after.1 });
        }
    }
}
