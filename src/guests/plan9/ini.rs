//! The text of a plan9.ini, read as Plan 9's loaders read it: lines `name=value`, in blocks that a menu chooses from.
//!
//! A line `[name]` begins a block. The block `menu` lists entries, each of which is the name of another block; a loader
//! shows them and waits. What it then uses are the lines of that block and those of every block `common`, in the order
//! of the file, and of two lines with one name the first. Sources: plan9.ini(8), 9load's `bootconf`.

use super::Plan9Error;

/// The block that lists the entries.
const MENU: &str = "menu";
/// The block whose lines each entry has.
const COMMON: &str = "common";

/// The settings of a medium, and the menu that a loader shows of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ini {
    /// The lines, each with the name of its block; those before the first block are in `common`.
    lines: Vec<(String, String)>,
    /// Names of the entries, in the order of the menu.
    entries: Vec<String>,
    /// The entry that the loader takes after a while.
    default: Option<String>,
}

/// Where a medium's system is, which decides what boots it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediumKind {
    /// An ISO with a live system, and often with an installer.
    Iso,
    /// A disk that a system was installed on.
    Disk,
}

impl Ini {
    /// Reads a text. There is none that can't be read.
    pub fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let mut ini = Ini::default();
        let mut block = COMMON.to_owned();
        for line in text.lines().map(str::trim) {
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                block = name.trim().to_owned();
            } else if line.is_empty() || line.starts_with('#') {
                continue;
            } else if block == MENU {
                // A description or a time follows after a comma.
                let name = |value: &str| value.split(',').next().unwrap_or_default().trim().to_owned();
                match line.split_once('=') {
                    Some(("menuitem", value)) => ini.entries.push(name(value)),
                    Some(("menudefault", value)) => ini.default = Some(name(value)),
                    // Of the menu's own screen.
                    _ => {}
                }
            } else {
                ini.lines.push((block.clone(), line.to_owned()));
            }
        }
        ini
    }

    /// Whether a loader shows a menu.
    pub fn has_menu(&self) -> bool {
        !self.entries.is_empty()
    }

    /// The lines of the entry that boots the medium's system without a question: the one that is `wanted`, or that
    /// [`Ini::live`] finds. Without a menu, all lines.
    ///
    /// # Errors
    /// [`Plan9Error::Entry`], [`Plan9Error::NoMenu`] when the menu has no such entry.
    pub fn chosen(&self, wanted: Option<&str>, kind: MediumKind) -> Result<Vec<&str>, Plan9Error> {
        let entry = match wanted {
            Some(wanted) if !self.has_menu() => {
                return Err(Plan9Error::NoMenu { entry: wanted.to_owned() });
            }
            Some(wanted) if !self.entries.iter().any(|entry| entry == wanted) => {
                return Err(Plan9Error::Entry { entry: wanted.to_owned(), known: self.entries.clone() });
            }
            Some(wanted) => Some(wanted),
            None => self.live(kind),
        };
        Ok(match entry {
            Some(entry) => self.lines_of(entry),
            None => self.lines.iter().map(|(_, line)| line.as_str()).collect(),
        })
    }

    /// The entry that boots the system that is on the medium. An entry without a kernel boots nothing, and one whose
    /// name or kernel has `inst` or `flop` in it installs. Of the others it is, on an ISO, the first that boots from
    /// the CD (`cdboot=yes`, or `cd` in the kernel's name); where there is none, and on a disk, the default of the menu;
    /// else the first.
    fn live(&self, kind: MediumKind) -> Option<&str> {
        let entries = || self.entries.iter().map(String::as_str);
        let boots = |entry: &&str| self.value(entry, "bootfile").is_some();
        let installs = |entry: &&str| {
            let kernel = self.value(entry, "bootfile").map(kernel_name).unwrap_or_default();
            [entry, kernel].iter().any(|name| name.contains("inst") || name.contains("flop"))
        };
        let is_cd = |entry: &&str| {
            let kernel = self.value(entry, "bootfile").map(kernel_name).unwrap_or_default();
            kernel.contains("cd") || self.value(entry, "cdboot") == Some("yes")
        };
        let is_default = |entry: &&str| self.default.as_deref() == Some(*entry);
        let live: Vec<&str> = entries().filter(|entry| boots(entry) && !installs(entry)).collect();
        let of_cd = (kind == MediumKind::Iso).then(|| live.iter().copied().find(is_cd)).flatten();
        of_cd
            .or_else(|| live.iter().copied().find(is_default))
            .or_else(|| live.first().copied())
            .or_else(|| entries().find(is_default))
            .or_else(|| entries().next())
    }

    /// The lines by which an entry boots.
    fn lines_of(&self, entry: &str) -> Vec<&str> {
        let lines = self.lines.iter().filter(|(block, _)| block == COMMON || block == entry);
        lines.map(|(_, line)| line.as_str()).collect()
    }

    fn value(&self, entry: &str, name: &str) -> Option<&str> {
        self.lines_of(entry).into_iter().find_map(|line| value_of(line, name))
    }
}

