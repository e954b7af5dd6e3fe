//! `keys/<key ID>.txt`, a rotation statement: a key names its successors. So boot media that have only an old key
//! accept what the next one signs. Written once, never changed.

use super::signed::{Document, TrustedKeys};
use super::{MAX_LINE, ReleaseTextFault};
use crate::names::ImageName;
use crate::text::{At, Lines, TextFault};

/// Most keys in one statement.
const MAX: usize = 8;
/// Longest file, signature included.
const LIMIT: u64 = 4096;
/// Most statements that are followed from one key to the next.
pub const MAX_HOPS: usize = 16;

/// A rotation statement: the keys that come after the one that signs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Successors {
    pub name: ImageName,
    /// Public keys in minisign's base64; 1 to 8, each once.
    pub keys: Vec<String>,
}

impl Successors {
    /// The keys as such.
    pub fn trusted(&self) -> TrustedKeys {
        TrustedKeys::parse(&self.keys.join("\n")).expect("each was read when the text was")
    }
}

impl Document for Successors {
    const FILE: &'static str = "keys";
    const LIMIT: u64 = LIMIT;

    fn decode_text(text: &[u8]) -> Result<Self, At<ReleaseTextFault>> {
        let mut lines = Lines::new(text, LIMIT, MAX_LINE);
        decode(&mut lines).map_err(|fault| At { file: Self::FILE, line: lines.number(), fault })
    }

    fn to_text(&self) -> String {
        let keys: String = self.keys.iter().map(|key| format!("key {key}\n")).collect();
        format!("imgfactory-keys 1\nname: {}\n{keys}end\n", self.name)
    }

    fn trusted_comment(&self) -> String {
        format!("imgfactory {} keys", self.name)
    }
}

fn decode(lines: &mut Lines<&[u8]>) -> Result<Successors, ReleaseTextFault> {
    lines.heading("imgfactory-keys")?;
    let name = lines.name("name:")?;
    let mut keys: Vec<String> = Vec::new();
    loop {
        let line = lines.need("end")?;
        if line == "end" && !keys.is_empty() {
            break;
        }
        let fits = line.strip_prefix("key ").filter(|key| key.len() == 56 && TrustedKeys::parse(key).is_ok());
        match fits {
            Some(key) if keys.len() < MAX && !keys.iter().any(|other| other == key) => keys.push(key.into()),
            _ => {
                let want = "key <public key>, once, 8 at most";
                return Err(TextFault::Shape { found: line.into(), want }.into());
            }
        }
    }
    lines.finish()?;
    Ok(Successors { name, keys })
}
