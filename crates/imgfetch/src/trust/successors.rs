//! What a publisher has signed about keys and releases that are not to be used any more.

use std::time::{Duration, Instant};

use super::{Origin, OriginError, Wanted, not_signed, refused};
use formats::fetch_fault::FetchFault as Fault;
use formats::release::{Document, KeyId, MAX_HOPS, MirrorPath, Release, Successors, TrustedKeys, Verified};
use system::http::Get;

/// It is worth this much time.
const PATIENCE: Duration = Duration::from_secs(10);

/// Opens a statement of successors, if it is one that we believe.
type Read<'a> = dyn Fn(&[u8]) -> Result<TrustedKeys, Fault> + 'a;

impl Origin {
    /// Our keys and those that they name as their successors; `None` when they name none. What the mirrors say of them
    /// is kept, for when there are no mirrors.
    pub(super) fn successors(&self, wanted: &Wanted) -> Option<TrustedKeys> {
        self.follow(wanted, &|id, read| {
            let path = MirrorPath::Keys(id);
            self.mirrors.iter().find_map(|mirror| {
                let url = format!("{mirror}{path}");
                let until = self.until.min(Instant::now() + PATIENCE);
                let answer = self.http.get(Get::new(&url, Successors::LIMIT, until));
                let found = answer.and_then(|answer| Ok((read(&answer.bytes)?, answer.bytes)));
                let (keys, bytes) = found.map_err(|fault| detail!("{mirror}: {path}: {fault}")).ok()?;
                if let Some(Err(error)) = self.cache.as_deref().map(|cache| cache.save_keys(id, &bytes)) {
                    log::warn!("{error}; without a network releases of the new key can't be used");
                }
                Some(keys)
            })
        })
    }

    /// As [`Origin::successors`], from what is kept.
    pub(super) fn kept_successors(&self, wanted: &Wanted) -> Option<TrustedKeys> {
        let cache = self.cache.as_deref()?;
        self.follow(wanted, &|id, read| read(&cache.saved_keys(id)?).ok())
    }

    fn follow(
        &self,
        wanted: &Wanted,
        find: &dyn Fn(KeyId, &Read<'_>) -> Option<TrustedKeys>,
    ) -> Option<TrustedKeys> {
        let mut keys = TrustedKeys::clone(&self.keys);
        let mut asked = Vec::new();
        for _ in 0..MAX_HOPS {
            let Some(id) = keys.ids().find(|id| !asked.contains(id)) else { break };
            asked.push(id);
            let next = find(id, &|bytes| {
                let next = Verified::<Successors>::open(bytes, &keys).map_err(not_signed)?;
                let ours = wanted.name.as_ref().is_none_or(|name| *name == next.name);
                if next.key() == id && ours {
                    Ok(next.trusted())
                } else {
                    Err(refused("of another key".into()))
                }
            });
            if let Some(next) = next {
                keys = keys.with(&next);
            }
        }
        (keys.ids().count() > self.keys.ids().count()).then_some(keys)
    }

    /// Whether the newest `latest` still lets this release be used. Without one nothing can be told.
    pub(super) fn not_revoked(&self, wanted: &Wanted, release: &Release) -> Result<(), OriginError> {
        let wanted = Wanted { name: Some(release.name.clone()), strict: false, ..wanted.clone() };
        // The mirrors that gave the release will not keep us waiting for this.
        let until = self.until.min(Instant::now() + PATIENCE);
        match (Origin { until, ..self.clone() }).latest(&wanted) {
            Ok(latest) if release.serial < latest.min_serial => {
                Err(OriginError::Revoked { serial: release.serial, min: latest.min_serial })
            }
            Ok(_) => Ok(()),
            Err(error) => {
                detail!("whether release {} was revoked can't be told: {error}", release.serial);
                Ok(())
            }
        }
    }
}
