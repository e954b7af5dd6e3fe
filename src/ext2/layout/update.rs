//! `layout.z` as what it changes of a map that is published: lists of edits instead of lists.
//!
//! One zlib stream. In it, after the line `imgfactory-layout-update 2`, come the SHA-256 of the other map's file and the
//! edits of packages, inodes and pages: how many to take over, how many to leave out, how many new ones follow, again
//! and again until a list is whole. Numbers and records are those of [`super::codec`].

use std::collections::HashMap;
use std::ops::Range;

use super::codec::{LayoutError, MapDecoder, MapEncoder, Near, UPDATE_MAGIC, inflate};
use super::map::{Label, LayoutMap, Mapped};
use formats::digest::Sha256;

/// Bytes of the other map's SHA-256.
const SUM: usize = 32;

/// A step from a list to another: first take over, then leave out, then put in.
struct Edit {
    copy: usize,
    drop: usize,
    insert: Range<usize>,
}

impl LayoutMap {
    /// As `layout.z` that says what changes of `base`, whose file has the SHA-256 `sum`. `None` when that can't be said:
    /// the image has another shape. The same maps give the same bytes.
    pub fn encode_update(&self, base: &LayoutMap, sum: Sha256) -> Option<Vec<u8>> {
        if !same_shape(base, self) {
            return None;
        }
        let mut out = MapEncoder(UPDATE_MAGIC.to_vec());
        out.0.extend(sum.0);
        out.head(self);
        out.edits(&edits(&base.labels, &self.labels, |label| &label.name, |a, b| a == b), |out, at| {
            out.label(&self.labels[at]);
        });
        let renamed = renamed(base, &self.labels);
        let same = |old: &Mapped, new: &Mapped| {
            let label = old.label.and_then(|label| renamed[label as usize]);
            let Mapped { ino, meta, kind, data, indirect, sums, label: _ } = new;
            (&old.meta, &old.kind, &old.data, &old.indirect, &old.sums, old.ino, label)
                == (meta, kind, data, indirect, sums, *ino, new.label)
        };
        let mut near = Near::default();
        out.edits(&edits(&base.inodes, &self.inodes, |inode| inode.ino, same), |out, at| {
            out.inode(&self.inodes[at], &mut near);
        });
        let mut at = 0;
        while at < self.pages.len() {
            let old = base.pages[at.min(base.pages.len())..].iter();
            let copy = self.pages[at..].iter().zip(old).take_while(|(a, b)| a == b).count();
            at += copy;
            let differs = |page: &usize| base.pages.get(*page) != Some(&self.pages[*page]);
            let insert = (at..self.pages.len()).take_while(differs).count();
            out.number(copy as u64);
            out.number(insert as u64);
            self.pages[at..at + insert].iter().for_each(|page| out.0.extend(page.0));
            at += insert;
        }
        Some(out.deflate())
    }

    /// From `layout.z` that says what changes of `base`, whose file has the SHA-256 `sum`.
    ///
    /// # Errors
    /// [`LayoutError`]; [`LayoutError::OtherBase`] when it is an update of another map.
    pub fn decode_update(file: &[u8], base: &LayoutMap, sum: Sha256) -> Result<Self, LayoutError> {
        let bytes = inflate(file)?;
        let Some(rest) = bytes.strip_prefix(UPDATE_MAGIC) else { return Err(LayoutError::Version) };
        if rest.get(..SUM) != Some(&sum.0[..]) {
            return Err(LayoutError::OtherBase);
        }
        let mut input = MapDecoder { bytes: &bytes, at: UPDATE_MAGIC.len() + SUM };
        let (geometry, epoch) = input.head()?;
        let mut map = LayoutMap { geometry, epoch, inodes: vec![], labels: vec![], pages: vec![] };
        if !same_shape(base, &map) {
            return input.damaged("a shape that differs from its base's");
        }
        map.labels = input.edits(&base.labels, 2, Label::clone, MapDecoder::label)?;
        let renamed = renamed(base, &map.labels);
        let copy = |old: &Mapped| {
            let label = old.label.and_then(|label| renamed[label as usize]);
            Mapped { label, ..old.clone() }
        };
        let (mut near, count) = (Near::default(), map.labels.len());
        map.inodes = input.edits(&base.inodes, 10, copy, |input| input.inode(geometry, count, &mut near))?;
        if !map.inodes.is_sorted_by(|a, b| a.ino < b.ino) {
            return input.damaged("inodes out of order");
        }
        let whole = geometry.blocks as usize;
        while map.pages.len() < whole {
            let (at, copy) = (map.pages.len(), input.number_as()?);
            let old = &base.pages[at.min(base.pages.len())..];
            let Some(old) = old.get(..copy).filter(|old| old.len() <= whole - at) else {
                return input.damaged("more pages than there were");
            };
            map.pages.extend(old);
            let insert = input.count(crate::ext2::PageHash::LEN)?;
            if copy + insert == 0 || insert > whole - map.pages.len() {
                return input.damaged("more pages than the image has");
            }
            input.hashes(insert, &mut map.pages);
        }
        input.end()?;
        Ok(map)
    }
}

