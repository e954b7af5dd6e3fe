//! An image as text, for people and for goldens: superblock, groups, every inode in use.

use std::fmt::Write as _;
use std::io::Write;

use super::blockmap::Run;
use super::ondisk::decode_time;
use super::reader::{ImageReadError, RawInode, Reader};
use super::xattr::Attr;
use crate::tree::{Kind, SpoolId};

/// Writes all of an image's metadata as text, one fact a line; what is 0 in the superblock is left out.
///
/// # Errors
/// Those of the reader; [`ImageReadError::Output`].
pub fn dump(image: &Reader<'_>, out: &mut dyn Write) -> Result<(), ImageReadError> {
    let mut text = String::from("superblock\n");
    for (field, value) in image.superblock().show() {
        if value.bytes().any(|digit| digit != b'0') {
            line(&mut text, format_args!("  {field} {value}"));
        }
    }
    flush(&mut text, out)?;
    for group in 0..image.groups() {
        describe_group(image, group, &mut text)?;
        flush(&mut text, out)?;
    }
    let per_group = image.superblock().s_inodes_per_group;
    for group in 0..image.groups() {
        let bitmap = image.bitmap(group, true)?;
        for nth in (0..per_group).filter(|&nth| bit(&bitmap, nth)) {
            let Some(ino) = group.checked_mul(per_group).and_then(|first| first.checked_add(nth + 1)) else {
                continue;
            };
            if ino > image.superblock().s_inodes_count {
                continue;
            }
            let raw = image.inode(ino)?;
            // Reserved inodes are in use without being anything.
            if raw.inode.i_links_count > 0 {
                describe(image, &raw, &mut text)?;
                flush(&mut text, out)?;
            }
        }
    }
    Ok(())
}

/// What `image stat` shows of one inode.
///
/// # Errors
/// Those of the reader.
pub fn stat(image: &Reader<'_>, raw: &RawInode) -> Result<String, ImageReadError> {
    let mut text = String::new();
    describe(image, raw, &mut text)?;
    Ok(text)
}

fn flush(text: &mut String, out: &mut dyn Write) -> Result<(), ImageReadError> {
    out.write_all(text.as_bytes()).map_err(ImageReadError::Output)?;
    text.clear();
    Ok(())
}

fn line(text: &mut String, args: std::fmt::Arguments<'_>) {
    // Writing to a String can't fail.
    let _ = writeln!(text, "{args}");
}

fn describe_group(image: &Reader<'_>, group: u32, text: &mut String) -> Result<(), ImageReadError> {
    let superblock = image.superblock();
    let descriptor = image.group(group)?;
    let bitmap = image.bitmap(group, false)?;
    let start = u64::from(superblock.s_first_data_block)
        + u64::from(group) * u64::from(superblock.s_blocks_per_group);
    let len = (u64::from(superblock.s_blocks_count) - start).min(u64::from(superblock.s_blocks_per_group));
    let len = u32::try_from(len).expect("at most s_blocks_per_group");
    line(text, format_args!("group {group}: blocks {start}-{}", start + u64::from(len) - 1));
    for (field, value) in descriptor.show() {
        line(text, format_args!("  {field} {value}"));
    }
    let mut free = String::new();
    let mut at = 0;
    while at < len {
        let end = (at..len).find(|&nth| bit(&bitmap, nth) != bit(&bitmap, at)).unwrap_or(len);
        if !bit(&bitmap, at) {
            let _ = write!(free, " {}-{}", start + u64::from(at), start + u64::from(end) - 1);
        }
        at = end;
    }
    line(text, format_args!("  free blocks{free}"));
    Ok(())
}

fn describe(image: &Reader<'_>, raw: &RawInode, text: &mut String) -> Result<(), ImageReadError> {
    let inode = &raw.inode;
    let node = image.node(raw, SpoolId(0))?;
    let kind = match &node.kind {
        Kind::Directory(_) => "directory".to_owned(),
        Kind::File(_) => "file".to_owned(),
        Kind::Symlink(target) => format!("symlink to `{}`", target.escape_ascii()),
        Kind::CharDevice { major, minor } => format!("character device {major}:{minor}"),
        Kind::BlockDevice { major, minor } => format!("block device {major}:{minor}"),
        Kind::Fifo => "fifo".to_owned(),
        Kind::Socket => "socket".to_owned(),
    };
    line(text, format_args!("inode {}: {kind}", raw.ino));
    line(
        text,
        format_args!(
            "  mode {:04o} owner {}:{} links {} size {} i_blocks {}",
            inode.i_mode & 0o7777,
            inode.uid(),
            inode.gid(),
            inode.i_links_count,
            inode.size(),
            inode.i_blocks,
        ),
    );
    let times = [
        ("atime", inode.i_atime, inode.i_atime_extra),
        ("ctime", inode.i_ctime, inode.i_ctime_extra),
        ("mtime", inode.i_mtime, inode.i_mtime_extra),
        ("crtime", inode.i_crtime, inode.i_crtime_extra),
    ];
    let times = times.map(|(name, low, extra)| {
        let time = decode_time(low, extra);
        format!(" {name} {}.{:09}", time.secs, time.nanos)
    });
    line(text, format_args!(" {}", times.concat()));
    let blocks = image.blocks(raw)?;
    for Run { logical, physical, count } in blocks.data {
        line(
            text,
            format_args!("  blocks {logical}-{} at {physical}-{}", logical + count - 1, physical + count - 1),
        );
    }
    if !blocks.indirect.is_empty() {
        let blocks: Vec<String> = blocks.indirect.iter().map(u32::to_string).collect();
        line(text, format_args!("  indirect {}", blocks.join(" ")));
    }
    let (inline, block) = image.attrs(raw)?;
    let in_block = format!("block {}", inode.i_file_acl);
    for (attrs, place) in [(inline, "inode"), (block, &in_block[..])] {
        for Attr { index, name, value } in attrs {
            line(
                text,
                format_args!(
                    "  xattr in {place}: {index} `{}` = `{}`",
                    name.escape_ascii(),
                    value.escape_ascii()
                ),
            );
        }
    }
    if let Kind::Directory(_) = node.kind {
        for entry in image.entries(raw)? {
            line(
                text,
                format_args!(
                    "  entry {}+{} `{}` -> {} type {}",
                    entry.logical,
                    entry.offset,
                    entry.name.escape_ascii(),
                    entry.ino,
                    entry.file_type,
                ),
            );
        }
    }
    Ok(())
}

fn bit(bitmap: &[u8], nth: u32) -> bool {
    bitmap.get((nth / 8) as usize).is_some_and(|byte| byte >> (nth % 8) & 1 == 1)
}
