//! Which files belong together, beyond their paths.

use crate::ext2::demand::{Body, Demand, Origin};
use crate::tree::NodeId;

/// The order in which files are numbered and placed: what is read together lies together. Files of one rank are in the
/// order of the demand, directory by directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Order {
    /// Rank of each node, by [`NodeId::index`]; those beyond the end have the last rank.
    ranks: Vec<u32>,
}

impl Order {
    /// These nodes before all others, in their order: what a boot reads, say.
    pub fn first(nodes: &[NodeId]) -> Self {
        let end = nodes.iter().map(|node| node.index() + 1).max().unwrap_or(0);
        let mut ranks = vec![u32::MAX; end];
        for (node, rank) in nodes.iter().zip(0..) {
            ranks[node.index()] = rank;
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Content, Kind, Meta, Node, Tree};

    #[test]
    fn what_is_first_comes_first_and_the_rest_keeps_its_order() {
        let mut tree = Tree::new(Meta::default());
        let nodes: Vec<NodeId> = ["a", "b", "c", "d"]
            .iter()
            .map(|name| {
                let node = Node { meta: Meta::default(), kind: Kind::File(Content::inline(vec![])) };
                tree.insert(name.as_bytes(), node).unwrap()
            })
            .collect();
        let sorted = |order: &Order| {
            let mut sorted = nodes.clone();
            sorted.sort_by_key(|node| order.rank(*node));
            sorted.iter().map(|node| node.index() - nodes[0].index()).collect::<Vec<_>>()
        };
        assert_eq!(sorted(&Order::default()), [0, 1, 2, 3]);
        assert_eq!(sorted(&Order::first(&[nodes[3], nodes[1]])), [3, 1, 0, 2]);
    }
}
