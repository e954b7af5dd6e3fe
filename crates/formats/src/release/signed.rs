//! Signed texts: a canonical text, and after its `end` line the four lines of a minisign signature over every
//! byte up to and including that line. The signature is checked first; what it does not cover is never parsed.

use std::fmt;
use std::ops::Deref;

use minisign_verify::{Error as Minisign, PublicKey, Signature};

use super::ReleaseTextFault;
use crate::digest::Sha256;
use crate::names::{ImageName, Serial};
use crate::text::At;

/// A text that is signed: [`super::Latest`], [`super::Release`], [`super::Mirrors`].
pub trait Document: Sized {
    /// Its usual file name, for messages.
    const FILE: &'static str;
    /// Longest file that is read, signature included.
    const LIMIT: u64;
    /// Reads the text up to and including its `end` line.
    ///
    /// # Errors
    /// [`At`] names the line.
    fn decode_text(text: &[u8]) -> Result<Self, At<ReleaseTextFault>>;
    /// The canonical text up to and including its `end` line.
    fn to_text(&self) -> String;
    /// What it is, in one line that is signed too: `imgfactory demo serial 42`.
    fn trusted_comment(&self) -> String;
}

/// Key ID of a minisign key, shown as 16 hex digits in upper case; minisign itself leaves out zeros at the front.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub [u8; 8]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016X}", u64::from_le_bytes(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl KeyId {
    /// Reads the 16 hex digits.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = |byte: u8| matches!(byte, b'0'..=b'9' | b'A'..=b'F');
        let plain = text.len() == 16 && text.bytes().all(digits);
        u64::from_str_radix(text, 16).ok().filter(|_| plain).map(|id| KeyId(id.to_le_bytes()))
    }

    /// From the base64 of a public key or of a signature: 2 bytes of algorithm, then these 8.
    fn of_base64(text: &str) -> Option<Self> {
        let bytes = base64(text.as_bytes().get(..16)?)?;
        bytes.get(2..10)?.try_into().ok().map(KeyId)
    }
}

/// Decodes base64 with its padding, as far as minisign's lines need it.
pub fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let digits = text.iter().position(|byte| *byte == b'=').unwrap_or(text.len());
    let padding = text.len() - digits;
    if padding > 2 || !text.len().is_multiple_of(4) || text[digits..].iter().any(|byte| *byte != b'=') {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    for chars in text.chunks_exact(4) {
        let mut bits = 0_u32;
        for char in chars {
            let value = match char {
                b'A'..=b'Z' => char - b'A',
                b'a'..=b'z' => char - b'a' + 26,
                b'0'..=b'9' => char - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                b'=' => 0,
                _ => return None,
            };
            bits = bits << 6 | u32::from(value);
        }
        let [_, three @ ..] = bits.to_be_bytes();
        bytes.extend(three);
    }
    bytes.truncate(bytes.len() - padding);
    Some(bytes)
}

/// Text that is no minisign public key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadKey {
    /// A line that is neither a comment nor a key.
    #[error("line {line}: not a minisign public key: 56 characters of base64 that begin with RW")]
    Line {
        /// Its number, from 1.
        line: usize,
    },
    /// Nothing but comments.
    #[error("contains no minisign public key")]
    NoKey,
}

/// The keys whose signatures are accepted.
#[derive(Clone, Debug)]
pub struct TrustedKeys(Vec<(KeyId, PublicKey)>);

impl TrustedKeys {
    /// Reads `minisign.pub` files, one after another, or bare base64 keys, one a line. Comments are skipped.
    ///
    /// # Errors
    /// [`BadKey`] names the line.
    pub fn parse(text: &str) -> Result<Self, BadKey> {
        let mut keys = Vec::new();
        // Editors of Windows begin a file with a byte order mark.
        for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with("untrusted comment:") {
                continue;
            }
            match (KeyId::of_base64(line), PublicKey::from_base64(line)) {
                (Some(id), Ok(key)) => keys.push((id, key)),
                _ => return Err(BadKey::Line { line: number + 1 }),
            }
        }
        if keys.is_empty() { Err(BadKey::NoKey) } else { Ok(TrustedKeys(keys)) }
    }

    /// These and more. Those that are known already stay once.
    #[must_use]
    pub fn with(&self, more: &TrustedKeys) -> Self {
        let mut keys = self.0.clone();
        let known = |keys: &[(KeyId, PublicKey)], id: KeyId, key: &PublicKey| {
            keys.iter().any(|(other, found)| *other == id && found == key)
        };
        for (id, key) in &more.0 {
            if !known(&keys, *id, key) {
                keys.push((*id, key.clone()));
            }
        }
        TrustedKeys(keys)
    }

    /// The IDs of the trusted keys, in the order in which they were given.
    pub fn ids(&self) -> impl Iterator<Item = KeyId> + '_ {
        self.0.iter().map(|(id, _)| *id)
    }

    fn list(&self) -> String {
        self.ids().map(|id| id.to_string()).collect::<Vec<_>>().join(", ")
    }
}

