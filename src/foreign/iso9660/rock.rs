//! System use fields: Rock Ridge's names, owners, links, times; zisofs' mark.

use formats::calendar::days_from_civil;

use crate::tree::FileTime;

/// Continuation areas that follow one another; more are a loop.
const MAX_CONTINUATIONS: usize = 32;
/// Most bytes of continuation areas of one record: as much as the kernel reads, 32 areas of 2 KiB.
const MAX_AREA: u32 = 64 << 10;
/// Longest name (ext2's and the kernel's) and longest target of a link (PATH_MAX).
const MAX_NAME: usize = 255;
const MAX_TARGET: usize = 4095;

/// What the system use area of a record says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rock {
    pub name: Option<Vec<u8>>,
    /// PX: type and mode, owner, group.
    pub owner: Option<(u32, u32, u32)>,
    /// PN: a device's number.
    pub device: Option<(u32, u32)>,
    /// SL: a symlink's target.
    pub target: Option<Vec<u8>>,
    /// TF: when it was modified.
    pub time: Option<FileTime>,
    /// ZF: bytes of the header, bits of a block, bytes of the file when unpacked.
    pub zisofs: Option<(u8, u8, u32)>,
    /// CL: the block of a directory that was moved.
    pub child: Option<u32>,
    /// RE: this directory belongs elsewhere.
    pub moved: bool,
}

impl Rock {
    /// Reads an area and those that it goes on in. `read` fills a buffer from the medium.
    pub fn read(&mut self, area: &[u8], read: &dyn Fn(u64, &mut [u8]) -> bool) -> Result<(), &'static str> {
        let mut area = area.to_vec();
        let (mut name_goes_on, mut link_goes_on) = (false, false);
        let mut left = MAX_AREA;
        for _ in 0..MAX_CONTINUATIONS {
            let mut next = None;
            let mut rest = &area[..];
            while let [a, b, len, _version, ..] = *rest {
                let len = usize::from(len);
                if len < 4 || len > rest.len() {
                    // What is left is padding.
                    break;
                }
                let (field, after) = rest.split_at(len);
                rest = after;
                let field = &field[4..];
                match &[a, b] {
                    b"NM" => self.name(field, &mut name_goes_on),
                    b"SL" => self.link(field, &mut link_goes_on),
                    b"PX" => {
                        self.owner = word(field, 0)
                            .zip(word(field, 16))
                            .zip(word(field, 24))
                            .map(|((m, u), g)| (m, u, g));
                    }
                    b"PN" => {
                        let (high, low) = (word(field, 0).unwrap_or(0), word(field, 8).unwrap_or(0));
                        self.device = Some(if high == 0 { (low >> 8, low & 0xff) } else { (high, low) });
                    }
                    b"TF" => self.time = modified(field).or(self.time),
                    b"ZF" if field.starts_with(b"pz") => {
                        if let (&[_, _, header, block, ..], Some(len)) = (field, word(field, 4)) {
                            self.zisofs = Some((header, block, len));
                        }
                    }
                    b"CL" => self.child = word(field, 0),
                    b"RE" => self.moved = true,
                    b"CE" => next = word(field, 0).zip(word(field, 8)).zip(word(field, 16)),
                    b"ST" => break,
                    _ => {}
                }
            }
            if self.name.as_ref().is_some_and(|name| name.len() > MAX_NAME) {
                return Err("a name of more than 255 bytes");
            }
            if self.target.as_ref().is_some_and(|target| target.len() > MAX_TARGET) {
                return Err("a link's target of more than 4095 bytes");
            }
            let Some(((block, offset), len)) = next else { return Ok(()) };
            left = left.checked_sub(len).ok_or("continuations of more than 64 KiB")?;
            let mut more = vec![0; usize::try_from(len).unwrap_or(0)];
            if !read(u64::from(block) * 2048 + u64::from(offset), &mut more) {
                return Err("a continuation is outside the medium");
            }
            area = more;
        }
        Err("continuations lead in a circle")
    }

    /// What Plan 9's own writer of ISOs puts there instead (9660srv's `rzdir`): name, user and group, each behind its
    /// length, an empty name being the record's own; then, at an even place, the mode. What is cut off is left out.
    pub fn plan9(&mut self, area: &[u8]) {
        let mut rest = area;
        let mut texts = [&[][..]; 3];
        for text in &mut texts {
            let Some((&len, after)) = rest.split_first() else { return };
            let Some((found, after)) = after.split_at_checked(usize::from(len)) else { return };
            (*text, rest) = (found, after);
        }
        let at = (area.len() - rest.len()).next_multiple_of(2);
        let Some(mode) = word(area, at) else { return };
        self.name = Some(texts[0].to_vec()).filter(|name| !name.is_empty());
        self.owner = Some((mode & 0o777, 0, 0));
    }

    fn name(&mut self, field: &[u8], goes_on: &mut bool) {
        let Some((&flags, text)) = field.split_first() else { return };
        // Bits 1 and 2 stand for `.` and `..`, which are not among the entries.
        if flags & 6 == 0 {
            if !*goes_on {
                self.name = Some(Vec::new());
            }
            self.name.get_or_insert_default().extend(text);
            *goes_on = flags & 1 != 0;
        }
    }

    fn link(&mut self, field: &[u8], goes_on: &mut bool) {
        let target = self.target.get_or_insert_default();
        let mut rest = field.get(1..).unwrap_or_default();
        while let [flags, len, ..] = *rest {
            let len = usize::from(len);
            let Some(text) = rest.get(2..2 + len) else { break };
            rest = &rest[2 + len..];
            if !*goes_on && !target.is_empty() && target.last() != Some(&b'/') {
                target.push(b'/');
            }
            match flags & 0xe {
                2 => target.extend(b"."),
                4 => target.extend(b".."),
                8 => *target = b"/".to_vec(),
                _ => target.extend(text),
            }
            *goes_on = flags & 1 != 0;
        }
    }
}

