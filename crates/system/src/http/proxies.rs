//! Which proxy stands on the way to a host, by curl's rules.

use std::env;

use ureq::http::Uri;

use super::basic;
use super::no_proxy::NoProxy;

/// The port of a proxy that names none, as curl has it.
const PORT: u16 = 1080;
/// The port of a proxy that is reached by TLS and names none.
const TLS_PORT: u16 = 443;

/// The way to a host.
#[derive(Debug)]
pub(super) enum Route<'a> {
    Direct,
    /// Plain HTTP, the whole address sent to the proxy.
    Forward(&'a Upstream),
    /// HTTPS through a CONNECT tunnel.
    Tunnel(&'a Upstream),
}

impl Route<'_> {
    /// The proxy, for messages.
    pub(super) fn proxy(&self) -> Option<&str> {
        match self {
            Route::Direct => None,
            Route::Forward(upstream) | Route::Tunnel(upstream) => Some(&upstream.shown),
        }
    }
}

/// A proxy, as requests need it and as messages name it.
#[derive(Clone, Debug)]
pub(super) struct Upstream {
    /// Where it is, without user and password.
    uri: Uri,
    /// For ureq, with user and password.
    pub(super) tunnel: ureq::Proxy,
    /// `Proxy-Authorization` of plain HTTP.
    pub(super) authorization: Option<String>,
    /// For messages, without user and password.
    shown: String,
}

/// The proxies to use.
#[derive(Clone, Debug, Default)]
pub(super) struct Proxies {
    http: Option<Upstream>,
    https: Option<Upstream>,
    direct: NoProxy,
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
    /// One proxy for all hosts, whatever the environment says; `place` is for the message.
    ///
    /// # Errors
    /// [`BadProxy`].
    pub(super) fn only(proxy: &str, place: &str) -> Result<Self, BadProxy> {
        let upstream = parse(proxy, place)?;
        Ok(Proxies { http: Some(upstream.clone()), https: Some(upstream), direct: NoProxy::default() })
    }

    /// From `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy`, as curl reads them: upper case counts too,
    /// apart from `HTTP_PROXY`, which a web server's client can set; lower case comes first; an empty variable is none.
    ///
    /// # Errors
    /// [`BadProxy`].
    pub(super) fn from_env() -> Result<Self, BadProxy> {
        Self::from_vars(|name| env::var(name).ok())
    }

