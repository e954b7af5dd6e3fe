//! The compressors of block files. The name of a block does not depend on the compressor, so one store may hold
//! files of several.

use std::fmt;
use std::ops::RangeInclusive;

/// A compressor. All of them write zlib streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodecKind {
    /// libdeflate: at level 6 three times as fast as stock zlib, and 1.4 % smaller; at level 5 more than that, 0.6 %
    /// larger.
    Libdeflate,
    /// Stock zlib. Only this one gives the sizes of the paper's Table 2.
    Zlib,
}

/// A compressor and a level that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Codec {
    kind: CodecKind,
    level: u8,
}

/// A level that the compressor does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("level {found}: {kind} has {} to {}", kind.levels().start(), kind.levels().end())]
pub struct BadLevel {
    kind: CodecKind,
    found: u8,
}

impl CodecKind {
    /// Every compressor, the default first.
    pub const ALL: [CodecKind; 2] = [CodecKind::Libdeflate, CodecKind::Zlib];

    /// Its name in recipes and on command lines.
    pub const fn name(self) -> &'static str {
        match self {
            CodecKind::Libdeflate => "libdeflate",
            CodecKind::Zlib => "zlib",
        }
    }

    /// The level if none is given. docs/layout.md has the costs of others; the paper used 6 of zlib.
    pub const fn default_level(self) -> u8 {
        match self {
            CodecKind::Libdeflate => 5,
            CodecKind::Zlib => 6,
        }
    }

    /// The levels that it has.
    pub const fn levels(self) -> RangeInclusive<u8> {
        match self {
            CodecKind::Libdeflate => 1..=12,
            CodecKind::Zlib => 1..=9,
        }
    }

    /// The compressor at its default level.
    pub const fn codec(self) -> Codec {
        Codec { kind: self, level: self.default_level() }
    }

    /// The compressor at this level.
    ///
    /// # Errors
    /// [`BadLevel`].
    pub fn at(self, level: u8) -> Result<Codec, BadLevel> {
        if self.levels().contains(&level) {
            Ok(Codec { kind: self, level })
        } else {
            Err(BadLevel { kind: self, found: level })
        }
    }
}

impl fmt::Display for CodecKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Codec {
    /// libdeflate at this level.
    ///
    /// # Errors
    /// [`BadLevel`].
    pub fn libdeflate(level: u8) -> Result<Self, BadLevel> {
        CodecKind::Libdeflate.at(level)
    }

    /// Stock zlib at this level.
    ///
    /// # Errors
    /// [`BadLevel`].
    pub fn zlib(level: u8) -> Result<Self, BadLevel> {
        CodecKind::Zlib.at(level)
    }

    /// The compressor, without its level.
    pub const fn kind(self) -> CodecKind {
        self.kind
    }

    /// The level, one of [`CodecKind::levels`].
    pub const fn level(self) -> u8 {
        self.level
    }
}

impl Default for Codec {
    /// libdeflate at its default level.
    fn default() -> Self {
        CodecKind::ALL[0].codec()
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, level {}", self.kind, self.level)
    }
}
