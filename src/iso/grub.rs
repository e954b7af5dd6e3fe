//! GRUB: what its two core images are made of, and its menu.
//!
//! A core image holds every module that is ever needed, so the medium carries no `.mod` files and GRUB reads
//! nothing but the menu before the menu is there. The images are made in the boot tools, by `grub-mkimage` of the
//! recipe's own suite. The configuration inside them, [`EARLY_CONFIG`], knows nothing of the recipe, so one set of them
//! serves every medium of a suite.

use crate::debian::boot_tools::{BootTools, BootToolsError, GrubImage};
use crate::recipe::{Boot, MenuEntry};
use crate::templates::{TemplateError, Templates, context};

/// A file that is on every medium of ours, below its root: GRUB looks for it. Holds the recipe's name.
pub const MARKER: &str = "/.imgfactory/medium";

/// Where the menu is on the medium.
pub const CONFIG: &str = "/boot/grub/grub.cfg";

/// The directory of [`CONFIG`].
const PREFIX: &str = "/boot/grub";

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

/// Platforms whose firmware starts us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Platform {
    /// PC BIOS: the image boots from El Torito and, through `boot_hybrid.img` in the MBR, from disks.
    Bios,
    /// 64-bit UEFI: the image is a PE program.
    Uefi,
}

/// What both platforms need: to read the medium, show a menu, boot, and look around.
const MODULES: [&str; 26] = [
    "boot",
    "cat",
    "configfile",
    "echo",
    "gzio",
    "halt",
    "iso9660",
    "linux",
    "ls",
    "minicmd",
    "multiboot2",
    "normal",
    "part_gpt",
    "part_msdos",
    "read",
    "reboot",
    "regexp",
    "search",
    "search_fs_file",
    "search_label",
    "serial",
    "sleep",
    "smbios",
    "terminal",
    "test",
    "true",
];

impl Platform {
    /// As `grub-mkimage --format` names the image.
    pub fn format(self) -> &'static str {
        match self {
            Platform::Bios => "i386-pc-eltorito",
            Platform::Uefi => "x86_64-efi",
        }
    }

    /// Modules that only this platform needs: its disks and its screens.
    fn own_modules(self) -> &'static [&'static str] {
        match self {
            Platform::Bios => &["biosdisk", "vbe", "vga"],
            Platform::Uefi => &["efi_gop", "efi_uga", "fat"],
        }
    }

    /// How the image is made.
    pub fn image(self) -> GrubImage {
        let modules = MODULES.iter().chain(self.own_modules());
        GrubImage {
            format: self.format().into(),
            modules: modules.map(|&module| module.into()).collect(),
            prefix: PREFIX.into(),
            config: EARLY_CONFIG.into(),
        }
    }
}

/// GRUB's files out of the boot tools.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grub {
    /// The image of [`Platform::Bios`].
    pub bios: Vec<u8>,
    /// The image of [`Platform::Uefi`].
    pub uefi: Vec<u8>,
    /// 512 bytes of MBR code for disks, into which xorriso writes the BIOS image's place.
    pub mbr: Vec<u8>,
}

impl Grub {
    /// The images to make in the boot tools.
    pub fn images() -> [GrubImage; 2] {
        [Platform::Bios.image(), Platform::Uefi.image()]
    }

    /// Takes them out of the boot tools.
    ///
    /// # Errors
    /// [`BootToolsError`].
    pub fn of(tools: &BootTools<'_>) -> Result<Self, BootToolsError> {
        Ok(Grub {
            bios: tools.image(Platform::Bios.format())?,
            uefi: tools.image(Platform::Uefi.format())?,
            mbr: tools.grub_file("i386-pc", "boot_hybrid.img")?,
        })
    }
}

/// Writes the menu from `templates/grub.cfg`. Each of `guests` has an entry that starts it with the host, below Xen.
///
/// # Errors
/// [`TemplateError`].
pub fn config(
    templates: &Templates<'_>,
    name: &str,
    description: &str,
    boot: &Boot,
    guests: &[&str],
) -> Result<String, TemplateError> {
    let title = if description.is_empty() { name } else { description };
    let entries: Vec<_> = boot
        .entries
        .iter()
        .map(|&entry| {
            let title = match entry {
                MenuEntry::Xen => format!("{title} (with Xen)"),
                MenuEntry::Linux => format!("{title} (without Xen)"),
                MenuEntry::Rescue => "Rescue: a shell before anything is mounted".to_owned(),
            };
            context! { id => entry.as_str(), title => quoted(&title) }
        })
        .collect();
    let guests: Vec<_> = guests
        .iter()
        .filter(|_| boot.entries.contains(&MenuEntry::Xen))
        .map(|&name| context! { name, id => guest_entry(name), title => quoted(&format!("{title}, and guest {name}")) })
        .collect();
    let xen = boot.xen.as_ref().map(|xen| {
        context! { memory_mib => xen.memory >> 20, cmdline => words(xen.cmdline.as_str()) }
    });
    let cmdline = words(boot.cmdline.as_str());
    let label = volume_name(name);
    templates
        .render("grub.cfg", context! { name, label, entries, guests, xen, cmdline, timeout => boot.timeout })
}

