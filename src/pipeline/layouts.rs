//! The layouts of published images.

use std::sync::Arc;

use crate::ext2::{LayoutError, LayoutMap};
use crate::publish::{MirrorFiles, RemoteError};
use formats::release::{DocumentError as Untrusted, ImageFiles, MirrorPath, Stored};

/// The published layout of an image.
#[derive(Clone, Debug)]
pub struct PublishedLayout {
    pub map: Arc<LayoutMap>,
    /// The whole one that the next may be an update of: this one, or the one that this is an update of.
    pub base: (Stored, Arc<LayoutMap>),
}

/// Why a layout can't be read.
#[derive(Debug, thiserror::Error)]
pub enum LayoutFault {
    /// A file that the release names is gone.
    #[error("{0}: missing, but the release names it")]
    Missing(MirrorPath),
    /// A file is not the one that the release names.
    #[error("{0}: can't be verified")]
    Untrusted(MirrorPath, #[source] Untrusted),
    /// Signed, but of another version of this program.
    #[error("{0}: can't read it; build with the version of imgfactory that wrote it, or with --repack")]
    Unreadable(MirrorPath, #[source] LayoutError),
    /// The tree can't be read.
    #[error(transparent)]
    Remote(#[from] RemoteError),
}

/// Reads the layout of an image, verified; `None` when its release has none for it.
///
/// # Errors
/// [`LayoutFault`].
pub fn read(files: &dyn MirrorFiles, image: &ImageFiles) -> Result<Option<PublishedLayout>, LayoutFault> {
    let Some((stored, path)) = image.layout.zip(image.layout_path()) else { return Ok(None) };
    let file = |stored: Stored, path: &MirrorPath| {
        let bytes = files.read(path, stored.digest.len)?.ok_or_else(|| LayoutFault::Missing(path.clone()))?;
        let checked = image.check_layout(stored, &bytes);
        checked.map_err(|source| LayoutFault::Untrusted(path.clone(), source))?;
        Ok::<_, LayoutFault>(bytes)
    };
    let bytes = file(stored, &path)?;
    let unreadable = |path: MirrorPath| |source| LayoutFault::Unreadable(path, source);
    let Some((base, base_path)) = image.layout_base.zip(image.layout_base_path()) else {
        let map = Arc::new(LayoutMap::decode(&bytes).map_err(unreadable(path))?);
        return Ok(Some(PublishedLayout { map: map.clone(), base: (stored, map) }));
    };
    let whole = file(base, &base_path)?;
    let whole = Arc::new(LayoutMap::decode(&whole).map_err(unreadable(base_path))?);
    let map = LayoutMap::decode_update(&bytes, &whole, base.digest.sha256).map_err(unreadable(path))?;
    Ok(Some(PublishedLayout { map: Arc::new(map), base: (base, whole) }))
}
