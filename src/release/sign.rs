//! The builder's side of signatures: keys of minisign's own format, and signed files.

use minisign::{KeyPair, PublicKey, SecretKey, SecretKeyBox};

use formats::release::Document;
use formats::release::{DocumentError as Untrusted, KeyId, TrustedKeys, Verified};

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
    signer: Signer,
    public: PublicKey,
}

/// Signs a text, with this trusted comment: gives the four lines of a minisign signature.
pub type SignElsewhere =
    dyn Fn(&[u8], &str) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> + Send + Sync;

enum Signer {
    Here(SecretKey),
    /// The secret never comes here: a token, a machine of its own.
    Elsewhere(Box<SignElsewhere>),
}

/// Why a secret key can't be used or made.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Not a secret key of minisign.
    #[error("not a minisign secret key, which is a comment and one line of base64")]
    NotAKey,
    /// Protected by a password, and none was given.
    #[error("the key is protected by a password, and none was given")]
    NeedsPassword,
    /// The password is wrong, or the file was changed.
    #[error("wrong password, or the key is damaged")]
    WrongPassword,
    /// Not protected, and damaged.
    #[error("the key is damaged: its checksum is wrong")]
    Damaged,
    /// The system gave no random bytes, or no memory to derive a key in.
    #[error("can't create a key")]
    Generate(#[source] minisign::PError),
    /// The secret part is in a token or on another machine.
    #[error("key {0}: the secret part is not on this computer")]
    NotHere(KeyId),
    /// Who was to sign did not.
    #[error("key {key}: the signing command returned no signature")]
    Elsewhere { key: KeyId, source: Box<dyn std::error::Error + Send + Sync> },
    /// What was signed elsewhere is not what was asked for.
    #[error("key {key}: the signing command returned a wrong signature")]
    Unfit { key: KeyId, source: Box<Untrusted> },
    /// The trusted comment is another.
    #[error("key {key}: the signature has the trusted comment `{found}` instead of `{want}`")]
    Comment {
        key: KeyId,
        found: String,
        /// What was asked for.
        want: String,
    },
}

impl SigningKey {
    /// A new key, from the system's random bytes.
    ///
    /// # Errors
    /// [`KeyError::Generate`].
    pub fn generate() -> Result<Self, KeyError> {
        let KeyPair { pk: public, sk: secret } =
            KeyPair::generate_unencrypted_keypair().map_err(KeyError::Generate)?;
        Ok(SigningKey { signer: Signer::Here(secret), public })
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
        Ok(SigningKey { signer: Signer::Here(secret), public })
    }

    /// A key whose secret part is elsewhere; whatever signs there is checked here. `None` when that is no public key.
    pub fn elsewhere(public: &str, sign: Box<SignElsewhere>) -> Option<Self> {
        let public = PublicKey::from_base64(public).ok()?;
        Some(SigningKey { signer: Signer::Elsewhere(sign), public })
    }

    /// Key ID, as minisign shows it.
    pub fn id(&self) -> KeyId {
        key_id(&self.public)
    }

    /// Text of the secret key file, not protected by a password.
    ///
    /// # Errors
    /// [`KeyError::Generate`], [`KeyError::NotHere`].
    pub fn secret_text(&self) -> Result<String, KeyError> {
        let Signer::Here(secret) = &self.signer else { return Err(KeyError::NotHere(self.id())) };
        let text = secret.to_box(Some(&secret_comment(self.id()))).map_err(KeyError::Generate)?;
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
    /// [`KeyError::Generate`] when the system gives no random bytes; what a signer elsewhere did wrong.
    pub fn sign<D: Document>(&self, document: &D) -> Result<Vec<u8>, KeyError> {
        let mut file = document.to_text().into_bytes();
        let untrusted = format!("signature of key {}", self.id());
        let trusted = document.trusted_comment();
        match &self.signer {
            Signer::Here(secret) => {
                let signed =
                    minisign::sign(Some(&self.public), secret, &file[..], Some(&trusted), Some(&untrusted));
                file.extend_from_slice(signed.map_err(KeyError::Generate)?.into_string().as_bytes());
            }
            Signer::Elsewhere(sign) => {
                let key = self.id();
                let lines = sign(&file, &trusted).map_err(|source| KeyError::Elsewhere { key, source })?;
                file.extend_from_slice(&lines);
                let own = TrustedKeys::parse(&self.public_text()).expect("a key reads its own text");
                let found = Verified::<D>::open(&file, &own)
                    .map_err(|source| KeyError::Unfit { key, source: Box::new(source) })?;
                if found.trusted_comment() != trusted {
                    let found = found.trusted_comment().to_owned();
                    return Err(KeyError::Comment { key, found, want: trusted });
                }
            }
        }
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
    let bytes = formats::release::base64(base64.as_bytes())?;
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