/// A name as ISO 9660 has volume names, by which the boot finds the medium: at most 32 of `A-Z0-9_`.
pub(super) fn volume_name(name: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    name.chars().map(allowed).take(32).collect()
}

/// The menu entry that starts a guest with the host, by id.
pub fn guest_entry(guest: &str) -> String {
    format!("guest-{guest}")
}

/// A word that GRUB's shell takes as it is.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Words separated by spaces, each quoted if GRUB's shell would see more in it than letters.
fn words(text: &str) -> String {
    let plain = |word: &str| word.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-+=.,:/@%".contains(&b));
    let word = |word: &str| if plain(word) { word.to_owned() } else { quoted(word) };
    text.split_whitespace().map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::{ProjectFile, ProjectFiles, ProjectPath, Recipe};

    struct Nothing;

    impl ProjectFiles for Nothing {
        fn overlays(&self) -> Vec<String> {
            Vec::new()
        }

        fn file(&self, _: &ProjectPath) -> ProjectFile {
            ProjectFile::Executable
        }
    }

    fn boot(text: &str) -> Boot {
        let recipe = format!(
            "name: demo\nkey: keys/demo\nhost: {{debian: {{packages: [linux-image-amd64]}}}}\nboot: {text}\n"
        );
        Recipe::parse("demo.yaml", &recipe, &Nothing).unwrap_or_else(|findings| panic!("{findings}")).boot
    }

    #[test]
    fn the_menu_has_the_recipes_entries_in_its_order() {
        let boot = boot(
            "{xen: {memory: 900MiB, cmdline: 'loglvl=all'}, cmdline: 'quiet', entries: [linux, xen, rescue], timeout: 3}",
        );
        let config = config(&Templates::built_in(), "demo", "It's a demo", &boot, &["bsd"]).unwrap();
        let lines = |prefix: &str| -> Vec<&str> {
            config.lines().map(str::trim).filter(|line| line.starts_with(prefix)).collect()
        };
        assert_eq!(
            lines("menuentry"),
            [
                r"menuentry 'It'\''s a demo (without Xen)' --id linux {",
                r"menuentry 'It'\''s a demo (with Xen)' --id xen {",
                "menuentry 'Rescue: a shell before anything is mounted' --id rescue {",
                r"menuentry 'It'\''s a demo, and guest bsd' --id guest-bsd {",
                "menuentry \"Help: options that can be given here\" --id help {",
            ]
        );
        assert_eq!(lines("set default"), ["set default=linux"]);
        assert_eq!(
            lines("multiboot2"),
            ["multiboot2 /boot/xen.gz console=com1,vga com1=115200,8n1 dom0_mem=900M,max:900M loglvl=all"; 2]
        );
        assert_eq!(
            lines("module2 /boot"),
            [
                "module2 /boot/vmlinuz console=tty0 console=hvc0 quiet $blocks $options",
                "module2 /boot/vmlinuz console=tty0 console=hvc0 quiet imgfactory.guest=bsd $blocks $options",
            ]
        );
        assert_eq!(
            lines("linux /boot"),
            [
                "linux /boot/vmlinuz console=tty0 console=ttyS0,115200 quiet $blocks $options",
                "linux /boot/vmlinuz console=tty0 console=ttyS0,115200 quiet rescue $blocks $options",
            ]
        );
    }

    #[test]
    fn without_xen_the_menu_says_nothing_of_it() {
        let config =
            config(&Templates::built_in(), "demo", "", &boot("{entries: [linux]}"), &["bsd"]).unwrap();
        assert!(!config.contains("xen"), "{config}");
        assert!(config.contains("menuentry 'demo (without Xen)'"), "{config}");
    }

    #[test]
    fn words_of_the_recipe_are_no_commands_of_grub() {
        assert_eq!(words(" quiet  a=b,c x=$HOME;halt it's "), r"quiet a=b,c 'x=$HOME;halt' 'it'\''s'");
        assert_eq!(words(""), "");
    }

    #[test]
    fn the_early_configuration_looks_for_the_marker_and_the_menu() {
        assert!(EARLY_CONFIG.contains(&format!("--file {MARKER} ")));
        assert!(EARLY_CONFIG.ends_with(&format!("set prefix=($root){PREFIX}\n")));
        assert_eq!(CONFIG, format!("{PREFIX}/grub.cfg"));
    }

    #[test]
    fn any_name_becomes_a_volume_name() {
        for (name, volume) in [
            ("demo", "DEMO"),
            ("xeno-ppix2", "XENO_PPIX2"),
            ("a-very-long-name-of-more-than-32-letters", "A_VERY_LONG_NAME_OF_MORE_THAN_32"),
        ] {
            assert_eq!(volume_name(name), volume);
        }
    }
}
