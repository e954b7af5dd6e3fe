//! What a build takes from elsewhere: InRelease files through this machine's apt, third-party files by their sums.

pub mod apt;
pub mod third_party;
