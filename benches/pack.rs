//! Speed and memory of `image pack` and `image split`, one after the other and in one, beside `mke2fs -d` and
//! `casync make`, in one run, all warm:
//! `cargo bench --bench pack [-- ARCHIVE.tar]`. Without an archive it takes that of `cargo bench --bench update`. Needs
//! e2fsprogs, casync, tar, and root, so that owners can be unpacked.
//!
//! Each is run three times, or `IMGFACTORY_BENCH_RUNS` times, by turns, and the fastest counts. `image pack --store`
//! makes blocks of the archive without an image between, as a build does; casync needs the image. It compresses with
//! the default level, and with the fastest one: the bytes of the stores, which are printed too, say which of the two
//! casync is to be held against.

mod files;
#[path = "../tests/support/programs.rs"]
mod programs;

use std::error::Error;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use files::size;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What a command cost.
#[derive(Clone, Copy)]
struct Cost {
    wall: f64,
    /// User and system time of all its threads, to the hundredth of a second.
    cpu: f64,
    /// Most memory at a time, MiB.
    peak: u64,
}

fn main() -> Result<()> {
    let given = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let work = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/update");
    let archive = given.map_or_else(|| work.join("before.tar"), PathBuf::from);
    let room = work.join("pack");
    let _ = fs::remove_dir_all(&room);
    fs::create_dir_all(&room)?;
    let path = |name: &str| room.join(name);
    let root = path("root");
    fs::create_dir(&root)?;
    let unpack = ["--xattrs", "--xattrs-include=*", "-C"].map(OsStr::new);
    watch("tar", &[&unpack[..], &[root.as_os_str(), OsStr::new("-xf"), archive.as_os_str()]].concat())?;

    let imgfactory = programs::imgfactory();
    let imgfactory = text(&imgfactory)?;
    let (ours, theirs) = (path("ours.ext2"), path("theirs.ext2"));
    let words = |words: &[&str]| words.iter().map(OsStr::new).map(OsStr::to_owned).collect::<Vec<_>>();
    let pack =
        words(&["-q", "image", "pack", "--from", text(&archive)?, "--to", text(&ours)?, "--free", "64MiB"]);
    let mke2fs = words(&["-q", "-F", "-t", "ext2", "-m", "0", "-d", text(&root)?, text(&theirs)?, "4G"]);
    let (store, straight, fast) = (path("mirror"), path("straight"), path("fast"));
    let split = words(&["-q", "image", "split", text(&ours)?, "--image", "host", "--store", text(&store)?]);
    let pack_on =
        ["-q", "image", "pack", "--from", text(&archive)?, "--free", "64MiB", "--name", "host", "--store"];
    let pack_fast = words(&[&pack_on[..], &[text(&fast)?, "--codec", "libdeflate:1"]].concat());
    let pack_on = words(&[&pack_on[..], &[text(&straight)?]].concat());
    let castr = path("casync.castr");
    let casync = words(&["make", "--store", text(&castr)?, text(&path("ours.caibx"))?, text(&ours)?]);

    let runs = std::env::var("IMGFACTORY_BENCH_RUNS").map_or(Ok(3), |runs| runs.parse::<usize>())?;
    let mut costs: [Option<Cost>; 6] = [None; 6];
    for _ in 0..runs {
        for path in [&ours, &theirs, &store, &straight, &fast, &castr] {
            remove(path);
        }
        // What a command reads is read once before it, so that all find it warm, and what the one before it wrote
        // is on the disk.
        for (cost, (program, words, input)) in costs.iter_mut().zip([
            (imgfactory, &pack, &archive),
            ("mke2fs", &mke2fs, &root),
            (imgfactory, &split, &ours),
            (imgfactory, &pack_on, &archive),
            (imgfactory, &pack_fast, &archive),
            // The same image as ours: theirs has a gigabyte of zeros behind what is in it.
            ("casync", &casync, &ours),
        ]) {
            watch("sync", &[""; 0])?;
            warm(input)?;
            let now = watch(program, words)?;
            eprintln!("{program}: {:.2} s, CPU {:.2} s", now.wall, now.cpu);
            *cost = Some(cost.map_or(now, |best| best.least(now)));
        }
    }
    let sizes = [&store, &straight, &fast, &castr].map(|path| size(path));
    fs::remove_dir_all(&room)?;
    let [Some(packed), Some(made), Some(cut), Some(straight), Some(straight_fast), Some(chunked)] = costs
    else {
        return Err("no run".into());
    };

    println!("{:30} {:>8} {:>8} {:>10} {:>14}", "", "wall s", "CPU s", "peak MiB", "bytes");
    let [bytes, bytes_straight, bytes_fast, bytes_chunked] = sizes;
    for (name, cost, bytes) in [
        ("imgfactory image pack", packed, None),
        ("mke2fs -d", made, None),
        ("imgfactory image split", cut, Some(bytes?)),
        ("imgfactory image pack --store", straight, Some(bytes_straight?)),
        ("... --codec libdeflate:1", straight_fast, Some(bytes_fast?)),
        ("casync make", chunked, Some(bytes_chunked?)),
    ] {
        let bytes = bytes.map_or(String::new(), |bytes| bytes.to_string());
        println!("{name:30} {:8.2} {:8.2} {:10} {bytes:>14}", cost.wall, cost.cpu, cost.peak);
    }
    let both = packed.and(cut);
    println!("\n{:30} {:>8} {:>8} {:>8}", "ratio", "wall", "CPU", "bar");
    for (name, a, b, bar) in [
        ("pack / mke2fs -d", packed, made, 0.8),
        ("pack + split / casync make", both, chunked, 0.6),
        ("pack --store / casync make", straight, chunked, 0.6),
        ("... with libdeflate:1", straight_fast, chunked, 0.6),
    ] {
        println!("{name:30} {:8.2} {:8.2} {bar:8.2}", a.wall / b.wall, a.cpu / b.cpu);
    }
    println!("{:30} {:>26} {:>8}", "peak memory, MiB", both.and(straight).peak, 300);
    Ok(())
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| "a path that is not UTF-8".into())
}

