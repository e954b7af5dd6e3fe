use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicU32;
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::sys::progress::Silent;
use formats::block::MAX_BLOCK_SIZE;
use formats::index::BlockContents;
use formats::names::{Serial, UnixTime};
use formats::release::MirrorPath;

const K: usize = 1024;

struct Bench {
    dir: TempDir,
    store: Store,
    options: Options,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        Bench { dir, store, options: Options::new(Codec::default()) }
    }

    /// Another build in the same tree.
    fn again(self) -> Self {
        Bench { store: Store::open(self.dir.path()).unwrap(), ..self }
    }

    fn split(&mut self, image: &str, disk: &[u8]) -> Split {
        self.try_split(image, disk).unwrap()
    }

    fn try_split(&mut self, image: &str, disk: &[u8]) -> Result<Split, SplitError<io::Error>> {
        let header = header(image, 16 * K, disk.len());
        split(&header, self.options, &mut self.store, &Silent, &disk.to_vec())
    }

    /// Names of all block files.
    fn files(&self) -> Vec<String> {
        let mut names: Vec<_> = walkdir::WalkDir::new(self.dir.path())
            .into_iter()
            .map(Result::unwrap)
            .filter(|entry| entry.file_type().is_file())
            .map(|entry| entry.file_name().to_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    }
}

fn header(image: &str, block_size: usize, size: usize) -> Header {
    Header {
        image: image.parse().unwrap(),
        serial: Serial::FIRST,
        block_size: BlockSize::new(block_size as u32).unwrap(),
        size: size as u64,
        published: UnixTime(1_795_205_345),
        parent: None,
    }
}

/// The disk as a mirror's visitor sees it who shares no code with us: the words of index.idx, libdeflate, files.
fn read_disk(mirror: &Path, index: &[u8]) -> Vec<u8> {
    let text = std::str::from_utf8(index).unwrap();
    let (mut objects, mut disk) = (Vec::new(), Vec::new());
    let number = |word: &str| word.parse::<usize>().unwrap();
    let (mut block_size, mut size) = (0, 0);
    for line in text.lines() {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["block-size:", bytes] => block_size = number(bytes),
            ["size:", bytes] => size = number(bytes),
            ["object", name, _, raw_len, file_len] => {
                let file = fs::read(mirror.join("blk").join(&name[..2]).join(name)).unwrap();
                assert_eq!(file.len(), number(file_len));
                let mut raw = vec![0; number(raw_len)];
                let len = libdeflater::Decompressor::new().zlib_decompress(&file, &mut raw).unwrap();
                assert_eq!(len, raw.len());
                objects.push(raw);
            }
            ["map", first, count, target] => {
                assert_eq!(number(first) * block_size, disk.len());
                for at in 0..number(count) {
                    match target.strip_suffix('+') {
                        Some(id) => disk.extend(&objects[number(id) + at]),
                        None if target == "-" => disk.resize(disk.len() + block_size, 0),
                        None => disk.extend(&objects[number(target)]),
                    }
                }
            }
            _ => {}
        }
    }
    // A last block of zeros may be shorter than the others; the map does not say so.
    disk.truncate(size);
    disk
}

/// Blocks of 16 KiB, each full of its own number, 0 of zeros; then `tail` bytes.
fn disk(blocks: &[u32], tail: usize) -> Vec<u8> {
    let raw = |number: &u32| number.to_le_bytes().repeat(4 * K);
    let mut disk: Vec<u8> = blocks.iter().flat_map(raw).collect();
    disk.resize(disk.len() + tail, 0xee);
    disk
}

#[test]
fn zeros_cost_nothing_and_repeats_are_stored_once() {
    let mut bench = Bench::new();
    let disk = disk(&[0, 5, 5, 7, 8, 5, 0, 0], 4096);
    let Split { index, figures, collisions } = bench.split("host", &disk);
    let want = SplitStatistics {
        zero: 3,
        carried: 0,
        repeated: 2,
        found: 0,
        written: 4,
        written_bytes: figures.written_bytes,
    };
    assert_eq!(figures, want);
    assert_eq!(collisions, []);
    let text = String::from_utf8(index.to_text()).unwrap();
    let map: Vec<_> = text.lines().filter(|line| line.starts_with("map ")).collect();
    assert_eq!(map, ["map 0 1 -", "map 1 2 0", "map 3 2 1+", "map 5 1 0", "map 6 2 -", "map 8 1 3"]);
    assert_eq!(bench.files().len(), 4);
    assert_eq!(read_disk(bench.dir.path(), text.as_bytes()), disk);
}

