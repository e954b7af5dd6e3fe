//! The changes of a release as a text for people.

use std::fmt::Write as _;

use super::{BootReads, ImageChanges, ReleaseChanges};
use formats::report::size;

/// Packages that are listed for each image.
const LISTED: usize = 20;

impl ReleaseChanges {
    /// Returns the changes as lines of text for a terminal.
    pub fn text(&self) -> String {
        let mut text = match self.from {
            Some(from) if from == self.to => format!("{}: release {from} stays as it is\n", self.name),
            Some(from) => format!("{}: release {from} -> {}\n", self.name, self.to),
            None => format!("{}: release {}, the first\n", self.name, self.to),
        };
        for image in &self.images {
            image.write(&mut text);
        }
        let (all, new) = (size(self.new_bytes + self.other_bytes), size(self.new_bytes));
        text.push_str(&format!(
            "\nto upload: {all}: {} new blocks, {new}; indexes, layouts, texts, {}\n",
            self.new_blocks,
            size(self.other_bytes)
        ));
        if self.from.is_some() {
            let most = size(self.client_bytes);
            text.push_str(&format!("a client that has all of the release before fetches {most} at most\n"));
        }
        text
    }
}

impl ImageChanges {
    fn write(&self, text: &mut String) {
        let mut line = |line: String| {
            writeln!(text, "{line}").expect("a String takes all that is written");
        };
        let ImageChanges { image, blocks, new_blocks, new_bytes, .. } = self;
        if self.same {
            line(format!("\nimage {image}: nothing changes"));
        } else {
            line(format!("\nimage {image}: {new_blocks} new blocks of {blocks}, {}", size(*new_bytes)));
        }
        if let Some(BootReads { blocks, least, repack_advised, repack_bytes }) = self.boot {
            let advice = match repack_advised {
                true => {
                    format!("; `build --repack` puts them together and sends {} once", size(repack_bytes))
                }
                false => String::new(),
            };
            line(format!(
                "  small files that a boot reads lie in {blocks} blocks, {least} would hold them{advice}"
            ));
        }
        if self.same {
            return;
        }
        let Some(detail) = &self.detail else {
            line("  there is no layout of it before".to_owned());
            return;
        };
        let causes: Vec<_> =
            detail.causes.iter().map(|(cause, blocks)| format!("{cause} {blocks}")).collect();
        line(format!("  blocks by cause: {}", causes.join(", ")));
        let ratio = match detail.floor_bytes {
            0 => String::new(),
            floor => {
                format!(", {} compressed; sent: {:.2} x that", size(floor), *new_bytes as f64 / floor as f64)
            }
        };
        line(format!("  {} new pages{ratio}", detail.new_pages));
        line(format!(
            "  in use: {:.0} % of what blocks hold; {} freed and left in place",
            detail.in_use * 100.0,
            size(detail.dead_bytes)
        ));
        if detail.repack.advised {
            let bytes = size(detail.repack.bytes);
            line(format!("  a fresh layout would pay by now: `build --repack` sends about {bytes} once"));
        }
        line(format!("  {:>9} {:>6} {:>6}  package", "bytes", "blocks", "files"));
        for package in detail.packages.iter().take(LISTED) {
            let name = if package.name.is_empty() { "(of no package)" } else { &package.name };
            let versions = match (&package.from, &package.to) {
                (Some(from), Some(to)) if from != to => format!(" {from} -> {to}"),
                (None, Some(to)) => format!(" {to}, new"),
                (Some(from), None) => format!(" {from}, gone"),
                _ => String::new(),
            };
            let (bytes, blocks, files) = (size(package.bytes), package.blocks, package.files);
            line(format!("  {bytes:>9} {blocks:>6} {files:>6}  {name}{versions}"));
        }
        if let Some(more) = detail.packages.get(LISTED..).filter(|more| !more.is_empty()) {
            let bytes = size(more.iter().map(|package| package.bytes).sum());
            line(format!("  {bytes:>9} {:>6} {:>6}  {} more packages", "", "", more.len()));
        }
    }
}
