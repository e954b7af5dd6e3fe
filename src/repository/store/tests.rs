use tempfile::TempDir;

use super::*;
use formats::block::Codec;
use formats::digest::Sha256;
use formats::index::Header;
use formats::names::{BlockSize, UnixTime};

fn block(byte: u8) -> Block {
    Block::seal(vec![byte; 4096])
}

/// Two blocks with one MD5: the pair of Wang and others (2004), with the same bytes after it.
fn colliding() -> [Block; 2] {
    crate::pipeline::steps::split::wang::blocks(4096, 7).map(Block::seal)
}

struct Bench {
    dir: TempDir,
    store: Store,
    compressor: Compressor,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        Bench { dir, store, compressor: Compressor::new(Codec::default()) }
    }

    /// Another build in the same tree.
    fn again(self) -> Self {
        Bench { store: Store::open(self.dir.path()).unwrap(), ..self }
    }

    fn offer(&mut self, block: &Block) -> Offered {
        self.try_offer(block).unwrap()
    }

    fn try_offer(&mut self, block: &Block) -> Result<Offered, StoreError> {
        self.store.offer(block, || place(3), &mut self.compressor)
    }

    fn file(&self, block: &Block) -> PathBuf {
        self.store.locate(&MirrorPath::Block(block.name()))
    }

    /// An index of one block, as a release that named it would have it.
    fn trust(&mut self, object: Object) {
        let header = Header {
            image: "host".parse().unwrap(),
            serial: Serial::FIRST,
            block_size: BlockSize::new(4096).unwrap(),
            size: 3 * 4096,
            published: UnixTime(0),
            parent: None,
        };
        self.store.trust(&Index::assemble(header, [None, Some(object), Some(object)]).unwrap());
    }
}

fn place(block: u32) -> BlockOrigin {
    BlockOrigin::Image { image: "host".parse().unwrap(), block, at: u64::from(block) * 4096 }
}

fn written(offered: Offered) -> Object {
    match offered {
        Offered::Written(object) => object,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_block_is_written_once_and_found_after_that() {
    let mut bench = Bench::new();
    let object = written(bench.offer(&block(1)));
    assert_eq!(bench.store.block(&object).unwrap(), block(1));
    assert_eq!(bench.offer(&block(1)), Offered::Found(object));
    let mut bench = bench.again();
    let before = fs::metadata(bench.file(&block(1))).unwrap().modified().unwrap();
    assert_eq!(bench.offer(&block(1)), Offered::Found(object), "by its bytes");
    assert_eq!(fs::metadata(bench.file(&block(1))).unwrap().modified().unwrap(), before);
}

#[test]
fn what_a_power_cut_left_is_written_anew() {
    let whole = Compressor::new(Codec::default()).compress(block(1).bytes());
    let zeros = vec![0; whole.len()];
    let other = Compressor::new(Codec::default()).compress(block(2).bytes());
    for damaged in [&b""[..], &whole[..whole.len() - 1], &zeros, &other, &[9; 300_000]] {
        let mut bench = Bench::new();
        let file = bench.file(&block(1));
        create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, damaged).unwrap();
        written(bench.offer(&block(1)));
        assert_eq!(fs::read(file).unwrap(), whole);
    }
}

#[test]
fn the_file_of_another_compressor_is_used_as_it_is() {
    let mut bench = Bench::new();
    bench.compressor = Compressor::new(Codec::zlib(1).unwrap());
    let block = Block::seal((0..4096_u32).map(|n| ((n * n) >> 5) as u8).collect());
    let object = written(bench.offer(&block));
    let mut bench = bench.again();
    bench.compressor = Compressor::new(Codec::libdeflate(12).unwrap());
    assert_eq!(bench.offer(&block), Offered::Found(object));
}

#[test]
fn a_file_that_a_release_names_is_believed_by_its_length() {
    let mut bench = Bench::new();
    let object = written(bench.offer(&block(1)));
    let file = bench.file(&block(1));
    let mut bench = bench.again();
    // Not read: another content of the same length goes unnoticed here. A client would notice.
    let len = fs::metadata(&file).unwrap().len() as usize;
    fs::write(&file, vec![0; len]).unwrap();
    bench.trust(object);
    assert_eq!(bench.offer(&block(1)), Offered::Found(object));
    // Another length is noticed, and the file is made again to the byte.
    let mut bench = bench.again();
    fs::write(&file, b"short").unwrap();
    bench.trust(object);
    assert_eq!(written(bench.offer(&block(1))), object);
}

#[test]
fn a_file_that_a_release_names_is_never_replaced_by_another() {
    let mut bench = Bench::new();
    let object = Object { file_len: 999, ..written(bench.offer(&block(1))) };
    let file = bench.file(&block(1));
    fs::remove_file(&file).unwrap();
    let mut bench = bench.again();
    bench.trust(object);
    let error = bench.try_offer(&block(1)).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "{}: missing or damaged: block 1 of image `host` in release 1 records 999 bytes, but compressing \
             the block again gives 27; restore the file, or build with the compressor of that release",
            file.display()
        )
    );
    assert!(!file.exists());
}

