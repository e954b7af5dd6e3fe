//! A release on a medium that is plugged in, beside what the mirrors have.

use std::time::{Duration, Instant};

use super::freshness::{Freshness, freshness};
use super::{Origin, OriginError, Wanted, not_signed};
use formats::release::{Document, Latest, MirrorPath, Verified};
use system::clock;

/// With a release on the medium, mirrors are not waited for longer than this.
const WITH_MEDIUM: Duration = Duration::from_secs(5);

impl Origin {
    /// The newest `latest` of mirrors and the medium. With a medium, mirrors are not waited for.
    pub(super) fn latest(&self, wanted: &Wanted) -> Result<Latest, OriginError> {
        let Some(own) = self.latest_of_medium(wanted) else { return self.latest_of_mirrors(wanted, false) };
        let until = self.until.min(Instant::now() + WITH_MEDIUM);
        match (Origin { until, ..self.clone() }).latest_of_mirrors(wanted, true) {
            Ok(latest) if latest.serial >= own.serial => return Ok(latest),
            Ok(latest) => {
                log::warn!(
                    "the mirrors have release {}, the medium {}; going on with that",
                    latest.serial,
                    own.serial
                );
            }
            Err(error) => log::warn!("{error}; going on with the medium, release {}", own.serial),
        }
        Ok(own)
    }

    /// What the medium says is the newest. However old: there is no other.
    fn latest_of_medium(&self, wanted: &Wanted) -> Option<Latest> {
        let cache = self.cache.as_ref()?;
        let text = cache.on_medium(&MirrorPath::Latest, Latest::LIMIT)?;
        let opened = Verified::<Latest>::open(&text, &self.keys).map_err(not_signed);
        let latest = opened.map_err(|fault| log::warn!("medium: {fault}; not used")).ok()?.into_inner();
        let accepted = cache.accepted_serial(&latest.name).ok()?;
        let other = wanted.name.as_ref().is_some_and(|name| *name != latest.name);
        if other || accepted > Some(latest.serial) {
            log::warn!("medium: release {} of `{}`; not used", latest.serial, latest.name);
            return None;
        }
        if wanted.strict && freshness(&latest, clock::now()) != Freshness::Fresh {
            log::warn!("medium: release {} may be stale; not used (--strict)", latest.serial);
            return None;
        }
        Some(latest)
    }
}
