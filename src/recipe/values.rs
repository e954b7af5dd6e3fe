//! The words of a recipe: names, sizes, times, paths, URLs. Each is checked where it is read, and what has one
//! of these types is known to be right.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator};

use crate::yaml::shape::{HasSchema, Scalar, Wrong};

/// Declares a checked text: a newtype with one way in.
macro_rules! word {
    ($(
        $(#[$doc:meta])*
        pub struct $Name:ident as $kind:literal, pattern $pattern:literal;
    )*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $Name(String);

        impl $Name {
            /// Returns the value as it is written in a recipe.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $Name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $Name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $Name {
            type Err = Wrong;

            fn from_str(text: &str) -> Result<Self, Wrong> {
                Self::read(text)
            }
        }

        impl HasSchema for $Name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($Name).into()
            }

            fn schema(_: &mut SchemaGenerator) -> Schema {
                word_schema($pattern, $kind)
            }
        }
    )*};
}

word! {
    /// A host name without a domain.
    pub struct HostName as "a host name", pattern "^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$";

    /// Name of a directory below `overlays/`.
    pub struct OverlayName as "an overlay's name", pattern "^[A-Za-z0-9][A-Za-z0-9._-]*$";

    /// A path below the project root, with `/`, without `.` and `..`.
    pub struct ProjectPath as "a path", pattern "^[^/].*$";

    /// A suite of an archive: `trixie`, `trixie-security`, `stable`.
    pub struct Suite as "a suite", pattern "^[a-z0-9][a-z0-9.-]*(/[a-z0-9.-]+)*$";

    /// A component of an archive: `main`, `contrib`.
    pub struct Component as "a component", pattern "^[a-z0-9][a-z0-9.-]*(/[a-z0-9.-]+)*$";

    /// A package, as apt takes it: a name, with `:arch`, `=version` or `/suite` if need be.
    pub struct Package as "a package", pattern "^[a-z0-9][a-z0-9+.-]+(:[a-z0-9]+)?([=/][A-Za-z0-9.+~:-]+)?$";

    /// A kernel module, without its directory and ending.
    pub struct Module as "a kernel module", pattern "^[A-Za-z0-9_-]+$";

    /// A NetBSD release: `10.1`, `7.1.2`.
    pub struct BsdVersion as "a NetBSD release", pattern "^[0-9]{1,3}(\\.[0-9]{1,3}){1,2}$";

    /// A set of a NetBSD release, without its ending: `base`, `xfont`.
    pub struct SetName as "a set", pattern "^[a-z0-9][a-z0-9-]*$";

    /// A NetBSD kernel, without `netbsd-` and `.gz`.
    pub struct KernelName as "a kernel's name", pattern "^[A-Z][A-Z0-9_]*$";

    /// A file on a web server.
    pub struct FileUrl as "the URL of a file", pattern "^https?://[^ ?#]+[^/ ?#]$";

    /// Any text of one line.
    pub struct Line as "a line of text", pattern "^[^\\n]*$";
}

/// The schema of a word.
pub(super) fn word_schema(pattern: &str, kind: &str) -> Schema {
    schemars::json_schema!({ "type": "string", "pattern": pattern, "description": kind })
}

/// Refuses `text` unless `good`.
pub(super) fn unless(good: bool, text: &str, kind: &str, instead: &str) -> Result<String, Wrong> {
    if good { Ok(text.to_owned()) } else { Err(Wrong::new(format!("`{text}` is not {kind}"), instead)) }
}

/// 1 to 63 of `letter` and `-`, which neither begins nor ends it.
pub(super) fn is_label(text: &str, letter: impl Fn(u8) -> bool) -> bool {
    let dashes = text.starts_with('-') || text.ends_with('-');
    (1..=63).contains(&text.len()) && !dashes && text.bytes().all(|b| letter(b) || b == b'-')
}

