//! Arguments -> what they name: keys, mirrors, client, cache.

use std::error::Error as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use super::Failure;
use super::args::SourceArgs;
use crate::cache::Cache;
use crate::engine::{Engine, EngineSetup, MirrorEstimate};
use crate::jitter::Jitter;
use crate::scheduler::{Config, MirrorId};
use crate::trust::{ChosenRelease, MirrorStats, ResolveRequest, resolve};
use formats::release::{BadKey, TrustedKeys};
use formats::url::{BadUrl, MirrorUrl};
use system::files::{FileError, read_at_most};
use system::http::{BadHttp, Http, HttpOptions, RedirectScope, Timeouts};
use system::random;

/// Files of options are not longer than this.
const MAX_FILE: u64 = 1 << 20;

/// A file or an option of a source can't be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum SourceError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("--key {place}")]
    Key {
        place: String,
        #[source]
        source: BadKey,
    },
    #[error("{}:{line}: {source}", path.display())]
    Mirror { path: PathBuf, line: usize, source: BadUrl },
    #[error("{}: names no mirror; add a line, or give --mirror", path.display())]
    NoMirror { path: PathBuf },
    #[error("{0} mirrors; use at most 64")]
    TooMany(usize),
    #[error(transparent)]
    Http(#[from] BadHttp),
}

/// Everything that is open before a release is chosen.
pub(super) struct Opened {
    http: Arc<Http>,
    cache: Option<Arc<Cache>>,
    config: Config,
    ram: usize,
    request: ResolveRequest,
    netselect: Option<bool>,
}

impl Opened {
    pub(super) fn open(source: &SourceArgs) -> Result<Self, Failure> {
        let options = http_options(source.proxy.clone(), source.ca.clone(), source.redirects);
        let http =
            Http::open(&options, source.connections, Timeouts::default()).map_err(SourceError::from)?;
        // Later the working directory is another one.
        let root = source.cache.as_ref().map(std::path::absolute).transpose()?;
        let mut cache = match root.map(|root| Cache::open(&root, source.cache_max)).transpose() {
            // Whatever is wrong with the disk or with what somebody has put on it is no reason not to boot, unless what it
            // remembers is wanted.
            Err(error) if !source.strict && source.medium.is_none() => {
                let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
                log::warn!("{error}{cause}; continuing without a cache");
                None
            }
            cache => cache?,
        };
        if let Some(medium) = &source.medium {
            let medium = std::path::absolute(medium)?;
            cache = cache.map(|cache| cache.over(&medium));
        }
        let cache = cache.map(Arc::new);
        let defaults = Config::default();
        let deadline = source.deadline;
        let netselect = source.netselect;
        let jitter = Jitter::seeded(random::seed());
        let mirrors = mirrors(&source.mirrors, source.mirrors_file.as_deref())?;
        http.know_hosts(mirrors.iter().map(MirrorUrl::as_str));
        Ok(Opened {
            netselect,
            http: Arc::new(http),
            config: Config {
                connections: source.connections,
                deadline,
                // Time for a second mirror.
                attempt: deadline.map_or(defaults.attempt, |deadline| defaults.attempt.min(deadline / 2)),
                load: deadline.map_or(defaults.load, |deadline| defaults.load.min(deadline / 4)),
                jitter,
                ..defaults
            },
            ram: source.ram,
            request: ResolveRequest {
                mirrors,
                keys: keys(&source.keys)?,
                image: source.image.clone(),
                name: source.name.clone(),
                release: source.release,
                strict: source.strict,
                netselect: netselect.unwrap_or(true),
                // The scheduler's pauses follow another sequence.
                jitter: jitter.numbered(u64::MAX - 1),
                start_within: source.start_within,
                has_cache: cache.is_some(),
                has_medium: source.medium.is_some(),
                cached_name: None,
            },
            cache,
        })
    }

    /// Finds the release, and learns about the mirrors by the way.
    pub(super) fn choose(&self) -> Result<ChosenRelease, Failure> {
        Ok(resolve(&self.http, self.cache.as_ref(), self.request.clone())?)
    }

    /// The mirrors that were given.
    pub(super) fn mirrors(&self) -> &[MirrorUrl] {
        &self.request.mirrors
    }

