//! `keys/<number>.txt`: a key says which keys come after it. So boot media that know only an old key believe what
//! the next one signs. Written once, never changed.

use super::signed::{Document, TrustedKeys};
use super::{Fault, MAX_LINE};
use crate::index::{At, ImageName, Lines, TextFault};

/// Most keys in one statement.
const MAX: usize = 8;
/// Longest file, signature included.
const LIMIT: u64 = 4096;
/// Most statements that are followed from one key to the next.
pub const MAX_HOPS: usize = 16;

/// The keys that come after the one that signs this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Successors {
    /// The distribution.
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

    fn decode_text(text: &[u8]) -> Result<Self, At<Fault>> {
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

fn decode(lines: &mut Lines<&[u8]>) -> Result<Successors, Fault> {
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

#[cfg(all(test, feature = "builder"))]
mod tests {
    use super::*;
    use crate::release::{MirrorPath, SigningKey, Verified};

    #[test]
    fn a_key_names_its_successors_and_each_damage_is_told() {
        let (old, new) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
        let keys = Successors { name: "demo".parse().unwrap(), keys: vec![new.public_base64()] };
        let trusted = TrustedKeys::parse(&old.public_text()).unwrap();
        let opened = Verified::<Successors>::open(&old.sign(&keys).unwrap(), &trusted).unwrap();
        assert_eq!((&*opened, opened.key()), (&keys, old.id()));
        let both = trusted.with(&opened.trusted());
        assert_eq!(both.ids().collect::<Vec<_>>(), [old.id(), new.id()]);
        assert_eq!(both.with(&trusted).ids().count(), 2);
        assert!(Verified::<Successors>::open(&new.sign(&keys).unwrap(), &trusted).is_err());
        let path = MirrorPath::Keys(old.id());
        assert_eq!(path.to_string().parse::<MirrorPath>().unwrap(), path);
        for wrong in ["keys/x.txt", "keys/0000.txt", "keys/ab00000000000000.txt", "keys/../x.txt"] {
            assert!(wrong.parse::<MirrorPath>().is_err(), "{wrong}");
        }

        let text = keys.to_text();
        let key = format!("key {}\n", new.public_base64());
        for (from, to) in [(&key[..], ""), (&key, "key RWQ\n"), (&key, &key.repeat(2)), ("end\n", "end\nx\n")]
        {
            let changed = text.replace(from, to);
            assert!(Successors::decode_text(changed.as_bytes()).is_err(), "{changed}");
        }
    }
}
