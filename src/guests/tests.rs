//! Every kind over buffers: no files, no programs.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use super::services::{PackageTree, ProgramRun, ReadSeek, WriteFile};
use super::*;
use crate::ext2::{ImageOptions, ImagePlan, Profile, ReadAt, Sequential, write};
use crate::foreign::sums::Sum;
use crate::recipe::{Debian, Guest, ProjectFile, ProjectFiles, ProjectPath, Recipe};
use crate::tree::{Contents, SpoolId};

/// The one file of the project.
const KEY: &str = "keys/me.pub";

struct OneFile;

impl ProjectFiles for OneFile {
    fn overlays(&self) -> Vec<String> {
        Vec::new()
    }

    fn file(&self, path: &ProjectPath) -> ProjectFile {
        if path.as_str() == KEY { ProjectFile::Plain } else { ProjectFile::Missing }
    }
}

fn guests(sections: &str) -> Vec<Guest> {
    let text = format!(
        "name: x\nhost: {{debian: {{}}}}\nboot: {{xen: true}}\nmachine: {{memory: 4GiB}}\nguests:\n{sections}"
    );
    Recipe::parse("x.yaml", &text, &OneFile).unwrap_or_else(|findings| panic!("{findings}")).guests
}

/// Services whose files are in memory. Checksums are not looked at; a program's result is its command line.
#[derive(Default)]
struct InMemoryServices {
    files: RefCell<BTreeMap<PathBuf, Vec<u8>>>,
    spools: Vec<Vec<u8>>,
    locked: BTreeMap<String, Sum>,
}

impl InMemoryServices {
    fn with(name: &str, bytes: &[u8]) -> Self {
        let memory = InMemoryServices::default();
        memory.files.borrow_mut().insert(Path::new("fetched").join(name), bytes.to_vec());
        memory
    }

    fn bytes(&self, path: &Path) -> Result<Vec<u8>, ServiceError> {
        let bytes = self.files.borrow().get(path).cloned();
        bytes.ok_or_else(|| ServiceError::new(format!("no file {}", path.display())))
    }
}

impl ThirdPartyFiles for InMemoryServices {
    fn locked(&self, url: &str) -> Option<Sum> {
        self.locked.get(url).copied()
    }

    fn text(&self, urls: &[String], _: u64) -> Result<Vec<u8>, ServiceError> {
        self.bytes(Path::new(&urls[0]))
    }
}

impl BuildServices for InMemoryServices {
    fn fetch(&self, urls: &[String], _: &Sum) -> Result<PathBuf, ServiceError> {
        Ok(Path::new("fetched").join(urls[0].rsplit('/').next().unwrap()))
    }

    fn derive(&self, name: &str, write: WriteFile<'_>) -> Result<PathBuf, ServiceError> {
        let mut bytes: Vec<u8> = Vec::new();
        write(&mut bytes)?;
        self.files.borrow_mut().insert(name.into(), bytes);
        Ok(name.into())
    }

    fn derive_by(&self, name: &str, program: &ProgramRun<'_>) -> Result<PathBuf, ServiceError> {
        let command = format!("{} {:?}", program.name, program.arguments);
        self.derive(name, &mut |out| Ok(out.write_all(command.as_bytes())?))
    }

    fn output_of(&self, program: &ProgramRun<'_>) -> Result<Vec<u8>, ServiceError> {
        match program.log.as_str() {
            "qemu-img-info.log" => Ok(b"{}".to_vec()),
            "qemu-img-check.log" => Ok(vec![]),
            _ => Err(ServiceError::new("no program")),
        }
    }

    fn open(&self, path: &Path) -> Result<Box<dyn ReadSeek>, ServiceError> {
        Ok(Box::new(Cursor::new(self.bytes(path)?)))
    }

    fn open_at(&self, path: &Path) -> Result<Box<dyn ReadAt>, ServiceError> {
        Ok(Box::new(self.bytes(path)?))
    }

    fn spool(&mut self, path: &Path) -> Result<SpoolId, ServiceError> {
        let bytes = self.bytes(path)?;
        self.spools.push(bytes);
        Ok(SpoolId(u32::try_from(self.spools.len() - 1).unwrap()))
    }

