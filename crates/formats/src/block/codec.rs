//! With which compressor block files are made. The name of a block does not depend on it, so one store may hold
//! files of several.

use std::fmt;

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
    /// The level's number, 1 to the highest of its compressor.
    pub fn get(self) -> u8 {
        self.0
    }

    fn within(codec: &'static str, found: u8, max: u8) -> Result<Self, BadLevel> {
        if (1..=max).contains(&found) { Ok(Level(found)) } else { Err(BadLevel { codec, found, max }) }
    }
}
