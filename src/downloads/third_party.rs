//! Third-party sources, identified by their checksums: from a directory of mirrored files, the cache, or the network.
//!
//! The directory (`--sources DIR`) has a file under its host and path, as `wget --force-directories` leaves it,
//! or under any tail of that, down to its bare name. The cache has files by their sums. A file from the
//! network is written to the cache as it comes and gets its name there when its sum is right. No file is used
//! whose sum was not checked in this run.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use formats::digest::{Sha256, Sha512};
use sha2::Digest as _;

use crate::foreign::sums::{Algorithm, Sum};
use crate::guests::{ServiceError, ThirdPartyFiles};
use crate::sys::progress::{Progress, Task, Unit};
use formats::fetch_fault::FetchFault;
use system::files::{self, AtomicFile, FileError};
use system::http::{BadHttp, Get, Http, HttpOptions, Timeouts};

/// Bytes read at a time.
const CHUNK: usize = 1 << 20;
/// No third-party file is larger.
const LIMIT: u64 = 1 << 40;
/// How often a URL is tried.
const TRIES: u32 = 3;
/// Before the second time, unless the server says how long; at most [`LONGEST`].
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(120);
/// How long one file may take.
const FILE_TIME: Duration = Duration::from_secs(6 * 3600);

/// Why a file can't be had.
#[derive(Debug, thiserror::Error)]
pub enum ThirdPartyError {
    /// No mirror gave it.
    #[error("{}{}", tried.join("; "), match dir {
        Some(dir) => format!("; {} does not have it either", dir.display()),
        None => "; check the network, or give a directory that has the file with --sources DIR".to_owned(),
    })]
    Unreachable {
        /// Each URL with what was wrong.
        tried: Vec<String>,
        /// The directory of mirrored files.
        dir: Option<PathBuf>,
    },
    /// It must not be fetched.
    #[error("{url}: not in the cache{} and --offline forbids fetching it", match dir {
        Some(dir) => format!(" nor in {},", dir.display()),
        None => ",".to_owned(),
    })]
    Offline {
        url: String,
        /// The directory of mirrored files.
        dir: Option<PathBuf>,
    },
    /// A mirrored file is another one.
    #[error(
        "{}: its {} is {found} instead of {want}; fetch {url} again, or correct the checksum in the recipe or its lock",
        path.display(), want.algorithm()
    )]
    Sum {
        path: PathBuf,
        /// Where it comes from.
        url: String,
        found: Sum,
        /// What the recipe or the lock has.
        want: Sum,
    },
    /// A proxy or authorities that can't be used.
    #[error(transparent)]
    Http(#[from] BadHttp),
    #[error(transparent)]
    File(#[from] FileError),
}

/// Where files of others come from.
pub struct ThirdPartySources<'a> {
    /// Mirrored files, asked first.
    pub dir: Option<&'a Path>,
    /// Cache directory; files are below its `sources/`.
    pub cache: &'a Path,
    /// `--offline`: a file that is missing is an error.
    pub offline: bool,
    /// Where progress is shown.
    pub progress: &'a dyn Progress,
    /// How web servers are reached.
    pub web: &'a HttpOptions,
    /// Files whose sum was checked in this run.
    checked: RefCell<BTreeMap<Sum, PathBuf>>,
    /// Small texts that were read in this run.
    texts: RefCell<BTreeMap<String, Vec<u8>>>,
    /// Marks a file of the cache as used, if it is there.
    hold: Option<&'a dyn Fn(&Path) -> bool>,
}

impl<'a> ThirdPartySources<'a> {
    /// Nothing is looked at yet.
    pub fn new(
        dir: Option<&'a Path>,
        cache: &'a Path,
        offline: bool,
        progress: &'a dyn Progress,
        web: &'a HttpOptions,
    ) -> Self {
        let (checked, texts) = (RefCell::default(), RefCell::default());
        ThirdPartySources { dir, cache, offline, progress, web, checked, texts, hold: None }
    }

    /// Has `hold` mark each file of the cache that is given out, so that no other build removes it meanwhile. It says
    /// whether the file is there.
    pub fn holding(self, hold: &'a dyn Fn(&Path) -> bool) -> Self {
        ThirdPartySources { hold: Some(hold), ..self }
    }

    /// Whether a file of the cache is there; it is then marked as used.
    fn is_there(&self, path: &Path) -> bool {
        self.hold.map_or_else(|| path.exists(), |hold| hold(path))
    }