    fn contents(&self) -> &dyn Contents {
        &self.spools
    }

    fn project_file(&self, path: &ProjectPath, _: u64) -> Result<Vec<u8>, ServiceError> {
        self.bytes(Path::new(path.as_str()))
    }

    fn progress(&self, _: &str, _: u64) -> Box<dyn Fn(u64) + '_> {
        Box::new(|_| ())
    }

    fn debian_inputs(&mut self, image: &str, debian: &Debian) -> Result<Inputs, ServiceError> {
        Ok(vec![("image".into(), image.into()), ("suite".into(), debian.suite.to_string())])
    }

    fn debian_tree(&mut self, _: &str, _: &Debian) -> Result<PackageTree, ServiceError> {
        let tree = Tree::new(Meta::default());
        Ok(PackageTree { tree, newest: 7, cached: true })
    }

    fn overlay_inputs(&self, guest: &Guest) -> Result<Inputs, ServiceError> {
        Ok(guest.overlays.iter().map(|overlay| (overlay.to_string(), "digest".into())).collect())
    }

    fn apply_overlays(&mut self, _: &Guest, _: &mut Tree, _: i64) -> Result<(), ServiceError> {
        Ok(())
    }
}

fn disk(guest: &Guest, memory: &mut InMemoryServices) -> Result<DiskContents, String> {
    match builder(&guest.kind).build(guest, memory).map_err(|error| error.to_string())? {
        GuestContents::Disk(disk) => Ok(disk),
        GuestContents::Tree(_) => panic!("{guest:?}"),
    }
}

fn tree(guest: &Guest, memory: &mut InMemoryServices) -> GuestTree {
    match builder(&guest.kind).build(guest, memory).unwrap_or_else(|error| panic!("{error}")) {
        GuestContents::Tree(tree) => tree,
        GuestContents::Disk(_) => panic!("{guest:?}"),
    }
}

#[test]
fn each_kind_has_a_starter_a_summary_and_what_a_lock_must_have() {
    let guests = guests(
        "- {name: a, debian: {packages: [vim]}}\n\
         - {name: b, netbsd: {version: '10.1'}}\n\
         - {name: c, plan9: {flavour: 9legacy, urls: ['http://a.example/c.iso'], data: 1MiB}}\n\
         - {name: d, disk: {urls: ['http://a.example/d.qcow2']}}\n\
         - {name: e, knoppix: {urls: ['http://a.example/e.iso']}}\n\
         - {name: f, knoppix: {urls: ['http://a.example/f.iso'], form: device}}\n",
    );
    let said: Vec<String> = guests
        .iter()
        .map(|guest| {
            let kind = builder(&guest.kind);
            let config = GuestConfig::of(guest);
            let files = kind.files_to_lock(&InMemoryServices::default()).map_or_else(
                |error| error.to_string(),
                |files| files.iter().flat_map(|file| file.urls.clone()).collect::<Vec<_>>().join(" "),
            );
            let needs: Vec<&str> = config.host_needs().map(|need| need.package).collect();
            format!(
                "{} {} {} data={} | {} | lock: {files} | host: {}",
                guest.name,
                kind.starter().as_str(),
                guest.virt,
                config.data,
                kind.summary(),
                needs.join(" ")
            )
        })
        .collect();
    assert_eq!(
        said,
        [
            "a linux pv data=false | Debian trixie (minbase), 1 package | lock:  | host: iproute2",
            "b netbsd pv data=false | NetBSD 10.1 amd64 (base, etc), kernel XEN3_DOMU | lock: no file \
             https://cdn.netbsd.org/pub/NetBSD/NetBSD-10.1/amd64/binary/sets/SHA512 | host: dmsetup iproute2",
            "c cd hvm data=true | 9legacy as it is, with our plan9.ini | lock: http://a.example/c.iso | host: \
             dmsetup iproute2",
            "d disk hvm data=false | disk as it is | lock: http://a.example/d.qcow2 | host: dmsetup iproute2",
            "e linux pv data=false | KNOPPIX as a tree | lock: http://a.example/e.iso | host: dmsetup iproute2",
            "f disk hvm data=false | KNOPPIX as a device | lock: http://a.example/f.iso | host: dmsetup iproute2",
        ]
    );
}

