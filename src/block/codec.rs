//! Raw bytes -> block files, with the compressor that the recipe chose. The name of a block does not depend on
//! it, so one store may hold files of several.

use std::fmt;

use libdeflater::CompressionLvl;

use super::max_file_len;

/// Which compressor, and how hard it tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// libdeflate: at level 6 three times as fast as stock zlib, and 1.4 % smaller; at level 5 more than that, 0.6 %
    /// larger.
    Libdeflate(Level),
    /// Stock zlib. Only this one gives the sizes of the paper's Table 2.
    Zlib(Level),
}

/// A level that its compressor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level(u8);

/// A level that the compressor does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("level {found}: {codec} has 1 to {max}")]
pub struct BadLevel {
    codec: &'static str,
    found: u8,
    max: u8,
}

impl Codec {
    /// libdeflate at level 1 to 12; 5 is the default.
    ///
    /// # Errors
    /// [`BadLevel`].
    pub fn libdeflate(level: u8) -> Result<Self, BadLevel> {
        Level::within("libdeflate", level, 12).map(Codec::Libdeflate)
    }

    /// Stock zlib at level 1 to 9; 6 is what the paper used.
    ///
    /// # Errors
    /// [`BadLevel`].
    pub fn zlib(level: u8) -> Result<Self, BadLevel> {
        Level::within("zlib", level, 9).map(Codec::Zlib)
    }
}

impl Default for Codec {
    fn default() -> Self {
        Codec::Libdeflate(Level(5))
    }
}

impl fmt::Display for Codec {
    /// As a recipe has it: `libdeflate`, level 5.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, Level(level)) = match self {
            Codec::Libdeflate(level) => ("libdeflate", level),
            Codec::Zlib(level) => ("zlib", level),
        };
        write!(f, "{name}, level {level}")
    }
}

impl Level {
    fn within(codec: &'static str, found: u8, max: u8) -> Result<Self, BadLevel> {
        if (1..=max).contains(&found) { Ok(Level(found)) } else { Err(BadLevel { codec, found, max }) }
    }
}

/// A compressor with its working memory, for one thread.
pub struct Compressor {
    engine: Engine,
}

enum Engine {
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
            let level =
                CompressionLvl::new(level.into()).expect("a `Level` of libdeflate is 1 to 12, and it has 0");
            libdeflater::Compressor::new(level)
        };
        let engine = match codec {
            Codec::Libdeflate(Level(level)) => {
                Engine::Libdeflate { main: libdeflate(level), store: libdeflate(0) }
            }
            Codec::Zlib(Level(level)) => Engine::Zlib { level },
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
            Engine::Libdeflate { main, store } => main.zlib_compress(raw, &mut file).unwrap_or_else(|_| {
                // 6 bytes, and 5 for every 65,535 raw ones: less than `max_file_len` allows for any length.
                store.zlib_compress(raw, &mut file).expect("stored blocks fit")
            }),
            Engine::Zlib { level } => zlib(raw, &mut file, *level),
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
