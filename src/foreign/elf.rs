//! What a kernel can be started as: its ELF header and the notes that Xen reads (xen/include/public/elfnote.h).

use std::cell::Cell;

/// `e_machine` of 64-bit PCs.
const EM_X86_64: u16 = 62;
/// `e_machine` of 32-bit PCs.
const EM_386: u16 = 3;
/// `p_type` of notes, and `sh_type`.
const PT_NOTE: u32 = 4;
const SHT_NOTE: u32 = 7;
/// `XEN_ELFNOTE_ENTRY`: the address at which a paravirtual guest begins.
const ENTRY: u32 = 1;
/// `XEN_ELFNOTE_PHYS32_ENTRY`: the address at which a pvh guest begins.
const PHYS32_ENTRY: u32 = 18;
/// More headers than any kernel has.
const MAX_HEADERS: usize = 4096;

/// What is known of a kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ElfKernel {
    /// 64 bits or 32.
    pub wide: bool,
    /// It can be started as pv.
    pub pv: bool,
    /// It can be started as pvh.
    pub pvh: bool,
}

/// Why a file is no kernel of a PC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    #[error("not an ELF file")]
    NotElf,
    /// For another processor.
    #[error("for a processor that is not a PC's (e_machine {0})")]
    Machine(u16),
    /// It ends before what its header names.
    #[error("truncated, or its headers are damaged")]
    Damaged,
}

/// Looks a kernel over.
///
/// # Errors
/// [`ElfError`].
pub fn inspect(bytes: &[u8]) -> Result<ElfKernel, ElfError> {
    let file = ElfFile { bytes, wide: bytes.get(4) == Some(&2), notes: Cell::new(2 * bytes.len()) };
    if bytes.get(..4) != Some(b"\x7fELF") || bytes.get(5) != Some(&1) {
        return Err(ElfError::NotElf);
    }
    let machine = file.u16(18)?;
    if machine != if file.wide { EM_X86_64 } else { EM_386 } {
        return Err(ElfError::Machine(machine));
    }
    let mut kernel = ElfKernel { wide: file.wide, ..ElfKernel::default() };
    let (table, size, count) = match file.wide {
        true => (file.word(32)?, file.u16(54)?, file.u16(56)?),
        false => (file.word(28)?, file.u16(42)?, file.u16(44)?),
    };
    for at in file.headers(table, size, count, if file.wide { 56 } else { 32 })? {
        if file.u32(at)? == PT_NOTE {
            let (offset, len) = if file.wide {
                (file.word(at + 8)?, file.word(at + 32)?)
            } else {
                (file.word(at + 4)?, file.word(at + 16)?)
            };
            file.notes(offset, len, &mut kernel)?;
        }
    }
    let (table, size, count, names) = match file.wide {
        true => (file.word(40)?, file.u16(58)?, file.u16(60)?, file.u16(62)?),
        false => (file.word(32)?, file.u16(46)?, file.u16(48)?, file.u16(50)?),
    };
    let sections = file.headers(table, size, count, if file.wide { 64 } else { 40 })?;
    let names = match sections.get(usize::from(names)) {
        Some(&at) => Some(file.section(at)?),
        None => None,
    };
    for &at in &sections {
        let (offset, len) = file.section(at)?;
        if file.u32(at + 4)? == SHT_NOTE {
            file.notes(offset, len, &mut kernel)?;
        }
        // Before notes, up to NetBSD 9: a section with a text.
        let name = names.and_then(|(start, _)| start.checked_add(usize::try_from(file.u32(at).ok()?).ok()?));
        let name = name.and_then(|at| bytes.get(at..));
        if name.is_some_and(|name| name.starts_with(b"__xen_guest\0")) {
            kernel.pv = true;
        }
    }
    Ok(kernel)
}

struct ElfFile<'b> {
    bytes: &'b [u8],
    wide: bool,
    /// Bytes of notes still to be looked at. A segment of them and its sections are the same bytes; more are headers
    /// that say the same again and again.
    notes: Cell<usize>,
}

