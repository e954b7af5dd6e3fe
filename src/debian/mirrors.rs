//! Where Debian's archives are: given by the user, or as this machine's own apt has it.

use super::{Archive, SetError};

/// The archives with `Label:` in their InRelease files, and the directory that each usually is on a mirror: the
/// last component of its URI.
const ARCHIVES: [(Archive, &str, &str); 2] =
    [(Archive::Debian, "Debian", "debian"), (Archive::Security, "Debian-Security", "debian-security")];

/// A URI for each archive that one is known for, without a `/` at the end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArchiveMirrors {
    debian: Option<String>,
    security: Option<String>,
}

/// What `apt-get indextargets --format` is to print for [`ArchiveMirrors::from_index_targets`].
pub const INDEX_TARGETS_FORMAT: &str = "$(LABEL)|$(REPO_URI)";

impl ArchiveMirrors {
    /// The URI of an archive, if known.
    pub fn uri(&self, archive: Archive) -> Option<&str> {
        match archive {
            Archive::Debian => self.debian.as_deref(),
            Archive::Security => self.security.as_deref(),
        }
    }

    /// Whether all archives are known.
    pub fn is_complete(&self) -> bool {
        ARCHIVES.iter().all(|(archive, ..)| self.uri(*archive).is_some())
    }

    /// Takes from `other` what is not known here.
    pub fn or(self, other: ArchiveMirrors) -> Self {
        ArchiveMirrors { debian: self.debian.or(other.debian), security: self.security.or(other.security) }
    }

    /// Sets the URI of an archive unless it is known; says whether it did.
    fn set(&mut self, archive: Archive, uri: &str) -> bool {
        let slot = match archive {
            Archive::Debian => &mut self.debian,
            Archive::Security => &mut self.security,
        };
        let free = slot.is_none();
        slot.get_or_insert_with(|| uri.trim_end_matches('/').to_owned());
        free
    }

    /// From `--debian-mirror` or IMGFACTORY_DEBIAN_MIRROR: one URI or several with spaces between. The last
    /// component says which archive it is: `debian-security`, anything else is the main one. When only that is
    /// given and ends in `debian`, the security archive is taken to be beside it, as on most mirrors.
    ///
    /// # Errors
    /// [`SetError::Word`] for what is no URI, or an archive given twice.
    pub fn from_option(text: &str) -> Result<Self, SetError> {
        let mut mirrors = ArchiveMirrors::default();
        for uri in text.split_whitespace() {
            let refused = |why| SetError::Word { what: "a mirror", value: uri.to_owned(), why };
            if !uri.contains(":/") {
                return Err(refused("write it like `http://mirror.example/debian`"));
            }
            let archive = archive_by_directory(uri).unwrap_or(Archive::Debian);
            if !mirrors.set(archive, uri) {
                return Err(refused("another one is given for the same archive"));
            }
        }
        let base = mirrors.debian.as_ref().and_then(|uri| uri.strip_suffix("debian"));
        if let Some(base) = base.filter(|base| base.ends_with('/')) {
            let beside = format!("{base}debian-security");
            mirrors.set(Archive::Security, &beside);
        }
        Ok(mirrors)
    }

    /// From `apt-get indextargets` in [`INDEX_TARGETS_FORMAT`]: by the labels of the archives, whatever their
    /// URIs look like. Knows only what apt has lists of.
    pub fn from_index_targets(text: &str) -> Self {
        let mut mirrors = ArchiveMirrors::default();
        for (label, uri) in text.lines().filter_map(|line| line.split_once('|')) {
            if let Some((archive, ..)) = ARCHIVES.iter().find(|(_, known, _)| *known == label) {
                mirrors.set(*archive, uri);
            }
        }
        mirrors
    }

    /// From the text of an apt source file, one-line style or, if `deb822`, in paragraphs: by the last
    /// component of the URIs. Sources that are off do not count. Source: sources.list(5).
    pub fn from_source_file(text: &str, deb822: bool) -> Self {
        let mut mirrors = ArchiveMirrors::default();
        let uris = if deb822 { deb822_uris(text) } else { one_line_uris(text) };
        for uri in uris {
            if let Some(archive) = archive_by_directory(uri) {
                mirrors.set(archive, uri);
            }
        }
        mirrors
    }
}

fn archive_by_directory(uri: &str) -> Option<Archive> {
    let last = uri.trim_end_matches('/').rsplit('/').next()?;
    ARCHIVES.iter().find(|(.., directory)| *directory == last).map(|(archive, ..)| *archive)
}

/// URIs of `deb [options] URI suite components` lines.
fn one_line_uris(text: &str) -> Vec<&str> {
    let lines = text.lines().filter_map(|line| {
        let line = line.split('#').next()?.trim();
        let rest = line.strip_prefix("deb")?.strip_prefix([' ', '\t'])?.trim_start();
        let rest = match rest.strip_prefix('[') {
            Some(options) => options.split_once(']')?.1,
            None => rest,
        };
        rest.split_whitespace().next()
    });
    lines.collect()
}

