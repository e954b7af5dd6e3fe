//! `imgfetch` against mirrors that do everything wrong: right bytes or a clear error, within the deadline.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use system::http::{Get, Http, HttpOptions, Timeouts};

use crate::fetch_support::fault_server::{Act, FaultServer, Framing, blackhole, faults, refused};
use crate::fetch_support::{self, Cat, DAY, Publisher, Tree, cat, disk, scratch, text};

/// Time that a process may take over its deadline: start, and two cores shared with other tests.
const MARGIN: Duration = Duration::from_secs(20);

struct World {
    publisher: Publisher,
    disk: Vec<u8>,
    tree: Tree,
}

fn world() -> World {
    let publisher = Publisher::new();
    let disk = disk(40 * 4096 + 1000, 1);
    let tree = publisher.publish(7, &[("host", &disk)]);
    World { publisher, disk, tree }
}

impl World {
    fn cat(&self, mirrors: &[&str], words: &[&str]) -> Cat {
        cat(mirrors, &self.publisher.public(), words)
    }

    #[track_caller]
    fn assert_right(&self, found: &Cat, what: &str) {
        assert!(found.output.status.success(), "{what}: {}", found.errors());
        assert!(found.output.stdout == self.disk, "{what}: wrong bytes");
    }

    /// Failed, in time, with what was said, and not one wrong byte before.
    #[track_caller]
    fn assert_failed(&self, found: &Cat, deadline: Duration, said: &str, what: &str) {
        assert_eq!(found.output.status.code(), Some(1), "{what}: {}", found.errors());
        assert!(found.errors().contains(said), "{what}: {}", found.errors());
        assert!(found.took < deadline + MARGIN, "{what}: {:?}", found.took);
        assert!(self.disk.starts_with(&found.output.stdout), "{what}: wrong bytes");
    }
}

fn is_block(path: &str) -> bool {
    path.starts_with("blk/")
}

#[test]
fn a_block_that_comes_wrong_once_is_fetched_again() {
    let world = world();
    for act in faults() {
        let once = act.clone();
        let server = FaultServer::new(world.tree.clone(), move |path, nth| {
            if is_block(path) && nth == 0 { once.clone() } else { Act::Serve }
        });
        let found = world.cat(&[&server.url()], &["--connections", "8"]);
        world.assert_right(&found, &format!("{act:?}"));
    }
}

#[test]
fn a_mirror_that_has_every_block_wrong_is_left_for_the_next() {
    let world = world();
    let good = FaultServer::honest(world.tree.clone());
    for act in faults() {
        let always = act.clone();
        let bad =
            FaultServer::new(
                world.tree.clone(),
                move |path, _| {
                    if is_block(path) { always.clone() } else { Act::Serve }
                },
            );
        let found = world.cat(&[&bad.url(), &good.url()], &[]);
        world.assert_right(&found, &format!("{act:?}"));
        // Those that are asked for at once, before the first fault.
        let heads = bad.heads();
        let of_blocks = heads.iter().filter(|head| head.starts_with("GET /blk/"));
        let asked: HashSet<_> = of_blocks.map(|head| head.split(' ').nth(1)).collect();
        assert!(asked.len() < 30, "{act:?}: it is not asked for every block: {}", asked.len());
    }
}

#[test]
fn a_block_that_no_mirror_has_right_is_an_error_that_names_it() {
    let world = world();
    let victim = fetch_support::block_paths(&world.tree)[3].clone();
    for (act, said) in [
        (Act::Flip, ""),
        (Act::Html, "a web page instead of the file; perhaps a login page (captive portal)"),
        (Act::Status(404, ""), "HTTP 404: the mirror does not have the file"),
        (Act::Half, "bytes instead of"),
        (Act::Gzip, "the mirror sent the body with Content-Encoding `gzip`"),
        (
            Act::Redirect("ftp://x/".into()),
            "redirect refused: to `ftp://x/`: only http and https are followed",
        ),
    ] {
        let (hit, what) = (victim.clone(), act.clone());
        let server =
            FaultServer::new(
                world.tree.clone(),
                move |path, _| {
                    if path == hit { what.clone() } else { Act::Serve }
                },
            );
        let found = world.cat(&[&server.url()], &["--deadline", "2s"]);
        let name = victim.rsplit('/').next().unwrap();
        let place = format!("block {name}: not received within 2 s; last, {}: ", server.url());
        world.assert_failed(&found, Duration::from_secs(2), &place, &format!("{act:?}"));
        assert!(found.errors().contains(said), "{act:?}: {}", found.errors());
    }
}

