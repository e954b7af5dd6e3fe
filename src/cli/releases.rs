//! `imgfactory releases`, `rollback` and `refresh`: releases without a build.

use std::path::{Path, PathBuf};

use super::tree::{NewestArgs, ReleaseTree, published, serial};
use super::{Failure, Session, print};
use crate::pipeline::build_record::BuildRecord;
use crate::pipeline::resign::{ResignAction, ResignError, Signing, resign};
use crate::project::keys::KeyFiles;
use crate::publish::{Listed, MirrorFiles, image_files, read_latest};
use crate::recipe::Seconds;
use crate::release::SigningKey;
use crate::repository::mirror::trusted;
use crate::yaml::Scalar;
use formats::names::Serial;
use formats::release::{MirrorPath, Release, Verified};
use formats::report::{Exit, counted};
use system::clock;
use system::files::DirLock;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The output directory of a build, a mirror tree, the URL of a mirror, or a publish target
    #[arg(value_name = "OUT|URL|TARGET")]
    tree: String,
    /// Public key of the releases: a file or base64; may be repeated [default: the build's]
    #[arg(long, value_name = "KEY")]
    key: Vec<String>,
}

pub(super) fn run(args: Args, session: &Session) -> Result<Exit, Failure> {
    let mut text = String::from("serial  published             kept until            images\n");
    let (files, keys) = published(&args.tree, &args.key, 8, &session.web)?;
    let missing = || Failure::Failed(format!("{}: contains no release", args.tree).into());
    let (latest, _) = read_latest(&files, &keys)?.ok_or_else(missing)?;
    let serial = |listed: &Listed| match listed.path.parse() {
        Ok(MirrorPath::Release(serial)) => Some(serial),
        _ => None,
    };
    let listed: Option<Vec<Serial>> = files.list()?.map(|listed| listed.iter().filter_map(serial).collect());
    // A web server has no list; the last hundred will do.
    let newest = latest.serial.get();
    let mut serials = listed
        .unwrap_or_else(|| (newest.saturating_sub(99).max(1)..=newest).filter_map(Serial::new).collect());
    serials.sort_unstable();
    for serial in serials {
        let path = MirrorPath::Release(serial);
        let Some(bytes) = files.read(&path, path.limit())? else { continue };
        let release = match Verified::<Release>::open(&bytes, &keys) {
            Ok(release) => release,
            Err(error) => {
                text.push_str(&format!("{:>6}  {error}\n", serial.get()));
                continue;
            }
        };
        let mark = if serial == latest.serial {
            "  <- latest"
        } else if serial < latest.min_serial {
            "  revoked"
        } else {
            ""
        };
        let images: Vec<String> = release
            .images
            .iter()
            .map(|image| format!("{} (index of {})", image.name, image.index.serial))
            .collect();
        let whole = image_files(&release)
            .iter()
            .all(|item| matches!(files.read(&item.path, item.path.limit()), Ok(Some(_))));
        let whole = if whole { "" } else { "  (files are missing)" };
        text.push_str(&format!(
            "{:>6}  {}  {}  {}{mark}{whole}\n",
            serial.get(),
            release.published.date(),
            release.retain_until.date(),
            images.join(", ")
        ));
    }
    print(&text)?;
    Ok(Exit::Done)
}

#[derive(Debug, clap::Args)]
#[command(after_help = "The new release reuses the old one's images: no block is made or sent again. \
Send it with `imgfactory publish`.")]
pub(super) struct RollbackArgs {
    /// The output directory of a build, or a mirror tree
    out: PathBuf,
    /// Serial of the release to go back to
    #[arg(long, value_name = "SERIAL")]
    to: u64,
    /// Revoke all releases before the new one: clients refuse them, even with --release
    #[arg(long)]
    revoke: bool,
    #[command(flatten)]
    signer: SignerArgs,
}

#[derive(Debug, clap::Args)]
#[command(
    alias = "expire",
    after_help = "Run it daily: when `latest` has expired, clients warn that the release may be stale. \
Send it with `imgfactory publish`."
)]
pub(super) struct RefreshArgs {
    /// The output directory of a build, or a mirror tree
    out: PathBuf,
    /// Revoke the releases below this one: clients refuse them, even with --release
    #[arg(long, value_name = "SERIAL")]
    min_serial: Option<u64>,
    #[command(flatten)]
    signer: SignerArgs,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "The old key signs a statement that names the new key, and the new key signs a new release with \
the newest state. Boot media that trust the old key accept the new one. Send both with `imgfactory publish`; for a bare \
mirror tree add --key OLD.pub --key NEW.pub. From then on, build with the new key."
)]
pub(super) struct RotateArgs {
    /// The output directory of a build, or a mirror tree
    out: PathBuf,
    /// The new signing key, in the form of --key
    #[arg(long, value_name = "KEY")]
    to: String,
    #[command(flatten)]
    signer: SignerArgs,
}

