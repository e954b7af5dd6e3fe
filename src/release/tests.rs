use formats::digest::Digest;
use formats::digest::Sha256;
use formats::release::*;
use formats::url::MirrorUrl;
use proptest::prelude::*;

use super::*;
use formats::block::BlockName;
use formats::index::{Header, Index};
use formats::names::{BlockSize, ImageName, Serial, UnixTime};
use formats::text::At;

mod successors;
mod trust;

const LATEST: &str = "\
imgfactory-latest 1
name: xenoppix
serial: 42
release: releases/42.txt 0101010101010101010101010101010101010101010101010101010101010101 600
mirrors: mirrors.txt 0202020202020202020202020202020202020202020202020202020202020202 500
published: 1795205345
expires: 1795810145
min-serial: 40
end
";

const RELEASE: &str = "\
imgfactory-release 1
name: xenoppix
serial: 42
published: 1795205345
retain-until: 1802981345
image host images/host/42/index.idx 0101010101010101010101010101010101010101010101010101010101010101 268435456
dlahead host images/host/41/dlahead 0202020202020202020202020202020202020202020202020202020202020202 20
layout host images/host/42/layout.z 0303030303030303030303030303030303030303030303030303030303030303 30
image guest images/guest/7/index.idx 0404040404040404040404040404040404040404040404040404040404040404 40
end
";

const MIRRORS: &str = "\
imgfactory-mirrors 1
name: xenoppix
mirror http://mirror.example/xenoppix/
mirror https://two.mirror.example:8443/ max-conn=4 location=jp
mirror http://10.0.2.2:8080/ location=Osaka-1
end
";

const UPLOAD: &str = "\
imgfactory-upload 1
name: xenoppix
serial: 42
base: 41
put blk/ec/ec87a838931d4d5d2e94a04644788a55 277 0101010101010101010101010101010101010101010101010101010101010101
put images/host/42/index.idx 1000 0202020202020202020202020202020202020202020202020202020202020202
put releases/42.txt 600 0303030303030303030303030303030303030303030303030303030303030303
replace mirrors.txt 500 0404040404040404040404040404040404040404040404040404040404040404
replace latest 700 0505050505050505050505050505050505050505050505050505050505050505
end 5 3077
";

const DLAHEAD: &str = "\
imgfactory-dlahead 1
image: host
serial: 42
# phase  md5  first read after start (ms)  reads
boot ec87a838931d4d5d2e94a04644788a55 0 3
boot 0cc175b9c0f1b6a831c399e269772661 17 1
login 92eb5ffee6ae2fec3ad71c777531578f 17 4000000000
";

fn name(text: &str) -> ImageName {
    text.parse().unwrap()
}

fn serial(number: u64) -> Serial {
    Serial::new(number).unwrap()
}

fn latest() -> Latest {
    Latest {
        name: name("xenoppix"),
        serial: serial(42),
        release: Digest { sha256: Sha256([1; 32]), len: 600 },
        mirrors: Digest { sha256: Sha256([2; 32]), len: 500 },
        published: UnixTime(1_795_205_345),
        expires: UnixTime(1_795_810_145),
        min_serial: serial(40),
    }
}

/// Decoder and encoder of each text, as one.
type Again = fn(&str) -> Result<String, String>;

fn document<T: Document>(text: &str) -> Result<String, String> {
    T::decode_text(text.as_bytes()).map(|value| value.to_text()).map_err(|error| error.to_string())
}

fn upload(text: &str) -> Result<String, String> {
    let upload = Upload::decode(text.as_bytes()).map_err(|error| error.to_string())?;
    let mut again = Vec::new();
    upload.encode(&mut again).unwrap();
    Ok(String::from_utf8(again).unwrap())
}

fn dlahead(text: &str) -> Result<String, String> {
    let list = Dlahead::decode(text.as_bytes()).map_err(|error| error.to_string())?;
    let mut again = Vec::new();
    list.encode(&mut again).unwrap();
    Ok(String::from_utf8(again).unwrap())
}

