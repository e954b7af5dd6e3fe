//! File capabilities: words -> the attribute `security.capability`.
//!
//! Sources: capabilities(7), cap_from_text(3); the kernel's `include/uapi/linux/capability.h`
//! (`struct vfs_cap_data`, revision 2, little-endian).

use crate::yaml::{Scalar, Wrong};

/// `VFS_CAP_REVISION_2`.
const REVISION_2: u32 = 0x0200_0000;
/// `VFS_CAP_FLAGS_EFFECTIVE`.
const EFFECTIVE: u32 = 1;

/// The names of capabilities by their numbers (linux/capability.h).
const NAMES: [&str; 41] = [
    "chown",
    "dac_override",
    "dac_read_search",
    "fowner",
    "fsetid",
    "kill",
    "setgid",
    "setuid",
    "setpcap",
    "linux_immutable",
    "net_bind_service",
    "net_broadcast",
    "net_admin",
    "net_raw",
    "ipc_lock",
    "ipc_owner",
    "sys_module",
    "sys_rawio",
    "sys_chroot",
    "sys_ptrace",
    "sys_pacct",
    "sys_admin",
    "sys_boot",
    "sys_nice",
    "sys_resource",
    "sys_time",
    "sys_tty_config",
    "mknod",
    "lease",
    "audit_write",
    "audit_control",
    "setfcap",
    "mac_override",
    "mac_admin",
    "syslog",
    "wake_alarm",
    "block_suspend",
    "audit_read",
    "perfmon",
    "bpf",
    "checkpoint_restore",
];

/// What a program gets beyond its user's rights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    permitted: u64,
    inheritable: u64,
    effective: bool,
}

impl Capabilities {
    /// The value of the attribute `security.capability` (`struct vfs_cap_data`).
    pub fn to_xattr(self) -> Vec<u8> {
        let low = |set: u64| (set as u32).to_le_bytes();
        let high = |set: u64| ((set >> 32) as u32).to_le_bytes();
        let magic = REVISION_2 | if self.effective { EFFECTIVE } else { 0 };
        [
            magic.to_le_bytes(),
            low(self.permitted),
            low(self.inheritable),
            high(self.permitted),
            high(self.inheritable),
        ]
        .concat()
    }
}

/// `cap_net_raw,cap_net_admin+ep`: setcap(8)'s form, of one clause.
impl Scalar for Capabilities {
    const KIND: &str = "capabilities";

    fn read(text: &str) -> Result<Self, Wrong> {
        let wrong = |what: String| Wrong::new(what, "write them as `cap_net_raw,cap_net_admin+ep`");
        let split = text.split_once(['+', '=']);
        let (names, flags) = split.ok_or_else(|| wrong(format!("`{text}` are not capabilities")))?;
        let mut set = 0u64;
        for name in names.split(',') {
            let short = name.strip_prefix("cap_").unwrap_or_default();
            let number = NAMES.iter().position(|known| *known == short);
            set |= 1 << number.ok_or_else(|| wrong(format!("there is no capability `{name}`")))?;
        }
        let mut capabilities = Capabilities::default();
        for flag in flags.chars() {
            match flag {
                'e' => capabilities.effective = true,
                'p' => capabilities.permitted = set,
                'i' => capabilities.inheritable = set,
                _ => return Err(wrong(format!("`{flag}` is none of `e`, `i`, `p`"))),
            }
        }
        Ok(capabilities)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_the_kernels_bytes() {
        // Judge: setcap and getfattr in tests/tree_tar.rs.
        for (text, expected) in [
            ("cap_net_raw+ep", "0100000200200000000000000000000000000000"),
            ("cap_net_raw,cap_net_admin=eip", "0100000200300000003000000000000000000000"),
            ("cap_bpf+p", "0000000200000000000000008000000000000000"),
        ] {
            let bytes = Capabilities::read(text).unwrap().to_xattr();
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hex, expected, "{text}");
        }
    }

    #[test]
    fn what_is_none_is_refused_by_name() {
        for (text, what) in [
            ("net_raw", "`net_raw` are not capabilities"),
            ("net_raw+ep", "there is no capability `net_raw`"),
            ("cap_nte_raw+ep", "there is no capability `cap_nte_raw`"),
            ("cap_net_raw+x", "`x` is none of `e`, `i`, `p`"),
        ] {
            assert_eq!(Capabilities::read(text).unwrap_err().what, what);
        }
    }
}
