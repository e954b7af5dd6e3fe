//! What people write: recipes, and the rules of overlays.

use imgfactory::recipe::{ProjectFile, ProjectFiles, ProjectPath, Recipe};
use imgfactory::tree::overlay::{Overlay, Rules};
use imgfactory::tree::{Content, Kind, Meta, Node, Tree};
use imgfactory::yaml::Findings;

use crate::Target;

const WORDS: [&[u8]; 34] = [
    b"\n",
    b"\n- ",
    b": ",
    b"{",
    b"}",
    b"[",
    b"]",
    b"&a ",
    b"*a",
    b"? ",
    b"<<: *a",
    b"!!str ",
    b"|\n",
    b">-\n",
    b"\"",
    b"'",
    b"\\u0000",
    b"\t",
    b"#",
    b"---\n",
    b"...\n",
    b"%YAML 9\n",
    b"~",
    b"\xef\xbb\xbf",
    b"\xe2\x80\xa8",
    b"\r",
    b"99999999999999999999",
    b"-1",
    b"64MiB",
    b"../../x",
    b"zzz: 1\n",
    b"name: host\n",
    b"**/",
    b"/*",
];

/// A project that has whatever is asked for.
struct Everything;

impl ProjectFiles for Everything {
    fn overlays(&self) -> Vec<String> {
        ["autologin", "common", "demo-guest", "demo-host"].map(str::to_owned).into()
    }

    fn file(&self, _: &ProjectPath) -> ProjectFile {
        ProjectFile::Executable
    }
}

/// The first error; all of them can be shown.
fn first(findings: &Findings) -> String {
    let text = findings.render(false);
    assert!(text.contains(" error"), "{text}");
    findings.sorted()[0].what.clone()
}

#[test]
fn fuzz_recipes() {
    let seeds = vec![
        include_bytes!("../../recipes/demo.yaml").to_vec(),
        include_bytes!("../../recipes/xenoppix.yaml").to_vec(),
        b"name: x\nhost: {debian: &d {packages: [a, b=1, c/d]}, image: {free: 1GiB, inode-size: 128}}\nboot: {xen: \
          {memory: 1GiB}}\nguests: [{name: g, debian: *d, memory: 64MiB}, {name: n, netbsd: {version: '10.1'}}]\n"
            .to_vec(),
        b"name: x\nhost: {debian: {}}\nblocks: {size: 64KiB, codec: zlib, level: 9}\npublish:\n  targets:\n  - to: \
          s3://b/p?endpoint=http://x\n  keep: 3\n  pin: [1, 2]\nexpect: {timeout: 5min, lines: [\"a\\n\", 'b']}\n"
            .to_vec(),
    ];
    let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(50_000), "*a, ".repeat(8000));
    let keys: String = (0..20_000).map(|nth| format!("k{nth}: 1\n")).collect();
    let nested = format!("a: {}", "[".repeat(50_000));
    let anchors: String = (0..30).map(|nth| format!("&a{nth} [ ")).collect();
    let twice = "a: 1\n".repeat(2000);
    let cases = [long, keys, nested, anchors, twice].map(String::into_bytes).into();
    Target::new("recipe", seeds).cases(cases).words(&WORDS).per_byte(512).fuzz(|bytes| {
        let text = String::from_utf8_lossy(bytes);
        match Recipe::parse("x", &text, &Everything) {
            Ok(_) => "accepted".into(),
            Err(findings) => first(&findings),
        }
    });
}

fn tree() -> Tree {
    let mut tree = Tree::new(Meta { mode: 0o755, ..Meta::default() });
    let mut put = |path: &str, kind| {
        tree.insert(path.as_bytes(), Node { meta: Meta::default(), kind }).unwrap();
    };
    put(
        "etc/passwd",
        Kind::File(Content::inline(&b"root:x:0:0::/root:/bin/sh\nlive:x:1000:1000::/:/\n"[..])),
    );
    put("etc/group", Kind::File(Content::inline(&b"root:x:0:\nlive:x:1000:\n"[..])));
    put("usr/bin/ping", Kind::File(Content::inline(&b"x"[..])));
    put("usr/share/doc/a/b/c", Kind::File(Content::default()));
    put("bin", Kind::Symlink(b"usr/bin".to_vec()));
    put("ring", Kind::Symlink(b"ring".to_vec()));
    tree
}

#[test]
fn fuzz_overlay_rules() {
    let seeds = [
        "remove: [/usr/share/doc/**, /bin/ping]\npaths:\n  /etc/passwd: {mode: 0440, owner: live, group: live}\n",
        "paths:\n  /usr/**: {owner: 5, group: root}\n  /usr/bin/ping: {capabilities: cap_net_raw+ep, xattrs: {user.a: \
         b}}\n  /var/x: {make: directory, mode: 2770}\n  /dev/console: {make: char 5 1}\n  /bin/y: {make: fifo}\n",
        "paths:\n  /**/*: {mode: 0644}\n  /etc/\\*: {make: block 1 2}\n  /ring/x: {make: directory}\n",
    ];
    let stars = format!("remove: [/{}x]\n", "**/a*b*?*c*/".repeat(2000));
    let deep = format!("paths:\n  ? /{}x\n  : {{make: directory}}\n", "a/".repeat(20_000));
    let cases = [stars, deep].map(String::into_bytes).into();
    let seeds = seeds.map(|text| text.as_bytes().to_vec()).into();
    Target::new("rules", seeds).cases(cases).words(&WORDS).per_byte(512).fuzz(|bytes| {
        let text = String::from_utf8_lossy(bytes);
        let rules = match Rules::parse("x", &text) {
            Ok(rules) => rules,
            Err(findings) => return first(&findings),
        };
        let overlay = Overlay { name: "x".into(), entries: Vec::new(), rules };
        match overlay.apply(&mut tree(), &Vec::<Vec<u8>>::new(), 0) {
            Ok(()) => "accepted".into(),
            Err(error) => error.to_string().lines().next().unwrap_or_default().to_owned(),
        }
    });
}