const TEXTS: [(&str, &str, Again); 5] = [
    ("latest", LATEST, document::<Latest>),
    ("release", RELEASE, document::<Release>),
    ("mirrors.txt", MIRRORS, document::<Mirrors>),
    ("upload.txt", UPLOAD, upload),
    ("dlahead", DLAHEAD, dlahead),
];

#[test]
fn every_golden_text_reads_and_is_written_again_to_the_byte() {
    for (file, text, again) in TEXTS {
        assert_eq!(again(text).unwrap(), text, "{file}");
    }
    assert_eq!(Latest::decode_text(LATEST.as_bytes()).unwrap(), latest());
    let release = Release::decode_text(RELEASE.as_bytes()).unwrap();
    let host = release.image(&name("host")).unwrap();
    assert_eq!(host.index_path().to_string(), "images/host/42/index.idx");
    assert_eq!(host.dlahead_path().unwrap().to_string(), "images/host/41/dlahead");
    assert_eq!(host.layout_path().unwrap().to_string(), "images/host/42/layout.z");
    assert_eq!(host.layout_base_path(), None);
    assert_eq!(release.image(&name("guest")).unwrap().dlahead_path(), None);
    assert_eq!(release.image(&name("other")), None);
    let upload = Upload::decode(UPLOAD.as_bytes()).unwrap();
    assert_eq!((upload.steps().count(), upload.bytes()), (5, 3077));
}

#[test]
fn a_layout_may_be_an_update_of_an_earlier_one() {
    let (before, rest) = RELEASE.split_once("layout host").unwrap();
    let earlier = format!("layout host images/host/40/layout.z {} 300\n", "09".repeat(32));
    let text = format!("{before}{earlier}layout host{rest}");
    assert_eq!(document::<Release>(&text).unwrap(), text);
    let release = Release::decode_text(text.as_bytes()).unwrap();
    let host = release.image(&name("host")).unwrap();
    assert_eq!(host.layout_path().unwrap().to_string(), "images/host/42/layout.z");
    assert_eq!(host.layout_base_path().unwrap().to_string(), "images/host/40/layout.z");
    let files: Vec<_> = host.files().map(|(path, digest)| (path.to_string(), digest.len)).collect();
    assert_eq!(
        files,
        [
            ("images/host/42/index.idx".to_owned(), 268_435_456),
            ("images/host/41/dlahead".to_owned(), 20),
            ("images/host/40/layout.z".to_owned(), 300),
            ("images/host/42/layout.z".to_owned(), 30),
        ]
    );
    // In the other order, and three of them, are refused.
    for wrong in [
        format!("{before}layout host{}", rest.replace("image guest", &format!("{earlier}image guest"))),
        format!("{before}{earlier}{earlier}layout host{rest}"),
    ] {
        let error = document::<Release>(&wrong).unwrap_err();
        assert!(error.contains("or an earlier release's and its own"), "{error}");
    }
}

