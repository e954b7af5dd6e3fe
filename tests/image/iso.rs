//! Media before judges: xorriso, sgdisk, fsck.fat, mtools, and firmware that boots them.
//!
//! The boots need GRUB from a kit, so mmdebstrap and a network, or a mirror named in IMGFACTORY_DEBIAN_MIRROR.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;

use imgfactory::debian::boot_tools::{self, BootTools};
use imgfactory::debian::{ArchiveMirrors, MmdebstrapMode};
use imgfactory::downloads::apt;
use imgfactory::iso::esp::REMOVABLE_BOOT;
use imgfactory::iso::gpt::Identity;
use imgfactory::iso::grub::{self, Grub};
use imgfactory::iso::plan::{IsoParts, MediumContents};
use imgfactory::pipeline::build_record::{BuildRecord, PublishRecord, RecordedExpect, RecordedMachine};
use imgfactory::pipeline::step_cache::StepCache;
use imgfactory::pipeline::steps::iso;
use imgfactory::pipeline::steps::tree::TreeMaker;
use imgfactory::recipe::{ProjectFile, ProjectFiles, ProjectPath, Recipe};
use imgfactory::sys::progress::Silent;
use imgfactory::sys::spool::ContentFiles;
use imgfactory::templates::Templates;
use system::files::{OutputPath, Scratch};

use crate::programs;

const EPOCH: i64 = 1_700_000_000;

/// Bytes of which no two places look alike.
fn noise(len: usize, seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[0]
    };
    (0..len).map(|_| next()).collect()
}

/// GRUB as far as those are concerned who don't run it.
fn synthetic_grub() -> Grub {
    Grub { bios: noise(50_001, 1), uefi: noise(900_001, 2), mbr: noise(512, 3) }
}

/// A medium of bytes that nobody can boot.
fn synthetic(dir: &Path) -> (PathBuf, IsoParts) {
    let (grub, kernel, miniroot) = (synthetic_grub(), noise(300_001, 4), noise(70_001, 5));
    let contents = MediumContents {
        name: "demo",
        epoch: EPOCH,
        config: "# the menu\n",
        grub: &grub,
        xen: Some(&kernel[..100_000]),
        kernel: &kernel,
        miniroot: &miniroot,
        grafts: &[],
    };
    let iso = dir.join("demo.iso");
    let parts = iso::make(&contents, OutputPath::find(&iso).unwrap(), &dir.join("logs/xorriso.log")).unwrap();
    (iso, parts)
}

fn room() -> Scratch {
    Scratch::directory(std::env::temp_dir()).unwrap()
}

