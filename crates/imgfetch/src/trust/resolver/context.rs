//! What all parts of the resolver share: the request, the time, the requests in flight, what was read, what is to do.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::mirror_stats::{MirrorStats, order};
use super::succession::open_kept;
use super::types::{
    GetId, MirrorAnswer, MirrorGet, Now, ResolveRequest, StorageError, StoredContent, StoredFile, TrustAction,
};
use formats::fetch_fault::{FailureScope, FetchFault as Fault, Wait};
use formats::names::{ImageName, Serial};
use formats::release::{DocumentError, Latest, MirrorPath, TrustedKeys, Verified};

/// A request that is not answered so long after its end is taken for failed.
const GRACE: Duration = Duration::from_millis(500);
/// However little time is left, a mirror has this to answer.
const LEAST: Duration = Duration::from_secs(1);

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The file that the phase searches.
    Search,
    /// `latest`, when another mirror's was taken already: only the mirror's statistics are of interest.
    Late,
    Rotation,
    /// `mirrors.txt`, before `latest` says what it must be.
    EarlyMirrorList,
    /// `mirrors.txt`.
    MirrorList,
    /// The index, before the release says where it is.
    EarlyIndex,
    /// The prefetch list, before the release says where it is.
    EarlyList,
    List,
}

#[derive(Debug)]
struct TrackedRequest {
    id: GetId,
    mirror: usize,
    purpose: Purpose,
    write_off: Duration,
}

/// What a cache remembers of a distribution.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    /// The highest serial that was accepted.
    pub(super) serial: Option<Serial>,
    /// The newest `latest` that was accepted, signed by a key that is trusted now.
    pub(super) latest: Option<Latest>,
    /// There was a `latest`, signed by a key that is not trusted: the serial that is accepted now replaces what is there.
    pub(super) restart: bool,
}

impl Memory {
    /// Releases below it were revoked.
    pub(super) fn min_serial(&self) -> Option<Serial> {
        self.latest.as_ref().map(|latest| latest.min_serial)
    }

    /// Two releases of one serial, both signed: the publisher's key makes both, or a thief has it.
    pub(super) fn contradicts(&self, latest: &Latest) -> Option<String> {
        let known = self.latest.as_ref().filter(|known| known.serial == latest.serial)?;
        (known.release != latest.release).then(|| {
            format!(
                "release {} has SHA-256 {}, but a release {} with SHA-256 {} was accepted before; one of them is forged, \
                 or the publisher signed two: ask the publisher which one is right",
                latest.serial, latest.release.sha256, known.serial, known.release.sha256
            )
        })
    }

    /// Whether `latest` says something that is not remembered yet.
    fn is_older_than(&self, latest: &Latest) -> bool {
        let order = |latest: &Latest| (latest.serial, latest.min_serial, latest.published);
        self.latest.as_ref().is_none_or(|known| order(known) < order(latest))
    }
}

#[derive(Debug)]
pub(super) struct Context {
    pub(super) request: ResolveRequest,
    /// Those of the request, and their successors once they are followed.
    pub(super) keys: TrustedKeys,
    /// Successors were looked for.
    pub(super) followed: bool,
    pub(super) now: Now,
    pub(super) stats: Vec<MirrorStats>,
    in_flight: Vec<TrackedRequest>,
    /// `None`: it is being read.
    stored: Vec<(StoredFile, Option<StoredContent>)>,
    pub(super) actions: VecDeque<TrustAction>,
    /// What the cache remembers of this distribution, once it is read and verified with [`Context::keys`].
    memory: Option<(ImageName, Memory)>,
    next_id: u64,
}

impl Context {
    pub(super) fn new(request: ResolveRequest, now: Now) -> Self {
        Context {
            keys: request.keys.clone(),
            followed: false,
            stats: vec![MirrorStats::default(); request.mirrors.len()],
            request,
            now,
            in_flight: Vec::new(),
            stored: Vec::new(),
            actions: VecDeque::new(),
            memory: None,
            next_id: 0,
        }
    }

    /// The end of the whole.
    pub(super) fn until(&self) -> Duration {
        self.request.start_within
    }

    /// Half of the time that is left until then, so that there is time for other mirrors.
    pub(super) fn share(&self, until: Duration) -> Duration {
        self.now.elapsed + until.saturating_sub(self.now.elapsed) / 2
    }