#[test]
fn each_damage_has_its_line_and_its_words() {
    let cases: &[(&str, &str, &str, &str)] = &[
        ("latest", "latest 1", "latest 3", {
            "1: version 3 is not supported; this program supports version 1; a newer program may read it"
        }),
        ("latest", "releases/42.txt", "releases/41.txt", "4: `releases/41.txt` instead of `releases/42.txt`"),
        ("latest", "releases/42.txt", "../42.txt", "4: `../42.txt` is not a path of a mirror"),
        ("latest", "releases/42.txt", "releases/042.txt", "4: `releases/042.txt` is not a path of a mirror"),
        ("latest", "releases/42.txt", "/releases/42.txt", "4: `/releases/42.txt` is not a path of a mirror"),
        ("latest", " 600", " 1048577", {
            "4: length: `1048577` is not a number: digits, without sign or leading zeros, at most 1048576"
        }),
        ("latest", "mirrors.txt ", "latest ", "5: `latest` instead of `mirrors.txt`"),
        ("latest", "expires: 1795810145", "expires: 1795205344", {
            "7: expires 1795205344 is before `published: 1795205345`"
        }),
        ("latest", "min-serial: 40", "min-serial: 43", "8: min-serial 43 is above serial 42"),
        ("latest", "serial: 42", "serial: 9223372036854775808", {
            "3: `9223372036854775808` is not a serial: 1 to 9223372036854775807, without leading zeros"
        }),
        ("latest", "min-serial: 40\n", "", "8: `end` instead of `min-serial:`"),
        ("latest", "min-serial: 40\n", "min-serial: 40\nmotto: x\n", "9: `motto: x` instead of `end`"),
        ("release", "images/host/42/index.idx", "images/guest/42/index.idx", {
            "6: `images/guest/42/index.idx` instead of `images/host/<serial>/index.idx`"
        }),
        ("release", "images/host/41/dlahead", "images/host/41/layout.z", {
            "7: `images/host/41/layout.z` instead of `images/host/<serial>/dlahead`"
        }),
        ("release", "images/host/41/dlahead", "images/../41/dlahead", {
            "7: `images/../41/dlahead` is not a path of a mirror"
        }),
        ("release", "images/host/42/index.idx", "images/host/43/index.idx", {
            "6: serial 43 in a text of serial 42; only files of earlier releases and its own can be named"
        }),
        ("release", "268435456", "268435457", {
            "6: length: `268435457` is not a number: digits, without sign or leading zeros, at most 268435456"
        }),
        (
            "release",
            "image guest images/guest/",
            "image host images/host/",
            "9: image `host` is listed twice",
        ),
        ("release", "image guest images/guest/7/index.idx", "layout host images/host/7/layout.z", {
            "9: `layout host` belongs after `image host`: one `dlahead`, then one `layout`, or an earlier release's and its own"
        }),
        ("release", "image guest images/guest/7/index.idx", "dlahead host images/host/7/dlahead", {
            "9: `dlahead host` belongs after `image host`: one `dlahead`, then one `layout`, or an earlier release's and its own"
        }),
        ("release", "image guest images/guest/7/index.idx", "dlahead guest images/guest/7/dlahead", {
            "9: `dlahead guest` belongs after `image guest`: one `dlahead`, then one `layout`, or an earlier release's and its own"
        }),
        ("release", "image guest", "picture guest", "9: `picture guest"),
        ("release", "retain-until: 1802981345", "retain-until: 1", {
            "5: retain-until 1 is before `published: 1795205345`"
        }),
        ("mirrors.txt", "max-conn=4", "max-conn=0", {
            "4: `max-conn=0`: options are `max-conn=1..64`, then `location=` with 1 to 32 of a-z, A-Z, 0-9 and -"
        }),
        ("mirrors.txt", "max-conn=4", "max-conn=4 max-conn=4", "4: `max-conn=4`"),
        ("mirrors.txt", "max-conn=4 location=jp", "location=jp max-conn=4", "4: `max-conn=4`"),
        ("mirrors.txt", "location=jp", "location=", "4: `location=`"),
        ("mirrors.txt", "location=jp", "speed=9", "4: `speed=9`"),
        ("mirrors.txt", "location=jp", "", "4: ``: options"),
        ("mirrors.txt", "http://10.0.2.2:8080/", "http://mirror.example/xenoppix/", {
            "5: mirror http://mirror.example/xenoppix/ is listed twice"
        }),
        ("mirrors.txt", "http://10.0.2.2:8080/", "ftp://mirror.example/", {
            "5: `ftp://mirror.example/` is not the URL of a mirror: http:// or https://, a host, a path that ends with /; \
             no user, no ? and no #, at most 256 bytes"
        }),
        ("mirrors.txt", "mirror http://10", "mirrors http://10", "5: `mirrors http"),
        ("upload.txt", "base: 41", "base: 43", {
            "4: base 43 of serial 42: a base has a lower serial, or the same when only `latest` is signed again"
        }),
        ("upload.txt", "put releases/42.txt", "replace releases/42.txt", {
            "7: `replace releases/42.txt`: `latest` and `mirrors.txt` are replaced, all else is put"
        }),
        ("upload.txt", "replace latest", "put latest", {
            "9: `put latest`: `latest` and `mirrors.txt` are replaced, all else is put"
        }),
        ("upload.txt", "put releases/42.txt", "put blk/0c/0cc175b9c0f1b6a831c399e269772661", {
            "7: `put blk/0c/0cc175b9c0f1b6a831c399e269772661`: blocks come first, then images' files, the release, \
             `mirrors.txt`, `latest`"
        }),
        ("upload.txt", "put releases/42.txt", "put images/host/42/index.idx", {
            "7: `images/host/42/index.idx` is listed twice"
        }),
        (
            "upload.txt",
            "blk/ec/",
            "blk/ed/",
            "5: `blk/ed/ec87a838931d4d5d2e94a04644788a55` is not a path of a mirror",
        ),
        ("upload.txt", "put blk", "copy blk", "5: `copy blk/"),
        ("upload.txt", "end 5 3077", "end 5 3078", "10: `end 5 3078`: there are 5 lines of 3077 bytes"),
        ("dlahead", "boot 0cc", "Boot 0cc", "6: phase `Boot`: must have 1 to 16 of a-z, 0-9 and -"),
        ("dlahead", " 17 4000000000", " 16 1", {
            "7: first read after 16 ms follows 17 ms; the list is in order of first read"
        }),
        ("dlahead", "0cc175b9c0f1b6a831c399e269772661", "ec87a838931d4d5d2e94a04644788a55", {
            "6: block ec87a838931d4d5d2e94a04644788a55 is listed twice"
        }),
        ("dlahead", " 0 3", " 0", "5: `boot ec87"),
    ];
    for (file, text, damaged, said) in cases {
        let (_, golden, again) = TEXTS.into_iter().find(|(of, ..)| of == file).unwrap();
        let changed = golden.replacen(text, damaged, 1);
        assert_ne!(changed, golden, "{text}");
        let error = again(&changed).expect_err(said);
        let want = format!("{file}:{said}");
        assert!(error == want || (said.len() < 24 && error.starts_with(&want)), "{error}\n{want}");
    }
}