#[test]
fn what_the_store_has_is_not_compressed_again() {
    let mut bench = Bench::new();
    let first = bench.split("host", &disk(&[1, 2, 3], 0));
    let guest = bench.split("guest", &disk(&[3, 4, 0], 0));
    assert_eq!((guest.figures.found, guest.figures.written), (1, 1));

    // Another compressor changes nothing in what is there.
    let mut bench = bench.again();
    bench.options.codec = Codec::zlib(9).unwrap();
    let second = bench.split("host", &disk(&[1, 2, 3], 0));
    assert_eq!((second.figures.found, second.figures.written), (3, 0));
    assert_eq!(second.index, first.index);
}

/// A disk some of whose blocks take their time.
struct Slow {
    disk: Vec<u8>,
    every: u64,
}

impl SplitInput for Slow {
    type Error = io::Error;

    fn read(&self, at: u64, raw: &mut [u8]) -> io::Result<()> {
        if (at / (16 * K as u64)).is_multiple_of(self.every) {
            thread::sleep(Duration::from_millis(1));
        }
        self.disk.read_exact_at(at, raw)
    }
}

#[test]
fn the_index_does_not_depend_on_threads_or_time() {
    let blocks: Vec<u32> = (0..300).map(|n| n * n % 41).collect();
    let disk = disk(&blocks, 100);
    let texts = [1, 2, 3, 16].map(|threads| {
        let mut bench = Bench::new();
        bench.options.threads = NonZeroUsize::new(threads).unwrap();
        let header = header("host", 16 * K, disk.len());
        let source = Slow { disk: disk.clone(), every: threads as u64 + 7 };
        let split = split(&header, bench.options, &mut bench.store, &Silent, &source);
        let text = split.unwrap().index.to_text();
        assert_eq!(read_disk(bench.dir.path(), &text), disk);
        text
    });
    assert!(texts.iter().all(|text| *text == texts[0]));
}

/// Two images of three blocks of 16 KiB; the first block of one collides with the last of the other.
fn colliding_images() -> [Vec<u8>; 2] {
    let [one, two] = wang::blocks(16 * K, 7);
    [[one, disk(&[1, 2], 0)].concat(), [disk(&[3, 4], 0), two].concat()]
}

#[test]
fn blocks_of_one_image_that_collide_are_found_and_cut_elsewhere() {
    // Two blocks as releases have them: 256 KiB, equal but for the first 128 bytes.
    let [one, two] = wang::blocks(256 * K, 7);
    let name = BlockName::of(&one);
    let filler = disk(&[1, 2].repeat(16), 0);
    let disk = [&one, &filler, &two, &two, &filler[..300_000]].concat();
    let mut bench = Bench::new();
    let header = header("host", 256 * K, disk.len());
    let split = split(&header, bench.options, &mut bench.store, &Silent, &disk);
    let Split { index, collisions, .. } = split.unwrap();
    let said: Vec<_> = collisions.iter().map(Collision::to_string).collect();
    assert_eq!(
        said,
        [format!(
            "block 0 of image `host` (from byte 0) and block 3 of image `host` (from byte 786432) have one MD5, \
             {name}, and different contents"
        )]
    );
    assert_eq!(index.header().block_size.get(), 260 * 1024);
    assert_eq!(read_disk(bench.dir.path(), &index.to_text()), disk);
    let mut names: Vec<_> = index.objects().iter().map(|object| object.name.to_string()).collect();
    names.sort();
    assert_eq!(bench.files(), names, "nothing is left of the first try");
}

#[test]
fn blocks_of_two_images_that_collide_are_both_right_in_the_end() {
    let disks = colliding_images();
    let mut bench = Bench::new();
    let splits = ["host", "guest"].map(|image| {
        let disk = if image == "host" { &disks[0] } else { &disks[1] };
        bench.split(image, disk)
    });
    let sizes = splits.each_ref().map(|split| split.index.header().block_size.get());
    assert_eq!(sizes, [16 * 1024, 20 * 1024]);
    let places = &splits[1].collisions[0].places;
    let said: Vec<_> = places.iter().map(BlockOrigin::to_string).collect();
    assert_eq!(said, ["block 2 of image `guest` (from byte 32768)", "block 0 of image `host` (from byte 0)"]);
    for (split, disk) in splits.iter().zip(&disks) {
        assert_eq!(read_disk(bench.dir.path(), &split.index.to_text()), *disk);
    }
}

#[test]
fn a_block_that_collides_with_an_earlier_build_leaves_its_file_alone() {
    let disks = colliding_images();
    let mut bench = Bench::new();
    let old = bench.split("host", &disks[0]).index;
    for trusted in [false, true] {
        bench = bench.again();
        let place = if trusted {
            bench.store.trust(&old);
            "block 0 of image `host` in release 1"
        } else {
            "a block file of the mirror that no known release names"
        };
        let new = bench.split("host", &disks[1]);
        assert_eq!(new.collisions[0].places[1].to_string(), place);
        assert_eq!(read_disk(bench.dir.path(), &new.index.to_text()), disks[1]);
        assert_eq!(read_disk(bench.dir.path(), &old.to_text()), disks[0]);
    }
}

