//! Tar archives with all that PAX headers can say, and those that sqfs2tar makes of a squashfs.

use std::fs;
use std::io::{Cursor, Read};
use std::process::{Command, Stdio};

use imgfactory::tree::dump::dump;
use imgfactory::tree::{SpoolId, tar::read};
use tar::{Builder, EntryType, Header};

use crate::Target;
use crate::fetch_support::{run, scratch};

const WORDS: [&[u8]; 24] = [
    b"0",
    b"1",
    b"5",
    b"g",
    b"x",
    b"L",
    b"K",
    b"S",
    b"\0",
    b"/",
    b"../",
    b"a/",
    b"\x80\0\0\0\0\0\0\0\0\0\x10\0",
    b"\xff\xff\xff\xff\xff\xff\xff\xff",
    b"77777777777\0",
    b"00000001000\0",
    b"20 mtime=-1.999999\n",
    b"9 path=\n",
    b"GNU.sparse.major=1\n",
    b"GNU.sparse.map=0,1,2,3\n",
    b"SCHILY.xattr.user.a=",
    b"SCHILY.acl.access=user:a:rwx\n",
    b"9223372036854775807",
    b"18446744073709551615",
];

fn header(kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_mtime(1000);
    header
}

fn member(archive: &mut Builder<Vec<u8>>, kind: EntryType, name: &str, data: &[u8]) {
    archive.append_data(&mut header(kind, data.len() as u64), name, data).unwrap();
}

fn link(archive: &mut Builder<Vec<u8>>, kind: EntryType, name: &str, target: &str) {
    archive.append_link(&mut header(kind, 0), name, target).unwrap();
}

/// A PAX header of these records: for all that follow, or for the next.
fn pax(archive: &mut Builder<Vec<u8>>, global: bool, records: &[(&[u8], &[u8])]) {
    let mut data = Vec::new();
    for (key, value) in records {
        let body = key.len() + value.len() + 3;
        let mut len = body + 1;
        while body + len.to_string().len() != len {
            len += 1;
        }
        data.extend(format!("{len} ").as_bytes());
        data.extend([*key, b"=", *value, b"\n"].concat());
    }
    let kind = if global { EntryType::XGlobalHeader } else { EntryType::XHeader };
    member(archive, kind, "pax", &data);
}

fn archive() -> Builder<Vec<u8>> {
    Builder::new(Vec::new())
}

