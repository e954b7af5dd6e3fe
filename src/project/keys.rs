//! Key pairs on disk: `<name>.key`, secret, for its owner only, and `<name>.pub`.

use std::env;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::release::KeyError;
use crate::release::SigningKey;
use crate::sys::process::{Tool, ToolError};
use formats::release::{BadKey, TrustedKeys};
use system::files::{AtomicFile, FileError, create_dir_all, read_at_most};

/// Where the password of a secret key is searched before the user is asked.
pub const PASSWORD_VARIABLE: &str = "IMGFACTORY_KEY_PASSWORD";

/// Longest time for a command that gives a key: people may have to touch a token.
const COMMAND_LIMIT: std::time::Duration = std::time::Duration::from_secs(120);

/// Length of a public key in base64.
const PUBLIC_BASE64: usize = 56;

/// What a command that signs is told to sign with the text.
const COMMENT_VARIABLE: &str = "IMGFACTORY_TRUSTED_COMMENT";

/// Key files are two short lines.
const MAX_KEY_FILE: u64 = 16 << 10;

/// Why a key can't be made or used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{}: no such key; create one with `imgfactory keygen {}`", path.display(), prefix.display())]
    Missing {
        path: PathBuf,
        /// Argument for `keygen`.
        prefix: PathBuf,
    },
    /// There is one already.
    #[error("{}: already exists; keys are never overwritten. Choose another name, or move the file", path.display())]
    Exists { path: PathBuf },
    /// The secret key is of no use.
    #[error("{}", path.display())]
    Secret { path: PathBuf, source: KeyError },
    /// The public key is of no use.
    #[error("{}", path.display())]
    Public { path: PathBuf, source: BadKey },
    /// The two files are of different keys.
    #[error("{}: holds key {public}, but {} holds key {secret}; the two files must be of the same key",
        public_path.display(), secret_path.display())]
    Mismatch {
        /// The public key's file.
        public_path: PathBuf,
        public: String,
        /// The secret key's file.
        secret_path: PathBuf,
        secret: String,
    },
    #[error("{variable}: not set; it must contain a secret key")]
    Variable { variable: String },
    /// The command that gives a key failed.
    #[error("`{command}`: printed no key")]
    Command { command: String, source: ToolError },
    /// `sign:` needs two things.
    #[error(
        "{0}: write it as sign:PUBLIC:COMMAND, with the public key (a file or base64) and the command that signs"
    )]
    SignWords(String),
    /// Only one key can sign.
    #[error("{}: contains {keys} keys; it must contain only the one that the command signs with", path.display())]
    SignKeys { path: PathBuf, keys: usize },
    /// There is no terminal to ask for a password.
    #[error("no password: {PASSWORD_VARIABLE} is not set, and there is no terminal to ask on")]
    NoPassword(#[source] io::Error),
    /// The two answers differ.
    #[error("the two passwords are different")]
    PasswordsDiffer,
    /// An empty password protects nothing.
    #[error("the password is empty; leave out --password for a key without one")]
    EmptyPassword,
}

/// The two files of a key pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFiles {
    /// `<name>.key`
    pub secret: PathBuf,
    /// `<name>.pub`
    pub public: PathBuf,
}

impl KeyFiles {
    /// The files of the key pair of this name, a path without `.key` or `.pub`.
    pub fn new(name: &Path) -> Self {
        let with = |suffix: &str| {
            let mut path = name.as_os_str().to_owned();
            path.push(suffix);
            PathBuf::from(path)
        };
        KeyFiles { secret: with(".key"), public: with(".pub") }
    }

    /// Makes a new key pair, the secret key under a password if one is given.
    ///
    /// # Errors
    /// [`KeysError`]; files that are there already are not touched.
    pub fn create(&self, password: Option<&str>) -> Result<SigningKey, KeysError> {
        for path in [&self.secret, &self.public] {
            if fs::symlink_metadata(path).is_ok() {
                return Err(KeysError::Exists { path: path.clone() });
            }
        }
        if let Some(dir) = self.secret.parent() {
            create_dir_all(dir)?;
        }
        let failed = |source| KeysError::Secret { path: self.secret.clone(), source };
        let (key, secret) = match password {
            Some(password) => SigningKey::generate_protected(password).map_err(failed)?,
            None => {
                let key = SigningKey::generate().map_err(failed)?;
                let text = key.secret_text().map_err(failed)?;
                (key, text)
            }
        };
        let write = |path: &Path, mode, text: &str| {
            let mut file = AtomicFile::create_with_mode(path, mode)?;
            file.write_all(text.as_bytes()).map_err(|error| FileError::new(path, "write", error))?;
            file.commit_synced()
        };
        write(&self.secret, 0o600, &secret)?;
        write(&self.public, 0o644, &key.public_text())?;
        Ok(key)
    }