#[test]
fn each_kind_says_what_its_image_depends_on_before_anything_is_fetched() {
    let sha256 = "0".repeat(64);
    let source = |name: &str| format!("urls: ['http://a.example/{name}'], sha256: '{sha256}'");
    let guests = guests(&format!(
        "- {{name: a, debian: {{packages: [vim]}}}}\n\
         - {{name: b, netbsd: {{version: '10.1', ssh-keys: [{KEY}]}}, hostname: box}}\n\
         - {{name: c, plan9: {{flavour: 9front, {}, plan9-ini: [a=b, c=d]}}}}\n\
         - {{name: d, disk: {{{}}}}}\n\
         - {{name: e, knoppix: {{{}}}}}\n\
         - {{name: f, knoppix: {{urls: ['http://a.example/f.iso'], form: device}}}}\n",
        source("c.iso"),
        source("d.qcow2"),
        source("e.iso"),
    ));
    let mut memory = InMemoryServices::default();
    let (sets, sum) = ("https://cdn.netbsd.org/pub/NetBSD/NetBSD-10.1/amd64/binary/", "1".repeat(128));
    let list = |names: &[&str]| -> Vec<u8> {
        names.iter().flat_map(|name| format!("SHA512 ({name}) = {sum}\n").into_bytes()).collect()
    };
    let mut files = memory.files.borrow_mut();
    files.insert(format!("{sets}sets/SHA512").into(), list(&["base.tar.xz", "etc.tar.xz"]));
    files.insert(format!("{sets}kernel/SHA512").into(), list(&["netbsd-XEN3_DOMU.gz"]));
    files.insert(KEY.into(), b"ssh-ed25519 A".to_vec());
    drop(files);
    let said: Vec<String> = guests
        .iter()
        .map(|guest| {
            let inputs = builder(&guest.kind).inputs(guest, &mut memory).unwrap();
            let short = |value: String| value.replace(&sha256, "0*64").replace(&sum, "1*128");
            let inputs: Vec<String> =
                inputs.into_iter().map(|(name, value)| format!("{name}={}", short(value))).collect();
            format!("{}: {}", guest.name, inputs.join(" "))
        })
        .collect();
    let key = formats::digest::Sha256::of(b"ssh-ed25519 A");
    assert_eq!(
        said,
        [
            "a: image=a suite=trixie".to_owned(),
            format!(
                "b: version=10.1 architecture=amd64 host name=box devices=Minimal writable=true \
                 base.tar.xz=sha512:1*128 etc.tar.xz=sha512:1*128 netbsd-XEN3_DOMU.gz=sha512:1*128 \
                 {KEY}={key}"
            ),
            "c: file=c.iso checksum=sha256:0*64 flavour=9front console=Serial second disk=false plan9.ini=a=b \
             plan9.ini=c=d"
                .to_owned(),
            "d: file=d.qcow2 checksum=sha256:0*64 format=by its contents".to_owned(),
            "e: file=e.iso checksum=sha256:0*64 form=tree".to_owned(),
            "f: file=f.iso checksum=none form=device".to_owned(),
        ]
    );
}

#[test]
fn a_debian_guest_has_its_host_name() {
    let guests = guests("- {name: a, debian: {}, hostname: box}\n");
    let made = tree(&guests[0], &mut InMemoryServices::default());
    assert_eq!((made.newest, made.linux, made.cached), (7, true, Some(true)));
    let id = made.tree.lookup(b"etc/hostname").unwrap();
    let Kind::File(content) = &made.tree.node(id).kind else { panic!() };
    assert_eq!(content.read_all(&Vec::<Vec<u8>>::new()).unwrap(), b"box\n");
}

