//! `latest`: the signed pointer to one release, the last file that a publication writes.

use super::signed::{Document, DocumentError, TrustedKeys, Verified};
use super::{MAX_LATEST, MAX_LINE, MAX_MIRRORS, MAX_RELEASE, MirrorPath, Mirrors, Release, ReleaseTextFault};
use crate::digest::Digest;
use crate::names::{ImageName, Serial, UnixTime};
use crate::text::{At, Lines, TextFault, number, words};

/// Which release is the newest, and what its text and the list of mirrors must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Latest {
    pub name: ImageName,
    pub serial: Serial,
    /// `releases/<serial>.txt`
    pub release: Digest,
    /// `mirrors.txt`
    pub mirrors: Digest,
    /// When this pointer was made.
    pub published: UnixTime,
    /// When it is to be taken for stale; not before `published`.
    pub expires: UnixTime,
    /// Releases below this one are not to be used any more; not above `serial`.
    pub min_serial: Serial,
}

impl Latest {
    /// Where the release is.
    pub fn release_path(&self) -> MirrorPath {
        MirrorPath::Release(self.serial)
    }

    /// Checks and reads the release that this names.
    ///
    /// # Errors
    /// [`DocumentError`]: not the bytes that this names, or not the release that it is said to be.
    pub fn open_release(&self, bytes: &[u8], keys: &TrustedKeys) -> Result<Verified<Release>, DocumentError> {
        self.release.check(&self.release_path(), bytes, Self::FILE)?;
        let release = Verified::<Release>::open(bytes, keys)?;
        release.expect(&self.name, self.serial)?;
        Ok(release)
    }

    /// Checks and reads the list of mirrors that this names.
    ///
    /// # Errors
    /// As [`Latest::open_release`].
    pub fn open_mirrors(&self, bytes: &[u8], keys: &TrustedKeys) -> Result<Verified<Mirrors>, DocumentError> {
        self.mirrors.check(&MirrorPath::Mirrors, bytes, Self::FILE)?;
        let mirrors = Verified::<Mirrors>::open(bytes, keys)?;
        if mirrors.name != self.name {
            let (found, want) = (mirrors.name.clone(), self.name.clone());
            return Err(DocumentError::OtherName { file: Mirrors::FILE.into(), found, want });
        }
        Ok(mirrors)
    }
}

impl Document for Latest {
    const FILE: &'static str = "latest";
    const LIMIT: u64 = MAX_LATEST;

    fn decode_text(text: &[u8]) -> Result<Self, At<ReleaseTextFault>> {
        let mut lines = Lines::new(text, Self::LIMIT, MAX_LINE);
        decode(&mut lines).map_err(|fault| At { file: Self::FILE, line: lines.number(), fault })
    }

    fn to_text(&self) -> String {
        let Latest { name, serial, release, mirrors, published, expires, min_serial } = self;
        format!(
            "imgfactory-latest 1\n\
             name: {name}\n\
             serial: {serial}\n\
             release: releases/{serial}.txt {} {}\n\
             mirrors: mirrors.txt {} {}\n\
             published: {published}\n\
             expires: {expires}\n\
             min-serial: {min_serial}\n\
             end\n",
            release.sha256, release.len, mirrors.sha256, mirrors.len
        )
    }

    fn trusted_comment(&self) -> String {
        format!("imgfactory {} latest serial {}", self.name, self.serial)
    }
}

fn decode(lines: &mut Lines<&[u8]>) -> Result<Latest, ReleaseTextFault> {
    lines.heading("imgfactory-latest")?;
    let name = lines.name("name:")?;
    let serial = lines.serial("serial:")?;
    let release = named(lines.field("release:")?, &MirrorPath::Release(serial), MAX_RELEASE)?;
    let mirrors = named(lines.field("mirrors:")?, &MirrorPath::Mirrors, MAX_MIRRORS)?;
    let published = lines.time("published:")?;
    let expires = lines.time("expires:")?;
    if expires < published {
        return Err(ReleaseTextFault::BeforePublished { what: "expires", time: expires, published });
    }
    let min_serial = lines.serial("min-serial:")?;
    if min_serial > serial {
        return Err(ReleaseTextFault::MinSerial { min: min_serial, serial });
    }
    lines.end()?;
    Ok(Latest { name, serial, release, mirrors, published, expires, min_serial })
}

/// `<path> <sha256> <length>`, where the path can only be `want`.
fn named(value: &str, want: &MirrorPath, max: u64) -> Result<Digest, ReleaseTextFault> {
    let [path, sha256, len] = words(value, "<path> <sha256> <length>")?;
    let found: MirrorPath = path.parse()?;
    if found != *want {
        return Err(ReleaseTextFault::OtherPath { found, want: want.to_string() });
    }
    let sha256 = sha256.parse().map_err(TextFault::from)?;
    Ok(Digest { sha256, len: number("length", len, max)? })
}
