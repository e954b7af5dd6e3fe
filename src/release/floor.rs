//! The floor of a signature: which release is the newest, as far as is known without a mirror. A mirror can withhold
//! releases, and what is signed next would make the old one look new.

use formats::digest::Sha256;
use formats::names::{ImageName, Serial, UnixTime};
use formats::release::Latest;

/// What is known of the newest release without asking the mirror that is built upon.
#[derive(Clone, Debug, Default)]
pub struct Floor {
    /// The `latest` that was signed last.
    pub last: Option<Latest>,
    /// What the user says: a release below it is none to go on from. It has precedence over `last`.
    pub lowest: Option<Serial>,
}

/// How sure it is that a release is the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FloorVerdict {
    /// Something that the mirror does not control says so.
    Confirmed,
    /// Only the mirror says so, and what it says has not expired.
    Unconfirmed,
}

/// Why a release is none to go on from.
#[derive(Debug, thiserror::Error)]
pub enum FloorError {
    #[error("the state file is of `{known}`, the mirror is of `{found}`; give the state file of `{found}`")]
    OtherName { known: ImageName, found: ImageName },
    /// The mirror withholds releases, or they were never published.
    #[error(
        "its newest release is {found}, but release {known} was signed already; publish release {known} first, or, \
         if it is lost, go on from this one with --floor {found}"
    )]
    Older { found: Serial, known: Serial },
    /// Two releases of one serial.
    #[error(
        "its release {serial} has SHA-256 {found}, but release {serial} was signed with SHA-256 {known}; publish that \
         one, or, if it is lost, go on from this one with --floor {serial}"
    )]
    Contradicts { serial: Serial, found: Sha256, known: Sha256 },
    /// An older `latest` of the same release.
    #[error(
        "it revokes the releases below {found}, but those below {known} were revoked already; publish the `latest` \
         that revokes them, or, if it is lost, go on from this one with --floor {serial}"
    )]
    Unrevokes { serial: Serial, found: Serial, known: Serial },
    #[error("its newest release is {found}, below --floor {floor}; use a mirror that is up to date")]
    BelowFloor { found: Serial, floor: Serial },
    /// An old `latest` would become new by being signed.
    #[error(
        "its `latest` of release {serial} expired on {date}, and a mirror that withholds newer releases looks the same; \
         check that release {serial} is the newest, then add --floor {serial}"
    )]
    Expired { serial: Serial, date: String },
}

impl Floor {
    /// Whether to go on from the release that `latest` names, at the time `now`.
    ///
    /// # Errors
    /// [`FloorError`].
    pub fn admit(&self, latest: &Latest, now: UnixTime) -> Result<FloorVerdict, FloorError> {
        let serial = latest.serial;
        if let Some(last) = self.last.as_ref().filter(|last| last.name != latest.name) {
            return Err(FloorError::OtherName { known: last.name.clone(), found: latest.name.clone() });
        }
        match (self.lowest, &self.last) {
            (Some(floor), _) if serial < floor => Err(FloorError::BelowFloor { found: serial, floor }),
            (Some(_), _) => Ok(FloorVerdict::Confirmed),
            (None, Some(last)) => is_not_before(latest, last).map(|()| FloorVerdict::Confirmed),
            (None, None) if latest.expires < now => {
                Err(FloorError::Expired { serial, date: latest.expires.date().to_string() })
            }
            (None, None) => Ok(FloorVerdict::Unconfirmed),
        }
    }

    /// The release that is known to exist already; with one, there is no first release to begin with.
    pub fn known(&self) -> Option<Serial> {
        self.lowest.max(self.last.as_ref().map(|last| last.serial))
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
fn is_not_before(latest: &Latest, last: &Latest) -> Result<(), FloorError> {
    let (serial, known) = (latest.serial, last.serial);
    if serial < known {
        return Err(FloorError::Older { found: serial, known });
    }
    if serial == known && latest.release != last.release {
        let (found, known) = (latest.release.sha256, last.release.sha256);
        return Err(FloorError::Contradicts { serial, found, known });
    }
    if latest.min_serial < last.min_serial {
        return Err(FloorError::Unrevokes { serial, found: latest.min_serial, known: last.min_serial });
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
        let floor = |last, lowest: Option<u64>| Floor { last, lowest: lowest.map(serial) };
        let other = Latest { release: Digest::of(b"other"), ..fresh(7, 1) };
        let elsewhere = Latest { name: "other".parse().unwrap(), ..fresh(8, 1) };
        let confirmed = Ok(FloorVerdict::Confirmed);
        for (floor, found, expected) in [
            (floor(None, None), fresh(7, 1), Ok(FloorVerdict::Unconfirmed)),
            (floor(None, None), latest(7, 1, 999), Err("then add --floor 7")),
            (floor(None, Some(7)), latest(7, 1, 999), confirmed),
            (floor(None, Some(8)), fresh(7, 1), Err("release is 7, below --floor 8")),
            (floor(Some(fresh(7, 1)), None), latest(7, 1, 999), confirmed),
            (floor(Some(fresh(7, 1)), None), fresh(8, 1), confirmed),
            (
                floor(Some(fresh(7, 1)), None),
                fresh(6, 1),
                Err("release is 6, but release 7 was signed already"),
            ),
            (floor(Some(fresh(7, 1)), Some(6)), fresh(6, 1), confirmed),
            (floor(Some(fresh(7, 1)), None), other.clone(), Err("its release 7 has SHA-256")),
            (floor(Some(fresh(7, 1)), Some(7)), other, confirmed),
            (floor(Some(fresh(7, 5)), None), fresh(7, 4), Err("those below 5 were revoked already")),
            (floor(Some(fresh(7, 5)), None), fresh(8, 4), Err("those below 5 were revoked already")),
            (floor(Some(fresh(7, 1)), Some(1)), elsewhere, Err("the state file is of `demo`")),
        ] {
            let verdict = floor.admit(&found, now).map_err(|error| error.to_string());
            match (&verdict, expected) {
                (Err(error), Err(part)) => assert!(error.contains(part), "{error}"),
                (verdict, expected) => {
                    assert_eq!(verdict.as_ref().ok(), expected.as_ref().ok(), "{floor:?} {found:?}");
                }
            }
        }
    }

    #[test]
    fn no_serial_is_used_twice_and_no_revocation_is_lost() {
        let floor = Floor { last: Some(latest(9, 5, 2000)), lowest: Some(serial(7)) };
        assert_eq!(floor.next_serial(&latest(7, 4, 2000)), Some(serial(10)));
        assert_eq!(floor.next_serial(&latest(12, 4, 2000)), Some(serial(13)));
        assert_eq!(Floor::default().next_serial(&latest(7, 4, 2000)), Some(serial(8)));
        assert_eq!(floor.min_serial(&latest(7, 4, 2000)), serial(5));
        assert_eq!(floor.min_serial(&latest(12, 6, 2000)), serial(6));
        assert_eq!((floor.known(), Floor::default().known()), (Some(serial(9)), None));
    }
}
