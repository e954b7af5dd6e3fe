//! Key rotation: the keys that the trusted keys name as their successors, from one rotation statement to the next.

use std::collections::VecDeque;
use std::time::Duration;

use super::context::{Context, Purpose, get, not_signed, refused};
use super::mirror_stats::MirrorStats;
use super::types::{MirrorAnswer, ResolveError, StoredFile};
use formats::fetch_fault::FetchFault as Fault;
use formats::names::ImageName;
use formats::release::{
    Document, DocumentError, KeyId, MAX_HOPS, MirrorPath, Successors, TrustedKeys, Verified,
};

/// A mirror is asked for a statement for so long.
const STATEMENT: Duration = Duration::from_secs(10);
/// One that did not answer the last request is asked for so long.
const STATEMENT_AFTER_FAILURE: Duration = Duration::from_secs(2);

/// Keys, and those of them whose statement was looked for.
#[derive(Debug)]
struct KeyChain {
    keys: TrustedKeys,
    asked: Vec<KeyId>,
}

impl KeyChain {
    fn of(keys: &TrustedKeys) -> Self {
        KeyChain { keys: keys.clone(), asked: Vec::new() }
    }

    /// The key whose statement is to be looked for next; [`MAX_HOPS`] in all.
    fn next_key(&mut self) -> Option<KeyId> {
        let id = self.keys.ids().find(|id| !self.asked.contains(id))?;
        if self.asked.len() == MAX_HOPS {
            return None;
        }
        self.asked.push(id);
        Some(id)
    }

    /// Adds the keys that a statement names, if this key has signed it for this distribution.
    fn follow(&mut self, id: KeyId, name: Option<&ImageName>, bytes: &[u8]) -> Result<(), Fault> {
        let next = Verified::<Successors>::open(bytes, &self.keys).map_err(not_signed)?;
        if next.key() != id || name.is_some_and(|name| *name != next.name) {
            return Err(refused("of another key".into()));
        }
        self.keys = self.keys.with(&next.trusted());
        Ok(())
    }

    /// All keys, if there are more than before.
    fn more_than(self, before: &TrustedKeys) -> Option<TrustedKeys> {
        (self.keys.ids().count() > before.ids().count()).then_some(self.keys)
    }
}

/// Asks mirrors for rotation statements. Those that are followed are saved, for when there are no mirrors.
#[derive(Debug)]
pub(super) struct Succession {
    chain: KeyChain,
    /// The key whose statement is looked for, and the mirrors that are still to be asked for it.
    current: Option<KeyId>,
    mirrors: VecDeque<usize>,
    /// Why the release could not be resolved with the keys as they are.
    pub(super) error: ResolveError,
}

impl Succession {
    pub(super) fn begin(ctx: &mut Context, error: ResolveError) -> Self {
        let chain = KeyChain::of(&ctx.keys);
        let mut succession = Succession { chain, current: None, mirrors: VecDeque::new(), error };
        succession.next_key(ctx);
        succession.ask(ctx);
        succession
    }

    /// Asks the next mirror, or for the statement of the next key.
    fn ask(&mut self, ctx: &mut Context) {
        while let Some(id) = self.current {
            if ctx.until() <= ctx.now.elapsed {
                self.current = None;
            } else if let Some(mirror) = self.mirrors.pop_front() {
                let works = ctx.stats.get(mirror).is_none_or(MirrorStats::answers);
                let patience = if works { STATEMENT } else { STATEMENT_AFTER_FAILURE };
                let until = ctx.share(ctx.until()).min(ctx.now.elapsed + patience);
                return ctx.get(Purpose::Rotation, get(mirror, MirrorPath::Keys(id), until));
            } else {
                self.next_key(ctx);
            }
        }
    }

    /// Mirrors that failed are asked last: one that keeps silent uses up the time of the others.
    fn next_key(&mut self, ctx: &Context) {
        self.current = self.chain.next_key();
        self.mirrors = ctx.order().into();
    }

    pub(super) fn answered(&mut self, ctx: &mut Context, mirror: usize, answer: Result<MirrorAnswer, Fault>) {
        let Some(id) = self.current else { return };
        let name = ctx.request.name.clone();
        let followed = answer.and_then(|answer| {
            self.chain.follow(id, name.as_ref(), &answer.bytes)?;
            Ok(answer.bytes)
        });
        match followed {
            Ok(bytes) => {
                let without = "without a network releases of the new key can't be used";
                ctx.save(StoredFile::Keys(id), &bytes, without);
                self.next_key(ctx);
            }
            Err(fault) => ctx.statement_missing(mirror, &MirrorPath::Keys(id), fault),
        }
        self.ask(ctx);
    }

    pub(super) fn is_over(&self) -> bool {
        self.current.is_none()
    }

    /// The trusted keys and their successors; the error of the beginning when they have none.
    pub(super) fn conclude(self, ctx: &Context) -> Result<TrustedKeys, ResolveError> {
        self.chain.more_than(&ctx.keys).ok_or(self.error)
    }
}

/// Opens a text of the cache that was signed by a trusted key, or by one of their successors by the statements in the
/// cache; the outer `None`: these are being read.
pub(super) fn open_kept<D: Document>(
    ctx: &mut Context,
    text: &[u8],
) -> Option<Result<Verified<D>, DocumentError>> {
    match Verified::open(text, &ctx.keys) {
        Err(unknown @ DocumentError::UnknownKey { .. }) => Some(match kept_successors(ctx)? {
            Some(keys) => Verified::open(text, &keys),
            None => Err(unknown),
        }),
        opened => Some(opened),
    }
}

/// The trusted keys and their successors, by the statements in the cache; `None` inside when they have none, outside
/// while they are being read.
fn kept_successors(ctx: &mut Context) -> Option<Option<TrustedKeys>> {
    let mut chain = KeyChain::of(&ctx.keys);
    let name = ctx.request.name.clone();
    while let Some(id) = chain.next_key() {
        if let Some(bytes) = ctx.stored_bytes(StoredFile::Keys(id))? {
            // One that can't be used is none.
            let _ = chain.follow(id, name.as_ref(), &bytes);
        }
    }
    Some(chain.more_than(&ctx.keys))
}
