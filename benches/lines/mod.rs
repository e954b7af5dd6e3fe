//! Lines that a bench's command line names.

/// Milliseconds of a round trip and megabits a second of each `DELAY,BANDWIDTH`; `default` if there is none.
pub fn lines<'a>(words: impl IntoIterator<Item = &'a String>, default: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let line = |word: &String| {
        let (delay, bandwidth) = word.split_once(',').expect("DELAY,BANDWIDTH");
        (delay.parse().unwrap(), bandwidth.parse().unwrap())
    };
    let lines: Vec<_> = words.into_iter().map(line).collect();
    if lines.is_empty() { default.to_vec() } else { lines }
}
