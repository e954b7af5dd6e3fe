//! Which files a boot reads, in order: what `imgfactory profile --files` saw, kept beside the build, for its next fresh
//! layout. Paths and not places, so that it outlives every layout.

use std::io;
use std::path::{Path, PathBuf};

use super::profile::DIR;
use crate::host::files::{FileError, create_dir_all, read_at_most, write_atomic};
use crate::index::ImageName;

/// Longest file.
const LIMIT: u64 = 64 << 20;
const HEADING: &[u8] = b"imgfactory-order 1";

/// Why an order can't be used.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// It is none, or of another image.
    #[error(
        "{}:{line}: {what}; correct it, remove the file, or let `imgfactory profile --files` make it again",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where, from 1.
        line: usize,
        /// What is wrong there.
        what: String,
    },
    /// The system refuses.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Where the order of an image is kept.
pub fn path(out: &Path, image: &ImageName) -> PathBuf {
    out.join(DIR).join(format!("{image}.order"))
}

/// Keeps an order for the next build. Paths are without leading `/`; those with a line's end in them are left out.
///
/// # Errors
/// [`FileError`].
pub fn save(out: &Path, image: &ImageName, paths: &[Vec<u8>]) -> Result<(), FileError> {
    create_dir_all(out.join(DIR))?;
    write_atomic(self::path(out, image), &encode(image, paths))
}

/// The order of an image, if there is one.
///
/// # Errors
/// [`OrderError`].
pub fn read(out: &Path, image: &ImageName) -> Result<Vec<Vec<u8>>, OrderError> {
    let path = path(out, image);
    let text = match read_at_most(&path, LIMIT) {
        Err(FileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Ok(Vec::new());
        }
        text => text?,
    };
    decode(image, &text).map_err(|(line, what)| OrderError::Damaged { path, line, what })
}

fn encode(image: &ImageName, paths: &[Vec<u8>]) -> Vec<u8> {
    let mut text =
        [HEADING, format!("\nimage: {image}\n# what is read first, in this order\n").as_bytes()].concat();
    for path in paths.iter().filter(|path| !path.contains(&b'\n')) {
        text.push(b'/');
        text.extend(path);
        text.push(b'\n');
    }
    text
}

/// A person may have written it: comments, empty lines and a last line without its end are fine.
fn decode(image: &ImageName, text: &[u8]) -> Result<Vec<Vec<u8>>, (usize, String)> {
    let mut lines = (1..).zip(text.split(|&byte| byte == b'\n'));
    if lines.next().map(|(_, line)| line) != Some(HEADING) {
        return Err((1, format!("an order of files begins with `{}`", String::from_utf8_lossy(HEADING))));
    }
    let of = format!("image: {image}");
    if lines.next().map(|(_, line)| line) != Some(of.as_bytes()) {
        return Err((2, format!("here belongs `{of}`")));
    }
    let mut paths = Vec::new();
    for (number, line) in lines {
        match line {
            [] | [b'#', ..] => {}
            [b'/', path @ ..] => paths.push(path.to_vec()),
            other => {
                let found = String::from_utf8_lossy(other);
                return Err((number, format!("`{found}`: a path begins with `/`, a comment with `#`")));
            }
        }
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> ImageName {
        "host".parse().unwrap()
    }

    #[test]
    fn an_order_is_kept_but_for_paths_that_no_line_can_hold() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path(), &host()).unwrap(), Vec::<Vec<u8>>::new());
        let paths = [&b""[..], b"usr/sbin/init", b"two\nlines", b"\xff#", b"a b"].map(<[u8]>::to_vec);
        save(dir.path(), &host(), &paths).unwrap();
        let kept: Vec<_> = paths.iter().filter(|path| !path.contains(&b'\n')).cloned().collect();
        assert_eq!(read(dir.path(), &host()).unwrap(), kept);
    }

    #[test]
    fn a_damaged_order_says_where_and_what() {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), &host(), &[]).unwrap();
        let remedy = "; correct it, remove the file, or let `imgfactory profile --files` make it again";
        for (text, said) in [
            (&b""[..], "1: an order of files begins with `imgfactory-order 1`"),
            (b"imgfactory-order 2\n", "1: an order of files begins with `imgfactory-order 1`"),
            (b"imgfactory-order 1\nimage: guest\n", "2: here belongs `image: host`"),
            (
                b"imgfactory-order 1\nimage: host\n\n# x\n/ok\nusr/bin",
                "6: `usr/bin`: a path begins with `/`, a comment with `#`",
            ),
        ] {
            std::fs::write(path(dir.path(), &host()), text).unwrap();
            let found = read(dir.path(), &host()).unwrap_err().to_string();
            assert!(found.ends_with(&format!("profile/host.order:{said}{remedy}")), "{found}");
        }
        let text = b"imgfactory-order 1\nimage: host\n/usr/bin";
        assert_eq!(decode(&host(), text), Ok(vec![b"usr/bin".to_vec()]));
    }
}
