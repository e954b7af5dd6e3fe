//! Requests of publishers: small bodies, patience, and another try where the answer says that one is worth it.

use std::thread;
use std::time::{Duration, Instant};

use crate::publish::RemoteError;
use formats::fetch_fault::FetchFault;
use system::http::{Exchange, Http, HttpOptions, Reply, Timeouts};

/// Attempts for one request, when the answer does not say when to come again.
const ATTEMPTS: u32 = 6;
/// Before the second attempt; doubled each time.
const PAUSE: Duration = Duration::from_millis(250);
/// A server that says when to come again is asked for so long, however often that is.
const BUSY: Duration = Duration::from_secs(600);
/// The longest pause that a server may ask for.
const LONGEST: Duration = Duration::from_secs(120);
/// Publishers write much at a time, and wait for servers that write it to slow disks.
const TIMEOUTS: Timeouts = Timeouts {
    name: Duration::from_secs(10),
    connect: Duration::from_secs(10),
    first_byte: Duration::from_secs(120),
    stall: Duration::from_secs(60),
};

/// A client whose connections are kept.
#[derive(Debug)]
pub struct Wire {
    http: Http,
}

/// What comes after an attempt.
enum Next {
    /// It is as it is.
    Done,
    /// The same may be different in a moment.
    Again,
    /// The server says when.
    After(Duration),
}

impl Wire {
    /// A client that keeps so many connections; `name` is that of the target.
    ///
    /// # Errors
    /// [`RemoteError`] when a proxy or the authorities can't be used.
    pub fn open(web: &HttpOptions, jobs: usize, name: &str) -> Result<Self, RemoteError> {
        let http = Http::open(web, jobs, TIMEOUTS).map_err(|error| RemoteError::new(name, error))?;
        Ok(Wire { http })
    }

    /// Asks until there is an answer that another try will not change.
    ///
    /// # Errors
    /// [`RemoteError`] when there was none.
    pub fn ask(&self, ask: &Exchange<'_>, shown: &str) -> Result<Reply, RemoteError> {
        let (mut pause, mut attempt) = (PAUSE, 1);
        let end = Instant::now() + BUSY;
        loop {
            let result = self.http.exchange(ask);
            let wait = match next(&result) {
                Next::After(time) if Instant::now() + time <= end => time,
                Next::Again if attempt < ATTEMPTS => {
                    attempt += 1;
                    pause *= 2;
                    pause / 2
                }
                _ => {
                    return result
                        .map_err(|fault| RemoteError::new(format!("{shown}: {} failed", ask.method), fault));
                }
            };
            let why = match result {
                Ok(said) => format!("HTTP {}", said.status),
                Err(fault) => fault.to_string(),
            };
            log::info!("{shown}: {why}; trying again");
            thread::sleep(wait);
        }
    }
}

fn next(result: &Result<Reply, FetchFault>) -> Next {
    match result {
        Ok(Reply { status: 429 | 503, retry_after: Some(time), .. }) => {
            Next::After((*time).clamp(PAUSE, LONGEST))
        }
        // 409: S3 calls two that write the same name at once a conflict; 423: a WebDAV lock that its holder gives back.
        Ok(Reply { status: 408 | 423 | 425 | 429 | 500 | 502 | 503 | 504, .. }) => Next::Again,
        Ok(Reply { status: 409, body, .. }) if contains(body, b"OperationAborted") => Next::Again,
        Ok(_) => Next::Done,
        // What is wrong with the address, with TLS or with a proxy stays wrong.
        Err(FetchFault::Protocol(_) | FetchFault::Tls(_) | FetchFault::Proxy(_)) => Next::Done,
        Err(_) => Next::Again,
    }
}

fn contains(body: &[u8], word: &[u8]) -> bool {
    body.windows(word.len()).any(|part| part == word)
}

/// What to say of an answer that should not have come.
pub fn unexpected(shown: &str, doing: &str, said: &Reply) -> RemoteError {
    let hint = match said.status {
        301 | 302 | 303 | 307 | 308 => {
            "; requests of a publisher follow no redirect: give the address that it leads to"
        }
        401 | 403 if contains(&said.body, b"RequestTimeTooSkewed") => "; set the clock of this computer",
        401 | 403 => "; check IMGFACTORY_HTTP_USER and _PASSWORD (or _TOKEN), or for S3 the AWS_ keys",
        405 | 501 => "; allow PUT and DELETE there on the server",
        407 => "; the proxy wants a user and a password: write USER:PASSWORD@ before its host",
        409 => "; create the directory",
        413 => "; the server's limit for uploads is too low (nginx: client_max_body_size)",
        423 => "; another program has locked the file (WebDAV)",
        507 => "; the server's disk is full",
        _ => "",
    };
    let moved = matches!(said.status, 301..=308);
    let to = said.location.iter().filter(|_| moved).map(|to| format!(" to {}", formats::names::clip(to)));
    let to = to.collect::<String>();
    let text = String::from_utf8_lossy(said.body.get(..said.body.len().min(300)).unwrap_or_default());
    // A page for browsers says no more than its status; S3's XML does.
    let page = text.to_ascii_lowercase().contains("<html");
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let text = if text.trim().is_empty() || page { String::new() } else { format!(" ({})", text.trim()) };
    RemoteError::new(format!("{shown}: can't {doing}"), format!("HTTP {}{to}{hint}{text}", said.status))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, retry_after: Option<u64>, body: &str) -> Result<Reply, FetchFault> {
        Ok(Reply {
            status,
            len: None,
            date: None,
            modified: None,
            retry_after: retry_after.map(Duration::from_secs),
            location: Some("https://eu.example/x".into()),
            body: body.into(),
        })
    }

    #[test]
    fn whether_to_ask_again_is_told_by_the_answer() {
        let seconds = |result| match next(&result) {
            Next::Done => "done".to_owned(),
            Next::Again => "again".to_owned(),
            Next::After(time) => format!("after {} s", time.as_secs()),
        };
        for (result, expected) in [
            (reply(200, None, ""), "done"),
            (reply(429, Some(7), ""), "after 7 s"),
            (reply(503, Some(86_400), ""), "after 120 s"),
            (reply(503, None, "<Code>SlowDown</Code>"), "again"),
            (reply(423, None, ""), "again"),
            (reply(409, None, "<Code>OperationAborted</Code>"), "again"),
            (reply(409, None, ""), "done"),
            (reply(403, Some(7), ""), "done"),
            (Err(FetchFault::Broken("x".into())), "again"),
            (Err(FetchFault::Unreachable("x".into())), "again"),
            (Err(FetchFault::Tls("x".into())), "done"),
            (Err(FetchFault::Proxy("x".into())), "done"),
        ] {
            let shown = format!("{result:?}");
            assert_eq!(seconds(result), expected, "{shown}");
        }
    }

    #[test]
    fn an_answer_that_should_not_have_come_is_told_with_a_remedy() {
        let told = |result: Result<Reply, FetchFault>| {
            formats::report::report(&unexpected("s3://b/latest", "write", &result.unwrap()))
        };
        let moved = told(reply(307, None, ""));
        assert!(
            moved.contains("HTTP 307 to https://eu.example/x; requests of a publisher follow no redirect"),
            "{moved}"
        );
        let skewed = told(reply(403, None, "<Code>RequestTimeTooSkewed</Code>"));
        assert!(skewed.contains("; set the clock of this computer"), "{skewed}");
    }
}