    /// Places of the mirrors in the order in which they are to be asked now.
    pub(super) fn order(&self) -> Vec<usize> {
        order(&self.stats, self.request.netselect)
    }

    pub(super) fn best_mirror(&self) -> usize {
        self.order().first().copied().unwrap_or(0)
    }

    pub(super) fn warn(&mut self, text: String) {
        self.actions.push_back(TrustAction::Warn(text));
    }

    pub(super) fn detail(&mut self, text: String) {
        self.actions.push_back(TrustAction::Detail(text));
    }

    pub(super) fn save(&mut self, file: StoredFile, bytes: &[u8], without: &'static str) {
        if self.request.has_cache {
            self.actions.push_back(TrustAction::Save { file, bytes: bytes.to_vec(), without });
        }
    }

    /// Asks a mirror; `get` without its number. It has a second at least.
    pub(super) fn get(&mut self, purpose: Purpose, get: MirrorGet) {
        self.next_id += 1;
        let id = GetId(self.next_id);
        let until = get.until.max(self.now.elapsed + LEAST);
        self.in_flight.push(TrackedRequest { id, mirror: get.mirror, purpose, write_off: until + GRACE });
        self.actions.push_back(TrustAction::Get(MirrorGet { id, until, ..get }));
    }

    /// The request is over: whom it asked, and for what. `None`: its answer is not waited for.
    pub(super) fn answered(&mut self, id: GetId) -> Option<(Purpose, usize)> {
        let at = self.in_flight.iter().position(|get| get.id == id)?;
        let get = self.in_flight.swap_remove(at);
        Some((get.purpose, get.mirror))
    }

    /// The phase no longer waits for its requests.
    pub(super) fn retire_search(&mut self) {
        for get in self.in_flight.iter_mut().filter(|get| get.purpose == Purpose::Search) {
            get.purpose = Purpose::Late;
        }
    }

    /// Answers to all that was asked for are passed over from now on.
    pub(super) fn forget_requests(&mut self) {
        self.in_flight.clear();
    }

    /// A request that should have been over for a while.
    pub(super) fn overdue(&self) -> Option<GetId> {
        let mut waited_for = self.in_flight.iter().filter(|get| get.purpose != Purpose::Late);
        waited_for.find(|get| get.write_off <= self.now.elapsed).map(|get| get.id)
    }

    /// When the next request is overdue.
    pub(super) fn next_overdue(&self) -> Option<Duration> {
        let waited_for = self.in_flight.iter().filter(|get| get.purpose != Purpose::Late);
        waited_for.map(|get| get.write_off).min()
    }

    /// Opens what a mirror sent, and notes in its statistics how it did.
    pub(super) fn judge<T>(
        &mut self,
        mirror: usize,
        path: &MirrorPath,
        answer: Result<MirrorAnswer, Fault>,
        open: impl FnOnce(&mut Self, &[u8]) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let fault = match answer {
            Ok(answer) => match open(self, &answer.bytes) {
                Ok(opened) => {
                    self.sent_well(mirror, &answer);
                    return Ok(opened);
                }
                Err(fault) => answer.instead.unwrap_or(fault),
            },
            Err(fault) => fault,
        };
        Err(self.failed(mirror, path, fault))
    }

    // One copy of these will do for all kinds of files.
    #[inline(never)]
    fn sent_well(&mut self, mirror: usize, answer: &MirrorAnswer) {
        if let Some(stats) = self.stats.get_mut(mirror) {
            stats.answered(answer);
        }
    }

    #[inline(never)]
    fn failed(&mut self, mirror: usize, path: &MirrorPath, fault: Fault) -> Fault {
        if let Some(stats) = self.stats.get_mut(mirror) {
            stats.failed(fault.blame());
        }
        if let Some(url) = self.request.mirrors.get(mirror) {
            let text = format!("{url}: {path}: {fault}");
            self.detail(text);
        }
        fault
    }

    /// A mirror sent no rotation statement; most keys have none, so only a mirror that does not work is the worse for it.
    pub(super) fn statement_missing(&mut self, mirror: usize, path: &MirrorPath, fault: Fault) {
        match (fault.blame(), self.request.mirrors.get(mirror)) {
            (FailureScope::File, Some(url)) => {
                let text = format!("{url}: {path}: {fault}");
                self.detail(text);
            }
            _ => drop(self.failed(mirror, path, fault)),
        }
    }