#[test]
fn what_must_be_there_once_at_least_is_missed() {
    let without = |text: &str, words: &[&str]| -> String {
        text.lines()
            .filter(|line| !words.iter().any(|word| line.starts_with(word)))
            .fold(String::new(), |text, line| text + line + "\n")
    };
    let images = without(RELEASE, &["image ", "dlahead ", "layout "]);
    assert_eq!(document::<Release>(&images).unwrap_err(), {
        "release:6: no `image` line; a release has at least one image"
    });
    let manifest = without(UPLOAD, &["replace latest"]);
    assert_eq!(upload(&manifest).unwrap_err(), {
        "upload.txt:9: `replace latest` is missing; without it nothing is published"
    });
    let mirrors = without(MIRRORS, &["mirror "]);
    assert_eq!(document::<Mirrors>(&mirrors).unwrap(), mirrors, "a list may be empty");
    let line = |n| format!("mirror http://m{n}.example/\n");
    let many: String = (0..65).map(line).collect();
    let many = mirrors.replace("end\n", &(many + "end\n"));
    assert_eq!(document::<Mirrors>(&many).unwrap_err(), "mirrors.txt:67: more than 64 mirrors");
}

#[test]
fn comments_in_a_prefetch_list_are_skipped() {
    let noted = DLAHEAD.replace("boot 0cc", "# the login screen\nboot 0cc");
    assert_eq!(dlahead(&noted).unwrap(), DLAHEAD);
}

#[test]
fn only_paths_of_the_tree_are_paths() {
    for good in [
        "blk/ec/ec87a838931d4d5d2e94a04644788a55",
        "images/host/42/index.idx",
        "images/a-0/9223372036854775807/layout.z",
        "images/x/1/dlahead",
        "releases/1.txt",
        "mirrors.txt",
        "latest",
    ] {
        assert_eq!(good.parse::<MirrorPath>().unwrap().to_string(), good);
    }
    for bad in [
        "",
        "/latest",
        "latest/",
        "blk/ec/../ec87a838931d4d5d2e94a04644788a55",
        "blk/0c/ec87a838931d4d5d2e94a04644788a55",
        "blk/EC/EC87A838931D4D5D2E94A04644788A55",
        "images/../1/index.idx",
        "images/Host/1/index.idx",
        "images/host/0/index.idx",
        "images/host/1/index",
        "releases/01.txt",
        "releases/1.txt.txt",
        "releases/1",
    ] {
        let said = format!("`{bad}` is not a path of a mirror");
        assert_eq!(bad.parse::<MirrorPath>().unwrap_err().to_string(), said);
    }
}