#[test]
fn a_disk_is_decompressed_and_converted_by_its_contents() {
    let sha256 = "0".repeat(64);
    let guest = |name: &str| {
        let urls = format!("urls: ['http://a.example/{name}'], sha256: '{sha256}'");
        guests(&format!("- {{name: d, disk: {{{urls}}}}}\n")).remove(0)
    };
    let gz = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(b"a disk").unwrap();
        encoder.finish().unwrap()
    };
    let mut memory = InMemoryServices::with("d.img.gz", &gz);
    let made = disk(&guest("d.img.gz"), &mut memory).unwrap();
    assert_eq!(memory.bytes(&made.path).unwrap(), b"a disk");
    assert_eq!((made.len, made.patches.len()), (6, 0));

    let mut memory = InMemoryServices::with("d.qcow2", &[&b"QFI\xfb"[..], &[0; 100]].concat());
    let made = disk(&guest("d.qcow2"), &mut memory).unwrap();
    assert_eq!(made.path, Path::new(&format!("sha256-{sha256}.raw")));
    let command = String::from_utf8(memory.bytes(&made.path).unwrap()).unwrap();
    assert!(command.starts_with("qemu-img [Text(\"convert\"), Text(\"-f\"), Text(\"qcow2\"),"), "{command}");

    for (name, bytes, said) in [
        ("d.img", &b""[..], "fetched/d.img: empty"),
        ("d.img.gz", &gz[..10], "d.img.gz: can't decompress it; it is truncated or damaged"),
        (
            "d.vmdk",
            b"# Disk DescriptorFile\n",
            "d.vmdk: the disk image needs another file (a descriptor without sectors of its own); convert it to a single file with `qemu-img convert`",
        ),
    ] {
        assert_eq!(disk(&guest(name), &mut InMemoryServices::with(name, bytes)).unwrap_err(), said);
    }
}

#[test]
fn a_file_is_known_by_the_checksum_of_the_recipe_or_of_the_lock() {
    let guest = guests("- {name: d, disk: {urls: ['http://a.example/d.img']}}\n").remove(0);
    let mut memory = InMemoryServices::with("d.img", b"a disk");
    assert_eq!(
        disk(&guest, &mut memory).unwrap_err(),
        "http://a.example/d.img: no checksum for it; add `sha256: HEX` beside the URL in the recipe, or run: imgfactory lock RECIPE"
    );
    memory.locked.insert("http://a.example/d.img".into(), Sum::Sha256("0".repeat(64).parse().unwrap()));
    assert_eq!(disk(&guest, &mut memory).unwrap().len, 6);
}

#[test]
fn a_knoppix_that_is_an_ext2_is_taken_as_it_is_or_gives_its_files() {
    let mut files = Tree::new(Meta { mode: 0o755, ..Meta::default() });
    let content = Kind::File(Content::inline(b"KNOPPIX".to_vec()));
    let meta = Meta { mode: 0o644, mtime: FileTime { secs: 1_000_000_000, nanos: 0 }, ..Meta::default() };
    files.insert(b"etc/issue", Node { meta, kind: content }).unwrap();
    let plan = ImagePlan::new(&files, &ImageOptions::new("knoppix", 0), &mut Sequential::default()).unwrap();
    let mut image = Vec::new();
    write(&plan, &Vec::<Vec<u8>>::new(), &mut image).unwrap();

    let source = format!("urls: ['http://a.example/KNOPPIX'], sha256: '{}'", "0".repeat(64));
    let guests = guests(&format!(
        "- {{name: d, knoppix: {{{source}, form: device}}}}\n- {{name: t, knoppix: {{{source}}}}}\n"
    ));
    let mut memory = InMemoryServices::with("KNOPPIX", &image);
    let device = disk(&guests[0], &mut memory).unwrap();
    assert_eq!(memory.bytes(&device.path).unwrap(), image);
    let made = tree(&guests[1], &mut memory);
    assert_eq!((made.profile, made.linux, made.newest), (Profile::Linux, true, 1_000_000_000));
    assert_eq!(made.tree.lookup(b"lost+found"), None);
    let Kind::File(content) = &made.tree.node(made.tree.lookup(b"etc/issue").unwrap()).kind else { panic!() };
    assert_eq!(content.read_all(memory.contents()).unwrap(), b"KNOPPIX");

    let error = disk(&guests[0], &mut InMemoryServices::with("KNOPPIX", b"text")).unwrap_err();
    assert!(
        error.starts_with("KNOPPIX: neither of KNOPPIX's formats; use an ISO that has KNOPPIX/KNOPPIX"),
        "{error}"
    );
}
