//! Device nodes, in NetBSD's own numbers.

use super::{NetBsdConfig, NetBsdError, SetOwners, directory, read_spec};
use crate::recipe::Devices;
use crate::tree::{Kind, Meta, Node, Tree};

/// The script in the set `base` that knows all devices.
pub const MAKEDEV: &str = "dev/MAKEDEV";

/// What a person needs to log in and to reach the network: a console, a root to mount again for writing (xbd0 below Xen, ld0
/// in QEMU), a packet filter for dhcpcd, pseudo-terminals and random numbers for ssh, a log. Numbers from NetBSD's `sys/conf/majors` and
/// `sys/arch/{amd64,i386}/conf/majors.*`, modes from its MAKEDEV.
const MINIMAL: &[u8] = b"\
./console type=char device=netbsd,0,0 mode=600 uid=0 gid=0
./constty type=char device=netbsd,0,1 mode=600 uid=0 gid=0
./tty type=char device=netbsd,1,0 mode=666 uid=0 gid=0
./mem type=char device=netbsd,2,0 mode=640 uid=0 gname=kmem
./kmem type=char device=netbsd,2,1 mode=640 uid=0 gname=kmem
./null type=char device=netbsd,2,2 mode=666 uid=0 gid=0
./zero type=char device=netbsd,2,12 mode=666 uid=0 gid=0
./klog type=char device=netbsd,7,0 mode=600 uid=0 gid=0
./stdin type=char device=netbsd,22,0 mode=666 uid=0 gid=0
./stdout type=char device=netbsd,22,1 mode=666 uid=0 gid=0
./stderr type=char device=netbsd,22,2 mode=666 uid=0 gid=0
./bpf type=char device=netbsd,23,0 mode=600 uid=0 gid=0
./bpf0 type=link link=bpf mode=700 uid=0 gid=0
./random type=char device=netbsd,46,0 mode=444 uid=0 gid=0
./urandom type=char device=netbsd,46,1 mode=644 uid=0 gid=0
./ptmx type=char device=netbsd,165,0 mode=666 uid=0 gid=0
./ptm type=char device=netbsd,165,1 mode=666 uid=0 gid=0
./drum type=char device=netbsd,4,0 mode=640 uid=0 gname=kmem
./xbd0a type=block device=netbsd,142,0 mode=640 uid=0 gname=operator
./xbd0b type=block device=netbsd,142,1 mode=640 uid=0 gname=operator
./xbd0c type=block device=netbsd,142,2 mode=640 uid=0 gname=operator
./xbd0d type=block device=netbsd,142,3 mode=640 uid=0 gname=operator
./rxbd0a type=char device=netbsd,142,0 mode=640 uid=0 gname=operator
./rxbd0b type=char device=netbsd,142,1 mode=640 uid=0 gname=operator
./rxbd0c type=char device=netbsd,142,2 mode=640 uid=0 gname=operator
./rxbd0d type=char device=netbsd,142,3 mode=640 uid=0 gname=operator
./ld0a type=block device=netbsd,19,0 mode=640 uid=0 gname=operator
./rld0a type=char device=netbsd,69,0 mode=640 uid=0 gname=operator
";

/// Puts the nodes into /dev.
pub(super) fn make(
    tree: &mut Tree,
    owners: &SetOwners,
    config: &NetBsdConfig<'_>,
) -> Result<(), NetBsdError> {
    directory_once(tree, b"dev", config)?;
    let specs: &[(&str, &[u8])] = match (config.recipe.devices, config.makedev) {
        (Devices::None, _) => &[],
        (Devices::All, Some(all)) => &[("the built-in device nodes", MINIMAL), ("dev/MAKEDEV -s all", all)],
        (Devices::Minimal | Devices::All, _) => &[("the built-in device nodes", MINIMAL)],
    };
    for (spec, text) in specs {
        let fault = |source| NetBsdError::Spec { spec: (*spec).to_owned(), source };
        for entry in read_spec(spec, text)? {
            let path = [b"dev/", &entry.path[..]].concat();
            let (uid, gid) = owners.of(spec, &entry)?;
            let mode = entry.mode().map_err(fault)?;
            let device = entry.device().map_err(fault)?;
            let kind = match (entry.word("type"), device) {
                (Some(b"char"), Some((major, minor))) => Kind::CharDevice { major, minor },
                (Some(b"block"), Some((major, minor))) => Kind::BlockDevice { major, minor },
                (Some(b"fifo"), _) => Kind::Fifo,
                (Some(b"dir"), _) => Kind::Directory(Default::default()),
                (Some(b"link"), _) => match entry.link().map_err(fault)? {
                    Some(target) => Kind::Symlink(target),
                    None => continue,
                },
                _ => continue,
            };
            let mode = mode.unwrap_or(if matches!(kind, Kind::Directory(_)) { 0o755 } else { 0o600 });
            let meta = Meta {
                mode,
                uid: uid.unwrap_or(0),
                gid: gid.unwrap_or(0),
                mtime: config.time,
                ..Meta::default()
            };
            tree.insert(&path, Node { meta, kind })?;
        }
    }
    Ok(())
}

fn directory_once(tree: &mut Tree, path: &[u8], config: &NetBsdConfig<'_>) -> Result<(), NetBsdError> {
    if tree.lookup(path).is_none() {
        directory(tree, path, 0o755, config.time)?;
    }
    Ok(())
}
