//! The publisher's lease while it publishes: taken, renewed, given back.

use std::time::Duration;

use super::apply::{Job, PublishError};
use super::clock;
use super::lease::{self, Lease};
use super::remote::{Clock, Remote, RemoteError};
use super::remote_path::{Control, RemotePath};

/// Between two looks at another program's lease.
const PAUSE: Duration = Duration::from_secs(2);

/// The lease of this publisher on a target.
pub(super) struct HeldLease<'a> {
    remote: &'a dyn Remote,
    clock: &'a dyn Clock,
    lease: Lease,
    path: RemotePath,
}

/// Reads a lease; a damaged one is none.
pub(super) fn read_lease(remote: &dyn Remote, which: Control) -> Result<Option<Lease>, RemoteError> {
    let text = remote.get(&RemotePath::Control(which))?;
    Ok(text.and_then(|text| Lease::decode(&text).ok()))
}

impl<'a> HeldLease<'a> {
    /// Takes the lease, after waiting for other programs as long as the options say.
    ///
    /// # Errors
    /// [`PublishError::Busy`] when another program's lease is valid; [`PublishError::Remote`].
    pub fn take(job: &Job<'a>) -> Result<Self, PublishError> {
        let Job { remote, clock, options, .. } = *job;
        let end = clock.now().0.saturating_add(options.wait.as_secs());
        loop {
            match Self::try_take(job)? {
                Ok(held) => return Ok(held),
                Err((what, theirs)) => {
                    let now = clock.now();
                    if now.0 >= end {
                        return Err(PublishError::Busy {
                            target: remote.name(),
                            what,
                            ago: (now.0 + lease::SECONDS).saturating_sub(theirs.until.0),
                            left: theirs.until.0.saturating_sub(now.0),
                            host: theirs.host,
                        });
                    }
                    clock.sleep(PAUSE);
                }
            }
        }
    }

    /// Writes our lease, then reads the collector's: whichever of the two wrote second sees the other.
    fn try_take(job: &Job<'a>) -> Result<Result<Self, (&'static str, Lease)>, PublishError> {
        let Job { remote, clock, options, .. } = *job;
        let now = clock.now();
        if let Some(theirs) = read_lease(remote, Control::Publishing)?
            && theirs.is_fresh(now)
            && theirs.token != options.token
            && !options.take_over
        {
            return Ok(Err(("publishing", theirs)));
        }
        let lease = Lease::new(&options.token, &options.host, now);
        let path = RemotePath::Control(Control::Publishing);
        remote.write(&path, &lease.to_text())?;
        let mut held = HeldLease { remote, clock, lease, path };
        if let Some(theirs) = read_lease(remote, Control::Collecting)?
            && theirs.is_fresh(clock.now())
            && !options.take_over
        {
            held.give_back()?;
            return Ok(Err(("collecting garbage", theirs)));
        }
        Ok(Ok(held))
    }

    /// Renews the lease when less than half of its time is left.
    ///
    /// # Errors
    /// As [`HeldLease::still_ours`].
    pub fn renew(&mut self) -> Result<(), PublishError> {
        let now = self.clock.now();
        if !self.lease.is_fresh(now) {
            return Err(PublishError::Lapsed { target: self.remote.name() });
        }
        if self.lease.until.0.saturating_sub(now.0) > lease::SECONDS / 2 {
            return Ok(());
        }
        self.still_ours()?;
        self.lease = self.lease.renewed(now);
        self.remote.write(&self.path, &self.lease.to_text())?;
        Ok(())
    }

    /// Checks that the lease is valid, and that the target has it.
    ///
    /// # Errors
    /// [`PublishError::Lapsed`], [`PublishError::TakenOver`], [`PublishError::Remote`].
    pub fn still_ours(&self) -> Result<(), PublishError> {
        if !self.lease.is_fresh(self.clock.now()) {
            return Err(PublishError::Lapsed { target: self.remote.name() });
        }
        let (text, written) = self.remote.get_dated(&self.path)?.unwrap_or_default();
        let found = Lease::decode(&text).ok().filter(|found| found.token == self.lease.token);
        let Some(found) = found else {
            return Err(PublishError::TakenOver { target: self.remote.name() });
        };
        // A publication removes nothing; but others go by the time in its lease.
        if let Some(Err(doubt)) = written.map(|theirs| clock::compare(found.renewed_at(), theirs)) {
            log::warn!("{}: {doubt}; leases are valid too long or too short by that", self.remote.name());
        }
        Ok(())
    }

    /// Removes the lease from the target, if it is still ours there.
    ///
    /// # Errors
    /// The target could not remove the lease.
    pub fn give_back(&mut self) -> Result<(), RemoteError> {
        let found = read_lease(self.remote, Control::Publishing)?;
        if found.is_some_and(|found| found.token == self.lease.token) {
            self.remote.remove(std::slice::from_ref(&self.path))?;
        }
        Ok(())
    }
}
