//! Carries out what the [`Resolver`] wants done: requests in threads, the cache and the medium, lines for people. It
//! decides nothing.

use std::sync::Arc;
use std::time::Instant;

use super::resolver::{
    GetId, MirrorAnswer, MirrorGet, MirrorStats, Now, ResolveError, ResolveRequest, Resolved, Resolver,
    StorageError, StoredContent, StoredFile, TrustAction, TrustEvent,
};
use crate::cache::Cache;
use crate::threads::{Coming, Queue, start};
use formats::fetch_fault::FetchFault as Fault;
use formats::index::Index;
use formats::release::{Dlahead, ImageFiles, MAX_LATEST, MirrorPath, Mirrors, Release};
use formats::url::MirrorUrl;
use system::clock;
use system::files::FileError;
use system::http::{Answer, Get, Http};

/// A release that may be used, and what was learnt on the way.
#[derive(Debug)]
pub struct ChosenRelease {
    pub release: Release,
    /// Its files of the image.
    pub files: ImageFiles,
    pub index: Arc<Index>,
    /// How each mirror did, in their order.
    pub mirrors: Vec<MirrorStats>,
    /// The signed list of mirrors, while it is coming.
    pub mirror_list: Option<Coming<Mirrors>>,
    /// The prefetch list, while it is coming.
    list: Option<Coming<Dlahead>>,
}

impl ChosenRelease {
    /// The prefetch list, if the release has one and it could be fetched; waits for it. Once.
    pub fn prefetch_list(&self) -> Option<Dlahead> {
        self.list.as_ref()?.take()?
    }
}

/// Resolves a request. What comes after the release goes on in a thread.
///
/// # Errors
/// [`ResolveError`].
pub fn resolve(
    http: &Arc<Http>,
    cache: Option<&Arc<Cache>>,
    mut request: ResolveRequest,
) -> Result<ChosenRelease, ResolveError> {
    request.has_cache = cache.is_some();
    request.has_medium = cache.is_some_and(|cache| cache.has_medium());
    request.cached_name = cache.and_then(|cache| cache.only_name());
    let urls: Arc<[MirrorUrl]> = request.mirrors.clone().into();
    let began = Instant::now();
    let mut carrier = Carrier {
        resolver: Resolver::new(request, now(began)),
        began,
        http: Arc::clone(http),
        urls,
        cache: cache.cloned(),
        events: Arc::default(),
        mirror_list: Coming::default(),
        list: Coming::default(),
    };
    let resolved = loop {
        if let Some(outcome) = carrier.carry_out() {
            break outcome?;
        }
        carrier.wait();
    };
    // Those that have answered in the meantime count, too.
    while let Some(event) = carrier.events.take_until(Instant::now()) {
        carrier.resolver.handle_event(now(began), event);
    }
    carrier.carry_out();
    let Resolved { release, files, index, mirrors_follow, list_follows, .. } = *resolved;
    let chosen = ChosenRelease {
        release,
        files,
        index: Arc::new(index),
        mirrors: carrier.resolver.mirror_stats().to_vec(),
        mirror_list: mirrors_follow.then(|| Arc::clone(&carrier.mirror_list)),
        list: list_follows.then(|| Arc::clone(&carrier.list)),
    };
    if carrier.resolver.is_finished() {
        return Ok(chosen);
    }
    let (mirror_list, list) = (Arc::clone(&carrier.mirror_list), Arc::clone(&carrier.list));
    let rest = move || {
        while !carrier.resolver.is_finished() {
            carrier.wait();
            carrier.carry_out();
        }
    };
    if let Err(error) = start("trust", rest) {
        detail!("trust: {error}");
        mirror_list.put(None);
        list.put(None);
    }
    Ok(chosen)
}

struct Carrier {
    resolver: Resolver,
    /// Zero of the resolver's time.
    began: Instant,
    http: Arc<Http>,
    urls: Arc<[MirrorUrl]>,
    cache: Option<Arc<Cache>>,
    events: Arc<Queue<TrustEvent>>,
    mirror_list: Coming<Mirrors>,
    list: Coming<Dlahead>,
}

fn now(began: Instant) -> Now {
    Now { elapsed: began.elapsed(), wall: clock::now() }
}