fn remove(path: &Path) {
    let _ = fs::remove_file(path);
    let _ = fs::remove_dir_all(path);
}

impl Cost {
    /// One after the other.
    fn and(self, other: Cost) -> Cost {
        Cost { wall: self.wall + other.wall, cpu: self.cpu + other.cpu, peak: self.peak.max(other.peak) }
    }

    /// The least time of two runs, and the most memory.
    fn least(self, other: Cost) -> Cost {
        Cost {
            wall: self.wall.min(other.wall),
            cpu: self.cpu.min(other.cpu),
            peak: self.peak.max(other.peak),
        }
    }
}

/// Reads a file, or all files of a directory.
fn warm(path: &Path) -> Result<()> {
    for entry in walkdir::WalkDir::new(path) {
        let entry = entry?;
        if entry.file_type().is_file() {
            std::io::copy(&mut fs::File::open(entry.path())?, &mut std::io::sink())?;
        }
    }
    Ok(())
}

/// Runs a command and looks at it 100 times a second: what the kernel says of it last is what it cost.
fn watch(program: &str, args: &[impl AsRef<OsStr>]) -> Result<Cost> {
    let started = Instant::now();
    let mut child = Command::new(program).args(args).stdout(Stdio::null()).spawn()?;
    let (mut cpu, mut peak) = (0.0, 0);
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if let Ok(stat) = fs::read_to_string(format!("/proc/{}/stat", child.id())) {
            // Fields 14 and 15 of proc(5), in ticks of 10 ms; the second field may have blanks in it.
            let rest = stat.rsplit(") ").next().unwrap_or_default();
            let ticks = rest.split(' ').skip(11).take(2).filter_map(|field| field.parse::<f64>().ok());
            cpu = ticks.sum::<f64>() / 100.0;
        }
        if let Ok(status) = fs::read_to_string(format!("/proc/{}/status", child.id())) {
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            peak = peak.max(kib.unwrap_or(0) / 1024);
        }
        thread::sleep(Duration::from_millis(10));
    };
    if !status.success() {
        return Err(format!("{program}: {status}").into());
    }
    Ok(Cost { wall: started.elapsed().as_secs_f64(), cpu, peak })
}