impl ElfFile<'_> {
    fn array<const N: usize>(&self, at: usize) -> Result<[u8; N], ElfError> {
        let end = at.checked_add(N).ok_or(ElfError::Damaged)?;
        let part = self.bytes.get(at..end).and_then(|part| part.try_into().ok());
        part.ok_or(ElfError::Damaged)
    }

    fn u16(&self, at: usize) -> Result<u16, ElfError> {
        Ok(u16::from_le_bytes(self.array(at)?))
    }

    fn u32(&self, at: usize) -> Result<u32, ElfError> {
        Ok(u32::from_le_bytes(self.array(at)?))
    }

    /// An offset or a length: 8 bytes or 4.
    fn word(&self, at: usize) -> Result<usize, ElfError> {
        let value = if self.wide { u64::from_le_bytes(self.array(at)?) } else { self.u32(at)?.into() };
        usize::try_from(value).map_err(|_| ElfError::Damaged)
    }

    /// Where the headers of a table are, each of `least` bytes at least.
    fn headers(&self, table: usize, size: u16, count: u16, least: usize) -> Result<Vec<usize>, ElfError> {
        let (size, count) = (usize::from(size), usize::from(count).min(MAX_HEADERS));
        let len = size.checked_mul(count).and_then(|len| table.checked_add(len));
        if count > 0 && (size < least || len.is_none_or(|end| end > self.bytes.len())) {
            return Err(ElfError::Damaged);
        }
        Ok((0..count).map(|nth| table + nth * size).collect())
    }

    /// Offset and length of a section.
    fn section(&self, at: usize) -> Result<(usize, usize), ElfError> {
        match self.wide {
            true => Ok((self.word(at + 24)?, self.word(at + 32)?)),
            false => Ok((self.word(at + 16)?, self.word(at + 20)?)),
        }
    }

    fn notes(&self, offset: usize, len: usize, kernel: &mut ElfKernel) -> Result<(), ElfError> {
        let end = offset.checked_add(len).filter(|&end| end <= self.bytes.len()).ok_or(ElfError::Damaged)?;
        self.notes.set(self.notes.get().checked_sub(len).ok_or(ElfError::Damaged)?);
        let mut at = offset;
        while at + 12 <= end {
            let size = |at| -> Result<usize, ElfError> {
                let value = usize::try_from(self.u32(at)?).map_err(|_| ElfError::Damaged)?;
                value.checked_next_multiple_of(4).ok_or(ElfError::Damaged)
            };
            let (name, desc, kind) = (size(at)?, size(at + 4)?, self.u32(at + 8)?);
            let start = at + 12;
            at = start.checked_add(name).and_then(|at| at.checked_add(desc)).ok_or(ElfError::Damaged)?;
            if self.bytes.get(start..start + 4) == Some(b"Xen\0") {
                kernel.pv |= kind == ENTRY;
                kernel.pvh |= kind == PHYS32_ENTRY;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A 64-bit kernel with one note segment.
    fn kernel(notes: &[(&[u8], u32)]) -> Vec<u8> {
        let mut file = vec![0; 64 + 56];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[18] = 62;
        file[32] = 64;
        file[54] = 56;
        file[56] = 1;
        let mut body = Vec::new();
        for (name, kind) in notes {
            body.extend(u32::try_from(name.len()).unwrap().to_le_bytes());
            body.extend(8u32.to_le_bytes());
            body.extend(kind.to_le_bytes());
            body.extend(*name);
            body.resize(body.len().next_multiple_of(4), 0);
            body.extend([0; 8]);
        }
        file[64] = 4;
        file[64 + 8..64 + 16].copy_from_slice(&120u64.to_le_bytes());
        file[64 + 32..64 + 40].copy_from_slice(&(body.len() as u64).to_le_bytes());
        file.extend(body);
        file
    }

    #[test]
    fn notes_say_what_a_kernel_can_be_started_as() {
        for (notes, pv, pvh) in [
            (&[(&b"Xen\0"[..], 1)][..], true, false),
            (&[(b"NetBSD\0", 1), (b"Xen\0", 18)], false, true),
            (&[(b"Xen\0", 18), (b"Xen\0", 5), (b"Xen\0", 1)], true, true),
            (&[(b"NetBSD\0", 1)], false, false),
            (&[], false, false),
        ] {
            assert_eq!(inspect(&kernel(notes)), Ok(ElfKernel { wide: true, pv, pvh }), "{notes:?}");
        }
    }

    #[test]
    fn what_is_no_kernel_is_told_from_what_is_cut_off() {
        assert_eq!(inspect(b"#!/bin/sh"), Err(ElfError::NotElf));
        assert_eq!(inspect(b""), Err(ElfError::NotElf));
        let good = kernel(&[(b"Xen\0", 1)]);
        let mut arm = good.clone();
        arm[18] = 183;
        assert_eq!(inspect(&arm), Err(ElfError::Machine(183)));
        for len in 6..good.len() {
            let result = inspect(&good[..len]);
            assert!(matches!(result, Err(ElfError::Damaged)), "{len}: {result:?}");
        }
    }
}
