//! `releases/<serial>.txt`: one release, every image of it. Written once, never changed.

use crate::digest::Digest;
use std::fmt::Write as _;

use super::signed::{Document, DocumentError};
use super::{Dlahead, Leaf, MAX_DLAHEAD, MAX_LAYOUT, MAX_LINE, MAX_RELEASE, MirrorPath, ReleaseTextFault};
use crate::index::{self, Index};
use crate::names::{ImageName, Serial, UnixTime};
use crate::text::{At, Lines, TextFault, number, words};

/// The text of `releases/N.txt`: all images of one release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    pub name: ImageName,
    pub serial: Serial,
    /// When it was made.
    pub published: UnixTime,
    /// Until when its blocks stay on the mirrors at least; not before `published`.
    pub retain_until: UnixTime,
    /// Its images, each name once, at least one.
    pub images: Vec<ImageFiles>,
}

/// The files of one image in a release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageFiles {
    pub name: ImageName,
    pub index: Stored,
    pub dlahead: Option<Stored>,
    /// Its layout, for the next build.
    pub layout: Option<Stored>,
    /// The layout of an earlier release, when `layout` says only what changed of it.
    pub layout_base: Option<Stored>,
}

/// A file of an image: the release that wrote it, and what it must be. An image that did not change keeps the
/// files of an earlier release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The release in whose directory it is.
    pub serial: Serial,
    /// Its length and SHA-256.
    pub digest: Digest,
}

impl ImageFiles {
    /// Where the index is.
    pub fn index_path(&self) -> MirrorPath {
        self.path(self.index, Leaf::Index)
    }

    /// Where the prefetch list is.
    pub fn dlahead_path(&self) -> Option<MirrorPath> {
        self.dlahead.map(|stored| self.path(stored, Leaf::Dlahead))
    }

    /// Where the layout is.
    pub fn layout_path(&self) -> Option<MirrorPath> {
        self.layout.map(|stored| self.path(stored, Leaf::Layout))
    }

    /// Where the layout is that the layout is an update of.
    pub fn layout_base_path(&self) -> Option<MirrorPath> {
        self.layout_base.map(|stored| self.path(stored, Leaf::Layout))
    }

    /// The files of an image that is published with its index alone.
    pub fn of_index(name: ImageName, index: Stored) -> Self {
        ImageFiles { name, index, dlahead: None, layout: None, layout_base: None }
    }

    /// All of its files, the index first.
    pub fn files(&self) -> impl Iterator<Item = (MirrorPath, Digest)> {
        let more = [
            (Some(self.index), Leaf::Index),
            (self.dlahead, Leaf::Dlahead),
            (self.layout_base, Leaf::Layout),
            (self.layout, Leaf::Layout),
        ];
        more.into_iter().filter_map(|(stored, leaf)| Some((self.path(stored?, leaf), stored?.digest)))
    }

    fn path(&self, stored: Stored, leaf: Leaf) -> MirrorPath {
        MirrorPath::Image(self.name.clone(), stored.serial, leaf)
    }

    /// Checks and reads the index.
    ///
    /// # Errors
    /// [`DocumentError`]: not the bytes that the release names, or the index of something else.
    pub fn open_index(&self, bytes: &[u8]) -> Result<Index, DocumentError> {
        let path = self.index_path();
        self.index.digest.check(&path, bytes, "the release")?;
        let index = Index::decode(bytes)?;
        self.expect(&path, &index.header().image, index.header().serial, self.index.serial)?;
        Ok(index)
    }

    /// Checks and reads the prefetch list; `None` when the release has none for this image.
    ///
    /// # Errors
    /// As [`ImageFiles::open_index`].
    pub fn open_dlahead(&self, bytes: &[u8]) -> Result<Option<Dlahead>, DocumentError> {
        let Some(stored) = self.dlahead else { return Ok(None) };
        let path = self.path(stored, Leaf::Dlahead);
        stored.digest.check(&path, bytes, "the release")?;
        let list = Dlahead::decode(bytes)?;
        self.expect(&path, &list.image, list.serial, stored.serial)?;
        Ok(Some(list))
    }

    /// Checks the layout map of the writer, or the one that it is an update of, and leaves it as it is.
    ///
    /// # Errors
    /// [`DocumentError`]: not the bytes that the release names.
    pub fn check_layout(&self, stored: Stored, bytes: &[u8]) -> Result<(), DocumentError> {
        stored.digest.check(&self.path(stored, Leaf::Layout), bytes, "the release")
    }

    fn expect(
        &self,
        path: &MirrorPath,
        name: &ImageName,
        serial: Serial,
        want: Serial,
    ) -> Result<(), DocumentError> {
        if *name != self.name {
            let (found, want) = (name.clone(), self.name.clone());
            return Err(DocumentError::OtherName { file: path.to_string(), found, want });
        }
        if serial != want {
            return Err(DocumentError::OtherSerial { file: path.to_string(), found: serial, want });
        }
        Ok(())
    }
}

impl Release {
    /// The files of this image.
    pub fn image(&self, name: &ImageName) -> Option<&ImageFiles> {
        self.images.iter().find(|image| image.name == *name)
    }