#[test]
fn one_name_never_gets_a_second_content() {
    let [one, two] = colliding();
    assert_eq!(one.name(), two.name());

    let mut bench = Bench::new();
    let object = written(bench.offer(&one));
    assert_eq!(bench.offer(&two), Offered::Collides(place(3)), "with a block of this build");
    assert_eq!(bench.store.block(&object).unwrap(), one);

    let mut bench = bench.again();
    assert_eq!(bench.offer(&two), Offered::Collides(BlockOrigin::File), "with a file");
    bench.trust(object);
    let origin = BlockOrigin::Release { image: "host".parse().unwrap(), serial: Serial::FIRST, block: 1 };
    assert_eq!(bench.offer(&two), Offered::Collides(origin), "with a block of a release");
    assert_eq!(bench.store.block(&object).unwrap(), one);
}

#[test]
fn what_is_taken_back_is_gone_and_what_was_found_stays() {
    let mut bench = Bench::new();
    written(bench.offer(&block(1)));
    let mut bench = bench.again();
    bench.offer(&block(1));
    written(bench.offer(&block(2)));
    for n in [1, 2, 3] {
        bench.store.take_back(block(n).name()).unwrap();
    }
    assert_eq!([1, 2].map(|n| bench.file(&block(n)).exists()), [true, false]);
    written(bench.offer(&block(2)));
}

#[test]
fn puts_have_the_digest_of_the_file_whoever_wrote_it() {
    let mut bench = Bench::new();
    let old = written(bench.offer(&block(1)));
    let mut bench = bench.again();
    bench.offer(&block(1));
    let new = written(bench.offer(&block(2)));
    let puts = bench.store.puts(&[new, old]).unwrap();
    let want = [2, 1].map(|n| {
        let digest = Digest::of(&fs::read(bench.file(&block(n))).unwrap());
        Put { path: MirrorPath::Block(block(n).name()), digest }
    });
    assert_eq!(puts, want);

    let wrong = Object { file_len: 9, ..old };
    let error = bench.store.puts(&[wrong]).unwrap_err();
    assert_eq!(error.to_string(), format!("{}: damaged", bench.file(&block(1)).display()));
    let forged = Object { sha256: Sha256([1; 32]), ..old };
    assert!(matches!(bench.store.block(&forged), Err(StoreError::Damaged { .. })));
}

#[test]
fn files_that_name_blocks_are_written_after_a_sync_and_read_back() {
    let bench = Bench::new();
    let path = MirrorPath::Release(Serial::FIRST);
    assert_eq!(bench.store.read(&path).unwrap(), None);
    let synced = bench.store.sync().unwrap();
    synced.write(&path, b"one").unwrap();
    synced.write(&path, b"two").unwrap();
    assert_eq!(bench.store.read(&path).unwrap().as_deref(), Some(&b"two"[..]));
    fs::write(bench.store.locate(&MirrorPath::Latest), vec![b'x'; 20_000]).unwrap();
    let error = bench.store.read(&MirrorPath::Latest).unwrap_err();
    assert!(error.to_string().ends_with("latest: can't read"), "{error}");
}

#[test]
fn what_can_not_be_written_is_an_error_with_the_path() {
    // A file where a directory belongs is as good an obstacle as any, and works as root too.
    let mut bench = Bench::new();
    fs::write(bench.dir.path().join("blk"), b"").unwrap();
    let error = bench.try_offer(&block(1)).unwrap_err();
    let path = bench.file(&block(1));
    assert!(error.to_string().starts_with(&path.display().to_string()), "{error}");
}