impl Carrier {
    /// Does all that is to be done now. Gives the outcome, when it has come.
    fn carry_out(&mut self) -> Option<Result<Box<Resolved>, ResolveError>> {
        let mut outcome = None;
        while let Some(action) = self.resolver.poll_action() {
            match action {
                TrustAction::Get(get) => self.get(get),
                TrustAction::Read(file) => {
                    let content = self.read(&file);
                    self.events.put(TrustEvent::Stored { file, content });
                }
                TrustAction::Save { file, bytes, without } => {
                    if let Some(Err(error)) = self.cache.as_deref().map(|cache| save(cache, &file, &bytes)) {
                        log::warn!("{error}; {without}");
                    }
                }
                TrustAction::AcceptSerial { name, serial, restart } => {
                    let accept = |cache: &Arc<Cache>| cache.accept_serial(&name, serial, restart);
                    let result = self.cache.as_ref().map_or(Ok(()), accept).map_err(storage_error);
                    self.events.put(TrustEvent::SerialAccepted(result));
                }
                TrustAction::Warn(text) => log::warn!("{text}"),
                TrustAction::Detail(text) => detail!("{text}"),
                TrustAction::Resolved(resolved) => outcome = Some(Ok(resolved)),
                TrustAction::Failed(error) => outcome = Some(Err(error)),
                TrustAction::MirrorList(list) => self.mirror_list.put(list),
                TrustAction::PrefetchList(list) => self.list.put(list),
            }
        }
        outcome
    }

    /// Waits for the next event or timeout, and reports it.
    fn wait(&mut self) {
        let event = match self.resolver.poll_timeout() {
            Some(timeout) => self.events.take_until(self.began + timeout),
            None => self.events.take(),
        };
        let now = now(self.began);
        match event {
            Some(event) => self.resolver.handle_event(now, event),
            None => self.resolver.handle_timeout(now),
        }
    }

    /// Has a thread ask a mirror.
    fn get(&self, get: MirrorGet) {
        let (http, urls, events) = (Arc::clone(&self.http), Arc::clone(&self.urls), Arc::clone(&self.events));
        let (id, until) = (get.id, self.began + get.until);
        let ask = move || {
            let result = match urls.get(get.mirror) {
                Some(mirror) => {
                    let url = format!("{mirror}{}", get.path);
                    let MirrorGet { limit, len, fresh, .. } = get;
                    http.get(Get { len, fresh, ..Get::new(&url, limit, until) }).map(answer)
                }
                None => Err(Fault::Unreachable("no such mirror".into())),
            };
            events.put(TrustEvent::Answer { id, result });
        };
        if let Err(error) = start("resolve", ask) {
            let result = Err(Fault::Unreachable(error.to_string()));
            self.events.put(TrustEvent::Answer { id, result });
        }
    }

    fn read(&self, file: &StoredFile) -> StoredContent {
        let Some(cache) = self.cache.as_deref() else { return StoredContent::Bytes(None) };
        let bytes = match file {
            StoredFile::Serial(name) => {
                return StoredContent::Serial(cache.accepted_serial(name).map_err(storage_error));
            }
            StoredFile::Medium(path) => cache.on_medium(path, path.limit()),
            StoredFile::Release(name) => cache.saved_release(name),
            StoredFile::Latest(name) => cache.saved_latest(name),
            StoredFile::Index(name, image) => cache.saved_index(name, image),
            StoredFile::Keys(id) => cache.saved_keys(*id),
        };
        StoredContent::Bytes(bytes.map(Arc::new))
    }
}

fn save(cache: &Cache, file: &StoredFile, bytes: &[u8]) -> Result<(), FileError> {
    match file {
        StoredFile::Release(name) => cache.save_release(name, bytes),
        StoredFile::Latest(name) => cache.save_latest(name, bytes),
        StoredFile::Index(name, image) => cache.save_index(name, image, bytes),
        StoredFile::Keys(id) => cache.save_keys(*id, bytes),
        // A medium is never written, and a serial is accepted.
        StoredFile::Medium(_) | StoredFile::Serial(_) => Ok(()),
    }
}

fn storage_error(error: FileError) -> StorageError {
    Arc::new(error)
}

