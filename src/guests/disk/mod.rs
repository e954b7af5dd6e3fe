//! A disk that is taken as it is, and starts itself.

use super::kind::{FileToLock, GuestBuilder, GuestContents, Starter};
use super::services::{BoxError, BuildServices, Inputs, ThirdPartyFiles};
use super::third_party::{disk_contents, raw_disk, source_inputs, to_lock};
use crate::recipe::{DiskGuest, Guest};

impl GuestBuilder for DiskGuest {
    fn starter(&self) -> Starter {
        Starter::Disk
    }

    fn summary(&self) -> String {
        match self.format {
            Some(format) => format!("{format} disk as it is"),
            None => "disk as it is".to_owned(),
        }
    }

    fn files_to_lock(&self, _: &dyn ThirdPartyFiles) -> Result<Vec<FileToLock>, BoxError> {
        Ok(to_lock(&self.source))
    }

    fn inputs(&self, _: &Guest, services: &mut dyn BuildServices) -> Result<Inputs, BoxError> {
        let mut inputs = source_inputs(&self.source, services);
        inputs
            .push(("format".into(), self.format.map_or("by its contents", |format| format.as_str()).into()));
        Ok(inputs)
    }

    fn build(&self, _: &Guest, services: &mut dyn BuildServices) -> Result<GuestContents, BoxError> {
        let path = raw_disk(&self.source, self.format, services)?;
        Ok(GuestContents::Disk(disk_contents(path, vec![], services)?))
    }
}