/// Why a signed file is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// Longer than files of its kind are.
    #[error("{file}: {found} bytes; the limit is {limit}")]
    TooLong {
        file: String,
        /// Bytes there are.
        found: u64,
        /// The highest length allowed, in bytes.
        limit: u64,
    },
    /// No `end` line with four lines after it.
    #[error("{file}: not signed: no `end` line with the four lines of a minisign signature after it")]
    NotSigned { file: &'static str },
    /// The four lines are there and are no signature.
    #[error("{file}: the four lines after `end` are not a minisign signature")]
    SignatureText { file: &'static str },
    /// A signature of a kind that is not supported.
    #[error(
        "{file}: the signature is not of the prehashed kind; sign with minisign 0.10 or later, without -l"
    )]
    SignatureKind { file: &'static str },
    /// Signed by a key that is not trusted.
    #[error("{file}: signed by key {key}, which is not trusted here; trusted: {trusted}")]
    UnknownKey {
        file: &'static str,
        /// The key that signed it.
        key: KeyId,
        trusted: String,
    },
    /// The text, or the signature's comment, is not what was signed.
    #[error("{file}: the signature of key {key} is wrong: the file was changed after it was signed")]
    BadSignature {
        file: &'static str,
        /// The key that the signature names.
        key: KeyId,
    },
    /// The signature is right, and the text is not of this kind.
    #[error(transparent)]
    Text(#[from] At<ReleaseTextFault>),
    /// Another length than the file above it says.
    #[error("{file}: {found} bytes; {by} says {want}")]
    Length {
        file: String,
        /// Bytes there are.
        found: u64,
        /// The file that names it.
        by: &'static str,
        /// Bytes it says.
        want: u64,
    },
    /// Another digest than the file above it says.
    #[error("{file}: SHA-256 {found}; {by} says {want}")]
    Digest {
        file: String,
        found: Sha256,
        /// The file that names it.
        by: &'static str,
        want: Sha256,
    },
    /// For another distribution or another image.
    #[error("{file}: belongs to `{found}`; `{want}` was expected")]
    OtherName {
        file: String,
        found: ImageName,
        /// Whose it ought to be.
        want: ImageName,
    },
    #[error("{file}: has serial {found} instead of {want}")]
    OtherSerial {
        file: String,
        found: Serial,
        /// What it ought to be.
        want: Serial,
    },
    /// The index that a release names is no index.
    #[error(transparent)]
    Index(#[from] crate::index::IndexError),
}

/// A text whose signature is that of a trusted key. Only [`Verified::open`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified<T> {
    document: T,
    key: KeyId,
    trusted_comment: String,
}

impl<T> Deref for Verified<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.document
    }
}

impl<T> Verified<T> {
    /// The key that signed it.
    pub fn key(&self) -> KeyId {
        self.key
    }

    /// The comment that is signed with it.
    pub fn trusted_comment(&self) -> &str {
        &self.trusted_comment
    }

    /// The text without its proof.
    pub fn into_inner(self) -> T {
        self.document
    }
}

impl<T: Document> Verified<T> {
    /// Checks the signature of a whole file, then reads its text.
    ///
    /// # Errors
    /// [`DocumentError`]: too long, not signed, an unknown key, a signature that does not fit, and only then what is
    /// wrong with the text.
    pub fn open(bytes: &[u8], keys: &TrustedKeys) -> Result<Self, DocumentError> {
        let Signed { text, key, trusted_comment } = verify(bytes, keys, T::FILE, T::LIMIT)?;
        Ok(Verified { document: T::decode_text(text)?, key, trusted_comment })
    }
}

/// A text whose signature is that of a trusted key, before it is read.
struct Signed<'a> {
    text: &'a [u8],
    key: KeyId,
    trusted_comment: String,
}

/// Checks the signature of a file of any kind.
fn verify<'a>(
    bytes: &'a [u8],
    keys: &TrustedKeys,
    file: &'static str,
    limit: u64,
) -> Result<Signed<'a>, DocumentError> {
    let found = bytes.len() as u64;
    if found > limit {
        return Err(DocumentError::TooLong { file: file.into(), found, limit });
    }
    let (text, signature) = split(bytes).ok_or(DocumentError::NotSigned { file })?;
    let signature = std::str::from_utf8(signature).map_err(|_| DocumentError::SignatureText { file })?;
    let (key, signature) = parse_signature(signature).map_err(|fault| match fault {
        Minisign::UnsupportedAlgorithm => DocumentError::SignatureKind { file },
        _ => DocumentError::SignatureText { file },
    })?;
    // Two keys of one number are possible, if unlikely: the number is random and not derived from the key.
    let mut trusted = keys.0.iter().filter(|(id, _)| *id == key).peekable();
    if trusted.peek().is_none() {
        return Err(DocumentError::UnknownKey { file, key, trusted: keys.list() });
    }
    for (_, public) in trusted {
        match public.verify(text, &signature, false) {
            Ok(()) => {
                let trusted_comment = signature.trusted_comment().to_owned();
                return Ok(Signed { text, key, trusted_comment });
            }
            Err(Minisign::UnexpectedAlgorithm) => return Err(DocumentError::SignatureKind { file }),
            Err(_) => {}
        }
    }
    Err(DocumentError::BadSignature { file, key })
}

/// The text up to and including its `end` line, and the four lines after it.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut ends = bytes.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at);
    // The file ends with LF; the fifth LF from the end is that of the `end` line.
    (ends.next()? + 1 == bytes.len()).then_some(())?;
    let (text, signature) = bytes.split_at(ends.nth(3)? + 1);
    text.ends_with(b"\nend\n").then_some((text, signature))
}

fn parse_signature(lines: &str) -> Result<(KeyId, Signature), Minisign> {
    // minisign-verify lets these two pass, minisign does not.
    if !lines.starts_with("untrusted comment: ") || lines.contains('\r') {
        return Err(Minisign::InvalidEncoding);
    }
    let signature = Signature::decode(lines)?;
    let key = lines.lines().nth(1).and_then(KeyId::of_base64).ok_or(Minisign::InvalidEncoding)?;
    Ok((key, signature))
}