#[test]
fn slow_silent_and_vanished_mirrors_cost_time_and_no_more() {
    let world = world();
    let good = FaultServer::honest(world.tree.clone());
    let acts = [
        Act::Silence,
        Act::Stall,
        Act::Drip(Duration::from_millis(500)),
        Act::Late(Duration::from_millis(300)),
    ];
    for act in acts {
        let slow = act.clone();
        let bad = FaultServer::new(world.tree.clone(), move |path, nth| {
            if is_block(path) && nth == 0 { slow.clone() } else { Act::Serve }
        });
        // Alone it is an error or the bytes; beside a good one it is the bytes.
        let deadline = Duration::from_secs(4);
        let found = world.cat(&[&bad.url(), &good.url()], &["--deadline", "30s", "--connections", "8"]);
        world.assert_right(&found, &format!("{act:?}"));
        let alone = world.cat(&[&bad.url()], &["--deadline", "4s", "--connections", "8"]);
        if alone.output.status.success() {
            world.assert_right(&alone, &format!("{act:?}"));
        } else {
            world.assert_failed(&alone, deadline, "not received within 4 s", &format!("{act:?}"));
        }
    }
}

#[test]
fn a_dead_mirror_is_passed_over_and_told_if_it_is_the_only_one() {
    let world = world();
    let good = FaultServer::honest(world.tree.clone());
    let dead = refused();
    world.assert_right(&world.cat(&[&dead, &good.url()], &[]), "refused, then good");
    let (hole, _queue, _listener) = blackhole();
    let found = world.cat(&[&hole, &good.url()], &["--deadline", "10s"]);
    world.assert_right(&found, "blackhole, then good");
    assert!(found.took < Duration::from_secs(10) + MARGIN, "{:?}", found.took);

    let found = world.cat(&[&dead], &["--deadline", "2s"]);
    let said = format!("can't get latest from any mirror: {dead}: can't connect: ");
    world.assert_failed(&found, Duration::from_secs(2), &said, "refused");
    assert!(found.errors().contains("is the network up, and is the address of the mirror right?"));
    let found = world.cat(&[&hole], &["--deadline", "2s"]);
    let said = format!("can't get latest from any mirror: {hole}: ");
    world.assert_failed(&found, Duration::from_secs(2), &said, "blackhole");
}

#[test]
fn what_is_not_signed_by_our_key_is_refused_with_both_keys_named() {
    let world = world();
    let server = FaultServer::honest(world.tree.clone());
    let stranger = Publisher::new();
    let found = cat(&[&server.url()], &stranger.public(), &[]);
    let said = format!(
        "{}: latest: signed by key {}, which is not trusted here; trusted: {}",
        server.url(),
        world.publisher.key.id(),
        stranger.key.id()
    );
    world.assert_failed(&found, Duration::ZERO, &said, "wrong key");
    // One mirror of strangers does no harm beside ours.
    let theirs = FaultServer::honest(stranger.publish(99, &[("host", &world.disk)]));
    world.assert_right(&world.cat(&[&theirs.url(), &server.url()], &[]), "the second is ours");
}

