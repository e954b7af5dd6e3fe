//! Passwords in what programs print. apt and curl name the addresses that they fetch, and so do our messages; users put
//! passwords there.

/// What stands for a password.
const HIDDEN: &[u8] = b"***";

/// The text without user names and passwords in its addresses: `http://***@mirror.example/`.
pub fn hide_passwords(text: &[u8]) -> Vec<u8> {
    let mut shown = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.windows(3).position(|three| three == b"://") {
        let (before, after) = rest.split_at(at + 3);
        shown.extend_from_slice(before);
        let is_end = |byte: &u8| {
            byte.is_ascii_whitespace() || matches!(byte, b'/' | b'?' | b'#' | b'"' | b'\'' | b'<' | b'>')
        };
        let end = after.iter().position(is_end).unwrap_or(after.len());
        rest = after;
        if let Some(user) = after[..end].iter().rposition(|byte| *byte == b'@') {
            shown.extend_from_slice(HIDDEN);
            rest = &after[user..];
        }
    }
    shown.extend_from_slice(rest);
    shown
}

/// The same of a message.
pub fn without_passwords(message: &str) -> String {
    // What is cut begins and ends at ASCII, so it is UTF-8 still.
    String::from_utf8_lossy(&hide_passwords(message.as_bytes())).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_before_the_host_is_hidden_and_all_else_stays() {
        for (text, shown) in [
            (
                "Get:1 http://me:secret@mirror.example/debian trixie",
                "Get:1 http://***@mirror.example/debian trixie",
            ),
            ("'http://me:a@b@mirror.example'", "'http://***@mirror.example'"),
            ("http://a:b@x http://c:d@y/e@f", "http://***@x http://***@y/e@f"),
            ("http://mirror.example/a@b user@host:/path", "http://mirror.example/a@b user@host:/path"),
            ("tor+https://u:p@h:8080", "tor+https://***@h:8080"),
            ("://", "://"),
            ("\u{fffd} no address", "\u{fffd} no address"),
        ] {
            assert_eq!(String::from_utf8_lossy(&hide_passwords(text.as_bytes())), shown);
        }
    }
}