/// The value of a line, if the line has that name.
pub fn value_of<'l>(line: &'l str, name: &str) -> Option<&'l str> {
    line.strip_prefix(name)?.strip_prefix('=').map(str::trim)
}

/// The last part of `sdD0!cdboot!9pccd.gz` and of `/386/9pc`.
fn kernel_name(bootfile: &str) -> &str {
    bootfile.rsplit(['!', '/']).next().unwrap_or(bootfile)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In the shape of 9legacy's: the installer first.
    const LEGACY: &str = "# of the CD\r\n[common]\r\ndebugboot=1\r\n*nobiosload=1\r\n\r\n[menu]\r\n\
        menuitem=install, Install it\r\nmenuitem=cdboot, Boot from the CD\r\n\r\n[install]\r\n\
        bootfile=sdD0!cdboot!9pcflop.gz\r\nmouseport=ask\r\ncdboot=yes\r\n[cdboot]\r\nbootfile=sdD0!cdboot!9pccd.gz\r\n\
        cdboot=yes\r\n";

    fn kernel(text: &str, kind: MediumKind) -> String {
        let ini = Ini::parse(text.as_bytes());
        let lines = ini.chosen(None, kind).unwrap();
        lines.iter().find_map(|line| value_of(line, "bootfile")).unwrap_or("none").to_owned()
    }

    #[test]
    fn an_entry_has_the_lines_of_its_block_and_those_of_common() {
        let ini = Ini::parse(LEGACY.as_bytes());
        assert!(ini.has_menu());
        assert_eq!(
            ini.chosen(None, MediumKind::Iso).unwrap(),
            ["debugboot=1", "*nobiosload=1", "bootfile=sdD0!cdboot!9pccd.gz", "cdboot=yes"]
        );
        assert_eq!(
            ini.chosen(Some("install"), MediumKind::Iso).unwrap()[2..4],
            ["bootfile=sdD0!cdboot!9pcflop.gz", "mouseport=ask"]
        );
        assert_eq!(
            Ini::parse(b"bootfile=9pc\n").chosen(Some("cd"), MediumKind::Iso).unwrap_err().to_string(),
            "its plan9.ini has no menu, so no entry `cd`; remove `entry` from the recipe"
        );
        assert_eq!(
            ini.chosen(Some("cd"), MediumKind::Iso).unwrap_err().to_string(),
            "its plan9.ini has no entry `cd`; the menu has `install`, `cdboot`"
        );
    }

    #[test]
    fn the_entry_is_that_of_the_system_on_the_medium() {
        let menu = |items: &[&str], default: &str, blocks: &str| {
            let items: String = items.iter().map(|item| format!("menuitem={item}\n")).collect();
            format!("[menu]\n{items}{default}\n{blocks}")
        };
        let two = "[a]\nbootfile=sdC0!9fat!9pcf\n[b]\nbootfile=sdC0!9fat!9pc64\n";
        let cd = "[a]\nbootfile=sdC0!9fat!9pcf\n[b]\nbootfile=/386/9pc\ncdboot=yes\n";
        for (text, kind, wanted) in [
            (LEGACY.to_owned(), MediumKind::Iso, "sdD0!cdboot!9pccd.gz"),
            (menu(&["a", "b"], "", two), MediumKind::Disk, "sdC0!9fat!9pcf"),
            (menu(&["a", "b"], "menudefault=b, 5", two), MediumKind::Disk, "sdC0!9fat!9pc64"),
            (menu(&["a", "b"], "menudefault=a", cd), MediumKind::Iso, "/386/9pc"),
            (menu(&["a", "b"], "menudefault=a", cd), MediumKind::Disk, "sdC0!9fat!9pcf"),
            (menu(&["none", "a"], "menudefault=none", two), MediumKind::Disk, "sdC0!9fat!9pcf"),
            (menu(&["installer"], "", "[installer]\nbootfile=x\n"), MediumKind::Iso, "x"),
            ("bootfile=/386/9pc\nmouseport=ask\n".into(), MediumKind::Iso, "/386/9pc"),
            ("[common]\nbootfile=first\n[x]\nbootfile=second\n".into(), MediumKind::Iso, "first"),
            (String::new(), MediumKind::Iso, "none"),
        ] {
            assert_eq!(kernel(&text, kind), wanted, "{text}");
        }
    }
}