#[test]
fn every_signed_file_is_checked_link_by_link() {
    let world = world();
    let change = |path: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut tree = world.tree.clone();
        change(tree.get_mut(path).unwrap());
        tree
    };
    let flip = |file: &mut Vec<u8>| file[40] ^= 1;
    let other = world.publisher.publish(7, &[("host", &disk(9 * 4096, 2)), ("guest", &disk(4096, 3))]);
    let swap = |path: &str, from: &str| {
        let mut tree = world.tree.clone();
        tree.insert(path.into(), other[from].clone());
        tree
    };
    for (what, tree, said) in [
        ("latest changed", change("latest", &flip), "the file was changed after it was signed"),
        ("latest cut", change("latest", &|file| file.truncate(300)), "not signed"),
        ("latest empty", change("latest", &Vec::clear), "not signed"),
        ("latest too long", change("latest", &|file| file.resize(20_000, b'x')), "longer than"),
        ("release changed", change("releases/7.txt", &flip), "SHA-256"),
        ("another release", swap("releases/7.txt", "releases/7.txt"), "bytes instead of"),
        ("index changed", change("images/host/7/index.idx", &flip), "the release says"),
        (
            "index of another image",
            swap("images/host/7/index.idx", "images/guest/7/index.idx"),
            "bytes instead of",
        ),
        (
            "index of another build",
            swap("images/host/7/index.idx", "images/host/7/index.idx"),
            "bytes instead of",
        ),
    ] {
        let server = FaultServer::honest(tree);
        let found = world.cat(&[&server.url()], &[]);
        world.assert_failed(&found, Duration::ZERO, said, what);
        assert!(found.output.stdout.is_empty(), "{what}");
    }
    for act in [Act::Html, Act::Endless, Act::Gzip, Act::Status(404, ""), Act::Redirect("/latest".into())] {
        let what = format!("{act:?}");
        let server = FaultServer::new(world.tree.clone(), move |_, _| act.clone());
        world.assert_failed(&world.cat(&[&server.url()], &[]), Duration::ZERO, "can't get latest", &what);
    }
}

#[test]
fn an_older_release_is_refused_unless_it_is_asked_for() {
    let world = world();
    let old_disk = disk(30 * 4096, 5);
    let mut old = world.publisher.publish(6, &[("host", &old_disk)]);
    let (new_server, old_server) =
        (FaultServer::honest(world.tree.clone()), FaultServer::honest(old.clone()));
    let cache = scratch();
    let cache = ["--cache", text(cache.path())];

    world.assert_right(&world.cat(&[&new_server.url()], &cache), "the newer one first");
    let said = "offers release 6, but 7 was already used; older releases are refused (to use it anyway: --release 6)";
    world.assert_failed(&world.cat(&[&old_server.url()], &cache), Duration::ZERO, said, "rollback");
    // A mirror that is behind is passed over.
    let both = world.cat(&[&old_server.url(), &new_server.url()], &cache);
    world.assert_right(&both, "the second is up to date");
    // Pinned, it is used, and what was remembered stays.
    let pinned = world.cat(&[&old_server.url()], &[&cache[..], &["--release", "6"]].concat());
    assert!(pinned.output.status.success() && pinned.output.stdout == old_disk, "{}", pinned.errors());
    world.assert_failed(&world.cat(&[&old_server.url()], &cache), Duration::ZERO, said, "rollback again");

    // A pinned release under a false name.
    old.insert("releases/5.txt".into(), old["releases/6.txt"].clone());
    let liar = FaultServer::honest(old);
    let found = world.cat(&[&liar.url()], &["--release", "5"]);
    world.assert_failed(&found, Duration::ZERO, "has serial 6 instead of 5", "pinned");
    let found = world.cat(&[&new_server.url()], &["--name", "other"]);
    world.assert_failed(
        &found,
        Duration::ZERO,
        "is of distribution `demo`; `other` was asked for",
        "another distribution",
    );
    let found = cat(&[&new_server.url()], &world.publisher.public(), &["--image", "guest"]);
    world.assert_failed(
        &found,
        Duration::ZERO,
        "release 7 of `demo` has no image `guest`; it has `host`",
        "image",
    );
}