    /// A file that has `sum`, wherever it comes from.
    ///
    /// # Errors
    /// [`ThirdPartyError`]; a file with another sum is not kept.
    pub fn get(&self, urls: &[String], sum: &Sum) -> Result<PathBuf, ThirdPartyError> {
        if let Some(path) = self.checked.borrow().get(sum) {
            return Ok(path.clone());
        }
        let path = self.find(urls, sum)?;
        self.checked.borrow_mut().insert(*sum, path.clone());
        Ok(path)
    }

    fn find(&self, urls: &[String], sum: &Sum) -> Result<PathBuf, ThirdPartyError> {
        let url = urls.first().cloned().unwrap_or_default();
        let mut other = None;
        for path in self.mirrored(urls) {
            let found = self.sum_of(&path, sum.algorithm())?;
            if found == *sum {
                return Ok(path);
            }
            other.get_or_insert(ThirdPartyError::Sum { path, url: url.clone(), found, want: *sum });
        }
        if let Some(error) = other {
            return Err(error);
        }
        let kept = self.kept(&format!("{}-{}", sum.algorithm(), sum.hex()))?;
        if self.is_there(&kept) {
            if self.sum_of(&kept, sum.algorithm())? == *sum {
                return Ok(kept);
            }
            self.progress.say(&format!("{}: damaged in the cache; fetching it again", kept.display()));
            std::fs::remove_file(&kept).map_err(|error| FileError::new(&kept, "remove", error))?;
        }
        self.fetch(urls, |fetched| {
            let found = fetched.sum(sum.algorithm());
            if found == *sum {
                Ok(kept.clone())
            } else {
                Err(format!("its {} is {found} instead of {sum}", sum.algorithm()))
            }
        })?;
        self.is_there(&kept);
        Ok(kept)
    }

    /// A file of which no sum is known yet, and the SHA-256 that it has.
    ///
    /// # Errors
    /// [`ThirdPartyError`].
    pub fn get_unknown(&self, urls: &[String]) -> Result<(PathBuf, Sum), ThirdPartyError> {
        if let Some(path) = self.mirrored(urls).into_iter().next() {
            let sum = self.sum_of(&path, Algorithm::Sha256)?;
            return Ok((path, sum));
        }
        let mut got = None;
        self.fetch(urls, |fetched| {
            let sum = fetched.sum(Algorithm::Sha256);
            let kept = self
                .kept(&format!("{}-{}", sum.algorithm(), sum.hex()))
                .map_err(|error| error.to_string())?;
            got = Some((kept.clone(), sum));
            Ok(kept)
        })?;
        Ok(got.unwrap_or_else(|| unreachable!("what was fetched has a sum")))
    }

    /// A small text that changes, such as a checksum file: mirrored, or fetched now; offline, the last one.
    ///
    /// # Errors
    /// [`ThirdPartyError`].
    pub fn text(&self, urls: &[String], limit: u64) -> Result<Vec<u8>, ThirdPartyError> {
        if let Some(path) = self.mirrored(urls).into_iter().next() {
            return Ok(files::read_at_most(path, limit)?);
        }
        let name: String = urls.first().map(String::as_str).unwrap_or_default().chars().map(safe).collect();
        if let Some(text) = self.texts.borrow().get(&name) {
            return Ok(text.clone());
        }
        let kept = self.kept(&name)?;
        if self.offline {
            if self.is_there(&kept) {
                return Ok(files::read_at_most(kept, limit)?);
            }
            let url = urls.first().cloned().unwrap_or_default();
            return Err(ThirdPartyError::Offline { url, dir: self.dir.map(Into::into) });
        }
        self.fetch(urls, |_| Ok(kept.clone()))?;
        self.is_there(&kept);
        let text = files::read_at_most(kept, limit)?;
        self.texts.borrow_mut().insert(name, text.clone());
        Ok(text)
    }

    /// A file of the cache's own, made by `make` if it is not there: what a source is when it is inflated.
    ///
    /// # Errors
    /// Those of `make`, and of the cache.
    pub fn derived<E: From<FileError>>(
        &self,
        name: &str,
        make: impl FnOnce(&mut dyn Write) -> Result<(), E>,
    ) -> Result<PathBuf, E> {
        let dir = self.cache.join("sources");
        files::create_dir_all(&dir)?;
        let path = dir.join(name);
        if !self.is_there(&path) {
            let mut file = AtomicFile::create(&path)?;
            make(&mut file)?;
            file.commit()?;
            self.is_there(&path);
        }
        Ok(path)
    }

