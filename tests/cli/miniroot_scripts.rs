//! The miniroot's shell functions, as they ship, under the shell that runs them: busybox.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use imgfactory::miniroot::{File, ScriptValues, scripts};
use imgfactory::templates::Templates;

fn rendered() -> Vec<File> {
    let settings = ScriptValues { name: "demo", image: "host", built: 0, disk: None };
    scripts(&Templates::built_in(), &settings).unwrap()
}

/// The text of a script that /init sources.
fn part(name: &str) -> String {
    let path = format!("lib/imgfactory/{name}.sh");
    let file = rendered().into_iter().find(|file| file.path == path);
    String::from_utf8(file.expect("it is in the miniroot").bytes.to_vec()).unwrap()
}

/// Runs `script` with the functions of a part at hand and `argument` as $1; gives what it prints.
fn busybox(name: &str, script: &str, argument: &str) -> String {
    let out = Command::new("busybox")
        .args(["sh", "-uc", &[&part(name), script].concat(), "sh", argument])
        .output()
        .expect("busybox is installed (package busybox-static)");
    assert!(out.stderr.is_empty(), "{name} {argument:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// What a command line sets, without what stays as it is for an empty one; or what is wrong with it.
fn parsed(line: &str) -> Result<BTreeMap<String, String>, String> {
    let script = "DISK=; parse_command_line \"$1\" || { echo \"wrong $problem\"; exit; }; set | grep '^opt_'";
    let options = |text: &str| -> BTreeMap<String, String> {
        let pairs = text.lines().map(|line| line.split_once('=').expect("set prints name=value"));
        pairs.map(|(name, value)| (name[4..].into(), value.trim_matches('\'').into())).collect()
    };
    let found = busybox("cmdline", script, line);
    if let Some(problem) = found.strip_prefix("wrong ") {
        return Err(problem.trim_end().to_owned());
    }
    let unchanged = options(&busybox("cmdline", script, ""));
    Ok(options(&found).into_iter().filter(|(name, value)| unchanged[name] != *value).collect())
}

#[test]
fn good_options_set_what_they_say() {
    for (line, expected) in [
        ("", &[][..]),
        ("BOOT_IMAGE=/vmlinuz quiet console=ttyS0,115200 root=/dev/sda1 imgfactory.token=x netsel", &[]),
        ("mirror=http://mirror.example/a", &[("mirrors", "http://mirror.example/a/")]),
        (
            "mirror=http://mirror.example/,https://[2001:db8::1]:8443/b/",
            &[("mirrors", "http://mirror.example/ https://[2001:db8::1]:8443/b/")],
        ),
        ("fuse_uri=http://mirror.example", &[("mirrors", "http://mirror.example/")]),
        ("mirror=http://one.example mirror=http://two.example", &[("mirrors", "http://two.example/")]),
        ("mirror=http://mirror.example/*", &[("mirrors", "http://mirror.example/*/")]),
        ("release=41", &[("release", "41")]),
        ("release=9223372036854775807", &[("release", "9223372036854775807")]),
        ("netselect dlahead=8", &[("netselect", "yes"), ("dlahead", "8")]),
        ("nonetselect nodlahead", &[("netselect", "no"), ("dlahead", "no")]),
        ("deadline=90", &[("deadline", "90")]),
        ("deadline=none deadline=5m", &[("deadline", "5m")]),
        ("deadline=86400s", &[("deadline", "86400s")]),
        ("nocache memcache", &[]),
        ("nocache", &[("cache", "none")]),
        ("cache=LABEL=my-cache", &[("cache", "LABEL=my-cache")]),
        ("cache=/dev/disk/by-id/x toram", &[("cache", "/dev/disk/by-id/x"), ("toram", "yes")]),
        ("cow=tmpfs", &[]),
        ("cow=UUID=6a1f-33", &[("cow", "UUID=6a1f-33")]),
        ("http_proxy=http://proxy.example:3128/", &[("proxy", "http://proxy.example:3128/")]),
        ("ip=dhcp", &[]),
        ("ip=on", &[]),
        ("ip=:::::eth1:dhcp", &[("ip_device", "eth1")]),
        (
            "ip=192.0.2.7::192.0.2.1:255.255.254.0:live:eth0:off:192.0.2.2:192.0.2.3",
            &[
                ("ip", "static"),
                ("ip_address", "192.0.2.7"),
                ("ip_prefix", "23"),
                ("ip_gateway", "192.0.2.1"),
                ("ip_hostname", "live"),
                ("ip_device", "eth0"),
                ("ip_dns", "192.0.2.2 192.0.2.3"),
            ],
        ),
        ("ip=10.1.2.3", &[("ip", "static"), ("ip_address", "10.1.2.3"), ("ip_prefix", "8")]),
        ("ip=192.0.2.7:::28", &[("ip", "static"), ("ip_address", "192.0.2.7"), ("ip_prefix", "28")]),
        ("staticipaddress strict rescue", &[("ip", "ask"), ("strict", "yes"), ("rescue", "yes")]),
        ("imgfactory.disk=/dev/vda init=/bin/sh", &[("disk", "/dev/vda"), ("init", "/bin/sh")]),
        ("imgfactory.reads", &[("reads", "yes")]),
        ("init=relative", &[]),
    ] {
        let expected = expected.iter().map(|&(name, value)| (name.into(), value.into())).collect();
        assert_eq!(parsed(line), Ok(expected), "{line}");
    }
}

#[test]
fn each_wrong_value_gets_one_line_that_says_what_is_allowed() {
    const MIRRORS: &str = "allowed are http:// and https:// addresses, commas between";
    const DEVICES: &str = "allowed are LABEL=x, UUID=x, /dev/x; in RAM: memcache; none: nocache";
    const TIME: &str = "allowed are none, and a time up to a day as 90s or 5m";
    const IP: &str = "allowed are dhcp and CLIENT::GATEWAY:NETMASK::DEVICE:off:DNS in IPv4 addresses";
    for (word, said) in [
        ("mirror=", MIRRORS.to_owned()),
        ("mirror=ftp://mirror.example/", MIRRORS.into()),
        ("mirror=mirror.example", MIRRORS.into()),
        ("mirror=http:///dir", MIRRORS.into()),
        ("mirror=http://a.example,", String::new()),
        ("mirror=http://a.example,,http://b.example", MIRRORS.into()),
        ("mirror=http://a.example/'", MIRRORS.into()),
        ("mirror", "it needs a value: mirror=...".into()),
        ("release=0", "allowed is the number of a release, from 1".into()),
        ("release=newest", "allowed is the number of a release, from 1".into()),
        ("release=9223372036854775808", "allowed is the number of a release, from 1".into()),
        ("release=99999999999999999999", "allowed is the number of a release, from 1".into()),
        ("dlahead=0", "allowed are 1 to 64 connections, or nodlahead".into()),
        ("dlahead=65", "allowed are 1 to 64 connections, or nodlahead".into()),
        ("dlahead=08", "allowed are 1 to 64 connections, or nodlahead".into()),
        ("dlahead=4x", "allowed are 1 to 64 connections, or nodlahead".into()),
        ("dlahead", "it needs a value: dlahead=...".into()),
        ("deadline=0", TIME.into()),
        ("deadline=1h", TIME.into()),
        ("deadline=1441m", TIME.into()),
        ("deadline=s", TIME.into()),
        ("deadline=", TIME.into()),
        ("deadline", "it needs a value: deadline=...".into()),
        ("netselect=yes", "netselect takes no value".into()),
        ("strict=1", "strict takes no value".into()),
        ("toram=/dev/sda1", "toram takes no value".into()),
        ("cache=", DEVICES.into()),
        ("cache=LABEL=", DEVICES.into()),
        ("cache=sda1", DEVICES.into()),
        ("cache=/dev/../etc/passwd", DEVICES.into()),
        ("cow=ram", "allowed are tmpfs, LABEL=x, UUID=x, /dev/x".into()),
        ("http_proxy=proxy.example:3128", "allowed is http://HOST:PORT/".into()),
        ("http_proxy=https://proxy.example/", "allowed is http://HOST:PORT/".into()),
        ("ip=off", IP.into()),
        ("ip=eth0:dhcp", format!("eth0 is no IPv4 address; {IP}")),
        ("ip=", IP.into()),
        ("ip=192.0.2.256", format!("192.0.2.256 is no IPv4 address; {IP}")),
        ("ip=192.0.2::192.0.2.1", format!("192.0.2 is no IPv4 address; {IP}")),
        ("ip=192.0.2.7::gateway", format!("gateway is no IPv4 address; {IP}")),
        ("ip=192.0.2.7:::255.0.255.0", format!("255.0.255.0 is no netmask; {IP}")),
        ("ip=192.0.2.7:::0.0.0.0", format!("0.0.0.0 is no netmask; {IP}")),
        ("ip=192.0.2.7:::255.255.255.0::eth0:bootp", IP.into()),
        ("ip=::::::off", IP.into()),
        ("imgfactory.reads=all", "imgfactory.reads takes no value".into()),
        ("imgfactory.disk=vda", "allowed are LABEL=x, UUID=x, /dev/x".into()),
    ] {
        let line = format!("quiet {word} strict");
        let found = parsed(&line);
        if said.is_empty() {
            assert!(found.is_ok(), "{word}: {found:?}");
        } else {
            assert_eq!(found, Err(format!("{word}: {said}")), "{word}");
        }
    }
}

#[test]
fn every_script_is_read_by_busybox_without_complaint() {
    for file in rendered() {
        let text = String::from_utf8(file.bytes.to_vec()).unwrap();
        let out = Command::new("busybox").args(["sh", "-nc", &text]).output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success() && said.is_empty(), "{}: {said}", file.path);
    }
}

#[test]
fn the_reference_has_every_option_and_no_other() {
    // Patterns of `case`: a word or several, each with `=` and what follows, or without.
    let script = part("cmdline");
    let body = script.split("set_option() {").nth(1).unwrap().split("\n}").next().unwrap();
    let in_script: BTreeSet<&str> = body
        .lines()
        .filter_map(|line| line.strip_prefix("    ")?.split_once(')'))
        .filter(|(patterns, _)| !patterns.starts_with(' ') && !patterns.contains("esac"))
        .flat_map(|(patterns, _)| patterns.split(" | "))
        .map(|pattern| pattern.split('=').next().unwrap())
        .collect();
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/boot.md");
    let document = std::fs::read_to_string(document).unwrap();
    let table = document.split("## Options").nth(1).unwrap().split("\n## ").next().unwrap();
    let in_document: BTreeSet<&str> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" | ").next())
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .filter(|word| !word.starts_with('='))
        .map(|word| word.split('=').next().unwrap())
        // Those of the system itself, and an older name that the table mentions in passing.
        .filter(|word| !["imgfactory.token", "imgfactory.guest"].contains(word))
        .chain(["fuse_uri"])
        .collect();
    assert!(in_script.len() > 15, "{in_script:?}");
    assert_eq!(in_script, in_document);
}
