//! Whole recipes, right and wrong.

use std::path::Path;

use formats::block::Codec;
use formats::names::BlockSize;

use super::*;
use crate::ext2::InodeSize;
use crate::project::folder::Project;
use crate::yaml::Finding;

/// A project that exists only here.
struct Room;

impl ProjectFiles for Room {
    fn overlays(&self) -> Vec<String> {
        ["common", "demo-guest", "demo-host", "desktop"].map(str::to_owned).into()
    }

    fn file(&self, path: &ProjectPath) -> ProjectFile {
        match path.as_str() {
            "recipes/live-user.sh" => ProjectFile::Executable,
            "recipes/plain.sh" => ProjectFile::Plain,
            _ => ProjectFile::Missing,
        }
    }
}

fn parse(text: &str) -> Result<Recipe, Findings> {
    Recipe::parse("recipes/x.yaml", text, &Room)
}

#[test]
fn the_recipes_that_come_along_are_right() {
    // Their overlays are those of the repository, and not of the room.
    let load = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes").join(name);
        Project::load(&path).unwrap_or_else(|error| panic!("{error}")).1
    };
    let demo = load("demo.yaml");
    assert_eq!(demo.guests.len(), 1);
    assert_eq!(demo.boot.entries, [MenuEntry::Xen, MenuEntry::Linux, MenuEntry::Rescue]);
    assert_eq!(demo.key.as_str(), "keys/demo");
    let xenoppix = load("xenoppix.yaml");
    let kinds: Vec<&str> = xenoppix.guests.iter().map(|guest| guest.kind.word()).collect();
    assert_eq!(kinds, ["netbsd", "plan9", "debian"]);
}

/// The findings in one line each: `line:column: what; instead; help`.
fn said(text: &str) -> Vec<String> {
    let Err(findings) = parse(text) else { return Vec::new() };
    let line = |finding: &&Finding| {
        let (line, column) = findings.line_column(finding.span.start);
        let words = [&finding.what, &finding.instead, &finding.help];
        let words: Vec<&str> =
            words.into_iter().filter(|word| !word.is_empty()).map(String::as_str).collect();
        format!("{line}:{column}: {}", words.join("; "))
    };
    findings.sorted().iter().map(line).collect()
}

/// The least recipe, in two lines.
const LEAST: &str = "name: x\nhost: {debian: {}}\n";

#[test]
fn the_least_recipe_has_every_default_in_place() {
    let recipe = parse(LEAST).unwrap_or_else(|faults| panic!("{faults}"));
    let debian = recipe.host.system.boot_tools();
    assert_eq!((debian.suite.as_str(), debian.variant), ("trixie", Variant::Minbase));
    assert_eq!(debian.components.iter().map(Component::as_str).collect::<Vec<_>>(), ["main"]);
    assert_eq!(recipe.host.hostname.as_str(), "x");
    assert_eq!(
        recipe.host.image,
        FileSystemOptions { free: 64 << 20, inode_size: InodeSize::Large, zero_freed: false }
    );
    assert_eq!((recipe.boot.xen.as_ref(), recipe.boot.timeout), (None, 3));
    assert_eq!(recipe.boot.entries, [MenuEntry::Linux, MenuEntry::Rescue]);
    assert_eq!(recipe.boot.modules.len(), DEFAULT_MODULES.len());
    assert_eq!(recipe.blocks, Blocks { size: BlockSize::DEFAULT, codec: Codec::libdeflate(5).unwrap() });
    assert_eq!(recipe.machine, Machine { memory: 2 << 30, cpus: 2 });
    assert_eq!(recipe.expect, Expect { timeout: std::time::Duration::from_secs(300), lines: vec![] });
    assert_eq!(recipe.key.as_str(), "keys/x");
}

#[test]
fn xen_is_switched_off_and_on_with_or_without_keys() {
    let xen = |boot: &str| {
        parse(&format!("{LEAST}boot: {boot}\n")).map(|recipe| recipe.boot.xen.map(|xen| xen.memory))
    };
    for (boot, memory) in [
        ("{}", None),
        ("{xen: false}", None),
        ("{xen: true}", Some(900 << 20)),
        ("{xen: }", Some(900 << 20)),
        ("{xen: {memory: 1GiB}}", Some(1 << 30)),
        ("", None),
    ] {
        assert_eq!(xen(boot), Ok(memory), "{boot}");
    }
}