    /// Where the directory of mirrored files may have a file: all that are there, the surest place first.
    fn mirrored(&self, urls: &[String]) -> Vec<PathBuf> {
        let Some(dir) = self.dir else { return Vec::new() };
        let mut found = Vec::new();
        for url in urls {
            let path = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
            let parts: Vec<&str> = path.split('/').collect();
            for from in 0..parts.len() {
                let path = dir.join(parts[from..].join("/"));
                if path.is_file() {
                    found.push(path);
                    break;
                }
            }
        }
        found.dedup();
        found
    }

    fn kept(&self, name: &str) -> Result<PathBuf, FileError> {
        let dir = self.cache.join("sources");
        files::create_dir_all(&dir)?;
        Ok(dir.join(name))
    }

    fn sum_of(&self, path: &Path, algorithm: Algorithm) -> Result<Sum, FileError> {
        let failed = |error| FileError::new(path, "read", error);
        let mut file = File::open(path).map_err(failed)?;
        let len = file.metadata().map_err(failed)?.len();
        let task = self.progress.start(&format!("checking {}", path.display()), len, Unit::Bytes);
        let mut fetched = FileHashers::default();
        copy(&mut file, &mut io::sink(), &mut fetched, &*task).map_err(failed)?;
        Ok(fetched.sum(algorithm))
    }

    /// Fetches from the first URL whose file `judge` likes; what it gives is the file's name.
    fn fetch(
        &self,
        urls: &[String],
        mut judge: impl FnMut(&FileHashers) -> Result<PathBuf, String>,
    ) -> Result<(), ThirdPartyError> {
        let dir = || self.dir.map(Into::into);
        if self.offline {
            return Err(ThirdPartyError::Offline {
                url: urls.first().cloned().unwrap_or_default(),
                dir: dir(),
            });
        }
        let http = Http::open(self.web, 1, Timeouts::default())?;
        let mut tried = Vec::new();
        for url in urls {
            for attempt in 1..=TRIES {
                let mut file = AtomicFile::create(self.kept("incoming")?)?;
                let error = match self.fetch_once(&http, url, &mut file) {
                    Err(Failed::File(error)) => return Err(error.into()),
                    Err(Failed::Net { text, again, after }) => {
                        if again && attempt < TRIES {
                            self.progress.say(&format!("{url}: {text}; trying again"));
                            std::thread::sleep(after.unwrap_or(PAUSE).min(LONGEST));
                            continue;
                        }
                        text
                    }
                    Ok(fetched) => match judge(&fetched) {
                        Ok(name) => {
                            file.commit_as(&name)?;
                            return Ok(());
                        }
                        Err(text) => text,
                    },
                };
                tried.push(format!("{url}: {error}"));
                break;
            }
        }
        Err(ThirdPartyError::Unreachable { tried, dir: dir() })
    }

    fn fetch_once(&self, http: &Http, url: &str, file: &mut AtomicFile) -> Result<FileHashers, Failed> {
        let get = Get::new(url, LIMIT, Instant::now() + FILE_TIME);
        let (announced, mut body) = http.stream(get).map_err(|fault| Failed::Net {
            again: !matches!(
                fault,
                FetchFault::Missing(_)
                    | FetchFault::WebPage
                    | FetchFault::TooLong { .. }
                    | FetchFault::Tls(_)
                    | FetchFault::Proxy(_)
            ),
            text: fault.to_string(),
            after: if let FetchFault::Busy { after, .. } = fault { after } else { None },
        })?;
        let task = self.progress.start(&format!("fetching {url}"), announced.unwrap_or(0), Unit::Bytes);
        let mut fetched = FileHashers::default();
        let broken = |error: io::Error| match error.downcast::<FileError>() {
            Ok(file) => Failed::File(file),
            Err(error) => {
                Failed::Net { text: format!("the connection broke: {error}"), again: true, after: None }
            }
        };
        copy(&mut body, file, &mut fetched, &*task).map_err(broken)?;
        match announced {
            Some(want) if want != fetched.len => {
                let text = format!("the file has {} bytes instead of {want}", fetched.len);
                Err(Failed::Net { text, again: true, after: None })
            }
            _ => Ok(fetched),
        }
    }
}

/// Why one attempt failed.
enum Failed {
    Net {
        text: String,
        again: bool,
        /// When the server wants to be asked again.
        after: Option<Duration>,
    },
    File(FileError),
}

/// What is known of bytes that have come by.
#[derive(Default)]
struct FileHashers {
    len: u64,
    sha256: sha2::Sha256,
    sha512: sha2::Sha512,
}

