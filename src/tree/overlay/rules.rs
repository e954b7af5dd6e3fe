//! `overlays/NAME.yaml`: owners, modes, attributes, devices, and what is taken out of the tree.
//!
//! ```yaml
//! remove: [/usr/share/doc/**]
//! paths:
//!   /etc/sudoers.d/live: {mode: 0440}
//!   /home/live/**: {owner: live, group: live}
//!   /usr/bin/ping: {capabilities: cap_net_raw+ep}
//!   /var/spool/x: {make: directory, owner: mail, mode: 2770}
//!   /dev/console: {make: char 5 1}
//! ```

use crate::yaml::findings::Located;
use crate::yaml::node;
use crate::yaml::node::{Value, YamlNode};
use crate::yaml::shape::{FromNode, Keys, located};
use crate::yaml::{Findings, Scalar, Wrong};

use super::Capabilities;

/// The rules of an overlay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// What people call the file: its path.
    pub name: String,
    /// Its text, for findings.
    pub text: String,
    /// Patterns ([`Glob`](crate::tree::glob::Glob)) of what is taken out of the tree before the overlay goes in.
    pub remove: Vec<Located<String>>,
    /// Paths or patterns, and what is to be so there; in the order of the file, so a later one has the last
    /// word.
    pub paths: Vec<(Located<String>, PathRule)>,
}

/// What is to be so at a path. What is not given stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PathRule {
    /// What `make:` creates at the path before the other rules apply.
    pub make: Option<Located<Make>>,
    pub owner: Option<Located<Owner>>,
    pub group: Option<Located<Owner>>,
    /// Its permission bits, 0o7777 at most.
    pub mode: Option<Located<u16>>,
    pub capabilities: Option<Located<Capabilities>>,
    /// Further attributes by full name.
    pub xattrs: Vec<(String, String)>,
}

/// What an overlay's directory can't hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Make {
    /// An empty directory, or one that is there.
    Directory,
    Fifo,
    CharDevice {
        major: u32,
        minor: u32,
    },
    BlockDevice {
        major: u32,
        minor: u32,
    },
}

/// A user or group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    Id(u32),
    /// By its name in the tree.
    Name(String),
}

impl Rules {
    /// Reads rules. `name` is what people call the text: its path.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn parse(name: &str, text: &str) -> Result<Rules, Findings> {
        let mut findings = Findings::new(name, text);
        let root = node::parse(text, &mut findings);
        let file = root.and_then(|root| RulesFile::from_node(&root, &mut findings));
        findings.none_or()?;
        let RulesFile { remove, paths } = file.unwrap_or_default();
        let remove = remove.into_iter().map(|Located { span, value }| Located { span, value: value.0 });
        Ok(Rules { name: name.into(), text: text.into(), remove: remove.collect(), paths })
    }
}

#[derive(Default)]
struct RulesFile {
    remove: Vec<Located<Pattern>>,
    paths: Vec<(Located<String>, PathRule)>,
}

impl FromNode for RulesFile {
    fn from_node(node: &YamlNode, findings: &mut Findings) -> Option<Self> {
        let mut keys = Keys::open(node, findings)?;
        let remove = keys.take("remove", false);
        let paths = keys.take::<Paths>("paths", false);
        keys.close(None);
        Some(RulesFile {
            remove: remove.map(|list| list.value).unwrap_or_default(),
            paths: paths.map(|paths| paths.value.0).unwrap_or_default(),
        })
    }
}

/// Longest path: the kernel's PATH_MAX without the final NUL and the first `/`.
const MAX_PATH: usize = 4094;

/// A path from the root, or a pattern.
struct Pattern(String);

impl Scalar for Pattern {
    const KIND: &str = "a path";

    fn read(text: &str) -> Result<Self, Wrong> {
        let inner = text.strip_prefix('/').unwrap_or_default();
        if inner.is_empty() || inner.split('/').any(|part| matches!(part, "" | "." | "..")) {
            let instead = "write it from the root: `/etc/x`, `/usr/share/doc/**`";
            return Err(Wrong::new(format!("`{text}` is not a path in the tree"), instead));
        }
        if inner.len() > MAX_PATH {
            let what = format!("a path of {} bytes", inner.len());
            return Err(Wrong::new(what, format!("at most {MAX_PATH} are possible")));
        }
        Ok(Pattern(inner.to_owned()))
    }
}

struct Paths(Vec<(Located<String>, PathRule)>);

impl FromNode for Paths {
    fn from_node(node: &YamlNode, findings: &mut Findings) -> Option<Self> {
        let rules = entries(node, findings, "paths with what is to be so there")?;
        let rules = rules.iter().filter_map(|(path, node)| {
            let value = match Pattern::read(&path.value) {
                Ok(pattern) => pattern.0,
                Err(Wrong { what, instead }) => {
                    findings.add(&path.span, what, instead);
                    return None;
                }
            };
            let rule = PathRule::from_node(node, findings)?;
            if let Some(make) = &rule.make
                && value.contains(['*', '?'])
            {
                findings.add(&make.span, "a pattern can't be made", "give one path");
            }
            Some((Located { span: path.span.clone(), value }, rule))
        });
        Some(Paths(rules.collect()))
    }
}

