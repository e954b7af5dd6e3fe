use super::*;
use crate::tree::dump::dump;

const EPOCH: i64 = 1_700_000_000;

/// A tree with /lib -> usr/lib, a sticky /tmp, two users.
fn tree() -> Tree {
    let mut tree = Tree::new(Meta { mode: 0o755, ..Meta::default() });
    let mut put = |path: &str, mode, kind| {
        tree.insert(path.as_bytes(), Node { meta: Meta { mode, ..Meta::default() }, kind }).unwrap();
    };
    let file = |text: &str| Kind::File(Content::inline(text.as_bytes()));
    put("etc/passwd", 0o644, file("root:x:0:0::/:\nlive:x:1000:1001::/home/live:\n"));
    put("etc/group", 0o644, file("root:x:0:\nlive:x:1001:\n"));
    put("lib", 0o777, Kind::Symlink(b"usr/lib".into()));
    put("tmp", 0o1777, Kind::Directory(BTreeMap::new()));
    put("usr/bin/ping", 0o755, file("ping"));
    put("usr/lib/a", 0o644, file("a"));
    put("usr/share/doc/x/copyright", 0o644, file("x"));
    tree
}

fn file(path: &str, text: &str, executable: bool) -> OverlayEntry {
    let content = Content::inline(text.as_bytes());
    OverlayEntry { path: path.into(), kind: EntryKind::File { content, executable } }
}

fn directory(path: &str) -> OverlayEntry {
    OverlayEntry { path: path.into(), kind: EntryKind::Directory }
}

fn overlay(entries: Vec<OverlayEntry>, rules: &str) -> Overlay {
    let rules = match rules {
        "" => Rules::default(),
        text => Rules::parse("overlays/x.yaml", text).unwrap_or_else(|findings| panic!("{findings}")),
    };
    Overlay { name: "overlays/x".into(), entries, rules }
}

/// The lines of the tree's dump that the overlay changed or brought, without digests.
fn changes(overlay: &Overlay) -> String {
    let mut after = tree();
    overlay.apply(&mut after, &Vec::new(), EPOCH).unwrap_or_else(|error| panic!("{error}"));
    let before = dump(&tree(), &Vec::new()).unwrap();
    let after = dump(&after, &Vec::new()).unwrap();
    let lines = |text: &str, other: &str, sign: &str| {
        let lines = text.lines().filter(|line| !other.lines().any(|known| known == *line));
        lines
            .map(|line| {
                let words = line.split(' ').filter(|word| !word.starts_with("sha256:"));
                format!("{sign} {}\n", words.collect::<Vec<_>>().join(" "))
            })
            .collect::<String>()
    };
    lines(&before, &after, "-") + &lines(&after, &before, "+")
}