#[test]
fn staleness_is_warned_of_or_refused_and_a_wrong_clock_is_told() {
    let mut world = world();
    let fresh = FaultServer::honest(world.tree.clone());
    for (expires_in, published_ago, said) in [
        (-2 * DAY, 30 * DAY, "release 7 has expired on "),
        (60 * DAY, -3 * DAY, "the client can't tell whether a newer release exists"),
    ] {
        world.publisher.expires_in = expires_in;
        world.publisher.published_ago = published_ago;
        let stale = FaultServer::honest(world.publisher.publish(7, &[("host", &world.disk)]));
        let found = world.cat(&[&stale.url()], &[]);
        world.assert_right(&found, said);
        assert!(found.errors().contains(said), "{}", found.errors());
        let strict = world.cat(&[&stale.url()], &["--strict"]);
        world.assert_failed(&strict, Duration::ZERO, "refused (--strict)", said);
        world.assert_right(&world.cat(&[&stale.url(), &fresh.url()], &["--strict"]), "the second is fresh");
    }
    // An expired one is better than waiting for a mirror that is dead.
    world.publisher.expires_in = -DAY;
    world.publisher.published_ago = 9 * DAY;
    let stale = FaultServer::honest(world.publisher.publish(7, &[("host", &world.disk)]));
    let found = world.cat(&[&stale.url(), &refused()], &[]);
    world.assert_right(&found, "expired and dead");
    assert!(found.took < MARGIN, "{:?}", found.took);
}

#[test]
fn bodies_come_in_all_forms_and_connections_are_kept() {
    let world = world();
    let server = FaultServer::honest(world.tree.clone());
    world.assert_right(&world.cat(&[&server.url()], &["--connections", "4"]), "plain");
    // Five as a rule; a slow machine makes the client ask a second time, over a connection of its own.
    let (connections, requests) = (server.connections(), server.heads().len());
    assert!(3 * connections <= requests, "{connections} connections for {requests} requests");
    assert!(server.heads().iter().all(|head| head.contains("accept-encoding: identity\r\n")));

    let chunked = FaultServer::new(world.tree.clone(), |_, _| Act::Chunked);
    world.assert_right(&world.cat(&[&chunked.url()], &[]), "chunked");
    let closing = FaultServer::new(world.tree.clone(), |_, _| Act::ServeAndClose);
    world.assert_right(&world.cat(&[&closing.url()], &[]), "closed after each");
    let target = server.url();
    let moved = FaultServer::new(Tree::new(), move |path, _| Act::Redirect(format!("{target}{path}")));
    world.assert_right(&world.cat(&[&moved.url()], &[]), "redirected");
}

#[test]
fn trailers_without_end_are_read_to_a_bound_only() {
    let world = world();
    let endless = FaultServer::new(world.tree.clone(), |_, _| Act::Trailers);
    let said = world.cat(&[&endless.url()], &["--deadline", "10s"]).errors();
    assert!(said.contains("the server sends far more around the file than the file has"), "{said}");
    let honest = FaultServer::honest(world.tree.clone());
    world.assert_right(&world.cat(&[&endless.url(), &honest.url()], &[]), "beside an honest mirror");
}

/// 127.0.0.1 and localhost are two hosts to the client: a mirror, and a machine of the network that the client is in.
#[test]
fn no_mirror_has_a_client_ask_a_host_that_is_none_of_the_mirrors() {
    let world = world();
    let internal = FaultServer::honest(world.tree.clone());
    let elsewhere = format!("http://localhost:{}/", internal.address().port());
    let target = elsewhere.clone();
    let mirror = FaultServer::new(Tree::new(), move |path, _| Act::Redirect(format!("{target}{path}")));
    let found = world.cat(&[&mirror.url()], &["--deadline", "5s"]);
    assert!(!found.output.status.success());
    let said = found.errors();
    assert!(said.contains("redirect refused: to localhost, which is none of the mirrors"), "{said}");
    assert_eq!(internal.connections(), 0, "nobody may even connect");

    world.assert_right(&world.cat(&[&mirror.url()], &["--redirects", "any"]), "allowed");
    world.assert_right(&world.cat(&[&mirror.url(), &elsewhere], &["--no-netselect"]), "a mirror of the list");
    let user = internal.url().replace("http://", "http://user@");
    let with_user = FaultServer::new(Tree::new(), move |path, _| Act::Redirect(format!("{user}{path}")));
    let said = world.cat(&[&with_user.url()], &["--deadline", "5s"]).errors();
    assert!(said.contains("redirect refused: to `http://***@127.0.0.1"), "{said}");
}