    /// Reads the secret key, and the public one, which must be its own. A password is taken from
    /// [`PASSWORD_VARIABLE`], or asked for.
    ///
    /// # Errors
    /// [`KeysError`].
    pub fn read(&self) -> Result<(SigningKey, TrustedKeys), KeysError> {
        let text = self.text(&self.secret)?;
        let mode = fs::metadata(&self.secret).map_or(0, |found| found.permissions().mode());
        if mode & 0o077 != 0 {
            log::warn!(
                "{}: other users can read this secret key; run chmod 600 on it",
                self.secret.display()
            );
        }
        let key = match SigningKey::parse(&text, None) {
            Err(KeyError::NeedsPassword) => {
                let password = password(&format!("Password of {}: ", self.secret.display()))?;
                SigningKey::parse(&text, Some(&password))
            }
            result => result,
        };
        let key = key.map_err(|source| KeysError::Secret { path: self.secret.clone(), source })?;
        let public = TrustedKeys::parse(&self.text(&self.public)?)
            .map_err(|source| KeysError::Public { path: self.public.clone(), source })?;
        // More keys than this one may be trusted: the next one, say.
        if public.ids().all(|id| id != key.id()) {
            let ids: Vec<_> = public.ids().map(|id| id.to_string()).collect();
            return Err(KeysError::Mismatch {
                public_path: self.public.clone(),
                public: ids.join(", "),
                secret_path: self.secret.clone(),
                secret: key.id().to_string(),
            });
        }
        Ok((key, public))
    }

    /// The public key of what [`KeyFiles::sign_with`] takes, as minisign writes it, or a public key itself: NAME.pub, or
    /// base64. Of a pair only the public file is read; it may have more keys than one.
    ///
    /// # Errors
    /// [`KeysError`].
    pub fn public_of(source: &str) -> Result<String, KeysError> {
        if ["env:", "command:", "sign:"].iter().any(|kind| source.starts_with(kind)) {
            return Ok(KeyFiles::sign_with(source)?.public_text());
        }
        if TrustedKeys::parse(source).is_ok() {
            return Ok(format!("{source}\n"));
        }
        let files = KeyFiles::new(Path::new(source.strip_suffix(".pub").unwrap_or(source)));
        let text = files.text(&files.public)?;
        TrustedKeys::parse(&text).map_err(|source| KeysError::Public { path: files.public, source })?;
        Ok(text)
    }

    /// The key that signs, by what people write for it: `env:VARIABLE` holds the secret key's text,
    /// `command:COMMAND` prints it (a vault), `sign:PUBLIC:COMMAND` signs with it without giving it away (a token,
    /// another machine), anything else is the name of a key pair.
    ///
    /// # Errors
    /// [`KeysError`].
    pub fn sign_with(source: &str) -> Result<SigningKey, KeysError> {
        if let Some(words) = source.strip_prefix("sign:") {
            return signed_by(words, source);
        }
        let text = if let Some(variable) = source.strip_prefix("env:") {
            let missing = |_| KeysError::Variable { variable: variable.into() };
            // CI systems mostly take one line only: the base64 alone will do.
            let text = env::var(variable).map_err(missing)?;
            if text.trim().contains('\n') {
                text
            } else {
                format!("untrusted comment: key\n{}\n", text.trim())
            }
        } else if let Some(command) = source.strip_prefix("command:") {
            let output = Tool::new("sh").users_own().args(["-c", command]).limit(COMMAND_LIMIT).output();
            let output = output.map_err(|source| KeysError::Command { command: command.into(), source })?;
            String::from_utf8_lossy(&output).into_owned()
        } else {
            return Ok(KeyFiles::new(Path::new(source)).read()?.0);
        };
        let key = match SigningKey::parse(&text, None) {
            Err(KeyError::NeedsPassword) => {
                SigningKey::parse(&text, Some(&password(&format!("Password of {source}: "))?))
            }
            result => result,
        };
        key.map_err(|error| KeysError::Secret { path: source.into(), source: error })
    }