#[test]
fn a_source_is_an_archive_or_a_url() {
    let text = "name: x\nhost:\n  debian:\n    components: [main, contrib]\n    sources:\n    - {suite: trixie-security, \
                archive: security}\n    - {suite: trixie-backports}\n    - {suite: x, uri: 'http://a.example', \
                components: [main]}\n";
    let recipe = parse(text).unwrap_or_else(|faults| panic!("{faults}"));
    let debian = recipe.host.system.boot_tools();
    let sources: Vec<String> = debian
        .sources
        .iter()
        .map(|source| {
            let origin = match &source.origin {
                ArchiveLocation::Archive(archive) => archive.to_string(),
                ArchiveLocation::Uri(uri) => uri.to_string(),
            };
            format!("{} {origin} {}", source.suite, source.components.len())
        })
        .collect();
    assert_eq!(sources, ["trixie-security security 2", "trixie-backports debian 2", "x http://a.example/ 1"]);
}

/// Each line is added to [`LEAST`] and is line 3, unless it has a host of its own.
const FAULTS: &[(&str, &str)] = &[
    // keys
    (
        "gusts: []",
        "3:1: unknown key `gusts`; did you mean `guests`?; allowed here: `name`, `description`, `mirrors`, `key`, `host`, `boot`, `guests`, `blocks`, `machine`, `expect`, `publish`",
    ),
    (
        "blocks: {sise: 4KiB, zoo: 1}",
        "3:10: unknown key `sise`; did you mean `size`?; allowed here: `size`, `codec`, `level`|3:22: unknown key `zoo`; allowed here: `size`, `codec`, `level`",
    ),
    ("name: y", "3:1: `name` is given twice; first in line 1"),
    ("guests: [{debian: {}}]\nboot: {xen: true}", "3:10: no `name` here; `name` is needed"),
    // kinds
    (
        "guests: [{name: g, openbsd: {version: 10}}]\nboot: {xen: true}",
        "3:20: unknown kind of guest `openbsd`; kinds that exist: `debian`, `netbsd`, `plan9`, `disk`, `knoppix`",
    ),
    (
        "guests: [{name: g, debain: {}}]\nboot: {xen: true}",
        "3:10: the kind of guest is missing; kinds that exist: `debian`, `netbsd`, `plan9`, `disk`, `knoppix`|3:20: unknown key `debain`; did you mean `debian`?; allowed here: `name`, `debian`, `netbsd`, `plan9`, `disk`, `knoppix`, `overlays`, `hostname`, `image`, `xen`, `cow`, `network`, `memory`, `vcpus`, `cmdline`, `start`, `expect`",
    ),
    (
        "guests: [{name: g}]\nboot: {xen: true}",
        "3:10: the kind of guest is missing; kinds that exist: `debian`, `netbsd`, `plan9`, `disk`, `knoppix`",
    ),
    // types
    (
        "mirrors: http://a.example/",
        "3:10: expected a list, found a single value; write `[a, b]`, or lines with `- `",
    ),
    ("mirrors: {a: b}", "3:10: expected a list, found keys with values; write `[a, b]`, or lines with `- `"),
    ("description: [a]", "3:14: expected a line of text, found a list"),
    ("description:", "3:12: expected a line of text, found nothing"),
    ("blocks: 4KiB", "3:9: expected keys with values, found a single value; write `key: value`"),
    ("boot: {xen: maybe}", "3:13: expected keys with values, found a single value; write `key: value`"),
    ("machine: {cpus: two}", "3:17: `two` is not a number; write a whole number, 0 or more"),
    // values
    (
        "mirrors: ['ftp://a.example', 'http://b.example', 'http://b.example/']",
        "3:11: `ftp://a.example` is not the URL of a mirror; use `http` or `https`|3:50: `http://b.example/` is listed twice; remove one of the two",
    ),
    (
        "key: /etc/keys",
        "3:6: `/etc/keys` is not a path in the project; write it from the project root, without `..`",
    ),
    (
        "blocks: {size: 64MB}",
        "3:16: `64MB` is not a size; did you mean `64MiB`? allowed: whole bytes, or KiB, MiB, GiB, TiB, as in `64MiB`",
    ),
    (
        "blocks: {size: 5000}",
        "3:16: blocks of 5000 bytes; allowed: multiples of 4KiB from 4KiB to 4MiB; 256KiB is usual",
    ),
    (
        "blocks: {size: 8MiB}",
        "3:16: blocks of 8388608 bytes; allowed: multiples of 4KiB from 4KiB to 4MiB; 256KiB is usual",
    ),
    ("blocks: {codec: zstd}", "3:17: `zstd` is not a codec; allowed: `libdeflate`, `zlib`"),
    ("blocks: {codec: zlib, level: 12}", "3:30: 12 is out of the range of levels of zlib; allowed: 1 to 9"),
    (
        "expect: {timeout: 5m}",
        "3:19: `5m` is not a time; write whole seconds, or with s, min, h or d: `300s`, `5min`",
    ),
    ("expect: {timeout: 0}", "3:19: a time of 0 s; allowed: 1s to 86400s"),
    (
        "expect: {lines: ['{{ tokn }}', '', 'up {{ token }}', '{% x']}",
        "3:18: `{{ tokn }}` is not a template that uses `token` alone; write `{{ token }}` for the random word of each boot|3:32: an empty line matches any output; write a text that the system prints|3:54: `{% x` is not a template that uses `token` alone; write `{{ token }}` for the random word of each boot",
    ),
    (
        "machine: {memory: 1GB, cpus: 0}",
        "3:19: `1GB` is not a size; did you mean `1GiB`? allowed: whole bytes, or KiB, MiB, GiB, TiB, as in `64MiB`|3:30: 0 is out of the range of processors; allowed: 1 to 255",
    ),
    ("machine: {memory: 1073741825}", "3:19: memory must be a multiple of 1 MiB; write `1025MiB`"),
    // the menu
    ("boot: {entries: [xen, linux]}", "3:18: a menu entry `xen` without Xen; add `xen: true` to `boot`"),
    (
        "boot: {xen: true, entries: [linux]}",
        "3:13: no menu entry starts Xen; add `xen` to `entries`, or leave this out",
    ),
    ("boot: {entries: []}", "3:17: an empty menu; allowed: `xen`, `linux`, `rescue`"),
    (
        "boot: {entries: [linux, linux, linx]}",
        "3:25: `linux` is listed twice; remove one of the two|3:32: `linx` is not a menu entry; did you mean `linux`? allowed: `xen`, `linux`, `rescue`",
    ),
    ("boot: {timeout: 3601}", "3:17: a time of 3601 s; allowed: 0s to 3600s"),
    (
        "boot: {modules: [virtio_net.ko]}",
        "3:18: `virtio_net.ko` is not a kernel module; write its name alone: `virtio_net`, not its file",
    ),
    // guests
    (
        "guests: [{name: g, debian: {}}]",
        "3:9: guests without Xen; add `xen: true` to `boot`, or leave the guests out",
    ),
    (
        "guests: [{name: g, debian: {}}, {name: g, debian: {}}, {name: host, debian: {}}]\nboot: {xen: true}",
        "3:40: a second guest `g`; give each guest its own name|3:63: a guest can't be called `host`; the host's image has this name; choose another",
    ),
    (
        "guests: [{name: g, debian: {}, memory: 16MiB, vcpus: 0, start: later}]\nboot: {xen: true}",
        "3:40: 16 MiB of memory; allowed: 32 MiB to 16 TiB|3:54: 0 is out of the range of processors; allowed: 1 to 128|3:64: `later` is not a start; allowed: `boot`, `demand`",
    ),
    (
        "guests: [{name: g, debian: {}, memory: 2GiB}]\nboot: {xen: true}",
        "3:9: a machine of 2 GiB is too small for the host's 900 MiB, the 2 GiB of guests that start with it, and 64 MiB for Xen; write `memory: 3012MiB` in `machine`",
    ),
    (
        "machine: {memory: 512MiB}\nboot: {xen: true}",
        "3:19: a machine of 512 MiB is too small for the host's 900 MiB, the 0 B of guests that start with it, and 64 MiB for Xen; write `memory: 964MiB` in `machine`",
    ),
    // kinds of guests; the rest of each line is right
    (
        "guests: [{name: g, debian: {}, netbsd: {version: '10.1'}}]\nboot: {xen: true}",
        "3:32: both `debian` and `netbsd`; a guest is of one kind",
    ),
    (
        "guests: [{name: g, debian: {}, xen: hvm}, {name: h, netbsd: {version: '10.1'}, xen: hvm}]\nboot: {xen: true}",
        "3:37: it has no boot loader, which a whole PC would want; write `pv` or `pvh`|3:85: it has no boot loader, which a whole PC would want; write `pv` or `pvh`",
    ),
    (
        "guests: [{name: g, netbsd: {version: '10', sets: [base, kern-GENERIC, base.tgz]}}]\nboot: {xen: true}",
        "3:38: `10` is not a NetBSD release; write its number: `10.1`, `7.1.2`|3:57: `kern-GENERIC` is not a set; write its name without an ending: `base`, `etc`|3:71: `base.tgz` is not a set; write its name without an ending: `base`, `etc`",
    ),
    (
        "guests: [{name: g, netbsd: {version: '9.4', sets: [base]}, xen: pvh}]\nboot: {xen: true}",
        "3:51: the set `etc` is missing; the sets must include base and etc|3:65: NetBSD 9.4 as pvh: its kernels can't start so before 10; write `xen: pv`",
    ),
    (
        "guests: [{name: g, netbsd: {version: '10.1', architecture: i386, kernel: MICROVM}}]\nboot: {xen: true}",
        "3:60: i386 as pv: Debian's Xen is built without 32-bit pv guests; write `amd64`, or `xen: pvh`|3:74: MICROVM has neither Xen's disk nor its network; write `XEN3_DOMU` for pv, `GENERIC` for pvh",
    ),
    (
        "guests: [{name: g, netbsd: {version: '10.1', kernel: GENERIC}}, {name: h, netbsd: {version: '10.1', kernel: XEN3_DOMU}, xen: pvh}]\nboot: {xen: true}",
        "3:54: GENERIC starts as pvh, not as pv; write `XEN3_DOMU`, or `xen: pvh`|3:109: this kernel starts as pv, not as pvh; write `GENERIC`",
    ),
    (
        "guests: [{name: g, netbsd: {version: '10.1', ssh-keys: [keys/x.pub], mirrors: []}}]\nboot: {xen: true}",
        "3:57: no file `keys/x.pub`; expected a file with a public key; paths start at the project root|3:79: no mirror; leave out `mirrors` for NetBSD's own",
    ),
    (
        "guests: [{name: g, plan9: {flavour: 9front, urls: ['http://a.example/9front.iso.gz']}, xen: pv}]\nboot: {xen: true}",
        "3:93: Plan 9's port to Xen was of 32 bits, which Debian's Xen no longer starts; write `hvm`",
    ),
    (
        "guests: [{name: g, disk: {urls: ['http://a.example/', 'http://a.example/x.img'], sha256: 12}, hostname: x, image: {}}]\nboot: {xen: true}",
        "3:34: `http://a.example/` is not the URL of a file; write it like `https://mirror.example/disk.img`|3:90: `12` is not a SHA-256; write 64 digits of 0-9 and a-f, as sha256sum prints them|3:105: `hostname` with `disk`, whose disk is used unchanged; leave it out|3:115: `image` with `disk`, whose disk is used unchanged; leave it out",
    ),
    ("guests: [{name: g, knoppix: {urls: []}}]\nboot: {xen: true}", "3:36: no URL; give the URL of the file"),
    // the host
    (
        "host: {debian: {}, overlays: [desktp, none, common, common]}",
        "2:31: no overlay `desktp`; did you mean `desktop`?; overlays/ has `common`, `demo-guest`, `demo-host`, `desktop`|2:39: no overlay `none`; overlays/ has `common`, `demo-guest`, `demo-host`, `desktop`|2:53: `common` is listed twice; remove one of the two",
    ),
    (
        "host: {debian: {}, hostname: a.b, image: {free: 2TiB, inode-size: 512}}",
        "2:30: `a.b` is not a host name; write 1 to 63 letters, digits and -, which neither begins nor ends it|2:49: 2 TiB of free space; allowed: 0 B to 1 TiB|2:67: `512` is not an inode size; allowed: `128`, `256`",
    ),
    (
        "host: {debian: {customise: [recipes/plain.sh, x.sh, recipes/live-user.sh]}}",
        "2:29: `recipes/plain.sh` is not executable; chmod +x recipes/plain.sh|2:47: no script `x.sh`; paths start at the project root",
    ),
    (
        "host: {debian: {suite: Trixie, architecture: arm64, variant: min, recommends: yes}}",
        "2:24: `Trixie` is not a suite; write it as the archive does: `trixie`, `trixie-security`, `sid`|2:46: `arm64` is not an architecture that can be built; allowed: `amd64`|2:62: `min` is not a variant; allowed: `extract`, `custom`, `essential`, `apt`, `required`, `minbase`, `buildd`, `important`, `debootstrap`, `standard`|2:79: `yes` is neither true nor false; write `true` or `false`",
    ),
    (
        "host: {debian: {components: [], packages: [udev, Udev, udev]}}",
        "2:29: no component; leave out `components` for the default|2:50: `Udev` is not a package; write one name of a-z, 0-9, +, - and .; others go into lines of their own|2:56: `udev` is listed twice; remove one of the two",
    ),
    (
        "host: {debian: {sources: [{suite: trixie-security}, {suite: trixie, archive: security}, {archive: debian, uri: 'http://a.example/'}]}}",
        "2:35: `trixie-security` is not in Debian's main archive; add `archive: security`|2:61: `trixie` is not in the security archive; did you mean `trixie-security`?|2:89: no `suite` here; `suite` is needed|2:112: both `uri` and `archive`; remove one of the two",
    ),
];

