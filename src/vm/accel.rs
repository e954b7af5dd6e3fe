//! Whether this machine's KVM runs guests, found out by running one.
//!
//! That /dev/kvm is there says little: inside some virtual machines it exists, lets virtual machines be made,
//! and then interprets their code instruction by instruction, slower than QEMU itself and with instructions
//! missing. So a ROM of a few bytes counts to 100 million. A processor takes a twentieth of a second for it,
//! QEMU's translator a quarter of a second.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::PROGRAM;
use crate::sys::process::{Tool, ToolError};
use system::files::{FileError, Scratch};

/// What executes a guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accel {
    Kvm,
    /// QEMU's translator: works everywhere, some twenty times slower.
    Tcg,
}

/// Result of the check for KVM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccelChoice {
    pub accel: Accel,
    /// Why it is not KVM.
    pub why: Option<String>,
}

/// How long KVM may take, QEMU's own start included.
const LIMIT: Duration = Duration::from_secs(3);
/// What QEMU's debug exit device makes of the ROM's last word: twice 0x10, and one.
const COUNTED: i32 = 0x21;

/// Finds out what to use; takes a tenth of a second with KVM, and at most three seconds.
///
/// # Errors
/// [`ToolError::Missing`] when there is no QEMU; [`ToolError::Log`] when the ROM can't be written.
pub fn find() -> Result<AccelChoice, ToolError> {
    if !Path::new("/dev/kvm").exists() {
        return Ok(tcg("/dev/kvm does not exist"));
    }
    if fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_err() {
        return Ok(tcg("no permission for /dev/kvm (add the user to the group kvm)"));
    }
    Ok(match count("kvm")? {
        RomRun::InTime => AccelChoice { accel: Accel::Kvm, why: None },
        RomRun::Never => tcg("it does not start a machine"),
        RomRun::TooSlow => tcg("it is far too slow, as if the processor were emulated"),
    })
}

/// How the ROM fared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RomRun {
    InTime,
    TooSlow,
    /// QEMU ended with an error.
    Never,
}

/// Runs the ROM with an accelerator.
fn count(accel: &str) -> Result<RomRun, ToolError> {
    let no_rom = |source: FileError| ToolError::Log { program: PROGRAM.into(), source };
    let rom = Scratch::file(std::env::temp_dir()).map_err(no_rom)?;
    fs::write(rom.path(), rom_bytes()).map_err(|error| no_rom(FileError::new(rom.path(), "write", error)))?;
    let mut machine = Tool::new(PROGRAM)
        .args(["-accel", accel, "-m", "16", "-nodefaults", "-display", "none", "-no-reboot"])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=1", "-bios"])
        .arg(rom.path())
        .spawn()?;
    Ok(match machine.wait_until(Instant::now() + LIMIT)?.map(|status| status.code()) {
        Some(Some(COUNTED)) => RomRun::InTime,
        Some(_) => RomRun::Never,
        None => RomRun::TooSlow,
    })
}

fn tcg(why: &str) -> AccelChoice {
    AccelChoice { accel: Accel::Tcg, why: Some(why.to_owned()) }
}

/// 64 KiB whose last 16 bytes are where a PC begins.
fn rom_bytes() -> Vec<u8> {
    #[rustfmt::skip]
    const COUNT: [u8; 15] = [
        0x66, 0xb9, 0x00, 0xe1, 0xf5, 0x05, //       mov ecx, 100000000
        0x66, 0x49,                         // next: dec ecx
        0x75, 0xfc,                         //       jnz next
        0xb0, 0x10,                         //       mov al, 0x10
        0xe6, 0xf4,                         //       out 0xf4, al
        0xf4,                               //       hlt
    ];
    // jmp from 0xfff0 to 0: what follows is at 0xfff3, 13 bytes below 64 KiB.
    const BEGIN: [u8; 3] = [0xe9, 13, 0];
    let mut rom = vec![0; 1 << 16];
    rom[..COUNT.len()].copy_from_slice(&COUNT);
    rom[0xfff0..0xfff3].copy_from_slice(&BEGIN);
    rom
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rom_counts_and_says_so() {
        // With the translator, which every machine has.
        assert_eq!(count("tcg").unwrap(), RomRun::InTime);
    }

    #[test]
    fn an_accelerator_that_does_not_start_is_told_from_a_slow_one() {
        assert_eq!(count("nothing").unwrap(), RomRun::Never);
    }
}
