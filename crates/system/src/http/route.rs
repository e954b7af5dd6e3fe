//! Where a redirect may lead.

/// Scheme, host with port, and path of an address that is known to be one.
fn parts(url: &str) -> Option<(&str, &str, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    Some((scheme, authority, path))
}

/// Where redirects may lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedirectScope {
    /// To any host: for whoever downloads what a person named.
    AnyHost,
    /// To the host that was asked, and to those that are known as mirrors. A mirror that nobody trusts must not have
    /// clients ask hosts of the network that they are in.
    KnownHosts,
}

/// The host of an address, without its port; `None` when it also has a user name, or is no address.
pub(super) fn host(url: &str) -> Option<String> {
    let (_, authority, _) = parts(url)?;
    if authority.contains('@') {
        return None;
    }
    let end = match authority.strip_prefix('[') {
        Some(ip) => ip.find(']')? + 2,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    Some(authority[..end].to_ascii_lowercase()).filter(|host| !host.is_empty())
}

/// The address that a redirect from `url` leads to, or why it is not followed.
pub(super) fn redirect_target(url: &str, location: &str) -> Result<String, String> {
    let shown = formats::names::clip(location);
    let (scheme, authority, path) = parts(url).ok_or("from nowhere")?;
    let location = location.split('#').next().unwrap_or_default();
    let target = if location.contains("://") && !location.starts_with('/') {
        location.to_owned()
    } else if let Some(rest) = location.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else if location.is_empty() || location.split('/').next().is_some_and(|first| first.contains(':')) {
        return Err(format!("to `{shown}`"));
    } else {
        let path = path.split('?').next().unwrap_or_default();
        let dir = path.rfind('/').map_or("/", |slash| &path[..=slash]);
        format!("{scheme}://{authority}{dir}{location}")
    };
    let secure = target.starts_with("https://");
    if !secure && !target.starts_with("http://") {
        return Err(format!("to `{shown}`: only http and https are followed"));
    }
    if scheme == "https" && !secure {
        return Err(format!("from https to `{shown}`"));
    }
    if !target.bytes().all(|byte| byte.is_ascii_graphic()) || target.len() > 2048 {
        return Err(format!("to `{shown}`: no address"));
    }
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_known_by_its_name_alone() {
        for (url, expected) in [
            ("http://Mirror.example:8080/a", Some("mirror.example")),
            ("https://mirror.example", Some("mirror.example")),
            ("http://[2001:db8::1]:80/", Some("[2001:db8::1]")),
            ("http://mirror.example@10.0.0.1/", None),
            ("http://[::1", None),
            ("http:///x", None),
            ("/x", None),
        ] {
            assert_eq!(host(url).as_deref(), expected, "{url}");
        }
    }

    #[test]
    fn a_redirect_stays_with_http_and_never_becomes_weaker() {
        let from = "https://mirror.example/a/latest";
        for (location, target) in [
            ("https://cdn.example/x", Ok("https://cdn.example/x")),
            ("//cdn.example/x", Ok("https://cdn.example/x")),
            ("/b/latest", Ok("https://mirror.example/b/latest")),
            ("old", Ok("https://mirror.example/a/old")),
            ("http://mirror.example/a/latest", Err("from https to `http://mirror.example/a/latest`")),
            ("file:///etc/passwd", Err("to `file:///etc/passwd`: only http and https are followed")),
            ("data:text/plain,x", Err("to `data:text/plain,x`")),
            ("", Err("to ``")),
            ("/a b", Err("to `/a b`: no address")),
        ] {
            let found = redirect_target(from, location);
            assert_eq!(found.as_deref().map_err(String::as_str), target, "{location}");
        }
        let up = redirect_target("http://mirror.example/x", "https://mirror.example/x");
        assert_eq!(up.as_deref(), Ok("https://mirror.example/x"));
    }
}