impl FromNode for PathRule {
    fn from_node(node: &YamlNode, findings: &mut Findings) -> Option<Self> {
        let mut keys = Keys::open(node, findings)?;
        let rule = PathRule {
            make: keys.take("make", false),
            owner: keys.take("owner", false),
            group: keys.take("group", false),
            mode: keys
                .take::<OctalMode>("mode", false)
                .map(|mode| Located { span: mode.span, value: mode.value.0 }),
            capabilities: keys.take("capabilities", false),
            xattrs: keys.take::<Attributes>("xattrs", false).map(|list| list.value.0).unwrap_or_default(),
        };
        keys.close(None);
        Some(rule)
    }
}

impl Scalar for Make {
    const KIND: &str = "something to make";

    fn read(text: &str) -> Result<Self, Wrong> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let number = |word: &str| word.parse::<u32>().ok();
        // The kernel's dev_t has 12 bits for the major number, 20 for the minor one.
        let device = |major, minor| {
            Some((number(major).filter(|&n| n < 1 << 12)?, number(minor).filter(|&n| n < 1 << 20)?))
        };
        let make = match words[..] {
            ["directory"] => Some(Make::Directory),
            ["fifo"] => Some(Make::Fifo),
            ["char", major, minor] => {
                device(major, minor).map(|(major, minor)| Make::CharDevice { major, minor })
            }
            ["block", major, minor] => {
                device(major, minor).map(|(major, minor)| Make::BlockDevice { major, minor })
            }
            _ => None,
        };
        let instead = "allowed: `directory`, `fifo`, `char MAJOR MINOR`, `block MAJOR MINOR`";
        make.ok_or_else(|| Wrong::new(format!("`{text}` can't be made"), instead))
    }
}

impl Scalar for Owner {
    const KIND: &str = "a user or group";

    fn read(text: &str) -> Result<Self, Wrong> {
        if let Ok(id) = text.parse() {
            return Ok(Owner::Id(id));
        }
        if text.is_empty() || text.contains([':', ' ', ',']) || text.starts_with(|c: char| c.is_ascii_digit())
        {
            let what = format!("`{text}` is neither a name nor an id");
            return Err(Wrong::new(what, "write `owner: NAME` and `group: NAME`, or numbers"));
        }
        Ok(Owner::Name(text.to_owned()))
    }
}

/// Permission bits, always in octal: `755`, `0755`, `0o755`.
struct OctalMode(u16);

impl Scalar for OctalMode {
    const KIND: &str = "a mode";

    fn read(text: &str) -> Result<Self, Wrong> {
        let digits = text.strip_prefix("0o").unwrap_or(text);
        let octal =
            (3..=5).contains(&digits.len()) && digits.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
        let mode = u16::from_str_radix(digits, 8).ok().filter(|&mode| octal && mode <= 0o7777);
        let wrong = || Wrong::new(format!("`{text}` is not a mode"), "write it in octal: `0644`, `2755`");
        mode.map(OctalMode).ok_or_else(wrong)
    }
}

struct Attributes(Vec<(String, String)>);

impl FromNode for Attributes {
    fn from_node(node: &YamlNode, findings: &mut Findings) -> Option<Self> {
        let attributes = entries(node, findings, "names of attributes with their values")?;
        let attributes = attributes.iter().filter_map(|(name, node)| {
            let prefixes = ["user.", "trusted.", "security."];
            if !prefixes
                .iter()
                .any(|prefix| name.value.len() > prefix.len() && name.value.starts_with(prefix))
            {
                let what = format!("`{}` is not the name of an attribute", name.value);
                findings.add(&name.span, what, "it begins with `user.`, `trusted.` or `security.`");
                return None;
            }
            let value = located::<Text>(node, findings)?;
            Some((name.value.clone(), value.value.0))
        });
        Some(Attributes(attributes.collect()))
    }
}

/// A value that may be any text.
struct Text(String);

impl Scalar for Text {
    const KIND: &str = "text";

    fn read(text: &str) -> Result<Self, Wrong> {
        Ok(Text(text.to_owned()))
    }
}

/// The entries of a map whose keys are free.
fn entries<'n>(
    node: &'n YamlNode,
    findings: &mut Findings,
    what: &str,
) -> Option<&'n [(Located<String>, YamlNode)]> {
    match &node.value {
        Value::Map(map) => Some(map),
        Value::Null => Some(&[]),
        other => {
            let found = other.kind();
            findings.add(&node.span, format!("{found}, where {what} belong"), "write `key: value`");
            None
        }
    }
}