    pub(super) fn start(&self, chosen: &ChosenRelease, read_ahead: bool) -> Result<Engine, Failure> {
        let mut estimates: Vec<MirrorEstimate> = chosen.mirrors.iter().map(estimate).collect();
        let mut mirrors = self.request.mirrors.clone();
        // It is not waited for: what it says of these mirrors also counts later.
        let coming = chosen.mirror_list.clone();
        let come = coming.as_ref().and_then(|coming| coming.take_until(Instant::now()));
        let later = coming.filter(|_| come.is_none());
        let signed = come.as_ref().and_then(Option::as_ref);
        self.http.know_hosts(signed.iter().flat_map(|list| &list.mirrors).map(|mirror| mirror.url.as_str()));
        for signed in come.flatten().iter().flat_map(|list| &list.mirrors) {
            match mirrors.iter().position(|mirror| *mirror == signed.url) {
                Some(place) => estimates[place].most = signed.max_connections,
                // The others only for those who want the nearest of all.
                None if self.netselect == Some(true) && mirrors.len() <= usize::from(MirrorId::MAX.0) => {
                    mirrors.push(signed.url.clone());
                    let most = signed.max_connections;
                    estimates.push(MirrorEstimate { most, ..MirrorEstimate::default() });
                }
                None => {}
            }
        }
        let setup = EngineSetup {
            index: Arc::clone(&chosen.index),
            mirrors,
            http: Arc::clone(&self.http),
            cache: self.cache.clone(),
            config: self.config,
            ram: self.ram,
            estimates,
            read_ahead,
        };
        let engine = Engine::start(setup)?;
        if let Some(coming) = later {
            let http = Arc::clone(&self.http);
            engine.cap_when_known(move || {
                let caps = coming.take().flatten().map(|list| list.mirrors).unwrap_or_default();
                http.know_hosts(caps.iter().map(|mirror| mirror.url.as_str()));
                caps.into_iter().filter_map(|mirror| Some((mirror.url, mirror.max_connections?))).collect()
            })?;
        }
        Ok(engine)
    }

    /// Fetches ahead what a boot will read, if the release says what that is.
    pub(super) fn look_ahead(&self, chosen: &ChosenRelease, engine: &Engine) {
        if let Some(list) = chosen.prefetch_list() {
            let names: Vec<_> = list.entries.iter().map(|entry| entry.name).collect();
            if let Some(cache) = &self.cache {
                cache.protect(names.iter().copied());
            }
            log::info!("prefetching {} blocks", names.len());
            engine.prefetch(names);
        }
    }

    /// Counts what the cache has. Takes a while; the disk works meanwhile.
    pub(super) fn count_cache(&self) {
        if let Some(cache) = &self.cache {
            cache.scan();
        }
    }
}

/// What the engine may expect of a mirror.
fn estimate(stats: &MirrorStats) -> MirrorEstimate {
    let MirrorStats { first_byte, rate, blame, .. } = *stats;
    MirrorEstimate { most: None, first_byte, rate, blame }
}

/// The client in a miniroot has no authorities of a system; what it trusts is built in or named.
pub(super) fn http_options(
    proxy: Option<String>,
    ca: Option<PathBuf>,
    redirects: RedirectScope,
) -> HttpOptions {
    let user_agent = concat!("imgfetch/", env!("CARGO_PKG_VERSION"));
    HttpOptions { user_agent, proxy, ca, system_authorities: false, redirects }
}

pub(super) fn keys(keys: &[String]) -> Result<TrustedKeys, SourceError> {
    let mut text = String::new();
    for key in keys {
        let place = || if key.len() > 80 { "(base64)".to_owned() } else { key.clone() };
        // 42 bytes in base64, of which the first two are "Ed".
        let one = if key.len() == 56 && key.starts_with("RW") {
            key.clone()
        } else {
            String::from_utf8_lossy(&read_at_most(key, MAX_FILE)?).into_owned()
        };
        TrustedKeys::parse(&one).map_err(|source| SourceError::Key { place: place(), source })?;
        text.push_str(&one);
        text.push('\n');
    }
    TrustedKeys::parse(&text).map_err(|source| SourceError::Key { place: String::new(), source })
}

pub(super) fn mirrors(given: &[MirrorUrl], file: Option<&Path>) -> Result<Vec<MirrorUrl>, SourceError> {
    let mut mirrors = given.to_vec();
    if let Some(path) = file {
        let text = read_at_most(path, MAX_FILE)?;
        for (number, line) in String::from_utf8_lossy(&text).lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if !line.is_empty() {
                let parsed = MirrorUrl::typed(line);
                let bad = |source| SourceError::Mirror { path: path.into(), line: number + 1, source };
                mirrors.push(parsed.map_err(bad)?);
            }
        }
        if mirrors.is_empty() {
            return Err(SourceError::NoMirror { path: path.into() });
        }
    }
    let mut unique = Vec::new();
    for mirror in mirrors {
        if !unique.contains(&mirror) {
            unique.push(mirror);
        }
    }
    if unique.len() > usize::from(MirrorId::MAX.0) + 1 {
        return Err(SourceError::TooMany(unique.len()));
    }
    Ok(unique)
}
