//! A disk that is taken as it is, and starts itself.

use super::kind::{FileToLock, GuestBuilder, GuestContents, Starter};
use super::services::{BoxError, BuildServices, ThirdPartyFiles};
use super::third_party::{disk_contents, raw_disk, to_lock};
use crate::recipe::{DiskGuest, Guest};

impl GuestBuilder for DiskGuest {
    fn starter(&self) -> Starter {
        Starter::Disk
    }

    fn summary(&self) -> String {
        format!("{} disk as it is", self.format)
    }

    fn files_to_lock(&self, _: &dyn ThirdPartyFiles) -> Result<Vec<FileToLock>, BoxError> {
        Ok(to_lock(&self.source))
    }

    fn build(&self, _: &Guest, services: &mut dyn BuildServices) -> Result<GuestContents, BoxError> {
        let path = raw_disk(&self.source, self.format, services)?;
        Ok(GuestContents::Disk(disk_contents(path, vec![], services)?))
    }
}
