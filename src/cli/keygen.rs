//! `imgfactory keygen NAME`.

use std::path::PathBuf;

use super::{Failure, Session, print};
use crate::project::keys::{KeyFiles, new_password};
use formats::report::Exit;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "The files are minisign's own. The public key goes into the boot media; whoever has the \
    secret key can publish releases that they accept."
)]
pub(super) struct Args {
    /// Path of the new key pair; NAME.key and NAME.pub are written
    name: PathBuf,
    /// Protect the secret key by a password; builds will ask for it, or take it from IMGFACTORY_KEY_PASSWORD
    #[arg(long)]
    password: bool,
}

pub(super) fn run(args: Args, session: &Session) -> Result<Exit, Failure> {
    if args.name.file_name().is_none() {
        return Err(Failure::Usage(format!("{}: no name for a key pair", args.name.display())));
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
