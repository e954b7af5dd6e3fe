//! Debian trees: which packages, from which archives, made by which mmdebstrap command.
//!
//! A [`PackageSet`] says what is wanted, a [`ArchiveMirrors`] where the archives are; together they give [`AptSource`]s and, with
//! what the archives' InRelease files say, a [`TreePlan`]: the arguments of mmdebstrap and the name under which its
//! tree can be kept. Running it is the host's work.

pub mod inrelease;
pub mod boot_tools;
pub mod mirrors;
pub mod owners;
pub mod plan;

use std::fmt;

use crate::recipe::{self, ArchiveLocation};

pub use crate::recipe::Archive;
pub use inrelease::InRelease;
pub use mirrors::ArchiveMirrors;
pub use plan::{MmdebstrapMode, TreePlan};

/// The keyring that every source is checked against unless it names its own; of Debian's package
/// `debian-archive-keyring`, at the same path here and in the tree.
pub const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// What a tree is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackageSet {
    /// The release: `trixie`.
    pub suite: String,
    /// mmdebstrap's variant: `minbase`, `apt`, `essential`, `extract`, ...
    pub variant: String,
    /// Components of the suite: `main`, ...
    pub components: Vec<String>,
    /// Further sources, in order.
    pub sources: Vec<MoreSource>,
    /// Packages beyond those of the variant.
    pub packages: Vec<String>,
    /// Options for apt as in apt.conf, for the making only: `APT::Install-Recommends "true"`.
    pub apt_options: Vec<String>,
    /// Run in order when the packages are there, with the tree's directory as argument.
    pub scripts: Vec<Script>,
}

/// A source beside the suite's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MoreSource {
    /// `trixie-security`, ...
    pub suite: String,
    pub place: AptLocation,
    pub components: Vec<String>,
    /// The keyring it is checked against, [`KEYRING`] if `None`.
    pub signed_by: Option<String>,
}

/// Where a source is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AptLocation {
    /// In one of Debian's archives, wherever the mirror for it is.
    Archive(Archive),
    /// An archive that this program has no name for.
    Uri(String),
}

/// A script for a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// What people call it: a path.
    pub name: String,
    /// Its text, with its `#!` line.
    pub text: Vec<u8>,
}

/// A source as apt gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AptSource {
    /// Where the archive is, without a `/` at the end.
    pub uri: String,
    pub suite: String,
    /// Components of the suite.
    pub components: Vec<String>,
    /// The keyring it is checked against.
    pub signed_by: String,
}

impl AptSource {
    /// Where its InRelease file is.
    pub fn inrelease_uri(&self) -> String {
        format!("{}/dists/{}/InRelease", self.uri, self.suite)
    }
}

/// The line for sources.list.
impl fmt::Display for AptSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AptSource { uri, suite, components, signed_by } = self;
        write!(f, "deb [signed-by={signed_by}] {uri} {suite} {}", components.join(" "))
    }
}