    fn text(&self, path: &Path) -> Result<String, KeysError> {
        match read_at_most(path, MAX_KEY_FILE) {
            // What is not text is no key, and will be refused as such.
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(FileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Err(KeysError::Missing { path: path.into(), prefix: self.secret.with_extension("") })
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// The key of `PUBLIC:COMMAND`. The command gets the text on its standard input and the trusted comment in
/// [`COMMENT_VARIABLE`], and prints what `minisign -S -t` writes.
fn signed_by(words: &str, source: &str) -> Result<SigningKey, KeysError> {
    let split = words.split_once(':').filter(|(public, command)| !public.is_empty() && !command.is_empty());
    let (public, command) = split.ok_or_else(|| KeysError::SignWords(source.into()))?;
    let path = PathBuf::from(public);
    let text = match public {
        base64 if base64.len() == PUBLIC_BASE64 && base64.starts_with("RW") => base64.to_owned(),
        file => String::from_utf8_lossy(&read_at_most(file, MAX_KEY_FILE)?).into_owned(),
    };
    let keys = TrustedKeys::parse(&text)
        .map_err(|source| KeysError::Public { path: path.clone(), source })?
        .ids()
        .count();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.starts_with("untrusted comment:"));
    let public = lines.rfind(|line| !line.is_empty()).filter(|_| keys == 1);
    let public = public.ok_or(KeysError::SignKeys { path, keys })?;
    let command = command.to_owned();
    let sign = move |text: &[u8], comment: &str| {
        let tool = Tool::new("sh").users_own().args(["-c", &command]).env(COMMENT_VARIABLE, comment);
        tool.input(text).limit(COMMAND_LIMIT).output().map_err(Into::into)
    };
    Ok(SigningKey::elsewhere(public, Box::new(sign)).expect("it was read as a public key"))
}

/// The password in [`PASSWORD_VARIABLE`], or what a person types.
fn password(prompt: &str) -> Result<String, KeysError> {
    match env::var(PASSWORD_VARIABLE) {
        Ok(password) => Ok(password),
        Err(_) => rpassword::prompt_password(prompt).map_err(KeysError::NoPassword),
    }
}

/// A password for a new key: from [`PASSWORD_VARIABLE`], or typed twice.
///
/// # Errors
/// [`KeysError`] when there is no terminal, the answers differ, or it is empty.
pub fn new_password() -> Result<String, KeysError> {
    let first = password("Password for the new key: ")?;
    if first.is_empty() {
        return Err(KeysError::EmptyPassword);
    }
    let second = password("Repeat the password: ")?;
    if first == second { Ok(first) } else { Err(KeysError::PasswordsDiffer) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use formats::report::report;

    #[test]
    fn a_new_pair_is_read_back_and_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let files = KeyFiles::new(&dir.path().join("keys/demo.v1"));
        let key = files.create(None).unwrap();
        assert!(files.secret.ends_with("keys/demo.v1.key") && files.public.ends_with("keys/demo.v1.pub"));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&files.secret), 0o600);
        let (read, trusted) = files.read().unwrap();
        assert_eq!(read.id(), key.id());
        assert_eq!(trusted.ids().collect::<Vec<_>>(), [key.id()]);
        for (path, text) in [(&files.secret, "secret"), (&files.public, "public")] {
            let comment = format!("untrusted comment: imgfactory {text} key {}\n", key.id());
            assert!(fs::read_to_string(path).unwrap().starts_with(&comment));
        }

        let before = fs::read(&files.secret).unwrap();
        fs::remove_file(&files.public).unwrap();
        let said = format!(
            "{}: already exists; keys are never overwritten. Choose another name, or move the file",
            files.secret.display()
        );
        assert_eq!(files.create(None).unwrap_err().to_string(), said);
        assert_eq!(fs::read(&files.secret).unwrap(), before);
    }

    #[test]
    fn the_public_key_of_a_pair_needs_no_secret_one() {
        let dir = tempfile::tempdir().unwrap();
        let name = dir.path().join("demo");
        let files = KeyFiles::new(&name);
        let key = files.create(None).unwrap();
        fs::remove_file(&files.secret).unwrap();
        let name = name.display().to_string();
        for source in [&name, &format!("{name}.pub"), &key.public_base64()] {
            let text = KeyFiles::public_of(source).unwrap();
            assert_eq!(TrustedKeys::parse(&text).unwrap().ids().collect::<Vec<_>>(), [key.id()], "{source}");
        }
        fs::write(&files.public, "nonsense").unwrap();
        let said = report(&KeyFiles::public_of(&name).unwrap_err());
        assert!(said.contains("demo.pub"), "{said}");
        let none = report(&KeyFiles::public_of("no/such").unwrap_err());
        assert!(none.contains("no/such.pub: no such key"), "{none}");
    }

    #[test]
    fn each_fault_of_a_pair_has_its_words() {
        let dir = tempfile::tempdir().unwrap();
        let files = KeyFiles::new(&dir.path().join("demo"));
        let other = KeyFiles::new(&dir.path().join("other"));
        let (at, public) = (files.secret.display().to_string(), files.public.display().to_string());
        let said = |files: &KeyFiles| report(&files.read().unwrap_err());
        let missing = format!("error: {at}: no such key; create one with `imgfactory keygen ");
        assert!(said(&files).starts_with(&missing));

        let key = files.create(None).unwrap();
        let stranger = other.create(None).unwrap();
        fs::copy(&other.public, &files.public).unwrap();
        let mismatch = format!(
            "error: {public}: holds key {}, but {at} holds key {}; the two files must be of the same key",
            stranger.id(),
            key.id()
        );
        assert_eq!(said(&files), mismatch);

        let mut text = fs::read_to_string(&files.secret).unwrap();
        text.replace_range(200..201, if &text[200..201] == "A" { "B" } else { "A" });
        fs::write(&files.secret, text).unwrap();
        let damaged = format!("error: {at}\n  caused by: the key is damaged: its checksum is wrong");
        assert_eq!(said(&files), damaged);
        fs::write(&files.secret, "comment\nRWQAAEIy\n").unwrap();
        let no_key = "not a minisign secret key, which is a comment and one line of base64";
        assert_eq!(said(&files), format!("error: {at}\n  caused by: {no_key}"));
    }
}
