//! The release that was used last, from the cache, when no mirror can be reached.

use super::context::Context;
use super::succession::open_kept;
use super::types::{Resolved, StoredFile};
use formats::release::Release;

/// The release in the cache, if it may be used: signed, of the distribution asked for, and the one asked for; or, where
/// none is pinned, not below the highest that was accepted, and not with `--strict`. `None` outside: it is being read.
pub(super) fn from_cache(ctx: &mut Context) -> Option<Option<Resolved>> {
    let request = &ctx.request;
    let Some(name) = request.name.clone().or_else(|| request.cached_name.clone()) else {
        return Some(None);
    };
    let Some(text) = ctx.stored_bytes(StoredFile::Release(name.clone()))? else { return Some(None) };
    let Ok(release) = open_kept::<Release>(ctx, &text)? else { return Some(None) };
    let release = release.into_inner();
    let Ok(memory) = ctx.memory(&name)? else { return Some(None) };
    let expected = match ctx.request.release {
        Some(serial) => release.serial == serial,
        // An older one under the name: it was pinned, or somebody wrote into the cache.
        None => Some(release.serial) >= memory.serial && !ctx.request.strict,
    };
    let expected = expected && memory.min_serial().is_none_or(|min| release.serial >= min);
    let Some(files) = release.image(&ctx.request.image).cloned() else { return Some(None) };
    if release.name != name || !expected {
        return Some(None);
    }
    let Some(text) = ctx.stored_bytes(StoredFile::Index(name, files.name.clone()))? else {
        return Some(None);
    };
    let Ok(index) = files.open_index(&text) else { return Some(None) };
    let list_follows = files.dlahead.is_some();
    Some(Some(Resolved { release, files, index, latest: None, mirrors_follow: false, list_follows }))
}