/// Why no plan can be made of a set.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SetError {
    /// No mirror is known for an archive.
    #[error(
        "no mirror for the archive `{}`, and this computer's apt sources have none; give one with \
         --debian-mirror URL or IMGFACTORY_DEBIAN_MIRROR, or a `uri` in the recipe",
        .0.as_str()
    )]
    NoMirror(Archive),
    /// Something that can't be a word of sources.list or of an option.
    #[error("`{value}` can't be {what}: {why}")]
    Word {
        /// What it was to be.
        what: &'static str,
        value: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

impl PackageSet {
    /// What a recipe asks for. `scripts` are the texts of its `customise`, in order.
    pub fn of(debian: &recipe::Debian, scripts: Vec<Script>) -> Self {
        // Whatever mmdebstrap's default: what the recipe says holds.
        let recommends = format!("APT::Install-Recommends \"{}\"", debian.recommends);
        PackageSet {
            suite: debian.suite.as_str().into(),
            variant: debian.variant.as_str().into(),
            components: names(&debian.components),
            sources: more_sources(debian),
            packages: debian.package_names().map(String::from).collect(),
            apt_options: vec![recommends],
            scripts,
        }
    }

    /// All sources, the suite's own first.
    ///
    /// # Errors
    /// [`SetError`].
    pub fn sources(&self, mirrors: &ArchiveMirrors) -> Result<Vec<AptSource>, SetError> {
        let own = MoreSource {
            suite: self.suite.clone(),
            place: AptLocation::Archive(Archive::Debian),
            components: self.components.clone(),
            signed_by: None,
        };
        std::iter::once(&own).chain(&self.sources).map(|source| source.resolve(mirrors)).collect()
    }
}

/// The sources that a recipe names beside its suite.
pub fn more_sources(debian: &recipe::Debian) -> Vec<MoreSource> {
    let sources = debian.sources.iter().map(|source| MoreSource {
        suite: source.suite.as_str().into(),
        place: match &source.origin {
            ArchiveLocation::Archive(archive) => AptLocation::Archive(*archive),
            ArchiveLocation::Uri(url) => AptLocation::Uri(url.as_str().into()),
        },
        components: names(&source.components),
        signed_by: None,
    });
    sources.collect()
}

fn names(components: &[recipe::Component]) -> Vec<String> {
    components.iter().map(|component| component.as_str().to_owned()).collect()
}

impl MoreSource {
    fn resolve(&self, mirrors: &ArchiveMirrors) -> Result<AptSource, SetError> {
        let uri = match &self.place {
            AptLocation::Uri(uri) => uri.clone(),
            AptLocation::Archive(archive) => {
                mirrors.uri(*archive).ok_or(SetError::NoMirror(*archive))?.to_owned()
            }
        };
        let uri = uri.trim_end_matches('/').to_owned();
        if !uri.contains(":/") {
            let why = "write it like `http://mirror.example/debian`";
            return Err(SetError::Word { what: "the URI of an archive", value: uri, why });
        }
        let suite = word("a suite", &self.suite)?;
        let components = self.components.iter().map(|name| word("a component", name));
        Ok(AptSource {
            uri: word("the URI of an archive", &uri)?,
            suite,
            components: components.collect::<Result<_, _>>()?,
            signed_by: word("a keyring", self.signed_by.as_deref().unwrap_or(KEYRING))?,
        })
    }
}

/// A word that changes nothing else in a line of sources.list or in an option's list.
fn word(what: &'static str, value: &str) -> Result<String, SetError> {
    let why = if value.is_empty() {
        "it is empty"
    } else if value.starts_with('-') {
        "it begins with `-`"
    } else if value.contains(|c: char| c.is_whitespace() || c.is_control() || "[],#\"".contains(c)) {
        "it has a space or one of `[ ] , # \"` in it"
    } else {
        return Ok(value.to_owned());
    };
    Err(SetError::Word { what, value: value.to_owned(), why })
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn set() -> PackageSet {
        PackageSet {
            suite: "trixie".into(),
            variant: "minbase".into(),
            components: vec!["main".into(), "non-free-firmware".into()],
            sources: vec![
                MoreSource {
                    suite: "trixie-security".into(),
                    place: AptLocation::Archive(Archive::Security),
                    components: vec!["main".into()],
                    signed_by: None,
                },
                MoreSource {
                    suite: "stable".into(),
                    place: AptLocation::Uri("https://packages.example/apt/".into()),
                    components: vec!["tools".into()],
                    signed_by: Some("/usr/share/keyrings/tools.gpg".into()),
                },
            ],
            packages: vec!["systemd-sysv".into(), "udev".into()],
            apt_options: vec![],
            scripts: vec![],
        }
    }

    #[test]
    fn sources_become_lines_with_their_keyrings() {
        let mirrors = ArchiveMirrors::from_option("http://mirror.example/debian/").unwrap();
        let lines: Vec<String> = set().sources(&mirrors).unwrap().iter().map(ToString::to_string).collect();
        let keys = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]";
        assert_eq!(
            lines,
            [
                format!("deb {keys} http://mirror.example/debian trixie main non-free-firmware"),
                format!("deb {keys} http://mirror.example/debian-security trixie-security main"),
                "deb [signed-by=/usr/share/keyrings/tools.gpg] https://packages.example/apt stable tools"
                    .into(),
            ]
        );
    }

    #[test]
    fn what_would_change_the_line_is_refused() {
        let mirrors = ArchiveMirrors::from_option("http://mirror.example/debian").unwrap();
        type Change = fn(&mut PackageSet);
        let cases: [(Change, &str); 4] = [
            (
                |set| set.suite = "tri xie".into(),
                "`tri xie` can't be a suite: it has a space or one of `[ ] , # \"` in it",
            ),
            (|set| set.suite = String::new(), "`` can't be a suite: it is empty"),
            (|set| set.components[0] = "-o".into(), "`-o` can't be a component: it begins with `-`"),
            (
                |set| set.sources[0].place = AptLocation::Uri("mirror.example".into()),
                "`mirror.example` can't be the URI of an archive: write it like `http://mirror.example/debian`",
            ),
        ];
        for (change, message) in cases {
            let mut set = set();
            change(&mut set);
            assert_eq!(set.sources(&mirrors).unwrap_err().to_string(), message);
        }
        assert_eq!(
            set().sources(&ArchiveMirrors::default()).unwrap_err(),
            SetError::NoMirror(Archive::Debian)
        );
    }
}
