//! A new ISO of an old one's files, with overlays.

use std::path::PathBuf;

use super::{BootChain, Plan9Error, Plan9Fault, arguments, chain, patches, relocated};
use crate::foreign::fat::Patches;
use crate::foreign::iso9660::Iso;
use crate::guests::kind::newest;
use crate::guests::services::{Argument, BoxError, BuildServices, ProgramRun};
use crate::guests::third_party::decompressed;
use crate::recipe::{Guest, Plan9};
use crate::tree::{Kind, Tree, dump};
use formats::digest::Sha256;

/// Part of the cache's key: another number makes all media again.
const VERSION: u32 = 1;
/// The new ISO in the scratch directory.
const NEW_ISO: &str = "new.iso";

/// The new ISO, and what has to be changed in it.
pub(super) fn repacked(
    plan9: &Plan9,
    guest: &Guest,
    services: &mut dyn BuildServices,
) -> Result<(PathBuf, Patches), BoxError> {
    let fault = |source| Plan9Fault::medium(plan9, source);
    let old = decompressed(&plan9.source, services)?;
    let image = services.open_at(&old.path)?;
    let spool = services.spool(&old.path)?;
    let imported = Iso::open(image.as_ref()).and_then(|iso| iso.import(spool));
    let mut tree = imported.map_err(|source| fault(Plan9Error::Iso(source)))?.tree;
    let chain = chain(image.as_ref(), &tree).map_err(fault)?;
    let newest = newest(&tree);
    services.apply_overlays(guest, &mut tree, newest)?;
    refuse_special_files(&tree)?;

    let key = key(&tree, &chain, services)?;
    let program = xorriso(&tree, &chain, newest, format!("{}-xorriso.log", guest.name));
    let path = services.derive_by(&old.derived_name(&format!("-{key}.iso")), &program)?;
    let new = services.open_at(&path)?;
    let mut all = patches(new.as_ref(), plan9).map_err(fault)?;
    all.extend(relocated(new.as_ref(), &chain).map_err(fault)?);
    Ok((path, all))
}

fn refuse_special_files(tree: &Tree) -> Result<(), Plan9Fault> {
    for (path, id) in tree.walk() {
        if !matches!(tree.node(id).kind, Kind::Directory(_) | Kind::File(_) | Kind::Symlink(_)) {
            return Err(Plan9Fault::Kind { path: String::from_utf8_lossy(&path).into_owned() });
        }
    }
    Ok(())
}

/// A digest of all that the new medium depends on beside the old one.
fn key(tree: &Tree, chain: &BootChain, services: &dyn BuildServices) -> Result<Sha256, BoxError> {
    let dump = dump::dump(tree, services.contents())?;
    Ok(Sha256::of(format!("{VERSION} {chain:?}\n{dump}").as_bytes()))
}

fn xorriso<'t>(tree: &'t Tree, chain: &BootChain, newest: i64, log: String) -> ProgramRun<'t> {
    let mut args = Argument::texts(["-no_rc", "-as", "mkisofs", "-quiet", "-V", "PLAN9", "-o"]);
    // Absolute, or xorriso takes what is below /dev for a drive.
    args.push(Argument::Scratch { before: "stdio:", path: NEW_ISO });
    args.extend(Argument::texts(arguments(chain)));
    args.extend(Argument::texts(["-uid", "0", "-gid", "0"]));
    args.push(Argument::Scratch { before: "", path: ProgramRun::FILES });
    let environment = [
        ("SOURCE_DATE_EPOCH", newest.max(0).to_string()),
        ("TZ", "UTC".to_owned()),
        ("LC_ALL", "C".to_owned()),
    ];
    ProgramRun {
        files: Some(tree),
        environment: environment.into(),
        result: Some(NEW_ISO),
        ..ProgramRun::new("xorriso", args, log)
    }
}