/// Whether all positions of the one are possible in the other.
fn same_shape(base: &LayoutMap, map: &LayoutMap) -> bool {
    let (old, new) = (base.geometry, map.geometry);
    (old.inodes_per_group, old.inode_size) == (new.inodes_per_group, new.inode_size)
        && old.blocks <= new.blocks
}

/// The place in the new list of each package of the old one.
fn renamed(base: &LayoutMap, labels: &[Label]) -> Vec<Option<u32>> {
    let places: HashMap<&str, u32> =
        labels.iter().zip(0..).map(|(label, at)| (&label.name[..], at)).collect();
    base.labels.iter().map(|label| places.get(&label.name[..]).copied()).collect()
}

/// From the old list to the new one, both in the order of their keys.
fn edits<'a, T, K: Ord>(
    old: &'a [T],
    new: &'a [T],
    key: impl Fn(&'a T) -> K,
    same: impl Fn(&T, &T) -> bool,
) -> Vec<Edit> {
    let mut all = Vec::new();
    let (mut from, mut to) = (0, 0);
    while to < new.len() {
        let copy = old[from..].iter().zip(&new[to..]).take_while(|(a, b)| same(a, b)).count();
        (from, to) = (from + copy, to + copy);
        let (first, start) = (from, to);
        while to < new.len() && !old.get(from).is_some_and(|old| same(old, &new[to])) {
            let order = old.get(from).map(|old| key(old).cmp(&key(&new[to])));
            from += usize::from(order.is_some_and(|order| order.is_le()));
            to += usize::from(order.is_none_or(|order| order.is_ge()));
        }
        all.push(Edit { copy, drop: from - first, insert: start..to });
    }
    all
}

impl MapEncoder {
    fn edits(&mut self, edits: &[Edit], mut record: impl FnMut(&mut Self, usize)) {
        self.number(edits.len() as u64);
        for Edit { copy, drop, insert } in edits {
            self.number(*copy as u64);
            self.number(*drop as u64);
            self.number(insert.len() as u64);
            insert.clone().for_each(|at| record(self, at));
        }
    }
}

impl MapDecoder<'_> {
    fn edits<T>(
        &mut self,
        old: &[T],
        least: usize,
        copy: impl Fn(&T) -> T,
        mut record: impl FnMut(&mut Self) -> Result<T, LayoutError>,
    ) -> Result<Vec<T>, LayoutError> {
        let (mut all, mut rest) = (Vec::with_capacity(old.len()), old);
        for _ in 0..self.count(3)? {
            let (copied, dropped): (usize, usize) = (self.number_as()?, self.number_as()?);
            let Some((taken, after)) = rest.split_at_checked(copied) else {
                return self.damaged("more than there was");
            };
            all.extend(taken.iter().map(&copy));
            let Some(after) = after.get(dropped..) else { return self.damaged("more than there was") };
            rest = after;
            for _ in 0..self.count(least)? {
                all.push(record(self)?);
            }
        }
        Ok(all)
    }
}
