//! Which files belong together, beyond their paths.

use crate::ext2::demand::{Body, Demand, Origin};
use crate::tree::NodeId;

/// The order in which files are numbered and placed: what is updated together, or read together, lies together.
/// Files of one rank are in the order of the demand, directory by directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Order {
    /// Rank of each node, by [`NodeId::index`]; those beyond the end have the last rank.
    ranks: Vec<u32>,
}

impl Order {
    /// By the rank of each node, in the order of [`crate::tree::Tree::nodes`].
    pub fn new(ranks: Vec<u32>) -> Self {
        Order { ranks }
    }

    /// Rank of a node.
    pub fn rank(&self, node: NodeId) -> u32 {
        self.ranks.get(node.index()).copied().unwrap_or(u32::MAX)
    }

    /// Positions in [`Demand::wanted`]: directories first, in the demand's order, then all else by rank. The
    /// times of directories change together, so their inodes do well to stand together.
    pub(super) fn positions(&self, demand: &Demand<'_>) -> Vec<usize> {
        let mut positions: Vec<usize> = (0..demand.wanted.len()).collect();
        positions.sort_by_key(|&position| {
            let wanted = &demand.wanted[position];
            match (&wanted.body, wanted.origin) {
                (Body::Directory { .. }, _) | (_, Origin::LostFound) => (0, 0),
                (_, Origin::Node(node)) => (1, self.rank(node)),
            }
        });
        positions
    }
}