pub(super) fn lower_or_digit(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

impl Scalar for HostName {
    const KIND: &str = "a host name";

    fn read(text: &str) -> Result<Self, Wrong> {
        let instead = "write 1 to 63 letters, digits and -, which neither begins nor ends it";
        unless(is_label(text, |b| b.is_ascii_alphanumeric()), text, Self::KIND, instead).map(HostName)
    }
}

impl Scalar for OverlayName {
    const KIND: &str = "an overlay's name";

    fn read(text: &str) -> Result<Self, Wrong> {
        let good = text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        unless(good, text, Self::KIND, "write the name of a directory in overlays/").map(OverlayName)
    }
}

impl Scalar for ProjectPath {
    const KIND: &str = "a path";

    fn read(text: &str) -> Result<Self, Wrong> {
        let good = !text.is_empty()
            && !text.contains(char::is_control)
            && text.split('/').all(|part| !matches!(part, "" | "." | ".."));
        unless(good, text, "a path in the project", "write it from the project root, without `..`")
            .map(ProjectPath)
    }
}

/// Checks that `text` is the URL of something on a web server; `Err` is what would be right.
pub(super) fn check_url(text: &str) -> Result<(), &'static str> {
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err("write it like `http://mirror.example/demo/`");
    };
    if !matches!(scheme, "http" | "https") {
        return Err("use `http` or `https`");
    }
    if rest.contains(|c: char| c.is_control() || c.is_whitespace() || "?#\"'\\<>{}|^`,@".contains(c)) {
        return Err("it may not have user names, `?`, `#`, spaces, commas or quotes");
    }
    let host = rest.split('/').next().unwrap_or_default();
    if is_authority(host) { Ok(()) } else { Err("after `://` comes a host, with `:port` if need be") }
}

/// Host name, IPv4 or `[IPv6]`, and perhaps a port.
fn is_authority(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            if address.parse::<core::net::Ipv6Addr>().is_err() {
                return false;
            }
            ("v6", rest)
        }
        None => text.find(':').map_or((text, ""), |at| text.split_at(at)),
    };
    let port_good = port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
    port_good && host.split('.').all(|label| is_label(label, |b| b.is_ascii_alphanumeric() || b == b'_'))
}

fn lower_or_digit_char(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

/// Parts of `[a-z0-9.-]`, separated by `/`, the first of which begins with a letter or digit.
fn is_archive_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && text.split('/').all(|part| {
            !part.is_empty() && part != ".." && part.bytes().all(|b| lower_or_digit(b) || b"-.".contains(&b))
        })
}

impl Scalar for Suite {
    const KIND: &str = "a suite";

    fn read(text: &str) -> Result<Self, Wrong> {
        let instead = "write it as the archive does: `trixie`, `trixie-security`, `sid`";
        unless(is_archive_word(text), text, Self::KIND, instead).map(Suite)
    }
}

impl Scalar for Component {
    const KIND: &str = "a component";

    fn read(text: &str) -> Result<Self, Wrong> {
        let instead = "write it as the archive does: `main`, `contrib`, `non-free-firmware`";
        unless(is_archive_word(text), text, Self::KIND, instead).map(Component)
    }
}

impl Scalar for Package {
    const KIND: &str = "a package";

    fn read(text: &str) -> Result<Self, Wrong> {
        let (name, rest) = text.find([':', '=', '/']).map_or((text, ""), |at| text.split_at(at));
        let name_good = name.len() >= 2
            && name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            && name.bytes().all(|b| lower_or_digit(b) || b"+-.".contains(&b));
        let rest_good = rest.bytes().all(|b| b.is_ascii_alphanumeric() || b".+~:=/-".contains(&b))
            && !rest.ends_with([':', '=', '/']);
        let instead = "write one name of a-z, 0-9, +, - and .; others go into lines of their own";
        unless(name_good && rest_good, text, Self::KIND, instead).map(Package)
    }
}

impl Scalar for Module {
    const KIND: &str = "a kernel module";

    fn read(text: &str) -> Result<Self, Wrong> {
        let good = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
        unless(good, text, Self::KIND, "write its name alone: `virtio_net`, not its file").map(Module)
    }
}

impl Scalar for BsdVersion {
    const KIND: &str = "a NetBSD release";

    fn read(text: &str) -> Result<Self, Wrong> {
        let parts: Vec<&str> = text.split('.').collect();
        let number = |part: &&str| (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
        let good = (2..=3).contains(&parts.len()) && parts.iter().all(number);
        unless(good, text, Self::KIND, "write its number: `10.1`, `7.1.2`").map(BsdVersion)
    }
}

impl BsdVersion {
    /// Returns the first number of the version.
    pub fn major(&self) -> u32 {
        self.0.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0)
    }
}

impl Scalar for SetName {
    const KIND: &str = "a set";

    fn read(text: &str) -> Result<Self, Wrong> {
        let good = text.starts_with(lower_or_digit_char)
            && text.bytes().all(|b| lower_or_digit(b) || b == b'-')
            && !text.ends_with("tgz");
        unless(good, text, Self::KIND, "write its name without an ending: `base`, `etc`").map(SetName)
    }
}

impl Scalar for KernelName {
    const KIND: &str = "a kernel's name";

    fn read(text: &str) -> Result<Self, Wrong> {
        let good = text.starts_with(|c: char| c.is_ascii_uppercase())
            && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
        unless(good, text, Self::KIND, "write it without `netbsd-` and `.gz`: `XEN3_DOMU`").map(KernelName)
    }
}