/// What decides is the length and the digest, not what a server writes around right bytes (RFC 9110, RFC 9112).
#[test]
fn right_bytes_are_taken_whatever_stands_in_the_head_of_the_answer() {
    use Framing::{Chunked, Close, Length};
    let world = world();
    for (head, framing) in [
        ("HTTP/1.1 200 OK\r\nContent-Encoding: aws-chunked\r\n", Length),
        ("HTTP/1.1 200 OK\r\nContent-Encoding: aws-chunked,\r\n", Chunked),
        ("HTTP/1.1 200 OK\r\nContent-Encoding: none\r\n", Length),
        ("HTTP/1.1 200 OK\r\nContent-Encoding:\r\n", Length),
        ("HTTP/1.1 200 OK\r\nContent-Encoding: Identity\r\n", Length),
        ("HTTP/1.1 200 OK\r\nContent-Encoding: identity\r\nContent-Encoding: identity\r\n", Length),
        // Stored with a label that is wrong.
        ("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n", Length),
        ("HTTP/1.1 200 OK\r\nContent-Encoding: br\r\n", Chunked),
        ("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n", Length),
        ("HTTP/1.1 200 OK\r\nContent-Type: \r\n", Close),
        ("HTTP/1.1 200 OK\r\n", Close),
        ("HTTP/1.0 200 OK\r\n", Close),
        ("HTTP/1.0 200 OK\r\n", Length),
        ("HTTP/1.1 200\r\n", Length),
        ("HTTP/1.1 200 \r\n", Chunked),
        // The length is then no one's business.
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n", Chunked),
        ("HTTP/1.1 200 OK\r\nContent-Length: LEN\r\nContent-Length: LEN\r\n", Close),
        ("HTTP/1.1 203 Changed\r\nVia: 1.1 proxy\r\n", Length),
        ("HTTP/1.1 206 Part\r\nContent-Range: bytes 0-LAST/LEN\r\n", Length),
        ("HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\nHTTP/1.1 200 OK\r\n", Length),
        ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n", Length),
        (
            "HTTP/1.1 200 OK\r\nX-Name: \u{fc}\r\nServer:\r\nETag: W/\"x\"\r\nConnection: Keep-Alive\r\n",
            Length,
        ),
        ("HTTP/1.1 200 OK\r\ncontent-encoding : x\r\n", Length),
    ] {
        let server = FaultServer::new(world.tree.clone(), move |_, _| Act::As(head, framing));
        let found = world.cat(&[&server.url()], &["--deadline", "3s"]);
        // A blank before the colon is no header (RFC 9112, 5.1).
        if head.contains(" :") {
            assert_eq!(found.output.status.code(), Some(1), "{head}");
            continue;
        }
        world.assert_right(&found, &format!("{head}{framing:?}"));
    }
}

#[test]
fn a_connection_that_brought_a_refusal_is_used_again() {
    let http = Http::open(&HttpOptions::direct(), 4, Timeouts::default()).unwrap();
    for act in [
        Act::Status(404, ""),
        Act::Status(503, "Retry-After: 1\r\n"),
        Act::Redirect("file:///etc/passwd".into()),
        Act::Gzip,
        Act::Half,
        Act::Html,
    ] {
        let always = act.clone();
        let server = FaultServer::new(world().tree, move |_, _| always.clone());
        let url = format!("{}latest", server.url());
        for _ in 0..20 {
            let until = Instant::now() + MARGIN;
            http.get(Get { len: Some(7), ..Get::new(&url, 7, until) }).unwrap_err();
        }
        // One as a rule.
        assert!(server.connections() <= 5, "{act:?}: {} connections for 20 requests", server.connections());
    }
}

