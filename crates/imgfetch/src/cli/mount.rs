//! `imgfetch mount`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::Failure;
use super::args::Mount;
use super::source::Opened;
use crate::daemon;
use crate::engine::{Engine, Snapshot, millis};
use crate::fuse::{DISK, Mounted, mount};
use crate::status::{self, Form, StatusSocket};
use crate::threads::{self, Queue};
use crate::trust::ChosenRelease;
use formats::names::{ImageName, Serial};
use formats::release::{Dlahead, Phase, PrefetchBlock as Ahead, Reading, Reads};
use formats::report::Exit;
use system::files::{create_dir_all, regular_output, write_atomic};

/// What wakes the main thread.
enum MountEvent {
    /// A signal wants us to end.
    End,
    /// The disk was unmounted.
    Unmounted,
}

pub(super) fn run(mut args: Mount) -> Result<ExitCode, Failure> {
    if !args.foreground {
        let extra = ["--foreground", "--report-ready"];
        return Ok(daemon::background(&args.words, &extra, args.root_daemon)?);
    }
    if args.root_daemon {
        daemon::be_io_flusher();
    }
    let mountpoint = std::path::absolute(&args.mountpoint)?;
    // Written again and again, so what has the name must be a file; links to it are followed once.
    let recorded =
        |path: PathBuf| -> Result<PathBuf, Failure> { Ok(regular_output(&std::path::absolute(path)?)?) };
    args.record = args.record.map(recorded).transpose()?;
    if let Some(dir) = args.record_reads.take() {
        create_dir_all(&dir)?;
        args.record_reads = Some(recorded(dir.join(args.source.image.as_str()))?);
    }
    let opened = Arc::new(Opened::open(&args.source)?);
    let stage = Arc::new(Mutex::new(Stage::starting(&args, &mountpoint, &opened)));
    let _socket = open_status(&args, &stage)?;

    let chosen = opened.choose()?;
    let engine = Arc::new(opened.start(&chosen, args.source.prefetch)?);
    if args.record.is_some() {
        engine.record();
    }
    let woken = Arc::<Queue<MountEvent>>::default();
    let (events, unmounted) = (Arc::clone(&woken), Arc::clone(&woken));
    let ended = move || unmounted.put(MountEvent::Unmounted);
    let reading = args.record_reads.as_ref().map(|_| Arc::<Mutex<Reading>>::default());
    let mounted = mount(Arc::clone(&engine), &mountpoint, args.allow_other, reading.clone(), ended)?;
    lock(&stage).serve(&chosen, &engine);
    daemon::signals(args.root_daemon, move || {
        events.put(MountEvent::End);
    })?;
    log::info!(
        "{}: release {} of {}, image {}",
        mountpoint.join(DISK).display(),
        chosen.release.serial,
        chosen.release.name,
        chosen.files.name
    );
    daemon::settle(args.root_daemon);
    daemon::say_ready(args.report_ready);
    if args.report_ready {
        daemon::detach_output();
    }
    if args.root_daemon {
        daemon::log_to_kernel();
    }
    let (image, serial) = (chosen.files.name.clone(), chosen.release.serial);
    tell(&engine)?;
    look_ahead(&args, opened, chosen, &engine)?;
    let recording = Recording {
        blocks: args.record.as_deref(),
        reads: args.record_reads.as_deref().zip(reading.as_deref()),
        engine: &engine,
        image: &image,
        serial,
        stage: &stage,
    };
    wait(&woken, &mounted, &engine, &recording);
    engine.settle();
    Ok(Exit::Done.into())
}

fn look_ahead(
    args: &Mount,
    opened: Arc<Opened>,
    chosen: ChosenRelease,
    engine: &Arc<Engine>,
) -> Result<(), Failure> {
    let (engine, prefetch) = (Arc::downgrade(engine), args.source.list);
    threads::start("ahead", move || {
        if let Some(engine) = engine.upgrade().filter(|_| prefetch) {
            opened.look_ahead(&chosen, &engine);
        }
        opened.count_cache();
    })?;
    Ok(())
}