#[test]
fn entries_are_roots_and_what_the_tree_has_keeps_its_mode() {
    let overlay = overlay(
        vec![
            directory("lib"),
            file("lib/b", "b", false),
            directory("tmp"),
            file("tmp/run", "#!", true),
            file("usr/lib/a", "other", false),
            directory("srv"),
            OverlayEntry { path: b"srv/link".to_vec(), kind: EntryKind::Symlink(b"/nowhere".to_vec()) },
        ],
        "",
    );
    insta::assert_snapshot!(changes(&overlay), @r"
    - f 0644 0:0 0.000000000 /usr/lib/a 1
    + d 0755 0:0 1700000000.000000000 /srv
    + l 0777 0:0 1700000000.000000000 /srv/link -> /nowhere
    + f 0755 0:0 1700000000.000000000 /tmp/run 2
    + f 0644 0:0 1700000000.000000000 /usr/lib/a 5
    + f 0644 0:0 1700000000.000000000 /usr/lib/b 1
    ");
}

#[test]
fn rules_set_what_a_directory_can_not_say() {
    let overlay = overlay(
        vec![directory("home"), directory("home/live"), file("home/live/.profile", "x", false)],
        r"
remove: [/usr/share/doc/**, /usr/lib/a]
paths:
  /home/live/**: {owner: live, group: live}
  /home/live: {mode: 0700}
  /usr/bin/*: {capabilities: cap_net_raw+ep, xattrs: {user.note: seen}}
  /usr/share/doc: {make: directory, mode: 2770, group: 5}
  /dev/console: {make: char 5 1}
  /dev/loop0: {make: block 7 0, mode: 0660}
  /lib/pipe: {make: fifo, owner: 7}
",
    );
    insta::assert_snapshot!(changes(&overlay), @r"
    - f 0755 0:0 0.000000000 /usr/bin/ping 4
    - f 0644 0:0 0.000000000 /usr/lib/a 1
    - d 0755 0:0 0.000000000 /usr/share/doc
    - d 0755 0:0 0.000000000 /usr/share/doc/x
    - f 0644 0:0 0.000000000 /usr/share/doc/x/copyright 1
    + d 0755 0:0 1700000000.000000000 /dev
    + c 0600 0:0 1700000000.000000000 /dev/console 5,1
    + b 0660 0:0 1700000000.000000000 /dev/loop0 7,0
    + d 0755 0:0 1700000000.000000000 /home
    + d 0700 1000:1001 1700000000.000000000 /home/live
    + f 0644 1000:1001 1700000000.000000000 /home/live/.profile 1
    + f 0755 0:0 0.000000000 /usr/bin/ping 4 security.capability=0100000200200000000000000000000000000000 user.note=7365656e
    + p 0644 7:0 1700000000.000000000 /usr/lib/pipe
    + d 2770 0:5 1700000000.000000000 /usr/share/doc
    ");
}

#[test]
fn rules_that_make_no_sense_are_all_named_with_their_places() {
    let text = "remov: [x]\nremove: [etc, /a/../b]\npaths:\n  /x: {mode: 888, onwer: a, make: tree}\n  \
                /y/*: {make: fifo, owner: 'a b', xattrs: {note: x}}\n  /z: {capabilities: net_raw}\n";
    let findings = Rules::parse("overlays/x.yaml", text).unwrap_err();
    let said: Vec<String> = findings
        .sorted()
        .into_iter()
        .map(|finding| {
            let (line, column) = findings.line_column(finding.span.start);
            format!("{line}:{column}: {}", finding.what)
        })
        .collect();
    assert_eq!(
        said,
        [
            "1:1: unknown key `remov`",
            "2:10: `etc` is not a path in the tree",
            "2:15: `/a/../b` is not a path in the tree",
            "4:14: `888` is not a mode",
            "4:19: unknown key `onwer`",
            "4:35: `tree` can't be made",
            "5:16: a pattern can't be made",
            "5:29: `a b` is neither a name nor an id",
            "5:45: `note` is not the name of an attribute",
            "6:22: `net_raw` are not capabilities",
        ]
    );
}

#[test]
fn rules_that_do_not_fit_the_tree_are_all_named_with_their_places() {
    let overlay = overlay(
        vec![],
        "remove: [/nosuch]\npaths:\n  /usr/nosuch: {mode: 0600}\n  /etc/passwd: {owner: liv, group: nobody}\n  \
         /usr: {capabilities: cap_bpf+p}\n  /usr/bin/ping: {make: fifo}\n",
    );
    let error = overlay.apply(&mut tree(), &Vec::new(), EPOCH).unwrap_err().to_string();
    for line in [
        "overlays/x.yaml:1:10: the tree has nothing of that name",
        "overlays/x.yaml:3:3: neither the tree nor the overlay has it",
        "overlays/x.yaml:4:24: the tree's /etc/passwd has no `liv`",
        "did you mean `live`?",
        "overlays/x.yaml:4:36: the tree's /etc/group has no `nobody`",
        "overlays/x.yaml:5:24: only regular files have capabilities",
        "overlays/x.yaml:6:3: the tree already has it, so it can't be made; `remove` it first",
        "overlays/x.yaml: 6 errors",
    ] {
        assert!(error.contains(line), "{line}\n{error}");
    }
}

#[test]
fn what_does_not_fit_the_tree_is_an_error_with_its_path() {
    for (entry, message) in [
        (file("tmp", "x", false), "overlays/x/tmp: can't be merged into the tree"),
        (
            directory("usr/lib/a"),
            "overlays/x/usr/lib/a: a directory in the overlay, but not in the tree; `remove` it from the tree first",
        ),
        (file("usr/lib/a/b", "", false), "overlays/x/usr/lib/a/b: can't be merged into the tree"),
    ] {
        let error = overlay(vec![entry], "").apply(&mut tree(), &Vec::new(), EPOCH).unwrap_err();
        assert_eq!(error.to_string(), message);
    }
    let mut tree = tree();
    let node = Node { meta: Meta::default(), kind: Kind::Symlink(b"ring".to_vec()) };
    tree.insert(b"ring", node).unwrap();
    let error =
        overlay(vec![file("ring/x", "", false)], "").apply(&mut tree, &Vec::new(), EPOCH).unwrap_err();
    assert_eq!(
        error.to_string(),
        "overlays/x/ring/x: symbolic links of the tree form a loop on the way to it"
    );
}