/// A number in both byte orders, of which the first half is little-endian.
fn word(field: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*field.get(at..at + 4)?.first_chunk()?))
}

/// TF's time of modification, the second of those that its flags announce.
fn modified(field: &[u8]) -> Option<FileTime> {
    let (&flags, times) = field.split_first()?;
    if flags & 2 == 0 {
        return None;
    }
    let before = usize::from(flags & 1);
    if flags & 0x80 != 0 {
        return long_time(times.get(17 * before..17 * before + 17)?);
    }
    times.get(7 * before..7 * before + 7).map(short_time)
}

/// Seven bytes: years since 1900, month, day, hour, minute, second, quarters of an hour east of Greenwich.
pub(super) fn short_time(bytes: &[u8]) -> FileTime {
    let &[year, month, day, hour, minute, second, zone] = bytes else { return FileTime::default() };
    let days = days_from_civil(1900 + i64::from(year), month.into(), day.into());
    let secs = days * 86_400 + i64::from(hour) * 3600 + i64::from(minute) * 60 + i64::from(second);
    FileTime { secs: secs - i64::from(i8::from_le_bytes([zone])) * 900, nanos: 0 }
}

/// Sixteen digits `YYYYMMDDHHMMSScc`, and the zone.
fn long_time(bytes: &[u8]) -> Option<FileTime> {
    let number = |from: usize, to: usize| std::str::from_utf8(bytes.get(from..to)?).ok()?.parse::<i64>().ok();
    let days = days_from_civil(number(0, 4)?, number(4, 6)?, number(6, 8)?);
    let secs = days * 86_400 + number(8, 10)? * 3600 + number(10, 12)? * 60 + number(12, 14)?;
    let nanos = u32::try_from(number(14, 16)?).ok()? * 10_000_000;
    Some(FileTime { secs: secs - i64::from(i8::from_le_bytes([bytes[16]])) * 900, nanos })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(short_time(&[70, 1, 1, 0, 0, 0, 0]).secs, 0);
        assert_eq!(short_time(&[124, 2, 29, 12, 0, 1, 4]).secs, 1_709_204_401);
        assert_eq!(long_time(b"2024x229120001500"), None);
        let long = [b"2024022912000150".as_slice(), &[252]].concat();
        assert_eq!(long_time(&long), Some(FileTime { secs: 1_709_211_601, nanos: 500_000_000 }));
    }

    #[test]
    fn names_and_links_in_pieces_are_put_together() {
        let mut rock = Rock::default();
        let area = [
            b"NM\x08\x01\x01abc".as_slice(),
            b"NM\x07\x01\x00de",
            b"SL\x0b\x01\x01\x08\x00\x00\x02us",
            b"SL\x0d\x01\x00\x04\x00\x00\x01l\x00\x01x",
        ]
        .concat();
        rock.read(&area, &|_, _| false).unwrap();
        assert_eq!(rock.name.as_deref(), Some(&b"abcde"[..]));
        assert_eq!(rock.target.as_deref(), Some(&b"/us/../l/x"[..]));
    }

    #[test]
    fn continuations_end_or_are_refused() {
        let circle = b"CE\x1c\x01\x01\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\x1c\0\0\0\0\0\0\x1c";
        let read = |_: u64, buf: &mut [u8]| {
            buf.copy_from_slice(circle);
            true
        };
        assert_eq!(Rock::default().read(circle, &read), Err("continuations lead in a circle"));
        assert_eq!(Rock::default().read(circle, &|_, _| false), Err("a continuation is outside the medium"));
    }
}