impl FileHashers {
    /// The checksum by this algorithm.
    fn sum(&self, algorithm: Algorithm) -> Sum {
        match algorithm {
            Algorithm::Sha256 => Sum::Sha256(Sha256(self.sha256.clone().finalize().into())),
            Algorithm::Sha512 => Sum::Sha512(Sha512(self.sha512.clone().finalize().into())),
        }
    }
}

fn copy(
    from: &mut impl Read,
    to: &mut impl Write,
    fetched: &mut FileHashers,
    task: &dyn Task,
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let len = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        to.write_all(&buffer[..len])?;
        fetched.sha256.update(&buffer[..len]);
        fetched.sha512.update(&buffer[..len]);
        fetched.len += len as u64;
        task.advance(len as u64);
    }
}

fn safe(c: char) -> char {
    if c.is_ascii_alphanumeric() || "-.+~".contains(c) { c } else { '_' }
}

/// Without a lock: for what a lock is made of.
impl ThirdPartyFiles for ThirdPartySources<'_> {
    fn locked(&self, _: &str) -> Option<Sum> {
        None
    }

    fn text(&self, urls: &[String], limit: u64) -> Result<Vec<u8>, ServiceError> {
        ThirdPartySources::text(self, urls, limit).map_err(ServiceError::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::server::Server;
    use crate::sys::progress::Silent;
    use system::files::Scratch;

    fn sum(bytes: &[u8]) -> Sum {
        let mut fetched = FileHashers::default();
        fetched.sha512.update(bytes);
        fetched.sum(Algorithm::Sha512)
    }

    #[test]
    fn a_file_comes_from_the_directory_the_cache_or_the_network_and_only_with_its_sum() {
        let room = Scratch::directory(std::env::temp_dir()).unwrap();
        let (dir, cache, www) = (room.path().join("dir"), room.path().join("cache"), room.path().join("www"));
        for path in ["dir/a.example/pub", "dir/etc", "www/blk"] {
            std::fs::create_dir_all(room.path().join(path)).unwrap();
        }
        std::fs::write(dir.join("a.example/pub/one"), "one").unwrap();
        std::fs::write(dir.join("etc/two"), "two").unwrap();
        std::fs::write(dir.join("bad"), "other").unwrap();
        std::fs::write(www.join("blk/three"), vec![3; 3_000_000]).unwrap();
        let server = Server::start(&www, "127.0.0.1:0".parse().unwrap()).unwrap();
        let three = [
            "http://127.0.0.1:9/blk/three".to_owned(),
            format!("http://{}/blk/absent", server.address()),
            format!("http://{}/blk/three", server.address()),
        ];
        let web = HttpOptions::direct();
        let sources = |offline| ThirdPartySources::new(Some(&dir), &cache, offline, &Silent, &web);
        let get = |urls: &[&str], bytes: &[u8]| {
            let urls: Vec<String> = urls.iter().map(|url| (*url).to_owned()).collect();
            sources(true).get(&urls, &sum(bytes)).map_err(|error| error.to_string())
        };
        assert_eq!(get(&["http://a.example/pub/one"], b"one").unwrap(), dir.join("a.example/pub/one"));
        assert_eq!(get(&["http://b.example/x/etc/two"], b"two").unwrap(), dir.join("etc/two"));
        let said = get(&["http://b.example/bad"], b"good").unwrap_err();
        assert!(said.starts_with(&format!("{}: its sha512 is sha512:", dir.join("bad").display())), "{said}");
        assert!(
            said.ends_with(
                "fetch http://b.example/bad again, or correct the checksum in the recipe or its lock"
            ),
            "{said}"
        );

        let wanted = sum(&vec![3; 3_000_000]);
        let said = sources(true).get(&three, &wanted).unwrap_err().to_string();
        assert!(said.contains("not in the cache nor in "), "{said}");
        let path = sources(false).get(&three, &wanted).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), vec![3; 3_000_000]);
        assert_eq!(sources(true).get(&three, &wanted).unwrap(), path, "now it is in the cache");
        std::fs::write(&path, "damaged").unwrap();
        assert_eq!(sources(false).get(&three, &wanted).unwrap(), path);
        assert_eq!(std::fs::read(&path).unwrap().len(), 3_000_000, "it was fetched again");

        let said = sources(false).get(&three[2..], &sum(b"other")).unwrap_err().to_string();
        assert!(said.ends_with(&format!("; {} does not have it either", dir.display())), "{said}");
        let names: Vec<_> = std::fs::read_dir(cache.join("sources"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names.len(), 1, "nothing with another sum stays: {names:?}");
    }
}