#[test]
fn plain_http_goes_through_a_proxy_in_absolute_form() {
    let world = world();
    // The server takes whole addresses, so it is its own proxy; the mirror's name needs no resolver.
    let proxy = FaultServer::honest(world.tree.clone());
    let url = proxy.url();
    let found = world.cat(&["http://mirror.invalid/"], &["--proxy", &url]);
    world.assert_right(&found, "--proxy");
    let heads = proxy.heads();
    assert!(heads.iter().all(|head| head.starts_with("GET http://mirror.invalid/")), "{}", heads[0]);
    assert!(heads.iter().all(|head| head.contains("host: mirror.invalid\r\n")), "{}", heads[0]);

    let run = |vars: &[(&str, &str)], mirror: &str| {
        fetch_support::imgfetch()
            .args(["cat", "--mirror", mirror, "--key", &world.publisher.public(), "--image", "host"])
            .args(["--deadline", "2s"])
            .envs(vars.iter().copied())
            .output()
            .unwrap()
    };
    assert!(run(&[("http_proxy", &url)], "http://mirror.invalid/").stdout == world.disk);
    // Not for hosts that need none.
    let dead = refused();
    let direct = run(&[("http_proxy", &dead), ("no_proxy", "127.0.0.1")], &url);
    assert!(direct.stdout == world.disk);
    assert_eq!(run(&[("http_proxy", &dead)], &url).status.code(), Some(1));
}

#[test]
fn the_first_wrong_bytes_make_the_next_request_go_past_caches() {
    let world = world();
    let server =
        FaultServer::new(
            world.tree.clone(),
            |path, nth| {
                if is_block(path) && nth == 0 { Act::Flip } else { Act::Serve }
            },
        );
    world.assert_right(&world.cat(&[&server.url()], &[]), "flipped once");
    let heads = server.heads();
    let mut pairs = 0;
    for path in fetch_support::block_paths(&world.tree) {
        let of_path: Vec<_> = heads.iter().filter(|head| head.contains(&path)).collect();
        assert!(!of_path[0].contains("no-cache"), "{of_path:?}");
        // Where a machine is slow, a second request may be made before the wrong bytes have come.
        let past: Vec<_> = of_path.iter().map(|head| head.contains("cache-control: no-cache\r\n")).collect();
        pairs += usize::from(past == [false, true]);
    }
    let blocks = fetch_support::block_paths(&world.tree).len();
    assert!(2 * pairs > blocks, "{pairs} of {blocks}");
}

#[test]
fn under_any_mixture_of_faults_bytes_are_right_or_there_is_an_error_in_time() {
    let world = world();
    let mut whole = 0;
    for seed in 0..12_u64 {
        let servers: Vec<_> = (0..2_u64)
            .map(|number| {
                FaultServer::new(world.tree.clone(), move |path, nth| {
                    // A hash of all that makes this request what it is.
                    let mut hash = 0xcbf2_9ce4_8422_2325_u64 ^ (seed << 32) ^ (number << 16) ^ nth as u64;
                    path.bytes()
                        .for_each(|byte| hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
                    let mut acts = faults();
                    acts.extend([Act::Stall, Act::Silence, Act::Drip(Duration::from_millis(100))]);
                    let share = if is_block(path) { 60 } else { 20 };
                    if hash >> 40 & 0xff < share {
                        acts.swap_remove((hash >> 16) as usize % acts.len())
                    } else {
                        Act::Serve
                    }
                })
            })
            .collect();
        let urls: Vec<_> = servers.iter().map(FaultServer::url).collect();
        let found = world.cat(&[&urls[0], &urls[1]], &["--deadline", "6s", "--connections", "8"]);
        if found.output.status.success() {
            world.assert_right(&found, &format!("seed {seed}"));
            whole += 1;
        } else {
            assert_eq!(found.output.status.code(), Some(1), "seed {seed}");
            assert!(found.errors().contains("imgfetch: error: "), "seed {seed}: {}", found.errors());
            assert!(world.disk.starts_with(&found.output.stdout), "seed {seed}: wrong bytes");
        }
        // The release, the index, and then reads that each have their own deadline.
        assert!(found.took < Duration::from_secs(60), "seed {seed}: {:?}", found.took);
    }
    assert!(whole >= 6, "with two mirrors that are mostly right, most disks come whole: {whole} of 12");
}
