//! What the first boot asks for: fstab, rc.conf, terminals, the network, keys, the kernel.

use super::{NetBsdConfig, NetBsdError, directory, text};
use crate::guests::BOOT;
use crate::recipe::Virt;
use crate::tree::{Content, Contents, Kind, Meta, Node, Tree};

/// Mount points of [`fstab`] that a release may lack, and their modes.
const MOUNT_POINTS: [(&str, u16); 4] =
    [("kern", 0o755), ("proc", 0o755), ("dev/pts", 0o755), ("var/shm", 0o1777)];

pub(super) fn write(
    tree: &mut Tree,
    contents: &dyn Contents,
    config: &NetBsdConfig<'_>,
) -> Result<(), NetBsdError> {
    let defaults = text(tree, contents, "etc/rc.conf")?;
    let defaults = defaults.ok_or(NetBsdError::Missing { path: "etc/rc.conf", set: "etc" })?;
    let ttys = text(tree, contents, "etc/ttys")?;
    for (path, mode) in MOUNT_POINTS {
        if tree.lookup(path.as_bytes()).is_none() {
            directory(tree, path.as_bytes(), mode, config.time)?;
        }
    }
    put(tree, "etc/fstab", 0o644, fstab(config).into(), config)?;
    put(tree, "etc/rc.conf", 0o644, rc_conf(&defaults, config), config)?;
    // Up; dhcpcd gives it its address.
    put(tree, "etc/ifconfig.xennet0", 0o644, b"up\n".to_vec(), config)?;
    if let Some(ttys) = ttys {
        let ttys = terminals(&ttys, |name| tree.lookup(format!("dev/{name}").as_bytes()).is_some());
        put(tree, "etc/ttys", 0o644, ttys, config)?;
    }
    if !config.ssh_keys.is_empty() {
        directory(tree, b"root/.ssh", 0o700, config.time)?;
        put(tree, "root/.ssh/authorized_keys", 0o600, config.ssh_keys.into(), config)?;
    }
    insert(tree, &format!("{BOOT}/kernel"), 0o644, config.kernel.clone(), config)
}

/// The type of the root must be that of the image. A pvh guest starts in QEMU too, where its disk has another name:
/// `ROOT` is the disk that the kernel mounted the root from (getfsspecname(3)).
fn fstab(config: &NetBsdConfig<'_>) -> String {
    let disk = if config.virt == Virt::Pvh { "ROOT.a" } else { "/dev/xbd0a" };
    let root = if config.writable { "rw 1 1" } else { "ro 0 0" };
    format!(
        "{disk} / ext2fs {root}\nkernfs /kern kernfs rw\nptyfs /dev/pts ptyfs rw\nprocfs /proc procfs rw\n\
         tmpfs /var/shm tmpfs rw,-m1777,-sram%25\n"
    )
}

/// The release's rc.conf, in which `rc_configured=NO` ends a boot in single-user mode, and our settings below.
fn rc_conf(defaults: &[u8], config: &NetBsdConfig<'_>) -> Vec<u8> {
    let mut lines: Vec<&[u8]> = defaults
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.trim_ascii_start().starts_with(b"rc_configured="))
        .collect();
    while lines.last().is_some_and(|line| line.is_empty()) {
        lines.pop();
    }
    let mut out = lines.join(&b'\n');
    let sshd = if config.ssh_keys.is_empty() { "" } else { "sshd=YES\n" };
    let ours = format!("rc_configured=YES\nhostname={}\ndhcpcd=YES\n{sshd}", config.hostname);
    if !out.is_empty() {
        out.push(b'\n');
    }
    out.extend(ours.as_bytes());
    out
}

/// A login on the console, which is Xen's, and none on terminals without a device.
fn terminals(ttys: &[u8], is_there: impl Fn(&str) -> bool) -> Vec<u8> {
    let line = |line: &[u8]| -> Vec<u8> {
        let text = String::from_utf8_lossy(line);
        let name = text.split_whitespace().next().unwrap_or_default();
        match name {
            "console" => b"console\t\"/usr/libexec/getty Pc\"\tvt100\ton secure".to_vec(),
            "" => line.to_vec(),
            name if name.starts_with('#') => line.to_vec(),
            "constty" => text.replacen(" on ", " off ", 1).replacen("\ton ", "\toff ", 1).into_bytes(),
            name if is_there(name) => line.to_vec(),
            _ => text.replacen(" on ", " off ", 1).replacen("\ton ", "\toff ", 1).into_bytes(),
        }
    };
    ttys.split(|&byte| byte == b'\n').map(line).collect::<Vec<_>>().join(&b'\n')
}

fn put(
    tree: &mut Tree,
    path: &str,
    mode: u16,
    bytes: Vec<u8>,
    config: &NetBsdConfig<'_>,
) -> Result<(), NetBsdError> {
    insert(tree, path, mode, Content::inline(bytes), config)
}

fn insert(
    tree: &mut Tree,
    path: &str,
    mode: u16,
    content: Content,
    config: &NetBsdConfig<'_>,
) -> Result<(), NetBsdError> {
    let meta = Meta { mode, mtime: config.time, ..Meta::default() };
    tree.insert(path.as_bytes(), Node { meta, kind: Kind::File(content) })?;
    Ok(())
}
