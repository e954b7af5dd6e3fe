//! `mirrors.txt`: where the release can be fetched, signed. `latest` names it by length and SHA-256, so an old
//! list can't be put in the place of a new one.

use super::signed::Document;
use super::{MAX_LINE, MAX_MIRRORS, ReleaseTextFault};
use crate::names::ImageName;
use crate::text::{At, Lines, TextFault, number32};
use crate::url::MirrorUrl;

/// Most mirrors in a list.
pub const MAX: usize = 64;
/// Most connections that a mirror can ask for.
const MAX_CONNECTIONS: u32 = 64;

/// The mirrors of a distribution, the preferred ones first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirrors {
    pub name: ImageName,
    /// Each URL once, at most 64.
    pub mirrors: Vec<Mirror>,
}

/// One line of `mirrors.txt`: a mirror and its options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// What paths are put after.
    pub url: MirrorUrl,
    /// Most connections that one client opens to it: 1 to 64. `None`: the client's own choice.
    pub max_connections: Option<u32>,
    /// Where it stands, for clients that choose by place: 1 to 32 letters, digits and `-`.
    pub location: Option<String>,
}

impl Document for Mirrors {
    const FILE: &'static str = "mirrors.txt";
    const LIMIT: u64 = MAX_MIRRORS;

    fn decode_text(text: &[u8]) -> Result<Self, At<ReleaseTextFault>> {
        let mut lines = Lines::new(text, Self::LIMIT, MAX_LINE);
        decode(&mut lines).map_err(|fault| At { file: Self::FILE, line: lines.number(), fault })
    }

    fn to_text(&self) -> String {
        let mut text = format!("imgfactory-mirrors 1\nname: {}\n", self.name);
        for Mirror { url, max_connections, location } in &self.mirrors {
            text.push_str(&format!("mirror {url}"));
            if let Some(most) = max_connections {
                text.push_str(&format!(" max-conn={most}"));
            }
            if let Some(location) = location {
                text.push_str(&format!(" location={location}"));
            }
            text.push('\n');
        }
        text.push_str("end\n");
        text
    }

    fn trusted_comment(&self) -> String {
        format!("imgfactory {} mirrors", self.name)
    }
}

fn decode(lines: &mut Lines<&[u8]>) -> Result<Mirrors, ReleaseTextFault> {
    lines.heading("imgfactory-mirrors")?;
    let name = lines.name("name:")?;
    let mut mirrors: Vec<Mirror> = Vec::new();
    loop {
        let line = lines.need("end")?;
        if line == "end" {
            break;
        }
        let shape = "mirror <url> [max-conn=<n>] [location=<word>]";
        let rest = line.strip_prefix("mirror ");
        let rest = rest.ok_or_else(|| TextFault::Shape { found: line.into(), want: shape })?;
        let mirror = mirror(rest)?;
        if mirrors.iter().any(|other| other.url == mirror.url) {
            return Err(ReleaseTextFault::DuplicateMirror(mirror.url.to_string()));
        }
        if mirrors.len() == MAX {
            return Err(ReleaseTextFault::TooManyMirrors { max: MAX });
        }
        mirrors.push(mirror);
    }
    lines.finish()?;
    Ok(Mirrors { name, mirrors })
}

fn mirror(text: &str) -> Result<Mirror, ReleaseTextFault> {
    let mut words = text.split(' ');
    let url = words.next().unwrap_or_default().parse()?;
    let mut mirror = Mirror { url, max_connections: None, location: None };
    for word in words {
        let bad = || ReleaseTextFault::MirrorOption(word.into());
        match word.split_once('=').ok_or_else(bad)? {
            ("max-conn", most) if mirror.max_connections.is_none() && mirror.location.is_none() => {
                let most = number32("max-conn", most, MAX_CONNECTIONS).ok().filter(|most| *most > 0);
                mirror.max_connections = Some(most.ok_or_else(bad)?);
            }
            ("location", place) if mirror.location.is_none() => {
                let plain = place.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
                if !plain || !(1..=32).contains(&place.len()) {
                    return Err(bad());
                }
                mirror.location = Some(place.into());
            }
            _ => return Err(bad()),
        }
    }
    Ok(mirror)
}