/// URIs of the paragraphs with `Types: deb` that are not disabled.
fn deb822_uris(text: &str) -> Vec<&str> {
    let mut uris = Vec::new();
    for paragraph in paragraphs(text) {
        let field = |name: &str| {
            paragraph.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, values)| values)
        };
        let disabled = field("Enabled").is_some_and(|values| {
            values.first().is_some_and(|word| matches!(*word, "no" | "false" | "off" | "0" | "without"))
        });
        let binary = field("Types").is_some_and(|values| values.contains(&"deb"));
        if binary && !disabled {
            uris.extend(field("URIs").into_iter().flatten());
        }
    }
    uris
}

/// Fields with their words, by paragraph. Lines that begin with `#` are not there, also between the lines of
/// one field.
fn paragraphs(text: &str) -> Vec<Vec<(&str, Vec<&str>)>> {
    let mut all = vec![Vec::new()];
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let paragraph: &mut Vec<(&str, Vec<&str>)> = all.last_mut().expect("there is always one");
        if line.trim().is_empty() {
            all.push(Vec::new());
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, values)) = paragraph.last_mut() {
                values.extend(line.split_whitespace());
            }
        } else if let Some((key, values)) = line.split_once(':') {
            paragraph.push((key.trim(), values.split_whitespace().collect()));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(mirrors: &ArchiveMirrors) -> [Option<&str>; 2] {
        [Archive::Debian, Archive::Security].map(|archive| mirrors.uri(archive))
    }

    fn some<'u>(main: &'u str, security: &'u str) -> [Option<&'u str>; 2] {
        [main, security].map(|uri| (!uri.is_empty()).then_some(uri))
    }

    #[test]
    fn an_option_names_archives_by_their_last_component() {
        for (text, main, security) in [
            ("http://a.example/debian/", "http://a.example/debian", "http://a.example/debian-security"),
            (
                "http://s.example/debian-security http://a.example/debian",
                "http://a.example/debian",
                "http://s.example/debian-security",
            ),
            ("http://a.example/mydebian", "http://a.example/mydebian", ""),
            ("http://s.example/debian-security", "", "http://s.example/debian-security"),
            ("", "", ""),
        ] {
            assert_eq!(both(&ArchiveMirrors::from_option(text).unwrap()), some(main, security), "{text}");
        }
        for (text, message) in [
            (
                "mirror.example",
                "`mirror.example` can't be a mirror: write it like `http://mirror.example/debian`",
            ),
            (
                "http://a/x http://b/y",
                "`http://b/y` can't be a mirror: another one is given for the same archive",
            ),
        ] {
            assert_eq!(ArchiveMirrors::from_option(text).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn labels_tell_archives_whatever_their_uris() {
        let text = "Node Source|https://node.example/\nDebian|http://cache.example/a/\nDebian|http://b.example/\n\
                    Debian-Security|http://cache.example/s/\nDebian Backports|http://c.example/\n";
        let mirrors = ArchiveMirrors::from_index_targets(text);
        assert_eq!(both(&mirrors), some("http://cache.example/a", "http://cache.example/s"));
        assert!(mirrors.is_complete());
    }

    #[test]
    fn source_files_of_both_styles_are_read() {
        let one_line = "# deb http://old.example/debian x main\ndeb-src http://src.example/debian x main\n\
                        deb [ arch=amd64 signed-by=/k.gpg ] http://a.example/debian/ trixie main # deb\n\
                        deb\thttp://s.example/debian-security trixie-security main\n";
        let deb822 = "Types: deb\nEnabled: no\nURIs: http://off.example/debian\n\n\
                      Types: deb-src\nURIs: http://src.example/debian\n\n\
                      # comment\nTypes: deb deb-src\nURIs:\n# within\n  http://a.example/debian\nSuites: trixie\n\n\n\
                      types: deb\nuris: http://s.example/debian-security/\n";
        for (text, is_deb822) in [(one_line, false), (deb822, true)] {
            let mirrors = ArchiveMirrors::from_source_file(text, is_deb822);
            assert_eq!(both(&mirrors), some("http://a.example/debian", "http://s.example/debian-security"));
        }
        assert_eq!(both(&ArchiveMirrors::from_source_file("garbage\n:\n [", true)), some("", ""));
    }

    #[test]
    fn what_is_known_already_is_not_replaced() {
        let option = ArchiveMirrors::from_option("http://a.example/other").unwrap();
        let own = ArchiveMirrors::from_source_file(
            "deb http://b.example/debian x\ndeb http://b.example/debian-security x",
            false,
        );
        assert_eq!(both(&option.or(own)), some("http://a.example/other", "http://b.example/debian-security"));
    }
}