    /// Whether it is the release that was asked for.
    ///
    /// # Errors
    /// [`DocumentError::OtherName`], [`DocumentError::OtherSerial`].
    pub fn expect(&self, name: &ImageName, serial: Serial) -> Result<(), DocumentError> {
        let file = MirrorPath::Release(serial).to_string();
        if self.name != *name {
            return Err(DocumentError::OtherName { file, found: self.name.clone(), want: name.clone() });
        }
        if self.serial != serial {
            return Err(DocumentError::OtherSerial { file, found: self.serial, want: serial });
        }
        Ok(())
    }
}

impl Document for Release {
    const FILE: &'static str = "release";
    const LIMIT: u64 = MAX_RELEASE;

    fn decode_text(text: &[u8]) -> Result<Self, At<ReleaseTextFault>> {
        let mut lines = Lines::new(text, Self::LIMIT, MAX_LINE);
        decode(&mut lines).map_err(|fault| At { file: Self::FILE, line: lines.number(), fault })
    }

    fn to_text(&self) -> String {
        let Release { name, serial, published, retain_until, images } = self;
        let mut text = format!(
            "imgfactory-release 1\n\
             name: {name}\n\
             serial: {serial}\n\
             published: {published}\n\
             retain-until: {retain_until}\n"
        );
        for image in images {
            let mut line = |kind: &str, path: MirrorPath, digest: Digest| {
                let (name, Digest { sha256, len }) = (&image.name, digest);
                writeln!(text, "{kind} {name} {path} {sha256} {len}")
                    .expect("a String takes all that is written");
            };
            for (path, digest) in image.files() {
                let kind = match &path {
                    MirrorPath::Image(_, _, Leaf::Dlahead) => "dlahead",
                    MirrorPath::Image(_, _, Leaf::Layout) => "layout",
                    _ => "image",
                };
                line(kind, path, digest);
            }
        }
        text.push_str("end\n");
        text
    }

    fn trusted_comment(&self) -> String {
        format!("imgfactory {} serial {}", self.name, self.serial)
    }
}

fn decode(lines: &mut Lines<&[u8]>) -> Result<Release, ReleaseTextFault> {
    lines.heading("imgfactory-release")?;
    let name = lines.name("name:")?;
    let serial = lines.serial("serial:")?;
    let published = lines.time("published:")?;
    let retain_until = lines.time("retain-until:")?;
    if retain_until < published {
        return Err(ReleaseTextFault::BeforePublished {
            what: "retain-until",
            time: retain_until,
            published,
        });
    }
    let mut images: Vec<ImageFiles> = Vec::new();
    loop {
        let line = lines.need("end")?;
        if line == "end" {
            break;
        }
        let shape = "image|dlahead|layout <image> <path> <sha256> <length>";
        let [kind, image, path, sha256, len] = words(line, shape)?;
        let (leaf, max) = match kind {
            "image" => (Leaf::Index, index::MAX_FILE),
            "dlahead" => (Leaf::Dlahead, MAX_DLAHEAD),
            "layout" => (Leaf::Layout, MAX_LAYOUT),
            _ => return Err(TextFault::Shape { found: line.into(), want: shape }.into()),
        };
        let image: ImageName = image.parse().map_err(TextFault::from)?;
        let found: MirrorPath = path.parse()?;
        let from = match &found {
            MirrorPath::Image(of, from, is) if *of == image && *is == leaf => *from,
            _ => {
                let want = format!("images/{image}/<serial>/{}", leaf.file());
                return Err(ReleaseTextFault::OtherPath { found, want });
            }
        };
        if from > serial {
            return Err(ReleaseTextFault::LaterSerial { found: from, serial });
        }
        let sha256 = sha256.parse().map_err(TextFault::from)?;
        let stored = Stored { serial: from, digest: Digest { sha256, len: number("length", len, max)? } };
        if leaf == Leaf::Index {
            if images.iter().any(|other| other.name == image) {
                return Err(ReleaseTextFault::DuplicateImage(image));
            }
            images.push(ImageFiles::of_index(image, stored));
            continue;
        }
        let kind = if leaf == Leaf::Layout { "layout" } else { "dlahead" };
        let last = images.last_mut().filter(|last| last.name == image);
        match (leaf, last) {
            (Leaf::Layout, Some(ImageFiles { layout: layout @ None, .. })) => *layout = Some(stored),
            // Two: the second is what changed of the first.
            (Leaf::Layout, Some(ImageFiles { layout: Some(base), layout_base: layout_base @ None, .. }))
                if base.serial < stored.serial =>
            {
                *layout_base = Some(std::mem::replace(base, stored));
            }
            (Leaf::Dlahead, Some(ImageFiles { dlahead: dlahead @ None, layout: None, .. })) => {
                *dlahead = Some(stored);
            }
            _ => return Err(ReleaseTextFault::Stray { kind, image: image.to_string() }),
        }
    }
    if images.is_empty() {
        return Err(ReleaseTextFault::NoImage);
    }
    lines.finish()?;
    Ok(Release { name, serial, published, retain_until, images })
}
