//! GRUB: what its two core images are made of, and its menu.
//!
//! A core image holds every module that is ever needed, so the ISO carries no `.mod` files and GRUB reads
//! nothing but the menu before the menu is there. The images are made in the boot kit by `grub-mkimage` of the
//! recipe's own suite; [`Core`] says how. The configuration inside the cores, [`EARLY_CONFIG`], knows nothing of
//! the recipe, so one kit serves every ISO of a suite.

/// Debian packages that have `grub-mkimage`, the modules of both platforms and [`MBR_CODE`].
pub const PACKAGES: [&str; 3] = ["grub-common", "grub-pc-bin", "grub-efi-amd64-bin"];

/// The program of the kit that makes a core image.
pub const MKIMAGE: &str = "/usr/bin/grub-mkimage";

/// The kit's MBR code for ISOs on disks: 512 bytes, into which xorriso writes where the BIOS core lies.
pub const MBR_CODE: &str = "/usr/lib/grub/i386-pc/boot_hybrid.img";

/// A file that is on every medium of ours, below its root: GRUB looks for it. Holds the recipe's name.
pub const MARKER: &str = "/.imgfactory/medium";

/// Where the menu is on the medium.
pub const CONFIG: &str = "/boot/grub/grub.cfg";

/// What both cores run first, before there is a menu: find the medium, whatever it was booted as.
///
/// `root` is what the firmware booted: `cd0`, `hd96` (a CD, as the BIOS counts), `hd0`, `hd0,gpt2` (the ESP).
/// Its disk is looked at first, so that a second medium of ours in the machine does not win. GRUB runs these
/// lines with its rescue parser, which knows no `if`.
pub const EARLY_CONFIG: &str = "\
regexp --set=1:disk '^([a-z]+[0-9]+)' \"$root\"
search --no-floppy --file /.imgfactory/medium --hint \"$disk\" --set=root
set prefix=($root)/boot/grub
";

/// How one core image is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Core {
    /// The image's format and platform, as `grub-mkimage --format` names it.
    pub format: &'static str,
    /// The kit's directory with the platform's modules.
    pub modules_dir: &'static str,
    /// What goes in; their dependencies come along.
    pub modules: &'static [&'static str],
}

/// What both platforms need: to read the medium, to show a menu, to boot, to look around in.
macro_rules! modules {
    ($($own:literal)*) => {
        &[
            "boot", "cat", "configfile", "echo", "gzio", "halt", "iso9660", "linux", "ls", "minicmd", "multiboot2",
            "normal", "part_gpt", "part_msdos", "read", "reboot", "regexp", "search", "search_fs_file",
            "search_label", "serial", "sleep", "smbios", "terminal", "test", "true", $($own),*
        ]
    };
}

/// For BIOS: boots from El Torito and, through [`MBR_CODE`], from disks.
pub const BIOS: Core = Core {
    format: "i386-pc-eltorito",
    modules_dir: "/usr/lib/grub/i386-pc",
    modules: modules!("biosdisk" "vbe" "vga"),
};

/// For 64-bit UEFI: a PE program, `/EFI/BOOT/BOOTX64.EFI` in the ESP.
pub const UEFI: Core = Core {
    format: "x86_64-efi",
    modules_dir: "/usr/lib/grub/x86_64-efi",
    modules: modules!("efi_gop" "efi_uga" "fat"),
};

impl Core {
    /// Arguments of [`MKIMAGE`]. `config` is a file with [`EARLY_CONFIG`], `output` the image to be made; both
    /// are paths as the program sees them.
    pub fn mkimage_args<'a>(&self, config: &'a str, output: &'a str) -> Vec<&'a str> {
        let mut args = vec!["--format", self.format, "--directory", self.modules_dir];
        args.extend(["--prefix", "/boot/grub", "--config", config, "--output", output]);
        args.extend(self.modules);
        args
    }
}

/// What the boot kit has of GRUB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grub {
    /// The image of [`BIOS`].
    pub bios: Vec<u8>,
    /// The image of [`UEFI`].
    pub uefi: Vec<u8>,
    /// [`MBR_CODE`].
    pub mbr: Vec<u8>,
}
