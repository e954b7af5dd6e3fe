//! Which release is the newest, as far as is known without a mirror. A mirror can withhold
//! releases, and what is signed next would make the old one look new.

use formats::digest::Sha256;
use formats::names::{ImageName, Serial, UnixTime};
use formats::release::Latest;

/// What is known of the newest release without asking the mirror that is built upon.
#[derive(Clone, Debug, Default)]
pub struct NewestKnown {
    /// The `latest` that was signed last.
    pub last: Option<Latest>,
    /// What the user says: a release below it is none to go on from. It has precedence over `last`.
    pub stated: Option<Serial>,
}

/// How sure it is that a release is the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewestVerdict {
    /// Something that the mirror does not control says so.
    Confirmed,
    /// Only the mirror says so, and what it says has not expired.
    Unconfirmed,
}

/// Why a release is none to go on from.
#[derive(Debug, thiserror::Error)]
pub enum NotNewest {
    #[error("the state file is of `{known}`, the mirror is of `{found}`; give the state file of `{found}`")]
    OtherName { known: ImageName, found: ImageName },
    /// The mirror withholds releases, or they were never published.
    #[error(
        "its newest release is {found}, but release {known} was signed already; publish release {known} first, or, \
         if it is lost, go on from this one with --newest {found}"
    )]
    Older { found: Serial, known: Serial },
    /// Two releases of one serial.
    #[error(
        "its release {serial} has SHA-256 {found}, but release {serial} was signed with SHA-256 {known}; publish that \
         one, or, if it is lost, go on from this one with --newest {serial}"
    )]
    Contradicts { serial: Serial, found: Sha256, known: Sha256 },
    /// An older `latest` of the same release.
    #[error(
        "it revokes the releases below {found}, but those below {known} were revoked already; publish the `latest` \
         that revokes them, or, if it is lost, go on from this one with --newest {serial}"
    )]
    Unrevokes { serial: Serial, found: Serial, known: Serial },
    #[error("its newest release is {found}, below --newest {newest}; use a mirror that is up to date")]
    BelowNewest { found: Serial, newest: Serial },
    /// An old `latest` would become new by being signed.
    #[error(
        "its `latest` of release {serial} expired on {date}, and a mirror that withholds newer releases looks the same; \
         check that release {serial} is the newest, then add --newest {serial}"
    )]
    Expired { serial: Serial, date: String },
}

impl NewestKnown {
    /// Whether to go on from the release that `latest` names, at the time `now`.
    ///
    /// # Errors
    /// [`NotNewest`].
    pub fn admit(&self, latest: &Latest, now: UnixTime) -> Result<NewestVerdict, NotNewest> {
        let serial = latest.serial;
        if let Some(last) = self.last.as_ref().filter(|last| last.name != latest.name) {
            return Err(NotNewest::OtherName { known: last.name.clone(), found: latest.name.clone() });
        }
        match (self.stated, &self.last) {
            (Some(newest), _) if serial < newest => Err(NotNewest::BelowNewest { found: serial, newest }),
            (Some(_), _) => Ok(NewestVerdict::Confirmed),
            (None, Some(last)) => is_not_before(latest, last).map(|()| NewestVerdict::Confirmed),
            (None, None) if latest.expires < now => {
                Err(NotNewest::Expired { serial, date: latest.expires.date().to_string() })
            }
            (None, None) => Ok(NewestVerdict::Unconfirmed),
        }
    }

    /// The release that is known to exist already; with one, there is no first release to begin with.
    pub fn highest(&self) -> Option<Serial> {
        self.stated.max(self.last.as_ref().map(|last| last.serial))
    }

    /// The serial of the release that comes after the one that `latest` names: no release of this serial was signed
    /// before. `None` after the highest.
    pub fn next_serial(&self, latest: &Latest) -> Option<Serial> {
        let last = self.last.as_ref().map_or(latest.serial, |last| last.serial);
        latest.serial.max(last).next()
    }

    /// The `min-serial` of what comes after `latest`; what was revoked once stays revoked.
    pub fn min_serial(&self, latest: &Latest) -> Serial {
        self.last.as_ref().map_or(latest.min_serial, |last| last.min_serial.max(latest.min_serial))
    }
}