impl Scalar for FileUrl {
    const KIND: &str = "the URL of a file";

    fn read(text: &str) -> Result<Self, Wrong> {
        check_url(text).map_err(|instead| Wrong::new(format!("`{text}` is not {}", Self::KIND), instead))?;
        let file = text.rsplit('/').next().unwrap_or_default();
        let host_only = text.matches('/').count() < 3;
        let good = !host_only && !matches!(file, "" | "." | "..");
        let parts = text.split('/').skip(3).all(|part| part != "..");
        unless(good && parts, text, Self::KIND, "write it like `https://mirror.example/disk.img`")
            .map(FileUrl)
    }
}

impl FileUrl {
    /// Returns the last component of the path.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }
}

impl Scalar for Line {
    const KIND: &str = "a line of text";

    fn read(text: &str) -> Result<Self, Wrong> {
        if text.contains(char::is_control) {
            return Err(Wrong::new("control characters or several lines; write one line of text", ""));
        }
        Ok(Line(text.to_owned()))
    }
}

/// Types that the schema describes as schemars does, wherever they are used.
macro_rules! plain {
    ($($Type:ty),*) => {$(
        impl HasSchema for $Type {
            fn schema_name() -> Cow<'static, str> {
                <$Type as JsonSchema>::schema_name()
            }

            fn is_inline() -> bool {
                true
            }

            fn schema(generator: &mut SchemaGenerator) -> Schema {
                <$Type as JsonSchema>::json_schema(generator)
            }
        }
    )*};
}

plain!(bool, u32);

impl Scalar for String {
    const KIND: &str = "text";

    fn read(text: &str) -> Result<Self, Wrong> {
        Ok(text.to_owned())
    }
}

impl Scalar for bool {
    const KIND: &str = "`true` or `false`";

    fn read(text: &str) -> Result<Self, Wrong> {
        match text {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(Wrong::new(format!("`{text}` is neither true nor false"), "write `true` or `false`")),
        }
    }
}

impl Scalar for u32 {
    const KIND: &str = "a number";

    fn read(text: &str) -> Result<Self, Wrong> {
        text.parse()
            .map_err(|_| Wrong::new(format!("`{text}` is not a number"), "write a whole number, 0 or more"))
    }
}

/// A number of bytes, written as such or with `KiB`, `MiB`, `GiB`, `TiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// Units of a [`Size`], and how many bits each shifts.
const SIZE_UNITS: [(&str, u32); 5] = [("", 0), ("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];

impl Scalar for Size {
    const KIND: &str = "a size";

    fn read(text: &str) -> Result<Self, Wrong> {
        let wrong = |instead: String| Wrong::new(format!("`{text}` is not a size"), instead);
        let (digits, unit) = split_number(text);
        let Some(&(_, shift)) = SIZE_UNITS.iter().find(|(name, _)| *name == unit) else {
            let letter = unit.chars().next().unwrap_or_default().to_ascii_uppercase();
            let meant = SIZE_UNITS[1..].iter().find(|(name, _)| name.starts_with(letter));
            let hint = match meant {
                Some((name, _)) if !digits.is_empty() => format!("did you mean `{digits}{name}`? "),
                _ => String::new(),
            };
            return Err(wrong(format!("{hint}allowed: whole bytes, or KiB, MiB, GiB, TiB, as in `64MiB`")));
        };
        let number: u64 = digits
            .parse()
            .map_err(|_| wrong("write a whole number, and KiB, MiB, GiB or TiB: `64MiB`".into()))?;
        number.checked_mul(1 << shift).map(Size).ok_or_else(|| wrong("that is more than there can be".into()))
    }
}

impl HasSchema for Size {
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({
            "description": "a number of bytes, or with a unit: `64MiB`",
            "anyOf": [
                { "type": "integer", "minimum": 0 },
                { "type": "string", "pattern": "^[0-9]+ ?(KiB|MiB|GiB|TiB)?$" },
            ],
        })
    }
}

/// A time span in whole seconds, written as such or with `s`, `min`, `h`, `d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seconds(pub u64);

impl Scalar for Seconds {
    const KIND: &str = "a time";

    fn read(text: &str) -> Result<Self, Wrong> {
        let (digits, unit) = split_number(text);
        let seconds = match unit {
            "" | "s" => Some(1),
            "min" => Some(60),
            "h" => Some(3600),
            "d" => Some(86_400),
            _ => None,
        };
        let number = digits.parse::<u64>().ok();
        let time = number.zip(seconds).and_then(|(number, seconds)| number.checked_mul(seconds));
        time.map(Seconds).ok_or_else(|| {
            Wrong::new(
                format!("`{text}` is not a time"),
                "write whole seconds, or with s, min, h or d: `300s`, `5min`",
            )
        })
    }
}

impl HasSchema for Seconds {
    fn schema_name() -> Cow<'static, str> {
        "Seconds".into()
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({
            "description": "a number of seconds, or with a unit: `300s`, `5min`, `1h`, `7d`",
            "anyOf": [
                { "type": "integer", "minimum": 0 },
                { "type": "string", "pattern": "^[0-9]+ ?(s|min|h|d)?$" },
            ],
        })
    }
}