/// Every kind of member, and the three ways to write a sparse file.
fn seeds() -> Vec<Vec<u8>> {
    let mut plain = archive();
    member(&mut plain, EntryType::Directory, "etc/", b"");
    member(&mut plain, EntryType::Regular, "etc/passwd", b"root:x:0:0::/root:/bin/sh\nann:x:7:7::/:\n");
    link(&mut plain, EntryType::Symlink, "etc/link", "passwd");
    link(&mut plain, EntryType::Link, "etc/hard", "etc/passwd");
    member(&mut plain, EntryType::Char, "tty", b"");
    member(&mut plain, EntryType::Fifo, "fifo", b"");
    let long = "long/".repeat(30) + "name";
    let mut gnu = Header::new_gnu();
    gnu.set_size(5);
    plain.append_data(&mut gnu, &long, &b"hello"[..]).unwrap();
    let mut records = archive();
    pax(&mut records, true, &[(b"comment", b"0123456789"), (b"uid", b"5")]);
    let xattr: (&[u8], &[u8]) = (b"SCHILY.xattr.security.capability", b"\x01\0\0\x02\0\x20\x0a\0");
    pax(&mut records, false, &[xattr, (b"mtime", b"-1.25"), (b"path", b"bin/ping")]);
    member(&mut records, EntryType::Regular, "cut", b"ping");
    pax(
        &mut records,
        false,
        &[(b"SCHILY.acl.access", b"user::rwx\nuser:ann:rw-:7\ngroup::r-x\nmask::rwx\nother::---")],
    );
    member(&mut records, EntryType::Regular, "acl", b"");
    for (records_of, data) in [
        (&[(&b"GNU.sparse.size"[..], &b"9000"[..]), (b"GNU.sparse.map", b"0,512,8192,8")][..], vec![1; 520]),
        (
            &[(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.realsize", b"9000")],
            [b"2\n0\n512\n8192\n8\n".to_vec(), vec![0; 497], vec![1; 520]].concat(),
        ),
    ] {
        pax(&mut records, false, records_of);
        member(&mut records, EntryType::Regular, "sparse", &data);
    }
    [plain, records].map(|archive| archive.into_inner().unwrap()).into()
}

/// Makes the checksums of headers right.
fn repair(bytes: &mut [u8]) {
    for block in bytes.as_chunks_mut::<512>().0 {
        if block[257..262] == *b"ustar" {
            let mut header = Header::from_byte_slice(block).clone();
            header.set_cksum();
            block.copy_from_slice(header.as_bytes());
        }
    }
}

fn parse(bytes: &[u8]) -> String {
    match read(Cursor::new(bytes), SpoolId(0)) {
        Ok(tree) => format!("accepted: {}", tree.nodes().len()),
        Err(error) => error.to_string(),
    }
}

#[test]
fn fuzz_tar() {
    Target::new("tar", seeds()).words(&WORDS).repair(repair).per_byte(128).fuzz(parse);
}

/// An archive of a script: each line is a record of a header for all (`g`) or for the next (`x`), or a member (`f`).
fn scripted(script: &[u8]) -> Vec<u8> {
    let mut archive = archive();
    let (mut global, mut own) = (Vec::new(), Vec::new());
    let mut members = 0;
    for line in script.split(|byte| *byte == b'\n') {
        let (kind, record) = line.split_first().unwrap_or((&b' ', b""));
        let at = record.iter().position(|byte| *byte == b'=').unwrap_or(record.len());
        let record = (&record[..at], record.get(at + 1..).unwrap_or_default());
        match kind {
            b'g' => global.push(record),
            b'x' => own.push(record),
            _ => {
                for (records, global) in [(&mut global, true), (&mut own, false)] {
                    if !records.is_empty() {
                        pax(&mut archive, global, records);
                        records.clear();
                    }
                }
                members += 1;
                let data = vec![b'1'; if *kind == b'f' { 520 } else { 0 }];
                member(&mut archive, EntryType::Regular, &format!("{members}"), &data);
            }
        }
    }
    archive.into_inner().unwrap()
}

#[test]
fn fuzz_pax_records() {
    const LINES: [&[u8]; 14] = [
        b"\nf\n",
        b"\ne\n",
        b"\nxGNU.sparse.offset=0\nxGNU.sparse.numbytes=8\n",
        b"\nxGNU.sparse.numblocks=1\n",
        b"\ngGNU.sparse.map=0,512,1000,8\n",
        b"\ngpath=a/b\n",
        b"\nxlinkpath=a\n",
        b"\nxsize=0\n",
        b"\ngSCHILY.xattr.user.a%3D=1\n",
        b"18446744073709551615",
        b"-",
        b".",
        b"=",
        b"/",
    ];
    let seeds = [
        "xmtime=12.5\nxuid=1\nxgid=2\nxpath=a/b/c\nf\ngcomment=x\nguid=7\nf\ne\nguid=\nf",
        "xGNU.sparse.size=9000\nxGNU.sparse.numblocks=2\nxGNU.sparse.map=0,512,8000,8\nf",
        "xGNU.sparse.size=9000\nxGNU.sparse.numblocks=1\nxGNU.sparse.offset=0\nxGNU.sparse.numbytes=520\nf",
        "gSCHILY.xattr.user.a=1\ngSCHILY.acl.access=user::rwx,user:5:rwx,mask::r--\nf\nxSCHILY.acl.default=u:0:r\nf",
    ];
    let seeds: Vec<Vec<u8>> = seeds.map(|text| text.as_bytes().to_vec()).into();
    let members = "e\n".repeat(3000);
    // What a header says of all members is kept for each: an archive of 1.9 MB took 1.8 GB.
    let large = format!("gSCHILY.xattr.user.a={}\n{members}", "x".repeat(200_000));
    let many: String = (0..2000).map(|nth| format!("gSCHILY.xattr.user.{nth}=\n")).collect();
    // A path of many components makes a directory of each.
    let deep = format!("xpath={}\nf\n", "a/".repeat(100_000));
    let cases = vec![large.into_bytes(), (many + &members).into_bytes(), deep.into_bytes()];
    let archives = |scripts: Vec<Vec<u8>>| scripts.iter().map(|script| scripted(script)).collect();
    // As archives: what is allowed goes by their length.
    Target::new("pax archives", archives(seeds.clone()))
        .cases(archives(cases))
        .per_byte(128)
        .run_cases(parse);
    // A script's line is a member of 512 bytes and more.
    Target::new("pax", seeds).words(&LINES).per_byte(128 * 512).fuzz(|script| parse(&scripted(script)));
}

/// sqfs2tar reads the squashfs; what comes of a damaged one is an archive, whole or cut off.
#[test]
fn fuzz_squashfs_listing() {
    let dir = scratch();
    let (files, image) = (dir.path().join("files"), dir.path().join("image"));
    fs::create_dir_all(files.join("etc/deep/er")).unwrap();
    fs::write(files.join("etc/issue"), "KNOPPIX".repeat(2000)).unwrap();
    fs::write(files.join("etc/deep/er/x"), "x").unwrap();
    std::os::unix::fs::symlink("issue", files.join("etc/link")).unwrap();
    run(Command::new("gensquashfs").args(["-q", "-D"]).arg(&files).arg(&image));
    let seed = fs::read(&image).unwrap();
    Target::new("squashfs", vec![seed]).in_place().per_byte(256).fuzz(|bytes| {
        fs::write(&image, bytes).unwrap();
        let mut tool = Command::new("timeout")
            .args(["10", "sqfs2tar"])
            .arg(&image)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut archive = Vec::new();
        // A damaged size would make a file of terabytes, all zeros.
        tool.stdout.take().unwrap().take(1 << 20).read_to_end(&mut archive).unwrap();
        let _ = tool.wait();
        match read(Cursor::new(&archive), SpoolId(0)) {
            Ok(tree) => format!("accepted: {:?}", dump(&tree, &vec![archive]).map(|text| text.len())),
            Err(error) => error.to_string(),
        }
    });
}