    fn from_vars(var: impl Fn(&str) -> Option<String>) -> Result<Self, BadProxy> {
        let first = |names: &[&'static str]| {
            let set =
                |name: &&'static str| var(name).filter(|value| !value.is_empty()).map(|value| (*name, value));
            names.iter().find_map(set)
        };
        let proxy =
            |names: &[&'static str]| first(names).map(|(name, value)| parse(&value, name)).transpose();
        let http = proxy(&["http_proxy", "all_proxy", "ALL_PROXY"])?;
        let https = proxy(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"])?;
        let direct = first(&["no_proxy", "NO_PROXY"]).map(|(_, value)| value).unwrap_or_default();
        Ok(Proxies { http, https, direct: NoProxy::parse(&direct) })
    }

    pub(super) fn for_http(&self) -> Option<&Uri> {
        self.http.as_ref().map(|upstream| &upstream.uri)
    }

    pub(super) fn route(&self, url: &str) -> Route<'_> {
        let Ok(uri) = url.parse::<Uri>() else { return Route::Direct };
        let secure = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        if self.direct.covers(uri.host().unwrap_or_default(), port) {
            return Route::Direct;
        }
        match (&self.http, &self.https) {
            (_, Some(proxy)) if secure => Route::Tunnel(proxy),
            (Some(proxy), _) if !secure => Route::Forward(proxy),
            _ => Route::Direct,
        }
    }
}

fn parse(text: &str, place: &str) -> Result<Upstream, BadProxy> {
    let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
    let rest = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (user, host) = match rest.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, rest),
    };
    // A password does not belong in a message.
    let shown = text.rsplit_once('@').map_or(text.to_owned(), |(_, host)| format!("…@{host}"));
    let bad = |hint| BadProxy { place: place.into(), text: shown.clone(), hint };
    let scheme = scheme.to_ascii_lowercase();
    let port = match scheme.as_str() {
        "http" => PORT,
        "https" => TLS_PORT,
        _ => return Err(bad("; other kinds of proxies are not supported")),
    };
    let uri = |text: &str| text.parse::<Uri>().map_err(|_| bad(""));
    let mut plain = uri(&format!("{scheme}://{host}"))?;
    if plain.host().is_none_or(str::is_empty) {
        return Err(bad(""));
    }
    if plain.port_u16().is_none() {
        plain = uri(&format!("{scheme}://{}:{port}", host.trim_end_matches(':')))?;
    }
    let authority = plain.authority().map(ToString::to_string).unwrap_or_default();
    let user_at = user.map(|user| format!("{user}@")).unwrap_or_default();
    let tunnel = ureq::Proxy::new(&format!("{scheme}://{user_at}{authority}")).map_err(|_| bad(""))?;
    let authorization = user.map(|_| {
        let (user, password) = (tunnel.username(), tunnel.password());
        basic(user.unwrap_or_default(), password.unwrap_or_default())
    });
    Ok(Upstream { shown: format!("{scheme}://{authority}"), uri: plain, tunnel, authorization })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(vars: &[(&str, &str)]) -> Proxies {
        let var =
            |name: &str| vars.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Proxies::from_vars(var).unwrap()
    }

    #[test]
    fn proxies_come_from_the_environment_as_curl_reads_it() {
        let some = proxies(&[
            ("http_proxy", "proxy.example:3128"),
            ("HTTPS_PROXY", "http://tls.example:3129/"),
            ("HTTP_PROXY", "http://evil.example/"),
            ("no_proxy", "localhost, .local.example,10.0.2.2"),
        ]);
        assert_eq!(some.for_http().unwrap().to_string(), "http://proxy.example:3128/");
        for (url, way) in [
            ("http://mirror.example/x", Some("http://proxy.example:3128")),
            ("https://mirror.example/x", Some("http://tls.example:3129")),
            ("http://localhost:8080/x", None),
            ("http://10.0.2.2:8080/x", None),
            ("http://a.LOCAL.example/x", None),
            ("http://notlocal.example/x", Some("http://proxy.example:3128")),
        ] {
            assert_eq!(some.route(url).proxy(), way, "{url}");
        }
        let way = |vars: &[(&str, &str)], url| proxies(vars).route(url).proxy().map(str::to_owned);
        let (plain, secure) = ("http://mirror.example/", "https://mirror.example/");
        for (vars, url, expected) in [
            (&[("no_proxy", "*"), ("all_proxy", "p")][..], plain, None),
            (&[("ALL_PROXY", "p")], plain, Some("http://p:1080")),
            (&[("all_proxy", "p:1"), ("ALL_PROXY", "q")], secure, Some("http://p:1")),
            (&[("https_proxy", "p:1"), ("HTTPS_PROXY", "q")], secure, Some("http://p:1")),
            (&[("https_proxy", ""), ("ALL_PROXY", "q:2")], secure, Some("http://q:2")),
            (&[("HTTP_PROXY", "p")], plain, None),
            (&[("http_proxy", "p")], secure, None),
            (&[("https_proxy", "HTTPS://p/")], secure, Some("https://p:443")),
            (&[("https_proxy", "http://[::1]:3128")], secure, Some("http://[::1]:3128")),
            (&[("https_proxy", "p"), ("NO_PROXY", "mirror.example:443")], secure, None),
            (&[("https_proxy", "p"), ("NO_PROXY", "mirror.example:444")], secure, Some("http://p:1080")),
            (&[("https_proxy", "p"), ("no_proxy", "x"), ("NO_PROXY", "*")], secure, Some("http://p:1080")),
        ] {
            assert_eq!(way(vars, url).as_deref(), expected, "{vars:?} {url}");
        }
    }

    #[test]
    fn a_proxy_may_want_a_user_and_a_password() {
        let some = proxies(&[("http_proxy", "http://me:pa%40ss@p.example:3128")]);
        let Route::Forward(upstream) = some.route("http://mirror.example/") else { panic!("no proxy") };
        // Judge: printf 'me:pa@ss' | base64
        assert_eq!(upstream.authorization.as_deref(), Some("Basic bWU6cGFAc3M="));
        assert_eq!(upstream.shown, "http://p.example:3128");
        assert_eq!(upstream.uri.to_string(), "http://p.example:3128/");
        assert_eq!(upstream.tunnel.password(), Some("pa@ss"));
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
                "socks5://me:secret@p.example",
                "--proxy: `…@p.example` is not a proxy; write http://host:port; other kinds of proxies are \
                 not supported",
            ),
            ("http://", "--proxy: `http://` is not a proxy; write http://host:port"),
        ] {
            assert_eq!(Proxies::only(text, "--proxy").unwrap_err().to_string(), said);
        }
    }
}