/// The digits a text begins with, and the rest without the space between.
fn split_number(text: &str) -> (&str, &str) {
    let (digits, unit) = text.split_at(text.bytes().take_while(u8::is_ascii_digit).count());
    (digits, unit.strip_prefix(' ').unwrap_or(unit))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What is said of a text that is no `T`.
    pub fn said<T: Scalar + fmt::Debug>(text: &str) -> String {
        let Wrong { what, instead } = T::read(text).unwrap_err();
        format!("{what}; {instead}")
    }

    #[test]
    fn sizes_are_bytes_or_binary_units() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("64MiB", 64 << 20),
            ("2 GiB", 2 << 30),
            ("16777215TiB", 16_777_215 << 40),
        ] {
            assert_eq!(Size::read(text), Ok(Size(bytes)), "{text}");
        }
        let allowed = "allowed: whole bytes, or KiB, MiB, GiB, TiB, as in `64MiB`";
        for (text, instead) in [
            ("64MB", format!("did you mean `64MiB`? {allowed}")),
            ("64m", format!("did you mean `64MiB`? {allowed}")),
            ("1.5GiB", allowed.to_owned()),
            ("big", allowed.to_owned()),
            ("MiB", "write a whole number, and KiB, MiB, GiB or TiB: `64MiB`".to_owned()),
            ("-1", allowed.to_owned()),
            ("16777216TiB", "that is more than there can be".to_owned()),
        ] {
            assert_eq!(said::<Size>(text), format!("`{text}` is not a size; {instead}"));
        }
    }

    #[test]
    fn times_are_whole_seconds_minutes_or_hours() {
        for (text, seconds) in [("3", 3), ("300s", 300), ("5min", 300), ("2 h", 7200)] {
            assert_eq!(Seconds::read(text), Ok(Seconds(seconds)), "{text}");
        }
        for text in ["5m", "-1", "1.5s", "", "99999999999999999999s", "18446744073709551615h"] {
            assert!(
                said::<Seconds>(text)
                    .ends_with("write whole seconds, or with s, min, h or d: `300s`, `5min`")
            );
        }
    }

    #[test]
    fn words_are_told_from_what_is_none() {
        fn check<T: Scalar + fmt::Debug>(good: &[&str], bad: &[&str]) {
            for text in good {
                assert!(T::read(text).is_ok(), "{text:?} is {}", T::KIND);
            }
            for text in bad {
                assert!(T::read(text).is_err(), "{text:?} is not {}", T::KIND);
            }
        }
        let long = "x".repeat(64);
        check::<HostName>(&["demo", "Box-1"], &["", "a.b", "-a", "a_b", &long]);
        check::<OverlayName>(&["common", "demo-host", "a.b"], &["", ".", "..", ".git", "a/b"]);
        check::<ProjectPath>(&["keys/demo", "a b/c"], &["", "/etc", "../x", "a//b", "a/./b", "a/", "a\nb"]);
        check::<Suite>(
            &["trixie", "trixie-security", "stable/updates"],
            &["", "Trixie", "a b", "../x", "-x"],
        );
        check::<Component>(&["main", "non-free-firmware"], &["", "main,contrib", "main contrib"]);
        check::<Package>(
            &["udev", "g++", "libc6:i386", "bash=5.2-1~deb13u1", "xen-utils-4.20", "vim/trixie-backports"],
            &["", "a", "Udev", "udev, dbus", "udev dbus", "-x", "udev=", "?all"],
        );
        check::<Module>(&["virtio_net", "8139too"], &["", "virtio_net.ko", "drivers/net"]);
        check::<Line>(&["", "quiet splash", "größe"], &["a\nb", "a\tb", "\u{1b}[31m"]);
        check::<bool>(&["true", "false"], &["yes", "no", "on", "True", "1", ""]);
        check::<u32>(&["0", "4294967295"], &["-1", "4294967296", "1.0", "two", ""]);
    }
}
