//! Debian as a guest. Its section is that of a Debian host.

use super::{KindRules, KindSection, NO_BOOT_LOADER};
use crate::recipe::check::Checker;
use crate::recipe::choices::{Cow, Virt};
use crate::recipe::raw::RawDebian;
use crate::recipe::types::Debian;
use crate::yaml::findings::Located;

impl KindSection for RawDebian {
    type Settings = Debian;

    const UNSUITABLE: &'static [(Virt, &'static str, &'static str)] = &[NO_BOOT_LOADER];

    fn check(section: Located<Self>, _: Option<&Located<Virt>>, checker: &mut Checker<'_>) -> Option<Debian> {
        Some(checker.debian(section.value))
    }
}

impl KindRules for Debian {
    fn is_tree(&self) -> bool {
        true
    }

    fn default_virt(&self) -> Virt {
        Virt::Pv
    }

    /// Its miniroot keeps what it writes in memory.
    fn default_cow(&self) -> Cow {
        Cow::None
    }
}
