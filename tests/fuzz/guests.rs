//! What guests are made of: kernels, mtree specifications, checksum files.

use imgfactory::foreign::{elf, sums};
use imgfactory::guests::netbsd::mtree;
use imgfactory::guests::plan9::ini::{Ini, MediumKind};

use crate::Target;

/// A kernel with a table of programs, one of sections, and notes.
fn kernel(wide: bool) -> Vec<u8> {
    let mut notes = Vec::new();
    for (name, kind) in [(&b"NetBSD\0"[..], 1_u32), (b"Xen\0", 18), (b"Xen\0", 1)] {
        notes.extend((name.len() as u32).to_le_bytes());
        notes.extend(8_u32.to_le_bytes());
        notes.extend(kind.to_le_bytes());
        notes.extend(name);
        notes.resize(notes.len().next_multiple_of(4), 0);
        notes.extend([0; 8]);
    }
    let names = b"\0__xen_guest\0.notes\0";
    let (head, program, section) = if wide { (64, 56, 64) } else { (52, 32, 40) };
    let at = |nth: usize| head + program + nth * section;
    let (notes_at, names_at) = (at(3), at(3) + notes.len());
    let mut file = vec![0; at(3)];
    let word = |file: &mut Vec<u8>, at: usize, value: usize| match wide {
        true => file[at..at + 8].copy_from_slice(&(value as u64).to_le_bytes()),
        false => file[at..at + 4].copy_from_slice(&(value as u32).to_le_bytes()),
    };
    file[..6].copy_from_slice(if wide { b"\x7fELF\x02\x01" } else { b"\x7fELF\x01\x01" });
    file[18] = if wide { 62 } else { 3 };
    let (tables, counts) = if wide { ([32, 40], 54) } else { ([28, 32], 42) };
    word(&mut file, tables[0], head);
    word(&mut file, tables[1], at(0));
    for (nth, value) in [program, 1, section, 3, 2].into_iter().enumerate() {
        file[counts + 2 * nth] = value as u8;
    }
    file[head] = 4;
    let (offset, len) = if wide { (8, 32) } else { (4, 16) };
    word(&mut file, head + offset, notes_at);
    word(&mut file, head + len, notes.len());
    let (offset, len) = if wide { (24, 32) } else { (16, 20) };
    for (nth, name, kind, start, size) in
        [(0, 1, 1, 0, 0), (1, 13, 7, notes_at, notes.len()), (2, 0, 3, names_at, names.len())]
    {
        file[at(nth)] = name;
        file[at(nth) + 4] = kind;
        word(&mut file, at(nth) + offset, start);
        word(&mut file, at(nth) + len, size);
    }
    [&file[..], &notes, names].concat()
}

#[test]
fn fuzz_elf_notes() {
    for wide in [false, true] {
        let found = elf::inspect(&kernel(wide)).unwrap();
        assert_eq!((found.wide, found.pv, found.pvh), (wide, true, true));
    }
    // 4096 headers in one place, each of which says that the whole file is notes.
    let mut again = kernel(true);
    again[54..58].copy_from_slice(&[0, 0, 0, 16]);
    again[64 + 8..64 + 16].fill(0);
    again[64 + 8] = 120;
    again.truncate(120);
    again.resize(2 << 20, 0);
    again[64 + 32..64 + 40].copy_from_slice(&(((2 << 20) - 120) as u64).to_le_bytes());
    let seeds = vec![kernel(false), kernel(true)];
    Target::new("elf", seeds).cases(vec![again]).in_place().fuzz(|bytes| match elf::inspect(bytes) {
        Ok(kernel) => format!("accepted: {kernel:?}"),
        Err(error) => error.to_string(),
    });
}

