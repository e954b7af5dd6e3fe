//! Virtual machines that boot a medium, with a serial console.

pub mod accel;
pub mod console;
pub mod timeline;
pub mod trial;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::sys::process::{Running, Tool, ToolError};
use accel::Accel;
use console::Console;
use system::files::{FileError, create_dir_all};

/// The program that runs machines.
pub const PROGRAM: &str = "qemu-system-x86_64";

/// Where distributions keep UEFI firmware for QEMU without Secure Boot; Debian first (package `ovmf`).
pub const UEFI_FIRMWARE: [&str; 4] = [
    "/usr/share/OVMF/OVMF_CODE_4M.fd",
    "/usr/share/OVMF/OVMF_CODE.fd",
    "/usr/share/edk2/ovmf/OVMF_CODE.fd",
    "/usr/share/edk2/x64/OVMF_CODE.4m.fd",
];

/// What starts the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Firmware {
    Bios,
    /// The UEFI firmware in this file.
    Uefi(PathBuf),
}

impl Firmware {
    /// UEFI firmware as installed here.
    ///
    /// # Errors
    /// [`MachineError::NoFirmware`].
    pub fn uefi() -> Result<Self, MachineError> {
        let found = UEFI_FIRMWARE.iter().map(Path::new).find(|path| path.is_file());
        found.map(|path| Firmware::Uefi(path.into())).ok_or(MachineError::NoFirmware)
    }
}

/// What the medium looks like to the machine. It can't write to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// A CD in an IDE drive.
    Cdrom,
    Disk,
    Usb,
}

/// A network card, behind QEMU's own NAT. The host is 10.0.2.2 for the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nic {
    Virtio,
    /// Intel's e1000, as common hardware is.
    E1000,
}

/// Where the screen is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Screen {
    /// The machine has no screen.
    None,
    /// At a VNC display, as QEMU names it: `127.0.0.1:1`.
    Vnc(String),
}

/// A machine to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualMachine {
    pub iso: PathBuf,
    /// How it is put in.
    pub medium: Medium,
    /// BIOS or UEFI.
    pub firmware: Firmware,
    /// KVM or TCG.
    pub accel: Accel,
    pub memory_mib: u64,
    pub cpus: u32,
    /// What they are, as QEMU names them; `None` for what works best with `accel`.
    pub cpu: Option<String>,
    /// Its network; none is a machine without.
    pub nic: Option<Nic>,
    /// A string for the firmware's tables (SMBIOS type 11), which GRUB reads.
    pub oem: Option<String>,
    /// Where the screen is shown.
    pub screen: Screen,
}

/// Why a machine does not run.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    #[error(
        "no UEFI firmware for QEMU: found none of {}; install it: apt install ovmf",
        UEFI_FIRMWARE.join(", ")
    )]
    NoFirmware,
    /// QEMU is missing or ended.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// The console's log can't be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// No thread or pipe to be had.
    #[error("can't read the machine's console")]
    Console(#[source] io::Error),
}

impl VirtualMachine {
    /// QEMU's arguments, apart from what becomes of the serial line.
    fn args(&self) -> Vec<OsString> {
        let mut args: Vec<OsString> = Vec::new();
        let mut add = |words: &[&OsStr]| args.extend(words.iter().map(|&word| word.to_owned()));
        macro_rules! add {
            ($($word:expr),* $(,)?) => { add(&[$(OsStr::new(&$word)),*]) };
        }
        match self.accel {
            Accel::Kvm => add!("-accel", "kvm", "-cpu", self.cpu.as_deref().unwrap_or("host")),
            // What QEMU 7.2's translator does wrong below Xen: SMAP and SMEP kill dom0's kernel at once, AVX state
            // gets mixed up between the domains (a guest's libc then faults). qemu64 has none of these.
            Accel::Tcg => add!("-accel", "tcg", "-cpu", self.cpu.as_deref().unwrap_or("qemu64")),
        }
        add!("-m", self.memory_mib.to_string(), "-smp", self.cpus.to_string());
        // Nothing that was not asked for; a machine that resets itself ends.
        add!("-nodefaults", "-no-user-config", "-no-reboot", "-vga", "std", "-monitor", "none");
        if let Firmware::Uefi(path) = &self.firmware {
            add!("-drive", option("if=pflash,format=raw,readonly=on,file=", path));
        }
        add!("-drive", option("if=none,id=medium,format=raw,readonly=on,file=", &self.iso));
        match self.medium {
            Medium::Cdrom => add!("-device", "ide-cd,drive=medium,bootindex=0"),
            Medium::Disk => add!("-device", "virtio-blk-pci,drive=medium,bootindex=0"),
            Medium::Usb => {
                add!("-device", "qemu-xhci", "-device", "usb-storage,drive=medium,bootindex=0");
            }
        }
        if let Some(nic) = self.nic {
            let model = match nic {
                Nic::Virtio => "virtio-net-pci",
                Nic::E1000 => "e1000",
            };
            // Without its ROM the firmware does not try to boot from it.
            add!("-netdev", "user,id=net", "-device", format!("{model},netdev=net,romfile="));
        }
        if let Some(oem) = &self.oem {
            add!("-smbios", option("type=11,value=", oem));
        }
        match &self.screen {
            Screen::None => add!("-display", "none"),
            Screen::Vnc(display) => add!("-display", "none", "-vnc", display),
        }
        args
    }