/// Whether `latest` is `last`, or one that was signed after it.
fn is_not_before(latest: &Latest, last: &Latest) -> Result<(), NotNewest> {
    let (serial, known) = (latest.serial, last.serial);
    if serial < known {
        return Err(NotNewest::Older { found: serial, known });
    }
    if serial == known && latest.release != last.release {
        let (found, known) = (latest.release.sha256, last.release.sha256);
        return Err(NotNewest::Contradicts { serial, found, known });
    }
    if latest.min_serial < last.min_serial {
        return Err(NotNewest::Unrevokes { serial, found: latest.min_serial, known: last.min_serial });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use formats::digest::Digest;

    fn serial(number: u64) -> Serial {
        Serial::new(number).unwrap()
    }

    fn latest(number: u64, min: u64, expires: u64) -> Latest {
        Latest {
            name: "demo".parse().unwrap(),
            serial: serial(number),
            release: Digest::of(&number.to_be_bytes()),
            mirrors: Digest::of(b""),
            published: UnixTime(1),
            expires: UnixTime(expires),
            min_serial: serial(min),
        }
    }

    #[test]
    fn what_was_signed_before_decides_and_an_expired_latest_needs_a_word() {
        let now = UnixTime(1000);
        let fresh = |number, min| latest(number, min, 2000);
        let known = |last, stated: Option<u64>| NewestKnown { last, stated: stated.map(serial) };
        let other = Latest { release: Digest::of(b"other"), ..fresh(7, 1) };
        let elsewhere = Latest { name: "other".parse().unwrap(), ..fresh(8, 1) };
        let confirmed = Ok(NewestVerdict::Confirmed);
        for (known, found, expected) in [
            (known(None, None), fresh(7, 1), Ok(NewestVerdict::Unconfirmed)),
            (known(None, None), latest(7, 1, 999), Err("then add --newest 7")),
            (known(None, Some(7)), latest(7, 1, 999), confirmed),
            (known(None, Some(8)), fresh(7, 1), Err("release is 7, below --newest 8")),
            (known(Some(fresh(7, 1)), None), latest(7, 1, 999), confirmed),
            (known(Some(fresh(7, 1)), None), fresh(8, 1), confirmed),
            (
                known(Some(fresh(7, 1)), None),
                fresh(6, 1),
                Err("release is 6, but release 7 was signed already"),
            ),
            (known(Some(fresh(7, 1)), Some(6)), fresh(6, 1), confirmed),
            (known(Some(fresh(7, 1)), None), other.clone(), Err("its release 7 has SHA-256")),
            (known(Some(fresh(7, 1)), Some(7)), other, confirmed),
            (known(Some(fresh(7, 5)), None), fresh(7, 4), Err("those below 5 were revoked already")),
            (known(Some(fresh(7, 5)), None), fresh(8, 4), Err("those below 5 were revoked already")),
            (known(Some(fresh(7, 1)), Some(1)), elsewhere, Err("the state file is of `demo`")),
        ] {
            let verdict = known.admit(&found, now).map_err(|error| error.to_string());
            match (&verdict, expected) {
                (Err(error), Err(part)) => assert!(error.contains(part), "{error}"),
                (verdict, expected) => {
                    assert_eq!(verdict.as_ref().ok(), expected.as_ref().ok(), "{known:?} {found:?}");
                }
            }
        }
    }

    #[test]
    fn no_serial_is_used_twice_and_no_revocation_is_lost() {
        let known = NewestKnown { last: Some(latest(9, 5, 2000)), stated: Some(serial(7)) };
        assert_eq!(known.next_serial(&latest(7, 4, 2000)), Some(serial(10)));
        assert_eq!(known.next_serial(&latest(12, 4, 2000)), Some(serial(13)));
        assert_eq!(NewestKnown::default().next_serial(&latest(7, 4, 2000)), Some(serial(8)));
        assert_eq!(known.min_serial(&latest(7, 4, 2000)), serial(5));
        assert_eq!(known.min_serial(&latest(12, 6, 2000)), serial(6));
        assert_eq!((known.highest(), NewestKnown::default().highest()), (Some(serial(9)), None));
    }
}