#[test]
fn a_url_of_a_mirror_is_a_root_that_paths_can_be_put_after() {
    for (typed, url) in [
        ("http://mirror.example", "http://mirror.example/"),
        ("https://mirror.example:8443/live/", "https://mirror.example:8443/live/"),
        ("http://[2001:db8::1]:80", "http://[2001:db8::1]:80/"),
    ] {
        assert_eq!(MirrorUrl::typed(typed).unwrap().as_str(), url);
    }
    let long = format!("http://{}/", "x".repeat(249));
    for bad in [
        "",
        "mirror.example",
        "http:///x/",
        "http://:80/",
        "http://user@mirror.example/",
        "http://mirror.example/?x/",
        "http://mirror.example/#/",
        "http://mirror.example/a b/",
        "http://mirror.example/\u{e9}/",
        &long,
    ] {
        assert!(MirrorUrl::typed(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_prefetch_list_is_checked_like_an_index() {
    let stored = |text: &str| Stored { serial: serial(42), digest: Digest::of(text.as_bytes()) };
    let files = ImageFiles::of_index(name("host"), stored(""));
    assert_eq!(files.open_dlahead(b"whatever").unwrap(), None);
    let with = |text: &str| ImageFiles { dlahead: Some(stored(text)), ..files.clone() };
    let list = with(DLAHEAD).open_dlahead(DLAHEAD.as_bytes()).unwrap().unwrap();
    let first = BlockName::of_zeros(262_144);
    assert_eq!((list.entries.len(), list.entries[0].name), (3, first));
    let other = DLAHEAD.replace("image: host", "image: guest");
    assert_eq!(with(&other).open_dlahead(other.as_bytes()).unwrap_err().to_string(), {
        "images/host/42/dlahead: belongs to `guest`; `host` was expected"
    });
    let damaged = DLAHEAD.replace("boot ec", "boot xx");
    assert_eq!(with(&damaged).open_dlahead(damaged.as_bytes()).unwrap_err().to_string(), {
        "dlahead:5: `xx87a838931d4d5d2e94a04644788a55` is not 32 lower-case hex digits"
    });
}

proptest! {
    #[test]
    fn a_damaged_text_is_an_error_or_says_what_it_says(
        which in 0_usize..4,
        at in any::<proptest::sample::Index>(),
        with in prop_oneof![proptest::string::string_regex("[ -~\n]{0,3}").unwrap().prop_map(String::into_bytes),
            proptest::collection::vec(any::<u8>(), 0..3)],
        cut in 0_usize..20,
    ) {
        let (_, text, again) = TEXTS[which];
        let mut text = text.as_bytes().to_vec();
        let at = at.index(text.len());
        let end = (at + cut).min(text.len());
        text.splice(at..end, with);
        if let Ok(text) = String::from_utf8(text)
            && let Ok(written) = again(&text)
        {
            prop_assert_eq!(written, text);
        }
    }

    #[test]
    fn whatever_comes_is_an_error_and_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        for (_, _, again) in TEXTS {
            prop_assert!(again(&String::from_utf8_lossy(&bytes)).is_err());
        }
        prop_assert!(TrustedKeys::parse(&String::from_utf8_lossy(&bytes)).is_err());
    }
}

/// `At` names the place of a fault in its text.
#[test]
fn a_fault_has_its_source_but_once() {
    let error: At<ReleaseTextFault> = Latest::decode_text(b"x").unwrap_err();
    assert_eq!(
        formats::report::report(&error),
        "error: latest:1: the line has no end: the file is truncated"
    );
}
