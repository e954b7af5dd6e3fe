//! `imgfactory keygen NAME`.

use std::path::PathBuf;

use super::{Failure, Session, print};
use crate::project::keys::{KeyFiles, new_password};
use formats::report::Exit;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "The files have minisign's format. The build puts the public key on its boot media. Keep the \
    secret key safe: anyone who has it can publish releases that these media accept."
)]
pub(super) struct Args {
    /// Path of the new key pair: NAME.key (secret) and NAME.pub are written
    name: PathBuf,
    /// Encrypt the secret key with a password; builds ask for it, or read IMGFACTORY_KEY_PASSWORD
    #[arg(long)]
    password: bool,
}

pub(super) fn run(args: Args, session: &Session) -> Result<Exit, Failure> {
    if args.name.file_name().is_none() {
        return Err(Failure::Usage(format!(
            "{}: has no file name; give one such as keys/demo",
            args.name.display()
        )));
    }
    let files = KeyFiles::new(&args.name);
    let password = if args.password { Some(new_password()?) } else { None };
    let key = files.create(password.as_deref())?;
    if !session.quiet {
        let (secret, public) = (files.secret.display(), files.public.display());
        session.progress.say(&format!("key {}: {secret} (secret), {public}", key.id()));
    }
    print(&format!("{}\n", key.public_base64()))?;
    Ok(Exit::Done)
}