/// Who signs, and until when.
#[derive(Debug, clap::Args)]
struct SignerArgs {
    /// Signing key: NAME for the file NAME.key; env:VARIABLE; command:COMMAND, which prints the key; or
    /// sign:PUBLIC:COMMAND, which signs [default: the build's]
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Time until `latest` expires, e.g. 7d or 36h [default: the build's, or 7d]
    #[arg(long, value_name = "TIME")]
    fresh: Option<String>,
    #[command(flatten)]
    newest: NewestArgs,
}

impl SignerArgs {
    fn sign(
        &self,
        out: &Path,
        action: &ResignAction,
        next: Option<&SigningKey>,
        session: &Session,
    ) -> Result<Exit, Failure> {
        let tree = ReleaseTree::find(out)?;
        let name = self.key.clone().or_else(|| Some(tree.publish.key.clone()).filter(|key| !key.is_empty()));
        let Some(name) = name else {
            return Err(Failure::Usage(format!(
                "{}: not a build's output, which records the signing key; give it with --key",
                out.display()
            )));
        };
        let key = KeyFiles::sign_with(&name)?;
        let fresh = match &self.fresh {
            Some(text) => {
                Seconds::read(text)
                    .map_err(|wrong| Failure::Usage(format!("--fresh: {}; {}", wrong.what, wrong.instead)))?
                    .0
            }
            None => tree.publish.fresh,
        };
        let _lock = DirLock::take(out)?;
        let manifest = match tree.root.parent().filter(|_| tree.root != *out) {
            Some(out) => out.join("upload.txt"),
            None => out.join("upload.txt"),
        };
        let earlier = if tree.publish.keys.is_empty() { None } else { Some(trusted(&tree.publish.keys)?) };
        let signing = Signing {
            key: &key,
            next,
            earlier: earlier.as_ref(),
            last_signed: &self.newest.last_signed(out)?,
            progress: session.progress.as_ref(),
            now: clock::now(),
            retain: tree.publish.retain,
            fresh,
        };
        let upload = resign(&tree.root, &manifest, action, &signing)?;
        print(&format!(
            "release {}: {}, {} bytes to send; send it with: imgfactory publish {}\n",
            upload.serial,
            counted(upload.steps().count() as u64, "file"),
            upload.bytes(),
            out.display()
        ))?;
        Ok(Exit::Done)
    }
}

pub(super) fn rollback(args: RollbackArgs, session: &Session) -> Result<Exit, Failure> {
    let to = serial("--to", args.to)?;
    args.signer.sign(&args.out, &ResignAction::Rollback { to, revoke: args.revoke }, None, session)
}

pub(super) fn refresh(args: RefreshArgs, session: &Session) -> Result<Exit, Failure> {
    let min = args.min_serial.map(|min| serial("--min-serial", min)).transpose()?;
    args.signer.sign(&args.out, &ResignAction::Refresh { min }, None, session)
}

pub(super) fn rotate(args: RotateArgs, session: &Session) -> Result<Exit, Failure> {
    let next = KeyFiles::sign_with(&args.to)?;
    // The build's note of whose it is: first that both are to be believed, then that the new one signs. So what is cut
    // between them can be done again.
    let previous = BuildRecord::read(&args.out).ok();
    let mut record = previous.clone();
    if let Some(record) = &mut record
        && !record.publish.keys.contains(&next.public_base64())
    {
        record.publish.keys.insert(0, next.public_base64());
        record.write(&args.out)?;
    }
    let result = args.signer.sign(&args.out, &ResignAction::Rotate, Some(&next), session);
    let why = match &result {
        Err(Failure::Failed(error)) => error.downcast_ref::<ResignError>(),
        _ => None,
    };
    let exit = match why {
        // As an attempt that was cut short may have left it.
        Some(done @ ResignError::Signs { .. }) => {
            print(&format!("{done}\n"))?;
            Exit::Done
        }
        Some(ResignError::Rotated(_)) => {
            if let Some(previous) = previous {
                previous.write(&args.out)?;
            }
            return result;
        }
        _ => result?,
    };
    if let Some(mut record) = record {
        record.publish.key = args.to;
        record.write(&args.out)?;
    }
    Ok(exit)
}
