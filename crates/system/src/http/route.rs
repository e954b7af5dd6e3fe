//! Which way a request goes, and where a redirect may lead.

use std::env;

use ureq::http::Uri;

/// The way to a host.
#[derive(Debug)]
pub(super) enum Route {
    Direct,
    /// Plain HTTP, the whole address sent to the proxy.
    Forward,
    /// HTTPS through a CONNECT tunnel.
    Tunnel(ureq::Proxy),
}

/// The proxies to use.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    http: Option<Uri>,
    https: Option<ureq::Proxy>,
    /// Hosts that are reached directly: in lower case, without the dot before a domain; `*` for all.
    direct: Vec<String>,
}

/// A proxy that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: `{text}` is not a proxy; write http://host:port{hint}")]
pub struct BadProxy {
    place: String,
    text: String,
    hint: &'static str,
}

impl Proxies {
    /// No proxy at all.
    pub fn none() -> Self {
        Proxies::default()
    }

    /// One proxy for all mirrors, whatever the environment says; `place` is for the message.
    ///
    /// # Errors
    /// [`BadProxy`].
    pub fn only(proxy: &str, place: &str) -> Result<Self, BadProxy> {
        let (http, https) = parse(proxy, place)?;
        Ok(Proxies { http: Some(http), https: Some(https), direct: Vec::new() })
    }

    /// From `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy`, as curl reads them: upper case counts too,
    /// apart from `HTTP_PROXY`, which a web server's client can set.
    ///
    /// # Errors
    /// [`BadProxy`].
    pub fn from_env() -> Result<Self, BadProxy> {
        Self::from_vars(|name| env::var(name).ok())
    }

    fn from_vars(var: impl Fn(&str) -> Option<String>) -> Result<Self, BadProxy> {
        let first = |names: [&'static str; 4]| {
            let set =
                |name: &'static str| var(name).filter(|value| !value.is_empty()).map(|value| (name, value));
            names.into_iter().filter(|name| !name.is_empty()).find_map(set)
        };
        let both = |names| first(names).map(|(name, value)| parse(&value, name)).transpose();
        let http = both(["http_proxy", "all_proxy", "ALL_PROXY", ""])?.map(|(http, _)| http);
        let https = both(["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"])?.map(|(_, https)| https);
        let direct = first(["no_proxy", "NO_PROXY", "", ""]).map(|(_, value)| value).unwrap_or_default();
        let direct = direct.split([',', ' ']).map(|host| host.trim().trim_start_matches("*."));
        let direct = direct.map(|host| host.trim_start_matches('.').to_ascii_lowercase());
        Ok(Proxies { http, https, direct: direct.filter(|host| !host.is_empty()).collect() })
    }

    pub(super) fn for_http(&self) -> Option<&Uri> {
        self.http.as_ref()
    }

    pub(super) fn route(&self, url: &str) -> Route {
        let host = host_of(url).to_ascii_lowercase();
        let below = |domain: &String| {
            domain == "*"
                || host == *domain
                || host.strip_suffix(domain.as_str()).is_some_and(|rest| rest.ends_with('.'))
        };
        if self.direct.iter().any(below) {
            return Route::Direct;
        }
        match (&self.http, &self.https) {
            (_, Some(proxy)) if url.starts_with("https:") => Route::Tunnel(proxy.clone()),
            (Some(_), _) if url.starts_with("http:") => Route::Forward,
            _ => Route::Direct,
        }
    }
}

fn parse(text: &str, place: &str) -> Result<(Uri, ureq::Proxy), BadProxy> {
    // A password does not belong in a message.
    let shown = text.rsplit_once('@').map_or(text.to_owned(), |(_, host)| format!("…@{host}"));
    let bad = |hint| BadProxy { place: place.into(), text: shown.clone(), hint };
    let url = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    if url.contains('@') {
        return Err(bad("; a user name and a password are not supported"));
    }
    if !url.starts_with("http://") {
        return Err(bad("; other kinds of proxies are not supported"));
    }
    let uri: Uri = url.trim_end_matches('/').parse().map_err(|_| bad(""))?;
    if uri.host().is_none_or(str::is_empty) {
        return Err(bad(""));
    }
    let tunnel = ureq::Proxy::new(&url).map_err(|_| bad(""))?;
    Ok((uri, tunnel))
}

/// Scheme, host with port, and path of an address that is known to be one.
fn parts(url: &str) -> Option<(&str, &str, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    Some((scheme, authority, path))
}

fn host_of(url: &str) -> &str {
    let authority = parts(url).map(|(_, authority, _)| authority).unwrap_or_default();
    match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, _)) => host,
        None => authority.split(':').next().unwrap_or_default(),
    }
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

    #[test]
    fn proxies_come_from_the_environment_as_curl_reads_it() {
        let vars = [
            ("http_proxy", "proxy.example:3128"),
            ("HTTPS_PROXY", "http://tls.example:3129/"),
            ("HTTP_PROXY", "http://evil.example/"),
            ("no_proxy", "localhost, .local.example,10.0.2.2"),
        ];
        let var =
            |name: &str| vars.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        let proxies = Proxies::from_vars(var).unwrap();
        assert_eq!(proxies.for_http().unwrap().to_string(), "http://proxy.example:3128/");
        for (url, way) in [
            ("http://mirror.example/x", "Forward"),
            ("https://mirror.example/x", "Tunnel"),
            ("http://localhost:8080/x", "Direct"),
            ("http://10.0.2.2:8080/x", "Direct"),
            ("http://a.LOCAL.example/x", "Direct"),
            ("http://notlocal.example/x", "Forward"),
        ] {
            assert!(format!("{:?}", proxies.route(url)).starts_with(way), "{url}");
        }
        let all = Proxies::from_vars(|name| (name == "no_proxy").then(|| "*".into())).unwrap();
        assert!(matches!(all.route("http://mirror.example/"), Route::Direct));
    }

    #[test]
    fn a_proxy_that_can_not_be_used_is_named_with_its_place() {
        for (text, said) in [
            (
                "socks5://p.example:1080",
                "--proxy: `socks5://p.example:1080` is not a proxy; write http://host:port; other kinds of \
                 proxies are not supported",
            ),
            (
                "http://me:secret@p.example",
                "--proxy: `…@p.example` is not a proxy; write http://host:port; a user name and a password are \
                 not supported",
            ),
            ("http://", "--proxy: `http://` is not a proxy; write http://host:port"),
        ] {
            assert_eq!(Proxies::only(text, "--proxy").unwrap_err().to_string(), said);
        }
    }
}