/// Says which mirror is used, how far the prefetch is, and what is the matter while reads wait; then is quiet.
fn tell(engine: &Arc<Engine>) -> Result<(), Failure> {
    let first = engine.snapshot();
    let measured = first.mirrors.iter().filter_map(|mirror| Some((mirror.first_byte_p50_ms?, &mirror.url)));
    if let Some((ms, url)) = measured.min() {
        log::info!("{} mirrors; the nearest is {url}, {ms} ms away", first.mirrors.len());
    }
    let engine = Arc::downgrade(engine);
    threads::start("news", move || {
        let (mut quarter, mut waited) = (0, 0);
        loop {
            thread::sleep(Duration::from_secs(1));
            let Some(snapshot) = engine.upgrade().map(|engine| engine.snapshot()) else { return };
            let total = snapshot.prefetch_total.max(1);
            let done = (total - snapshot.prefetch_left.min(total)) * 4 / total;
            if let Some(progress) = snapshot.progress().filter(|_| done > quarter) {
                quarter = done;
                log::info!("{progress}");
            }
            match snapshot.outage() {
                Some(outage) if is_told(waited) => log::warn!(target: daemon::NEWS, "{outage}"),
                None if waited > 0 => {
                    log::info!(target: daemon::NEWS, "reads continue after {} s", waited + 3);
                }
                _ => {}
            }
            waited = if snapshot.outage().is_some() { waited + 1 } else { 0 };
        }
    })?;
    Ok(())
}

/// Whether an outage is reported in this second: at once, each ten seconds of the first minute, then each minute.
fn is_told(second: u64) -> bool {
    second.is_multiple_of(if second < 60 { 10 } else { 60 })
}

/// Until the disk is unmounted. A signal unmounts it, if it is not in use; without a network, what waits for a read is
/// let go of first.
fn wait(woken: &Queue<MountEvent>, mounted: &Mounted, engine: &Engine, recording: &Recording<'_>) {
    let mut is_ending = false;
    // Until when a signal that came is remembered: it takes some seconds of an outage to know that no mirror answers.
    let mut asked_until: Option<Instant> = None;
    loop {
        let is_asked = asked_until.is_some_and(|until| Instant::now() < until);
        let pause = if is_ending || is_asked { Some(TRY_EVERY) } else { recording.pause() };
        let event = match pause {
            Some(pause) => woken.take_until(Instant::now() + pause),
            None => woken.take(),
        };
        let ended = match event {
            Some(MountEvent::Unmounted) => true,
            Some(MountEvent::End) => match mounted.unmount() {
                Ok(()) => true,
                Err(error) => {
                    is_ending = engine.wait_no_longer(LAST_WAIT);
                    asked_until = Some(Instant::now() + REMEMBERED);
                    let next = match is_ending {
                        true => format!("no mirror answers, so reads fail after {} s", LAST_WAIT.as_secs()),
                        false => "still serving it".into(),
                    };
                    log::warn!("can't stop: the disk can't be unmounted: {error}; {next}");
                    false
                }
            },
            None if pause.is_none() => true,
            None => {
                recording.save();
                if is_asked && !is_ending && engine.wait_no_longer(LAST_WAIT) {
                    is_ending = true;
                    log::warn!("no mirror answers, so reads fail after {} s", LAST_WAIT.as_secs());
                }
                is_ending && mounted.unmount().is_ok()
            }
        };
        if ended {
            return recording.save();
        }
    }
}

/// How long reads wait without a network when we are to end.
const LAST_WAIT: Duration = Duration::from_secs(2);
/// How long a signal is remembered that came while the disk was in use and a mirror seemed to be up.
const REMEMBERED: Duration = Duration::from_secs(60);
/// How often it is tried then to unmount.
const TRY_EVERY: Duration = Duration::from_secs(1);

/// How often what was recorded is written: a machine may be switched off.
const SAVE_EVERY: Duration = Duration::from_secs(2);

/// Where what is read is recorded.
struct Recording<'a> {
    /// Blocks, as a prefetch list.
    blocks: Option<&'a Path>,
    /// `--record-reads`: the directory, and the pages read so far.
    reads: Option<(&'a Path, &'a Mutex<Reading>)>,
    engine: &'a Engine,
    image: &'a ImageName,
    serial: Serial,
    stage: &'a Mutex<Stage>,
}

impl Recording<'_> {
    fn pause(&self) -> Option<Duration> {
        (self.blocks.is_some() || self.reads.is_some()).then_some(SAVE_EVERY)
    }

    fn save(&self) {
        let mut text = Vec::new();
        if let Some(path) = self.blocks {
            self.list().encode(&mut text).expect("a Vec takes all that is written");
            write("--record", path, &text);
        }
        if let Some((path, reading)) = self.reads {
            let runs = reading.lock().unwrap_or_else(PoisonError::into_inner).runs().to_vec();
            let reads = Reads { image: self.image.clone(), serial: self.serial, runs };
            text.clear();
            reads.encode(&mut text).expect("a Vec takes all that is written");
            write("--record-reads", path, &text);
        }
    }

    fn list(&self) -> Dlahead {
        let phases = lock(self.stage).phases.clone().unwrap_or_default();
        let entry = |(name, first_read_ms, reads)| {
            let begun = phases.iter().take_while(|(from, _)| *from <= u64::from(first_read_ms));
            let phase = begun.last().map_or_else(Phase::boot, |(_, phase)| phase.clone());
            Ahead { phase, name, first_read_ms, reads }
        };
        let entries = self.engine.recorded().into_iter().map(entry).collect();
        Dlahead { image: self.image.clone(), serial: self.serial, entries }
    }
}