#[test]
fn collisions_in_every_size_are_an_error_that_names_them() {
    // An image of less than one block is the same block in any larger size.
    let [one, two] = wang::blocks(4 * K, 7);
    let mut bench = Bench::new();
    let header = |image| header(image, MAX_BLOCK_SIZE as usize, 4 * K);
    let mut split =
        |image, raw: &Vec<u8>| split(&header(image), bench.options, &mut bench.store, &Silent, raw);
    split("host", &one).unwrap();
    let error = split("guest", &two).unwrap_err();
    let SplitError::Collisions { tries: 9, found, .. } = &error else { panic!("{error}") };
    assert_eq!(found.len(), 9);
    assert!(
        error
            .to_string()
            .starts_with("image `guest`: blocks with one MD5 and different contents, in each of 9")
    );
}

#[test]
fn other_sizes_share_no_boundary_for_long() {
    let near = |steps: u32| {
        let sizes = other_sizes(BlockSize::new(steps * 4096).unwrap());
        sizes.take(5).map(|size| size.get() / 4096).collect::<Vec<_>>()
    };
    assert_eq!(near(64), [65, 63, 67, 61, 69]);
    assert_eq!(near(1), [2, 3, 4, 5, 6]);
    assert_eq!(near(1024), [1023, 1021, 1019, 1017, 1015]);
}

#[test]
fn a_disk_that_can_not_be_read_to_its_end_is_the_error() {
    let mut bench = Bench::new();
    let header = header("host", 16 * K, 50_000);
    let error = split(&header, bench.options, &mut bench.store, &Silent, &vec![7; 40_000]).unwrap_err();
    let SplitError::Image(error) = &error else { panic!("{error}") };
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

/// A disk of blocks full of their own numbers, from 1 on; says how many were read.
#[derive(Default)]
struct Numbers {
    read: AtomicU32,
}

impl SplitInput for Numbers {
    type Error = io::Error;

    fn read(&self, at: u64, raw: &mut [u8]) -> io::Result<()> {
        self.read.fetch_add(1, Ordering::Relaxed);
        raw.copy_from_slice(&disk(&[(at / (16 * K as u64)) as u32 + 1], 0));
        Ok(())
    }
}

#[test]
fn a_store_that_fails_ends_the_reading_and_is_the_error() {
    for threads in [1, 4] {
        let mut bench = Bench::new();
        bench.options.threads = NonZeroUsize::new(threads).unwrap();
        // The first block can't be written: a directory has the name of its file. All others can.
        let first = MirrorPath::Block(BlockName::of(&disk(&[1], 0)));
        fs::create_dir_all(bench.store.locate(&first)).unwrap();

        let blocks = 20_000;
        let header = header("host", 16 * K, blocks * 16 * K);
        let source = Numbers::default();
        let error = split(&header, bench.options, &mut bench.store, &Silent, &source).unwrap_err();
        assert!(matches!(error, SplitError::Store(_)), "{error}");
        let read = source.read.into_inner();
        assert!((read as usize) < blocks / 2, "{read} blocks read after the failure");
    }
}

/// A disk that differs from one whose index is known in its second block alone.
struct Update<'a> {
    index: &'a Index,
    disk: &'a Vec<u8>,
}

impl SplitInput for Update<'_> {
    type Error = io::Error;

    fn read(&self, at: u64, raw: &mut [u8]) -> io::Result<()> {
        self.disk.read_exact_at(at, raw)
    }

    fn known(&self, number: u32, size: BlockSize) -> Known {
        match self.index.target(number).filter(|_| number != 1 && size == self.index.header().block_size) {
            Some(BlockContents::Object(id)) => Known::Object(*self.index.object(id).unwrap()),
            Some(BlockContents::Zero) => Known::Zeros,
            None => Known::Nothing,
        }
    }
}

#[test]
fn what_is_known_is_carried_over_without_its_bytes() {
    let mut bench = Bench::new();
    let old = bench.split("host", &disk(&[1, 2, 0, 4], 0)).index;
    // Of the known blocks there are no bytes.
    let new = disk(&[0, 5, 0, 0], 0);
    let source = Update { index: &old, disk: &new };
    let header = header("host", 16 * K, new.len());
    let split = split(&header, bench.options, &mut bench.store, &Silent, &source).unwrap();
    let SplitStatistics { zero, carried, written, .. } = split.figures;
    assert_eq!((zero, carried, written), (1, 2, 1));
    assert_eq!(read_disk(bench.dir.path(), &split.index.to_text()), disk(&[1, 5, 0, 4], 0));
}
