//! In which order inodes are numbered and placed.

use crate::ext2::demand::{Body, Demand, InodeOrigin};

/// Positions in [`Demand::wanted`]: directories first, then all else; of both first what is read first, then in the
/// demand's order, directory by directory. The times of directories change together, so their inodes do well to stand together.
pub(super) fn positions(demand: &Demand<'_>) -> Vec<usize> {
    let mut positions: Vec<usize> = (0..demand.wanted.len()).collect();
    positions.sort_by_key(|&position| {
        let wanted = &demand.wanted[position];
        let is_file =
            !matches!(wanted.body, Body::Directory { .. }) && wanted.origin != InodeOrigin::LostFound;
        (is_file, demand.rank[position])
    });
    positions
}
