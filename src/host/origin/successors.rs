//! What a publisher has signed about keys and releases that are not to be used any more.

use std::time::{Duration, Instant};

use super::{Origin, OriginError, Wanted, not_signed};
use crate::host::http::Get;
use crate::release::{Document, MAX_HOPS, MirrorPath, Release, Successors, TrustedKeys, Verified};

/// It is worth this much time.
const PATIENCE: Duration = Duration::from_secs(10);

impl Origin {
    /// Our keys and those that they name as their successors; `None` when they name none.
    pub(super) fn successors(&self, wanted: &Wanted) -> Option<TrustedKeys> {
        let mut keys = TrustedKeys::clone(&self.keys);
        let mut asked = Vec::new();
        for _ in 0..MAX_HOPS {
            let Some(id) = keys.ids().find(|id| !asked.contains(id)) else { break };
            asked.push(id);
            let path = MirrorPath::Keys(id);
            for mirror in &self.mirrors {
                let url = format!("{mirror}{path}");
                let until = self.until.min(Instant::now() + PATIENCE);
                let found = self.http.get(Get::new(&url, Successors::LIMIT, until)).and_then(|answer| {
                    Verified::<Successors>::open(&answer.bytes, &keys).map_err(not_signed)
                });
                match found {
                    Ok(next)
                        if next.key() == id && wanted.name.as_ref().is_none_or(|name| *name == next.name) =>
                    {
                        keys = keys.with(&next.trusted());
                        break;
                    }
                    Ok(_) => {}
                    Err(fault) => detail!("{mirror}: {path}: {fault}"),
                }
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
