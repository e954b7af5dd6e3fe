//! The builder's side of signatures: keys of minisign's own format, and signed files.

use minisign::{KeyPair, PublicKey, SecretKey, SecretKeyBox};

use super::KeyId;
use super::signed::Document;

/// How the base64 of a secret key begins: Ed25519, no key derivation, BLAKE2b.
const UNPROTECTED: &str = "RWQAAEIy";
/// The same with scrypt: protected by a password.
const PROTECTED: &str = "RWRTY0Iy";
/// Its length: 158 bytes.
const SECRET_BASE64: usize = 212;

/// Where the checksum begins in those bytes.
const CHECKSUM_AT: usize = 126;

/// A secret key that can sign. Its `Debug` shows its number only.
pub struct SigningKey {
    secret: SecretKey,
    public: PublicKey,
}

/// Why a secret key can't be used or made.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Not a secret key of minisign.
    #[error("not a minisign secret key: a comment and one line of base64")]
    NotAKey,
    /// Protected by a password, and none was given.
    #[error("the key is protected by a password; give it")]
    NeedsPassword,
    /// The password is wrong, or the file was changed.
    #[error("wrong password, or the key is damaged")]
    WrongPassword,
    /// Not protected, and damaged.
    #[error("the key is damaged: its checksum is wrong")]
    Damaged,
    /// The system gave no random bytes, or no memory to derive a key in.
    #[error("can't make a key")]
    Generate(#[source] minisign::PError),
}

impl SigningKey {
    /// A new key, from the system's random bytes.
    ///
    /// # Errors
    /// [`KeyError::Generate`].
    pub fn generate() -> Result<Self, KeyError> {
        let KeyPair { pk: public, sk: secret } =
            KeyPair::generate_unencrypted_keypair().map_err(KeyError::Generate)?;
        Ok(SigningKey { secret, public })
    }

    /// A new key, and the text of its secret key file under a password. Deriving takes a second and 32 MiB.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn generate_protected(password: &str) -> Result<(Self, String), KeyError> {
        let KeyPair { sk, pk: public } =
            KeyPair::generate_encrypted_keypair(Some(password.into())).map_err(KeyError::Generate)?;
        let text =
            sk.to_box(Some(&secret_comment(key_id(&public)))).map_err(KeyError::Generate)?.into_string();
        let key = SigningKey::parse(&text, Some(password))?;
        Ok((key, text))
    }

    /// Reads a secret key file of `imgfactory keygen` or of `minisign -G`.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn parse(text: &str, password: Option<&str>) -> Result<Self, KeyError> {
        // The crate tells failures apart by words only; here the algorithms at the beginning do it.
        let base64 =
            text.lines().nth(1).filter(|line| line.len() == SECRET_BASE64).ok_or(KeyError::NotAKey)?;
        let key_box = SecretKeyBox::from(text.to_owned());
        let secret = if base64.starts_with(UNPROTECTED) {
            match key_box.into_unencrypted_secret_key() {
                Ok(secret) => secret,
                Err(_) => unsummed(base64).ok_or(KeyError::Damaged)?,
            }
        } else if base64.starts_with(PROTECTED) {
            let password = password.ok_or(KeyError::NeedsPassword)?;
            key_box.into_secret_key(Some(password.into())).map_err(|_| KeyError::WrongPassword)?
        } else {
            return Err(KeyError::NotAKey);
        };
        let public = PublicKey::from_secret_key(&secret).map_err(|_| KeyError::NotAKey)?;
        Ok(SigningKey { secret, public })
    }

    /// Its number.
    pub fn id(&self) -> KeyId {
        key_id(&self.public)
    }

    /// Text of the secret key file, not protected by a password.
    ///
    /// # Errors
    /// [`KeyError::Generate`].
    pub fn secret_text(&self) -> Result<String, KeyError> {
        let text = self.secret.to_box(Some(&secret_comment(self.id()))).map_err(KeyError::Generate)?;
        Ok(text.into_string())
    }

    /// Text of the public key file.
    pub fn public_text(&self) -> String {
        format!("untrusted comment: imgfactory public key {}\n{}\n", self.id(), self.public_base64())
    }

    /// The public key as one word.
    pub fn public_base64(&self) -> String {
        self.public.to_base64()
    }

    /// The whole file: text and signature. The text depends on the document only; the signature has random
    /// bytes in it, as Ed25519 against fault attacks is done.
    ///
    /// # Errors
    /// [`KeyError::Generate`] when the system gives no random bytes.
    pub fn sign(&self, document: &impl Document) -> Result<Vec<u8>, KeyError> {
        let mut file = document.to_text().into_bytes();
        let untrusted = format!("signature of key {}", self.id());
        let trusted = document.trusted_comment();
        let signature =
            minisign::sign(Some(&self.public), &self.secret, &file[..], Some(&trusted), Some(&untrusted))
                .map_err(KeyError::Generate)?;
        file.extend_from_slice(signature.into_string().as_bytes());
        Ok(file)
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey({})", self.id())
    }
}

/// A key without a checksum, as `minisign -G -W` makes them (0.11 at least). A trial signature, which the crate
/// verifies with the public half, stands in for it.
fn unsummed(base64: &str) -> Option<SecretKey> {
    let bytes = super::signed::base64(base64.as_bytes())?;
    let no_sum = bytes.get(CHECKSUM_AT..)? == [0; 32];
    let secret = SecretKey::from_bytes(&bytes).ok().filter(|_| no_sum)?;
    let public = PublicKey::from_secret_key(&secret).ok()?;
    minisign::sign(Some(&public), &secret, &b"trial"[..], Some(""), None).ok()?;
    Some(secret)
}

fn secret_comment(id: KeyId) -> String {
    format!("imgfactory secret key {id}")
}

fn key_id(public: &PublicKey) -> KeyId {
    let mut id = [0; 8];
    id.copy_from_slice(public.keynum());
    KeyId(id)
}
