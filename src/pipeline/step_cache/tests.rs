use std::sync::Mutex;
use std::time::Duration;

use super::*;
use crate::sys::progress::{Silent, Task, Unit};
use system::files::write_atomic;

/// Progress whose lines are kept.
#[derive(Default)]
struct Said(Mutex<Vec<String>>);

impl Progress for Said {
    fn start(&self, _: &str, _: u64, _: Unit) -> Box<dyn Task> {
        Box::new(Silent)
    }

    fn say(&self, line: &str) {
        self.0.lock().unwrap().push(line.to_owned());
    }
}

fn key(number: u8) -> Sha256 {
    Sha256([number; 32])
}

fn room() -> Scratch {
    Scratch::directory(std::env::temp_dir()).unwrap()
}

/// A build of a recipe whose tree `host` depends on `number`. It ends before the next one begins.
fn build(dir: &Path, recipe: &str, number: u8) {
    let cache = StepCache::new(dir, recipe, DEFAULT_LIMIT, &Silent);
    if cache.find(TREES, "host", key(number)).unwrap().is_none() {
        insert(&cache, "host", number, 1000);
    }
}

fn insert(cache: &StepCache<'_>, name: &str, number: u8, bytes: usize) -> PathBuf {
    let made = cache.begin(TREES).unwrap();
    fs::write(made.path(), vec![number; bytes]).unwrap();
    cache.insert(TREES, name, key(number), made).unwrap()
}