fn answer(answer: Answer) -> MirrorAnswer {
    let Answer { bytes, instead, first_byte, whole } = answer;
    MirrorAnswer { bytes, instead, first_byte, whole }
}

/// Asks all mirrors for `latest`, at once: each mirror's place and answer, as they come, until the time is over.
pub fn ask_all(
    http: &Arc<Http>,
    mirrors: &[MirrorUrl],
    until: Instant,
) -> impl Iterator<Item = (usize, Result<MirrorAnswer, Fault>)> {
    let answers = Arc::<Queue<TrustEvent>>::default();
    for (mirror, url) in (0..).zip(mirrors) {
        let (http, all, url) =
            (Arc::clone(http), Arc::clone(&answers), format!("{url}{}", MirrorPath::Latest));
        let ask = move || {
            let get = Get { fresh: true, ..Get::new(&url, MAX_LATEST, until) };
            all.put(TrustEvent::Answer { id: GetId(mirror), result: http.get(get).map(answer) });
        };
        if let Err(error) = start("netselect", ask) {
            let result = Err(Fault::Unreachable(error.to_string()));
            answers.put(TrustEvent::Answer { id: GetId(mirror), result });
        }
    }
    let next = move |_| match answers.take_until(until)? {
        TrustEvent::Answer { id, result } => Some((usize::try_from(id.0).ok()?, result)),
        _ => None,
    };
    (0..mirrors.len()).map_while(next)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;
    use std::time::Duration;

    use super::super::resolver::sim::{Key, Publish, Tree, name};
    use super::*;
    use system::files::Scratch;
    use system::http::{HttpOptions, Timeouts};

    /// Sends the files of a tree, one connection a request, until the test ends.
    fn serve(tree: Tree) -> MirrorUrl {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
                let line = lines.next().unwrap_or_default();
                lines.find(String::is_empty);
                let path = line.split(' ').nth(1).unwrap_or_default().trim_start_matches('/');
                let (status, body) = match tree.get(path) {
                    Some(body) => ("200 OK", &body[..]),
                    None => ("404 Not Found", &b""[..]),
                };
                let len = body.len();
                let head = format!("HTTP/1.1 {status}\r\ncontent-length: {len}\r\nconnection: close\r\n\r\n");
                let _ = stream.write_all(&[head.as_bytes(), body].concat());
            }
        });
        url
    }

    #[test]
    fn a_release_is_resolved_over_http_and_remembered_in_the_cache() {
        let key = Key::new();
        let wall = clock::now().0;
        let publish =
            |serial| Publish { published: wall - 60, expires: wall + 3600, ..Publish::new(&key, serial) };
        let http = Arc::new(Http::open(&HttpOptions::direct(), 4, Timeouts::default()).unwrap());
        let dir = Scratch::directory(std::env::temp_dir()).unwrap();
        let cache = Arc::new(Cache::open(dir.path(), None).unwrap());
        let request = |tree: Tree| ResolveRequest {
            mirrors: vec![serve(tree)],
            keys: key.trusted(),
            image: name("host"),
            name: None,
            release: None,
            strict: true,
            netselect: true,
            jitter: crate::jitter::Jitter::NONE,
            start_within: Duration::from_secs(20),
            has_cache: false,
            has_medium: false,
            cached_name: None,
        };
        let chosen = resolve(&http, Some(&cache), request(publish(7).tree())).unwrap();
        assert_eq!((chosen.release.serial.get(), chosen.files.name.as_str()), (7, "host"));
        assert_eq!(chosen.prefetch_list().unwrap().entries.len(), 1);
        assert!(chosen.mirror_list.as_ref().unwrap().take().flatten().is_some());
        assert!(chosen.mirrors[0].good && chosen.mirrors[0].first_byte.is_some());
        assert_eq!(cache.accepted_serial(&name("demo")).unwrap().map(|serial| serial.get()), Some(7));
        let error = resolve(&http, Some(&cache), request(publish(6).tree())).unwrap_err();
        assert!(error.to_string().contains("offers release 6, but 7 was already used"), "{error}");
        let until = Instant::now() + Duration::from_secs(20);
        let answers: Vec<_> = ask_all(&http, &request(Tree::new()).mirrors, until).collect();
        assert!(matches!(answers[..], [(0, Err(Fault::Missing(404)))]), "{answers:?}");
    }
}
