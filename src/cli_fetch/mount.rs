//! `imgfetch mount`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Instant;

use serde::Serialize;

use super::Failure;
use super::args::Mount;
use super::source::Opened;
use crate::host::daemon;
use crate::host::detail;
use crate::host::engine::{Engine, Snapshot, millis};
use crate::host::fuse::{DISK, Mounted, mount};
use crate::host::origin::Chosen;
use crate::host::status::{self, StatusSocket};
use crate::report::Exit;

/// What wakes the main thread.
enum Event {
    /// A signal wants us to end.
    End,
    /// Somebody has unmounted the disk.
    Unmounted,
}

pub(super) fn run(args: Mount) -> Result<ExitCode, Failure> {
    if !args.foreground {
        let extra = ["--foreground", "--report-ready"];
        return Ok(daemon::background(&args.words, &extra, args.root_daemon)?);
    }
    if args.root_daemon {
        daemon::be_io_flusher();
    }
    let mountpoint = std::path::absolute(&args.mountpoint)?;
    let opened = Arc::new(Opened::open(&args.source)?);
    let stage = Arc::new(Mutex::new(Stage::starting(&args, &mountpoint, &opened)));
    let _socket = open_status(&args, &stage)?;

    let chosen = opened.choose()?;
    let engine = Arc::new(opened.start(&chosen)?);
    let (events, woken) = mpsc::channel();
    let unmounted = events.clone();
    let ended = move || {
        // The main thread may be past caring.
        let _ = unmounted.send(Event::Unmounted);
    };
    let mounted = mount(Arc::clone(&engine), &mountpoint, args.allow_other, ended)?;
    lock(&stage).serve(&chosen, &engine);
    daemon::signals(args.root_daemon, move || {
        let _ = events.send(Event::End);
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
    look_ahead(&args, opened, chosen, &engine)?;
    wait(&woken, &mounted);
    Ok(Exit::Done.into())
}

fn look_ahead(
    args: &Mount,
    opened: Arc<Opened>,
    chosen: Chosen,
    engine: &Arc<Engine>,
) -> Result<(), Failure> {
    let (engine, prefetch) = (Arc::downgrade(engine), args.source.prefetch);
    thread::Builder::new().name("ahead".into()).spawn(move || {
        if let Some(engine) = engine.upgrade().filter(|_| prefetch) {
            opened.look_ahead(&chosen, &engine);
        }
        opened.count_cache();
    })?;
    Ok(())
}

/// Until the disk is unmounted. A signal unmounts it, if nobody uses it.
fn wait(woken: &Receiver<Event>, mounted: &Mounted) {
    for event in woken {
        match event {
            Event::Unmounted => return,
            Event::End => match mounted.unmount() {
                Ok(()) => return,
                Err(error) => log::warn!("not ended: the disk can't be unmounted: {error}; still serving it"),
            },
        }
    }
}

fn open_status(args: &Mount, stage: &Arc<Mutex<Stage>>) -> Result<Option<StatusSocket>, Failure> {
    if args.no_status {
        return Ok(None);
    }
    let default = status::directory().join(format!("{}.sock", args.source.image));
    let path = std::path::absolute(args.status.clone().unwrap_or(default))?;
    let shown = Arc::clone(stage);
    match status::serve(&path, move || lock(&shown).json()) {
        Ok(socket) => Ok(Some(socket)),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            let path = path.display();
            Err(format!("{path}: another client answers there; end it, or give --status PATH").into())
        }
        Err(error) => {
            log::warn!("{}: no status: {error}", path.display());
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
        detail!("{} mirrors", opened.mirrors.len());
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
        Stage { head, start: Instant::now(), engine: Weak::new() }
    }

    fn serve(&mut self, chosen: &Chosen, engine: &Arc<Engine>) {
        self.head.state = "serving";
        self.head.name = Some(chosen.release.name.to_string());
        self.head.serial = Some(chosen.release.serial.get());
        self.head.size = Some(chosen.index.header().size);
        self.engine = Arc::downgrade(engine);
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