    /// What is stored; `None`: it is being read, and the resolver is to be asked again when it is there.
    fn stored(&mut self, file: StoredFile) -> Option<StoredContent> {
        if let Some((_, content)) = self.stored.iter().find(|(known, _)| *known == file) {
            return content.clone();
        }
        self.stored.push((file.clone(), None));
        self.actions.push_back(TrustAction::Read(file));
        None
    }

    /// Bytes of a file of the cache or the medium, if there are any; the outer `None`: they are being read.
    pub(super) fn stored_bytes(&mut self, file: StoredFile) -> Option<Option<Arc<Vec<u8>>>> {
        let there = match file {
            StoredFile::Medium(_) => self.request.has_medium,
            _ => self.request.has_cache,
        };
        if !there {
            return Some(None);
        }
        match self.stored(file)? {
            StoredContent::Bytes(bytes) => Some(bytes),
            StoredContent::Serial(_) => Some(None),
        }
    }

    /// What the cache remembers of the distribution; the outer `None`: it is being read.
    pub(super) fn memory(&mut self, name: &ImageName) -> Option<Result<Memory, StorageError>> {
        if !self.request.has_cache {
            return Some(Ok(Memory::default()));
        }
        if let Some((_, memory)) = self.memory.as_ref().filter(|(of, _)| of == name) {
            return Some(Ok(memory.clone()));
        }
        let serial = match self.stored(StoredFile::Serial(name.clone()))? {
            StoredContent::Serial(Ok(serial)) => serial,
            StoredContent::Serial(Err(error)) => return Some(Err(error)),
            StoredContent::Bytes(_) => None,
        };
        let latest = match self.stored_bytes(StoredFile::Latest(name.clone()))? {
            Some(text) => Some(open_kept::<Latest>(self, &text)?),
            None => None,
        };
        let memory = match latest {
            // Made with a key that is no longer trusted: a thief's serial must not lock out the new key.
            Some(Err(DocumentError::UnknownKey { .. })) => Memory { restart: true, ..Memory::default() },
            latest => {
                let latest = latest.and_then(Result::ok).map(Verified::into_inner);
                Memory { serial, latest: latest.filter(|latest| latest.name == *name), restart: false }
            }
        };
        self.memory = Some((name.clone(), memory.clone()));
        Some(Ok(memory))
    }

    /// From here on these keys are trusted.
    pub(super) fn trust(&mut self, keys: TrustedKeys) {
        self.keys = keys;
        self.memory = None;
    }

    /// Remembers a `latest` that was accepted.
    pub(super) fn remember(&mut self, latest: &Latest, text: &[u8]) {
        if let Some(Ok(memory)) = self.memory(&latest.name)
            && memory.is_older_than(latest)
        {
            let without = "what it revokes would not be known without a mirror";
            self.save(StoredFile::Latest(latest.name.clone()), text, without);
        }
    }

    /// What was asked for with [`TrustAction::Read`].
    pub(super) fn read(&mut self, file: &StoredFile, content: StoredContent) {
        let waiting = self.stored.iter_mut().find(|(known, _)| known == file);
        if let Some((_, slot @ None)) = waiting {
            *slot = Some(content);
        }
    }

    /// Nothing of what was read is needed again.
    pub(super) fn forget_stored(&mut self) {
        self.stored.retain(|(_, content)| content.is_none());
    }
}

pub(super) fn overdue() -> Fault {
    Fault::TimedOut(Wait::Whole)
}

/// A request that has no number yet.
pub(super) fn get(mirror: usize, path: MirrorPath, until: Duration) -> MirrorGet {
    let limit = path.limit();
    MirrorGet { id: GetId(0), mirror, path, limit, len: None, fresh: false, until }
}

pub(super) fn not_signed(error: DocumentError) -> Fault {
    let text = error.to_string();
    match error {
        DocumentError::UnknownKey { .. } => Fault::UnknownKey(text),
        _ => Fault::NotSigned(text),
    }
}

pub(super) fn refused(text: String) -> Fault {
    Fault::NotSigned(text)
}