#[test]
fn fuzz_mtree() {
    const WORDS: [&[u8]; 18] = [
        b"\n",
        b"\n..\n",
        b"\n/set ",
        b"\n/unset ",
        b"\n/unset all\n",
        b"type=dir ",
        b"mode=",
        b"uid=",
        b"device=netbsd,1,2 ",
        b"device=netbsd,4294967296,2",
        b"\\\n",
        b"\\040",
        b"\\777",
        b"\\s",
        b"./",
        b".",
        b" = ",
        b"4294967296",
    ];
    let seeds = [
        "#\t$NetBSD$\n/set type=dir uname=root gname=wheel mode=0755\n.\n./tmp\tmode=01777\n./usr/a\\040b type=file \
         optional\n/unset mode\n./x gname=\\\nkmem device=netbsd,2,3 type=char\n",
        ". type=dir\nusr type=dir uid=0 gid=0\nbin type=dir\ncat type=file mode=0555\n..\n..\netc type=dir\n",
    ];
    // Defaults count for each line after them, and each line for those below it.
    let defaults: String = (0..4000).map(|nth| format!(" k{nth}=value")).collect();
    let cases = [
        format!("/set{defaults}\n{}", "./a\n".repeat(4000)),
        format!("/set a={}\n{}", "x".repeat(60_000), "./a\n".repeat(4000)),
        format!("/set type=dir\n{}", "a\n".repeat(20_000)),
    ];
    let bytes = |texts: &[String]| texts.iter().map(|text| text.clone().into_bytes()).collect::<Vec<_>>();
    let target = Target::new("mtree", bytes(&seeds.map(str::to_owned))).cases(bytes(&cases)).words(&WORDS);
    target.per_byte(1024).fuzz(|bytes| match mtree::parse(bytes) {
        Ok(entries) => {
            for entry in &entries {
                assert!(!entry.path.split(|byte| *byte == b'/').any(|part| part == b".."), "{entry:?}");
            }
            let faults = |entry: &mtree::MtreeEntry| {
                let device = entry.device().err();
                entry.mode().err().or(entry.uid().err()).or(entry.gid().err()).or(device)
            };
            entries.iter().find_map(faults).map_or("accepted".into(), |error| error.to_string())
        }
        Err(error) => error.to_string(),
    });
}

#[test]
fn fuzz_plan9_ini() {
    const WORDS: [&[u8]; 8] =
        [b"\n[", b"]\n", b"\n[menu]\n", b"menuitem=", b"menudefault=", b"[common]\n", b"bootfile=", b","];
    let seeds = [
        "bootfile=/386/9pc\nmouseport=ask\n",
        "[common]\n*nobiosload=1\n[menu]\nmenuitem=a, first\nmenuitem=b\nmenudefault=b, 5\n[a]\nbootfile=9pcflop.gz\n\
         [b]\nbootfile=9pccd.gz\ncdboot=yes\n",
    ];
    let cases = vec![format!("[menu]\n{}[a]\nbootfile=x\n", "menuitem=a\n".repeat(2000)).into_bytes()];
    let target = Target::new("plan9-ini", seeds.map(|seed| seed.as_bytes().to_vec()).into());
    target.cases(cases).words(&WORDS).fuzz(|bytes| {
        let ini = Ini::parse(bytes);
        assert!(ini.chosen(None, MediumKind::Iso).is_ok(), "without a wish there is always a choice");
        match ini.chosen(Some("a"), MediumKind::Disk) {
            Ok(lines) => format!("accepted: {}", lines.len()),
            Err(error) => error.to_string(),
        }
    });
}

#[test]
fn fuzz_checksum_files() {
    let hex = ["a".repeat(64), "b".repeat(128)];
    let seeds = [
        format!("MD5 (x) = 0123\nSHA256 (base.tar.xz) = {}\nSHA512 (./base.tar.xz) = {}\r\n", hex[0], hex[1]),
        format!("SHA512 (a (b)) = {}\nSHA512 (a (b)) = {}\n", hex[1], hex[1]),
    ];
    Target::new("sums", seeds.map(String::into_bytes).into()).fuzz(|bytes| match sums::parse(bytes) {
        Ok(sums) => format!("accepted: {}", sums.len()),
        Err(error) => error.to_string(),
    });
}