fn there(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir.join("trees"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// The names of results of `host`.
fn hosts(numbers: &[u8]) -> Vec<String> {
    numbers.iter().map(|number| format!("host-{}.tar", format!("{number:02x}").repeat(8))).collect()
}

fn age(path: &Path, seconds: u64) {
    let then = SystemTime::now() - Duration::from_secs(seconds);
    File::options().write(true).open(path).unwrap().set_modified(then).unwrap();
}

#[test]
fn two_recipes_that_are_built_by_turns_keep_both_trees() {
    let dir = room();
    for (recipe, number) in [("demo", 1), ("lab", 2), ("demo", 3), ("demo", 4), ("lab", 5), ("demo", 6)] {
        build(dir.path(), recipe, number);
    }
    assert_eq!(there(dir.path()), hosts(&[2, 4, 5, 6]), "the two newest of each");
}

#[test]
fn a_tree_that_two_recipes_share_stays_while_either_keeps_it() {
    let dir = room();
    build(dir.path(), "demo", 1);
    build(dir.path(), "lab", 1);
    [2, 3].iter().for_each(|number| build(dir.path(), "demo", *number));
    assert_eq!(there(dir.path()), hosts(&[1, 2, 3]));
    [4, 5].iter().for_each(|number| build(dir.path(), "lab", *number));
    assert_eq!(there(dir.path()), hosts(&[2, 3, 4, 5]));
}

#[test]
fn a_tree_that_is_used_again_is_the_newest_again() {
    let dir = room();
    [1, 2, 1, 3].iter().for_each(|number| build(dir.path(), "demo", *number));
    assert_eq!(there(dir.path()), hosts(&[1, 3]));
}

#[test]
fn results_of_other_names_and_of_earlier_versions_are_left_to_the_size_limit() {
    let dir = room();
    let cache = StepCache::new(dir.path(), "demo", DEFAULT_LIMIT, &Silent);
    fs::create_dir_all(dir.path().join("trees")).unwrap();
    fs::write(dir.path().join("trees/host-00000000000000aa.tar"), "made by an earlier version").unwrap();
    insert(&cache, "host-b", 9, 10);
    drop(cache);
    [1, 2, 3].iter().for_each(|number| build(dir.path(), "demo", *number));
    let mut want = hosts(&[2, 3]);
    want.insert(0, "host-00000000000000aa.tar".to_owned());
    want.push("host-b-0909090909090909.tar".to_owned());
    assert_eq!(there(dir.path()), want);
}

#[test]
fn what_is_removed_is_reported_with_its_size_and_the_reason() {
    let (dir, said) = (room(), Said::default());
    for number in [1, 2, 3] {
        let cache = StepCache::new(dir.path(), "demo", DEFAULT_LIMIT, &said);
        insert(&cache, "host", number, 8192);
    }
    assert_eq!(
        *said.0.lock().unwrap(),
        [
            "cache: removed trees/host-0101010101010101.tar, 8 KiB: the 2 newest of trees/host of recipe `demo` are \
          kept"
        ]
    );
}

#[test]
fn the_size_limit_removes_what_was_used_longest_ago_and_says_so() {
    let (dir, said) = (room(), Said::default());
    let old = StepCache::new(dir.path(), "lab", DEFAULT_LIMIT, &said);
    let paths = [1, 2, 3].map(|number| insert(&old, &format!("guest{number}"), number, 64 << 10));
    drop(old);
    // A download counts too, and what is being written does not.
    fs::create_dir_all(dir.path().join("sources")).unwrap();
    write_atomic(dir.path().join("sources/sha256-1"), &[7; 64 << 10]).unwrap();
    let unfinished = Scratch::file(dir.path().join("sources")).unwrap();
    fs::write(unfinished.path(), vec![7; 1 << 20]).unwrap();
    for (path, seconds) in paths.iter().zip([300, 400, 200]) {
        age(path, seconds);
    }
    age(&dir.path().join("sources/sha256-1"), 350);

    let cache = StepCache::new(dir.path(), "demo", 200 << 10, &said);
    let used = insert(&cache, "host", 4, 64 << 10);
    cache.shrink();
    let left: Vec<bool> = paths.iter().map(|path| path.exists()).collect();
    assert_eq!(left, [true, false, true]);
    assert!(used.exists() && !dir.path().join("sources/sha256-1").exists());
    let said = said.0.into_inner().unwrap();
    assert_eq!(said.len(), 2, "{said:?}");
    let first = "cache: removed trees/guest2-0202020202020202.tar, 64 KiB, last used ";
    assert!(
        said[0].starts_with(first) && said[0].ends_with(": the limit is 200 KiB (--cache-max)"),
        "{said:?}"
    );
    assert!(said[1].starts_with("cache: removed sources/sha256-1, 64 KiB, last used "), "{said:?}");
}

#[test]
fn a_result_in_use_is_not_removed_however_small_the_limit() {
    let (dir, said) = (room(), Said::default());
    let other = StepCache::new(dir.path(), "lab", DEFAULT_LIMIT, &said);
    let used_by_other = insert(&other, "host", 1, 64 << 10);
    let cache = StepCache::new(dir.path(), "demo", 0, &said);
    let own = insert(&cache, "host", 2, 64 << 10);
    [&used_by_other, &own].iter().for_each(|path| age(path, 1000));
    cache.shrink();
    assert!(used_by_other.exists() && own.exists());
    assert_eq!(
        *said.0.lock().unwrap(),
        ["cache: 128 KiB are in use by running builds; the limit is 0 B (--cache-max)"]
    );

    // Nor by the newest results of another build of the recipe.
    [3, 4].iter().for_each(|number| build(dir.path(), "lab", *number));
    assert!(used_by_other.exists());
    drop((other, cache));
    StepCache::new(dir.path(), "demo", 0, &Silent).shrink();
    assert_eq!(there(dir.path()), Vec::<String>::new());
}

#[test]
fn a_damaged_result_is_not_used_and_is_replaced() {
    let dir = room();
    let cache = StepCache::new(dir.path(), "demo", DEFAULT_LIMIT, &Silent);
    let path = dir.path().join(file_name(MINIROOTS, "host", key(1)));
    assert_eq!(cache.get(MINIROOTS, "host", key(1)).unwrap(), None);
    cache.put(MINIROOTS, "host", key(1), b"result").unwrap();
    assert_eq!(cache.get(MINIROOTS, "host", key(1)).unwrap().unwrap(), b"result");
    fs::write(&path, b"torn").unwrap();
    assert_eq!(cache.get(MINIROOTS, "host", key(1)).unwrap(), None);
    cache.put(MINIROOTS, "host", key(1), b"result").unwrap();
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    assert_eq!(cache.get(MINIROOTS, "host", key(1)).unwrap(), None);
}