fn write(option: &str, path: &Path, text: &[u8]) {
    if let Err(error) = write_atomic(path, text) {
        log::warn!("{option}: {error}");
    }
}

fn open_status(args: &Mount, stage: &Arc<Mutex<Stage>>) -> Result<Option<StatusSocket>, Failure> {
    if args.no_status {
        return Ok(None);
    }
    let default = status::directory().join(format!("{}.sock", args.source.image));
    let path = std::path::absolute(args.status.clone().unwrap_or(default))?;
    let shown = Arc::clone(stage);
    match status::serve(&path, move |form| lock(&shown).answer(&form)) {
        Ok(socket) => Ok(Some(socket)),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            let path = path.display();
            Err(format!("{path}: in use by another client; end it, or give --status PATH").into())
        }
        Err(error) => {
            log::warn!("{}: no status socket: {error}", path.display());
            Ok(None)
        }
    }
}

fn lock(stage: &Mutex<Stage>) -> std::sync::MutexGuard<'_, Stage> {
    stage.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How far we are, and what the status shows of it.
struct Stage {
    head: Head,
    start: Instant,
    engine: Weak<Engine>,
    /// Phases after the boot, and the milliseconds of the engine's time from which each lasts; `None`: nothing is
    /// recorded.
    phases: Option<Vec<(u64, Phase)>>,
}

#[derive(Clone, Serialize)]
struct Head {
    state: &'static str,
    image: String,
    name: Option<String>,
    serial: Option<u64>,
    size: Option<u64>,
    disk: PathBuf,
    cache: Option<PathBuf>,
    pid: u32,
}

#[derive(Serialize)]
struct Serving {
    #[serde(flatten)]
    head: Head,
    #[serde(flatten)]
    snapshot: Snapshot,
}

#[derive(Serialize)]
struct Starting {
    #[serde(flatten)]
    head: Head,
    uptime_ms: u64,
}

impl Stage {
    fn starting(args: &Mount, mountpoint: &Path, opened: &Opened) -> Self {
        detail!("{} mirrors", opened.mirrors().len());
        let head = Head {
            state: "starting",
            image: args.source.image.to_string(),
            name: args.source.name.as_ref().map(ToString::to_string),
            serial: None,
            size: None,
            disk: mountpoint.join(DISK),
            cache: args.source.cache.clone(),
            pid: std::process::id(),
        };
        let phases = args.record.as_ref().map(|_| Vec::new());
        Stage { head, start: Instant::now(), engine: Weak::new(), phases }
    }

    fn serve(&mut self, chosen: &ChosenRelease, engine: &Arc<Engine>) {
        self.head.state = "serving";
        self.head.name = Some(chosen.release.name.to_string());
        self.head.serial = Some(chosen.release.serial.get());
        self.head.size = Some(chosen.index.header().size);
        self.engine = Arc::downgrade(engine);
    }

    fn answer(&mut self, form: &Form) -> String {
        let snapshot = || self.engine.upgrade().map(|engine| engine.snapshot());
        match (form, snapshot()) {
            (Form::Metrics, Some(snapshot)) => snapshot.metrics(&self.head.image),
            (Form::Metrics, None) => String::new(),
            (Form::Text, Some(snapshot)) => {
                let name = self.head.name.as_deref().unwrap_or("?");
                let (image, serial) = (&self.head.image, self.head.serial.unwrap_or(0));
                format!("{name}/{image} release {serial}: {}\n{}", self.head.state, snapshot.text())
            }
            (Form::Text, None) => format!("{}: {}\n", self.head.image, self.head.state),
            (Form::Json, _) => self.json(),
            (Form::Phase(phase), now) => {
                let Some(phases) = &mut self.phases else {
                    return format!("{}: nothing is recorded\n", self.head.image);
                };
                phases.push((now.map_or(0, |now| now.uptime_ms), phase.clone()));
                format!("{}: phase {phase}\n", self.head.image)
            }
        }
    }

    fn json(&self) -> String {
        let head = self.head.clone();
        let json = match self.engine.upgrade() {
            Some(engine) => serde_json::to_string(&Serving { head, snapshot: engine.snapshot() }),
            None => serde_json::to_string(&Starting { head, uptime_ms: millis(self.start.elapsed()) }),
        };
        let mut json = json.expect("keys are text, and nothing in it can fail");
        json.push('\n');
        json
    }
}