/// The least recipe with `line` in it.
fn with(line: &str) -> String {
    if line.starts_with("host:") { format!("name: x\n{line}\n") } else { format!("{LEAST}{line}\n") }
}

#[test]
fn each_fault_has_its_place_and_remedy() {
    let mut wrong = String::new();
    for (line, expected) in FAULTS {
        let said = said(&with(line)).join("|");
        if said != *expected {
            wrong.push_str(&format!("{line}\n  said     {said}\n  expected {expected}\n"));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn all_faults_of_a_recipe_are_reported_at_once() {
    let text: String = FAULTS.iter().map(|(line, _)| *line).filter(|line| !line.starts_with("guests")).fold(
        String::new(),
        |mut text, line| {
            // Every fault under a key of its own stays a fault where it is.
            let (key, rest) = line.split_once(':').unwrap_or((line, ""));
            if !text.contains(&format!("\n{key}:")) && !rest.contains('\n') && key != "name" {
                text.push_str(&format!("\n{key}:{rest}"));
            }
            text
        },
    );
    let said = said(&text);
    let lines: std::collections::BTreeSet<&str> =
        said.iter().filter_map(|finding| finding.split(':').next()).collect();
    assert!(said.len() >= 12 && lines.len() >= 8, "{said:#?}");
}

#[test]
fn a_recipe_gives_what_its_text_says_and_not_where_it_is() {
    let (text, crlf) = (with("boot: {timeout: 9}"), with("boot: {timeout: 9}").replace('\n', "\r\n"));
    assert_eq!(parse(&text), parse(&crlf));
    assert_eq!(parse(&text), parse(&format!("\u{feff}{text}")));
    assert_eq!(parse(&text).map(|recipe| recipe.boot.timeout), Ok(9));
}

mod with_any_text {
    use super::*;
    use proptest::prelude::*;

    /// Lines that a recipe may have, right or not.
    fn lines() -> Vec<String> {
        let texts = [include_str!("../../recipes/demo.yaml"), include_str!("../../recipes/xenoppix.yaml")];
        let mut lines: Vec<String> = texts.iter().flat_map(|text| text.lines()).map(str::to_owned).collect();
        lines.extend(FAULTS.iter().map(|(line, _)| (*line).to_owned()));
        lines
    }

    proptest! {
        #[test]
        fn nothing_panics_and_faults_can_be_shown(text in "\\PC{0,80}") {
            if let Err(faults) = parse(&text) {
                prop_assert!(faults.count() > 0);
                faults.render(true);
            }
        }

        #[test]
        fn lines_in_any_order_give_a_recipe_or_faults(
            chosen in proptest::collection::vec(proptest::sample::select(lines()), 0..12)
        ) {
            let text = format!("{LEAST}{}", chosen.join("\n"));
            if let Err(faults) = parse(&text) {
                prop_assert!(faults.count() > 0);
                prop_assert!(faults.to_string().starts_with("error: recipes/x.yaml:"));
            }
        }

        #[test]
        fn a_recipe_with_one_byte_changed_gives_a_recipe_or_faults(at in 0usize..2000, to in "\\PC") {
            let mut text = include_str!("../../recipes/demo.yaml").to_owned();
            let at = at % text.len();
            if text.is_char_boundary(at) && text.is_char_boundary(at + 1) {
                text.replace_range(at..=at, &to);
            }
            if let Err(faults) = parse(&text) {
                prop_assert!(faults.count() > 0);
                faults.to_string();
            }
        }
    }
}
