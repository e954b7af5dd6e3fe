//! `no_proxy`: hosts that are reached directly. Read as curl does, and with the port that others allow there.

use std::net::IpAddr;

/// The hosts of `no_proxy`.
#[derive(Clone, Debug, Default)]
pub(super) struct NoProxy(Vec<Entry>);

#[derive(Clone, Debug)]
struct Entry {
    hosts: Hosts,
    /// Only for this port.
    port: Option<u16>,
}

#[derive(Clone, Debug)]
enum Hosts {
    /// `*`.
    All,
    /// A name and all below it: in lower case, without dots at its ends.
    Domain(String),
    /// Addresses that begin with these bits.
    Network { address: IpAddr, bits: u32 },
}

impl NoProxy {
    /// Entries are parted by commas or blanks. What makes no sense covers nothing.
    pub(super) fn parse(text: &str) -> Self {
        let words = text.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty());
        NoProxy(words.filter_map(entry).collect())
    }

    /// Whether a host, as a URL names it, is reached directly.
    pub(super) fn covers(&self, host: &str, port: u16) -> bool {
        let host = host.trim_matches(['[', ']']).trim_end_matches('.').to_ascii_lowercase();
        let address = host.parse::<IpAddr>().ok();
        self.0.iter().any(|entry| {
            entry.port.is_none_or(|only| only == port)
                && match &entry.hosts {
                    Hosts::All => true,
                    Hosts::Domain(domain) => {
                        address.is_none()
                            && host
                                .strip_suffix(domain.as_str())
                                .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
                    }
                    Hosts::Network { address: network, bits } => {
                        address.is_some_and(|address| begin_alike(address, *network, *bits))
                    }
                }
        })
    }
}

fn entry(word: &str) -> Option<Entry> {
    let (host, port) = match word.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        // An IPv6 address in brackets, perhaps with a port or a length after them.
        Some((host, rest)) => match rest.strip_prefix('/') {
            Some(bits) => return network(host, bits).map(|hosts| Entry { hosts, port: None }),
            None => (host, rest.strip_prefix(':')),
        },
        // More than one colon is an IPv6 address without brackets.
        None => match word.split_once(':') {
            Some((host, port)) if !port.contains(':') => (host, Some(port)),
            _ => (word, None),
        },
    };
    let port = port.map(str::parse).transpose().ok()?;
    let hosts = match host.split_once('/') {
        Some((address, bits)) => network(address, bits)?,
        None if host == "*" => Hosts::All,
        None => match host.parse() {
            Ok(address) => Hosts::Network { address, bits: 128 },
            Err(_) => {
                let domain = host.trim_start_matches("*.").trim_matches('.').to_ascii_lowercase();
                if domain.is_empty() {
                    return None;
                }
                Hosts::Domain(domain)
            }
        },
    };
    Some(Entry { hosts, port })
}

fn network(address: &str, bits: &str) -> Option<Hosts> {
    let address = address.parse().ok()?;
    let bits = bits.parse().ok()?;
    let most = if matches!(address, IpAddr::V4(_)) { 32 } else { 128 };
    (bits <= most).then_some(Hosts::Network { address, bits })
}

fn begin_alike(one: IpAddr, other: IpAddr, bits: u32) -> bool {
    let differing = match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => u128::from(one.to_bits() ^ other.to_bits()) << 96,
        (IpAddr::V6(one), IpAddr::V6(other)) => one.to_bits() ^ other.to_bits(),
        _ => return false,
    };
    differing == 0 || differing.leading_zeros() >= bits
}

#[cfg(test)]
mod tests {
    use super::NoProxy;

    #[test]
    fn hosts_are_covered_as_curl_reads_it() {
        for (list, host, port, covered) in [
            ("*", "mirror.example", 443, true),
            ("", "mirror.example", 443, false),
            ("mirror.example", "mirror.example", 443, true),
            ("mirror.example", "a.MIRROR.example.", 443, true),
            ("mirror.example.", "mirror.example", 443, true),
            (".mirror.example", "mirror.example", 443, true),
            (".mirror.example", "a.mirror.example", 443, true),
            ("*.mirror.example", "a.mirror.example", 443, true),
            ("mirror.example", "notmirror.example", 443, false),
            ("a b\tmirror.example", "mirror.example", 443, true),
            ("x,mirror.example,", "mirror.example", 443, true),
            ("mirror.example:8443", "mirror.example", 8443, true),
            ("mirror.example:8443", "mirror.example", 443, false),
            ("*:8443", "mirror.example", 443, false),
            ("10.0.0.0/8", "10.200.3.4", 80, true),
            ("10.0.0.0/8", "11.200.3.4", 80, false),
            ("192.168.1.128/25", "192.168.1.127", 80, false),
            ("192.168.1.128/25", "192.168.1.200", 80, true),
            ("10.1.2.3", "10.1.2.3", 80, true),
            ("10.1.2.3", "10.1.2.30", 80, false),
            ("10.1.2.3:81", "10.1.2.3", 80, false),
            ("2.3", "10.1.2.3", 80, false),
            ("0.0.0.0/0", "10.1.2.3", 80, true),
            ("10.0.0.0/33", "10.1.2.3", 80, false),
            ("10.0.0.0/8", "ten.example", 80, false),
            ("fd00::/8", "[fd12::1]", 80, true),
            ("fd00::/8", "[fe80::1]", 80, false),
            ("::1", "[::1]", 80, true),
            ("[::1]", "[::1]", 80, true),
            ("[::1]:81", "[::1]", 80, false),
            ("[fd00::]/8", "[fd12::1]", 80, true),
        ] {
            assert_eq!(NoProxy::parse(list).covers(host, port), covered, "{list}: {host}:{port}");
        }
    }
}
