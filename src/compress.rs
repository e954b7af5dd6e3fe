//! Raw bytes -> block files, with the compressor that the recipe chose.

use formats::block::{Codec, CodecKind, max_file_len};
use libdeflater::CompressionLvl;

/// A compressor with its working memory, for one thread.
pub struct Compressor {
    engine: Deflater,
}

enum Deflater {
    Libdeflate {
        main: libdeflater::Compressor,
        /// Stores: for the rare block that `main` would make longer than a block file may be.
        store: libdeflater::Compressor,
    },
    Zlib {
        level: u8,
    },
}

impl Compressor {
    /// A compressor for one thread.
    pub fn new(codec: Codec) -> Self {
        let libdeflate = |level: u8| {
            let level = CompressionLvl::new(level.into())
                .expect("a codec has a level that libdeflate has, 1 to 12; and 0 is to store");
            libdeflater::Compressor::new(level)
        };
        let level = codec.level();
        let engine = match codec.kind() {
            CodecKind::Libdeflate => Deflater::Libdeflate { main: libdeflate(level), store: libdeflate(0) },
            CodecKind::Zlib => Deflater::Zlib { level },
        };
        Compressor { engine }
    }

    /// The block file of these raw bytes, at most [`max_file_len`] long.
    ///
    /// # Panics
    /// When there are more than 4 GiB of them; a block has at most 4 MiB.
    pub fn compress(&mut self, raw: &[u8]) -> Vec<u8> {
        let raw_len = u32::try_from(raw.len()).expect("a block has at most 4 MiB");
        let mut file = vec![0; max_file_len(raw_len) as usize];
        let len = match &mut self.engine {
            Deflater::Libdeflate { main, store } => main.zlib_compress(raw, &mut file).unwrap_or_else(|_| {
                // 6 bytes, and 5 for every 65,535 raw ones: less than `max_file_len` allows for any length.
                store.zlib_compress(raw, &mut file).expect("stored blocks fit")
            }),
            Deflater::Zlib { level } => zlib(raw, &mut file, *level),
        };
        file.truncate(len);
        file
    }
}

/// Stock zlib in one call; gives the length of the file.
fn zlib(raw: &[u8], file: &mut [u8], level: u8) -> usize {
    let mut len = file.len() as libz_sys::uLongf;
    // SAFETY: both pointers are of live slices of the lengths given, and zlib keeps neither.
    let status = unsafe {
        libz_sys::compress2(
            file.as_mut_ptr(),
            &mut len,
            raw.as_ptr(),
            raw.len() as libz_sys::uLong,
            level.into(),
        )
    };
    // It fails only for a level out of range, for want of memory (256 KiB), or when `file` is shorter than its
    // own compressBound, which `max_file_len` is.
    assert_eq!(status, libz_sys::Z_OK, "zlib compresses into a buffer of its own bound");
    len as usize
}

#[cfg(test)]
mod tests;