    /// Starts it with its console on our terminal. Ctrl-A x ends it, Ctrl-A h tells what else there is.
    ///
    /// # Errors
    /// [`MachineError::Tool`] when QEMU can't be started.
    pub fn start_here(&self) -> Result<Running, MachineError> {
        let tool = Tool::new(PROGRAM).args(self.args());
        Ok(tool.args(["-serial", "mon:stdio"]).on_our_terminal().spawn()?)
    }

    /// Starts it with its console in `console_log` and for us to read. `qemu_log` gets what QEMU itself says.
    ///
    /// # Errors
    /// [`MachineError`].
    pub fn start(&self, console_log: &Path, qemu_log: &Path) -> Result<Started, MachineError> {
        if let Some(dir) = console_log.parent() {
            create_dir_all(dir)?;
        }
        let log = File::create(console_log).map_err(|error| FileError::new(console_log, "create", error))?;
        let start = Instant::now();
        let tool = Tool::new(PROGRAM).args(self.args()).args(["-serial", "stdio"]);
        let mut running = tool.log(qemu_log).pipe_stdout().spawn()?;
        let stdout =
            running.take_stdout().ok_or_else(|| MachineError::Console(io::ErrorKind::NotFound.into()))?;
        let console = Console::start(stdout, log, start).map_err(MachineError::Console)?;
        Ok(Started { running, console, start })
    }
}

/// An option with a path or text in it; QEMU separates by commas and has two for one in a value.
fn option(before: &str, value: impl AsRef<OsStr>) -> OsString {
    let mut option = before.as_bytes().to_vec();
    for &byte in value.as_ref().as_bytes() {
        option.push(byte);
        if byte == b',' {
            option.push(byte);
        }
    }
    OsString::from_vec(option)
}

/// A machine that runs. Dropped, it is ended; then its console's log is whole.
#[derive(Debug)]
pub struct Started {
    // Before the console, whose end is that of what it listens to.
    running: Running,
    /// Lines of the serial console.
    pub console: Console,
    /// When it was started.
    pub start: Instant,
}

impl Started {
    /// Waits for its end. A machine that switches itself off ends well.
    ///
    /// # Errors
    /// [`ToolError::Failed`] with what QEMU said.
    pub fn wait(self) -> Result<(), ToolError> {
        self.running.wait()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> VirtualMachine {
        VirtualMachine {
            iso: "out/a,b.iso".into(),
            medium: Medium::Cdrom,
            firmware: Firmware::Bios,
            accel: Accel::Tcg,
            memory_mib: 2048,
            cpus: 1,
            cpu: None,
            nic: Some(Nic::Virtio),
            oem: Some("imgfactory:mirror=http://a/,http://b/".into()),
            screen: Screen::None,
        }
    }

    fn shown(machine: &VirtualMachine) -> String {
        machine.args().iter().map(|arg| arg.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_machine_is_described_whole() {
        assert_eq!(
            shown(&machine()),
            "-accel tcg -cpu qemu64 -m 2048 -smp 1 -nodefaults -no-user-config -no-reboot -vga std -monitor \
             none -drive if=none,id=medium,format=raw,readonly=on,file=out/a,,b.iso -device \
             ide-cd,drive=medium,bootindex=0 -netdev user,id=net -device virtio-net-pci,netdev=net,romfile= -smbios \
             type=11,value=imgfactory:mirror=http://a/,,http://b/ -display none"
        );
    }

    #[test]
    fn each_choice_has_its_words() {
        for (change, words) in [
            (
                (|m| m.medium = Medium::Disk) as fn(&mut VirtualMachine),
                "-device virtio-blk-pci,drive=medium,bootindex=0",
            ),
            (|m| m.medium = Medium::Usb, "-device qemu-xhci -device usb-storage,drive=medium,bootindex=0"),
            (
                |m| m.firmware = Firmware::Uefi("/x/CODE.fd".into()),
                "-drive if=pflash,format=raw,readonly=on,file=/x/CODE.fd",
            ),
            (|m| m.accel = Accel::Kvm, "-accel kvm -cpu host"),
            (|m| m.nic = Some(Nic::E1000), "-device e1000,netdev=net,romfile="),
            (|m| m.screen = Screen::Vnc("127.0.0.1:1".into()), "-display none -vnc 127.0.0.1:1"),
        ] {
            let mut machine = machine();
            assert!(!shown(&machine).contains(words), "{words}");
            change(&mut machine);
            assert!(shown(&machine).contains(words), "{words} is not in {}", shown(&machine));
        }
        let bare = VirtualMachine { nic: None, oem: None, ..machine() };
        assert!(!shown(&bare).contains("-netdev") && !shown(&bare).contains("-smbios"), "{}", shown(&bare));
    }
}