/// Runs a judge; gives what it printed.
fn judge(program: &str, package: &str, args: &[&dyn AsRef<std::ffi::OsStr>]) -> String {
    let output = Command::new(program)
        .args(args)
        .env("LC_ALL", "C")
        .env("MTOOLS_SKIP_CHECK", "0")
        .output()
        .unwrap_or_else(|error| panic!("{program} is needed (Debian package {package}): {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{program}: {}\n{text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

#[test]
fn the_same_contents_give_the_same_bytes_in_any_directory() {
    let (one, two) = (room(), room());
    let deep = two.path().join("deeper");
    fs::create_dir(&deep).unwrap();
    let (first, parts) = synthetic(one.path());
    let (second, same_parts) = synthetic(&deep);
    assert!(fs::read(&first).unwrap() == fs::read(&second).unwrap(), "the media differ");
    assert_eq!(parts, same_parts);
    assert_eq!(parts.total, fs::metadata(&first).unwrap().len());
    assert!(parts.rest < 400_000, "{parts}");
    // Nothing is left beside it, and everybody may read it as far as the umask allows.
    let names: Vec<_> = fs::read_dir(one.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

#[test]
fn xorriso_finds_both_boot_images_and_every_file() {
    let dir = room();
    let (iso, _) = synthetic(dir.path());
    let report = judge(
        "xorriso",
        "xorriso",
        &[
            &"-no_rc",
            &"-indev",
            &iso,
            &"-pvd_info",
            &"-report_el_torito",
            &"plain",
            &"-report_system_area",
            &"plain",
            &"-find",
            &"/",
            &"-exec",
            &"lsdl",
            &"--",
        ],
    );
    let heads =
        ["Volume Id", "El Torito", "System area", "ISO image", "Partition off", "MBR", "GPT", "dr-x", "-r--"];
    let of_interest = |line: &&str| {
        // The names come in UTF-16 and as text; once will do.
        heads.iter().any(|head| line.starts_with(head)) && !line.starts_with("GPT partition name")
    };
    let report: Vec<&str> = report.lines().filter(of_interest).map(str::trim_end).collect();
    insta::assert_snapshot!(report.join("\n"), @r"
    Volume Id    : DEMO
    El Torito catalog  : 49  1
    El Torito images   :   N  Pltf  B   Emul  Ld_seg  Hdpt  Ldsiz         LBA
    El Torito boot img :   1  BIOS  y   none  0x0000  0x00      4          50
    El Torito boot img :   2  UEFI  y   none  0x0000  0x00   1776         308
    El Torito img path :   1  /boot/grub/bios.img
    El Torito img opts :   1  boot-info-table grub2-boot-info
    El Torito img blks :   2  444
    System area options: 0x00004201
    System area summary: MBR protective-msdos-label grub2-mbr cyl-align-off GPT
    ISO image size/512 : 3044
    Partition offset   : 16
    MBR heads per cyl  : 0
    MBR secs per head  : 0
    MBR partition table:   N Status  Type        Start       Blocks
    MBR partition      :   1   0x00  0xee            1         3043
    MBR partition      :   2   0x80  0x00            0            1
    GPT                :   N  Info
    GPT disk GUID      :      9198a023a2b55c5e9549add0bdb6803e
    GPT entry array    :      2  128  separated
    GPT lba range      :      34  3010  3043
    GPT partname local :   1  imgfactory ISO
    GPT partition GUID :   1  9e0708d5dea441559c5d62bd8c38b584
    GPT type GUID      :   1  a2a0d0ebe5b9334487c068b6b72699c7
    GPT partition flags:   1  0x0000000000000000
    GPT start and size :   1  64  1168
    GPT partname local :   2  imgfactory ESP
    GPT partition GUID :   2  06ff23d732260159a81c2b89cbf4f1b8
    GPT type GUID      :   2  28732ac11ff8d211ba4b00a0c93ec93b
    GPT partition flags:   2  0x0000000000000000
    GPT start and size :   2  1232  1776
    dr-xr-xr-x    1 0        0               0 Nov 14  2023 '/'
    dr-xr-xr-x    1 0        0               0 Nov 14  2023 '/.imgfactory'
    -r--r--r--    1 0        0               5 Nov 14  2023 '/.imgfactory/medium'
    dr-xr-xr-x    1 0        0               0 Nov 14  2023 '/boot'
    dr-xr-xr-x    1 0        0               0 Nov 14  2023 '/boot/grub'
    -r--r--r--    1 0        0           50001 Nov 14  2023 '/boot/grub/bios.img'
    -r--r--r--    1 0        0              11 Nov 14  2023 '/boot/grub/grub.cfg'
    -r--r--r--    1 0        0           70001 Nov 14  2023 '/boot/initrd'
    -r--r--r--    1 0        0          300001 Nov 14  2023 '/boot/vmlinuz'
    -r--r--r--    1 0        0          100000 Nov 14  2023 '/boot/xen.gz'
    ");
}

#[test]
fn sgdisk_has_nothing_to_say_against_the_partition_tables() {
    let dir = room();
    let (iso, _) = synthetic(dir.path());
    let said = judge("sgdisk", "gdisk", &[&"--verify", &iso]);
    assert!(said.contains("No problems found."), "{said}");
    let said = judge("sgdisk", "gdisk", &[&"--print", &"--info=1", &"--info=2", &iso]);
    let identity = Identity::of("demo");
    for wanted in [identity.disk, identity.iso, identity.esp] {
        assert!(said.contains(&wanted.to_string().to_uppercase()), "no {wanted} in {said}");
    }
    assert!(said.contains("(EFI system partition)"), "{said}");
}

#[test]
fn the_first_partition_is_an_iso_of_its_own() {
    let dir = room();
    let (iso, _) = synthetic(dir.path());
    let bytes = fs::read(&iso).unwrap();
    let partition = dir.path().join("partition.iso");
    fs::write(&partition, &bytes[64 * 512..]).unwrap();
    for (medium, name) in [(&iso, "whole"), (&partition, "partition")] {
        let out = dir.path().join(name);
        judge(
            "xorriso",
            "xorriso",
            &[&"-no_rc", &"-osirrox", &"on", &"-indev", medium, &"-extract", &"/", &out],
        );
        assert_eq!(fs::read_to_string(out.join(&grub::MARKER[1..])).unwrap(), "demo\n", "{name}");
        assert!(fs::read(out.join("boot/vmlinuz")).unwrap() == noise(300_001, 4), "{name}");
    }
}

#[test]
fn the_esp_is_sound_and_has_grub_where_firmware_looks() {
    let dir = room();
    let (iso, parts) = synthetic(dir.path());
    let table = gpt::GptConfig::new().only_valid_headers(true).open(&iso).unwrap();
    let place = table.partitions()[&2].clone();
    assert_eq!(place.part_type_guid, gpt::partition_types::EFI);
    let mut esp = vec![0; usize::try_from((place.last_lba - place.first_lba + 1) * 512).unwrap()];
    assert_eq!(esp.len() as u64, parts.esp);
    let mut file = File::open(&iso).unwrap();
    file.seek(SeekFrom::Start(place.first_lba * 512)).unwrap();
    file.read_exact(&mut esp).unwrap();
    let image = dir.path().join("esp.img");
    fs::write(&image, &esp).unwrap();

    judge("fsck.fat", "dosfstools", &[&"-n", &"-v", &image]);
    let listing = judge("mdir", "mtools", &[&"-/", &"-b", &"-i", &image]);
    assert_eq!(listing.lines().last(), Some(format!("::/{REMOVABLE_BOOT}").as_str()), "{listing}");
    let program = dir.path().join("program");
    judge("mcopy", "mtools", &[&"-i", &image, &format!("::{REMOVABLE_BOOT}"), &program]);
    assert!(fs::read(&program).unwrap() == synthetic_grub().uefi);
}

struct Nothing;

impl ProjectFiles for Nothing {
    fn overlays(&self) -> Vec<String> {
        Vec::new()
    }

    fn file(&self, _: &ProjectPath) -> ProjectFile {
        ProjectFile::Missing
    }
}

fn recipe() -> Recipe {
    let text = "name: demo\nhost: {debian: {packages: [linux-image-amd64]}}\n\
                boot: {xen: {memory: 900MiB}, entries: [xen, linux, rescue], timeout: 1}\n";
    Recipe::parse("demo.yaml", text, &Nothing).unwrap_or_else(|findings| panic!("{findings}"))
}

/// GRUB out of a kit of the recipe's suite. The kit is kept for the next time.
fn real_grub(recipe: &Recipe) -> Grub {
    let mirrors = match std::env::var("IMGFACTORY_DEBIAN_MIRROR") {
        Ok(text) => ArchiveMirrors::from_option(&text).unwrap(),
        Err(_) => apt::own_mirrors(),
    };
    let room = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kit");
    let mode =
        if rustix::process::geteuid().is_root() { MmdebstrapMode::Root } else { MmdebstrapMode::Unshare };
    let (mirrors, progress) = (&mirrors, &Silent);
    let cache = StepCache::new(&room, "demo", 1 << 40, progress);
    let maker =
        TreeMaker { cache: &cache, logs: &room, mirrors, mode, epoch: None, offline: false, progress };
    let debian = recipe.host.system.boot_tools();
    let mut spools = ContentFiles::new();
    let made = maker.make("kit", &boot_tools::set(debian, &Grub::images()), &mut spools).unwrap();
    Grub::of(&BootTools { tree: &made.tree, contents: &spools }).unwrap()
}

/// Where a build would leave a medium: a medium with an entry `probe`, which no recipe has. It says what reached
/// the menu and switches the machine off.
fn build(out: &Path) {
    let recipe = recipe();
    let grub = real_grub(&recipe);
    let mut config = grub::config(&Templates::built_in(), "demo", "", &recipe.boot, &[]).unwrap();
    config.push_str("menuentry 'Probe' --id probe {\n    echo probe: $extra\n    halt\n}\n");
    let contents = MediumContents {
        name: "demo",
        epoch: EPOCH,
        config: &config,
        grub: &grub,
        xen: None,
        kernel: b"no kernel",
        miniroot: b"no miniroot",
        grafts: &[],
    };
    let parts =
        iso::make(&contents, OutputPath::find(out.join("demo.iso")).unwrap(), &out.join("logs/xorriso.log"))
            .unwrap();
    assert!(parts.grub_bios < 300_000 && parts.esp < 1_200_000, "{parts}");
    let record = BuildRecord {
        version: BuildRecord::VERSION,
        name: "demo".into(),
        serial: 1,
        iso: "demo.iso".into(),
        mirrors: Vec::new(),
        entries: vec!["probe".into()],
        machine: RecordedMachine { memory_mib: 512, cpus: 1 },
        expect: RecordedExpect {
            timeout_s: 90,
            lines: vec![
                "imgfactory: demo: GRUB reads ".into(),
                "probe: mirror=http://mirror.example/ imgfactory.token={{ token }} strict".into(),
            ],
            guest_lines: vec!["only below Xen".into()],
        },
        parts,
        images: Vec::new(),
        steps: Vec::new(),
        publish: PublishRecord::default(),
    };
    record.write(out).unwrap();
}

/// `imgfactory test OUT` with more arguments: its exit code, standard output and standard error.
fn test(out: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(programs::imgfactory())
        .args(["test", "--accel", "tcg", "--mirror", "http://mirror.example/", "--options", "strict"])
        .args(args)
        .arg(out)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn grub_starts_from_every_medium_with_every_firmware_and_hears_what_smbios_says() {
    let dir = room();
    let out = dir.path();
    build(out);
    for firmware in ["--bios", "--uefi"] {
        for medium in ["cdrom", "disk", "usb"] {
            let (code, table, errors) = test(out, &[firmware, "--medium", medium, "--entry", "probe"]);
            assert_eq!(code, Some(0), "{firmware} {medium}: {errors}");
            let reached = |line: &&str| line.ends_with("s   GRUB") || line.contains("imgfactory.token=");
            assert_eq!(table.lines().filter(reached).count(), 2, "{firmware} {medium}: {table}");
            let log = out.join(format!("logs/console-{}-{medium}-probe.log", &firmware[2..]));
            let log = fs::read_to_string(log).unwrap();
            assert!(log.contains("] probe: mirror=http://mirror.example/ imgfactory.token="), "{log}");
        }
    }
    // What is not said is missed; a machine that is off says no more.
    let (code, table, errors) = test(out, &["--entry", "probe", "--expect", "never {{ token }}"]);
    assert_eq!(code, Some(1), "{table}{errors}");
    for said in
        ["the machine switched off after ", "without printing `never ", "  probe: mirror=", "whole console: "]
    {
        assert!(errors.contains(said), "no {said} in {errors}");
    }
    let (code, _, errors) = test(out, &["--entry", "xen"]);
    assert_eq!(code, Some(2));
    assert!(errors.contains("--entry xen: no such menu entry; the build has probe"), "{errors}");
}
