//! The archive as the blocks of 512 bytes it is made of, counted, and the numbers in their fields.

use std::io::{self, BufReader, Read, Seek, SeekFrom};

use super::{Problem, TarError};

/// Unit of an archive, bytes.
pub(super) const BLOCK: u64 = 512;

/// Bytes read at once. Most files are smaller and are passed over within them; of large ones no more than this is
/// read in vain.
const BUFFER: usize = 4 << 10;

/// An archive read block by block; knows where it is, and which entry it is at for errors.
pub(super) struct TarBlocks<R> {
    archive: BufReader<R>,
    /// Bytes in the archive.
    len: u64,
    position: u64,
    /// Position of the entry being read.
    pub entry_at: u64,
    /// Its name, once known.
    pub entry: Option<Vec<u8>>,
}

impl<R: Read + Seek> TarBlocks<R> {
    /// Goes to the start of the archive.
    pub fn new(mut archive: R) -> io::Result<Self> {
        let len = archive.seek(SeekFrom::End(0))?;
        archive.rewind()?;
        let archive = BufReader::with_capacity(BUFFER, archive);
        Ok(TarBlocks { archive, len, position: 0, entry_at: 0, entry: None })
    }

    /// Bytes read or passed over so far: where the next block begins.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Whether all of the archive has been read.
    pub fn at_end(&self) -> bool {
        self.position == self.len
    }

    /// What [`TarBlocks::next`] will read.
    pub fn peek(&mut self) -> Result<[u8; BLOCK as usize], TarError> {
        let block = self.next()?;
        self.position -= BLOCK;
        let back = self.archive.seek_relative(-(BLOCK as i64));
        back.map_err(|error| self.failed(error))?;
        Ok(block)
    }

    /// Reads the next 512 bytes.
    pub fn next(&mut self) -> Result<[u8; BLOCK as usize], TarError> {
        let mut block = [0; BLOCK as usize];
        self.archive.read_exact(&mut block).map_err(|error| self.failed(error))?;
        self.position += BLOCK;
        Ok(block)
    }

    /// `len` bytes and the padding behind them, at most `limit` bytes: memory grows only with what is there.
    pub fn take(&mut self, len: u64, limit: u64) -> Result<Vec<u8>, TarError> {
        if len > limit {
            return Err(self.error(Problem::TooLong { len, limit }));
        }
        let mut bytes = Vec::new();
        self.archive.by_ref().take(len).read_to_end(&mut bytes).map_err(|error| self.failed(error))?;
        if bytes.len() as u64 != len {
            return Err(self.failed(io::ErrorKind::UnexpectedEof.into()));
        }
        self.position += len;
        self.skip(padding(len))?;
        Ok(bytes)
    }

    /// Passes over `len` bytes, without padding.
    pub fn skip(&mut self, len: u64) -> Result<(), TarError> {
        // Behind the end one can seek, but nothing is there.
        let end = self.position.checked_add(len).filter(|&end| end <= self.len);
        let end = end.ok_or_else(|| self.error(Problem::Truncated))?;
        // No archive is longer than a file can be.
        let passed = i64::try_from(len).map_err(|_| io::ErrorKind::InvalidInput.into());
        let passed = passed.and_then(|len| self.archive.seek_relative(len));
        passed.map_err(|error| self.failed(error))?;
        self.position = end;
        Ok(())
    }

    /// Gives a problem its place.
    pub fn error(&self, problem: Problem) -> TarError {
        TarError {
            entry: self.entry.as_ref().map(|name| String::from_utf8_lossy(name).into_owned()),
            at: self.entry_at,
            problem,
        }
    }

    fn failed(&self, error: io::Error) -> TarError {
        self.error(match error.kind() {
            io::ErrorKind::UnexpectedEof => Problem::Truncated,
            _ => Problem::Read(error),
        })
    }
}

/// Bytes from the end of `len` bytes to the next block.
pub(super) fn padding(len: u64) -> u64 {
    len.wrapping_neg() % BLOCK
}

/// A header's unsigned field: octal text, or a big-endian number with the first bit set. Empty is 0.
pub(super) fn number(field: &'static str, bytes: &[u8]) -> Result<u64, Problem> {
    u64::try_from(signed(field, bytes)?).map_err(|_| bad(field, bytes))
}

/// As [`number`], but a big-endian number may be negative (two's complement in the lower bits).
pub(super) fn signed(field: &'static str, bytes: &[u8]) -> Result<i128, Problem> {
    if bytes[0] & 0x80 != 0 {
        // 12 bytes at most: 94 bits and the sign, which is bit 6 of the first byte.
        let negative = bytes[0] & 0x40 != 0;
        let first = i128::from(bytes[0] & 0x7f) - if negative { 0x80 } else { 0 };
        return Ok(bytes[1..].iter().fold(first, |value, &byte| (value << 8) | i128::from(byte)));
    }
    let text = bytes.split(|&byte| byte == 0).next().unwrap_or_default().trim_ascii();
    let mut value = 0i128;
    for &digit in text {
        if !(b'0'..=b'7').contains(&digit) {
            return Err(bad(field, bytes));
        }
        value = (value << 3) | i128::from(digit - b'0');
    }
    Ok(value)
}

fn bad(field: &'static str, bytes: &[u8]) -> Problem {
    Problem::Field { field, value: bytes.escape_ascii().to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_octal_or_big_endian() {
        let cases: [(&[u8], i128); 6] = [
            (b"0000755\0", 0o755),
            (b"   755 \0", 0o755),
            (b"\0\0\0\0\0\0\0\0", 0),
            (b"77777777", 0o77_777_777),
            (b"\x80\0\0\0\0\0\0\0\x02\0\0\0", 1 << 25),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe", -2),
        ];
        for (bytes, value) in cases {
            assert_eq!(signed("mtime", bytes).unwrap(), value, "{}", bytes.escape_ascii());
        }
        for (bytes, message) in [
            (&b"0000855\0"[..], r"damaged: `0000855\x00` in the field for its mode"),
            (
                b"\xff\xff\xff\xff\xff\xff\xff\xfe",
                r"damaged: `\xff\xff\xff\xff\xff\xff\xff\xfe` in the field for its mode",
            ),
        ] {
            assert_eq!(number("mode", bytes).unwrap_err().to_string(), message);
        }
    }
}
