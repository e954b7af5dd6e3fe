//! Where to publish, as people write it.

use std::fmt;
use std::path::PathBuf;

use crate::yaml::shape::{HasSchema, Scalar, Wrong};

/// A place to publish to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A directory of this machine.
    Directory(PathBuf),
    /// What `rsync` takes as destination: `rsync://host/module/path/`, or `user@host:path/` over ssh.
    Rsync(String),
    /// PUT below this URL, which ends with `/`.
    Http(String),
    /// An S3-compatible object store.
    S3(S3),
}

/// A bucket, and where in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3 {
    pub bucket: String,
    /// What keys begin with: empty, or ends with `/`.
    pub prefix: String,
    /// The service's URL; `None`: Amazon's of the region.
    pub endpoint: Option<String>,
    pub region: String,
    /// Whether the bucket is part of the host's name, or of the path.
    pub in_host: bool,
}

/// Text that is no target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a publish target: {why}")]
pub struct BadTarget {
    text: String,
    why: &'static str,
}

/// What there is, for messages.
const KINDS: &str = "a directory that begins with / or ./, user@host:path (rsync over ssh), rsync://host/module/path, \
                     http(s)://host/path (WebDAV), or s3://bucket/prefix?endpoint=URL&region=NAME&style=path|host";

/// What the user can write in place of a target that is a single word.
const DOTTED: &str = "for a directory here write ./ before it; there are also user@host:path (rsync over ssh), \
                      rsync://host/module/path, http(s)://host/path (WebDAV) and s3://bucket/prefix";

impl std::str::FromStr for Target {
    type Err = BadTarget;

    fn from_str(text: &str) -> Result<Self, BadTarget> {
        let bad = |why| BadTarget { text: text.into(), why };
        if text.is_empty() || text.contains(char::is_control) || text.starts_with('-') {
            return Err(bad(KINDS));
        }
        let slashed = |text: &str| if text.ends_with('/') { text.to_owned() } else { format!("{text}/") };
        if let Some(rest) = text.strip_prefix("s3://") {
            return s3(rest).map(Target::S3).map_err(bad);
        }
        if text.starts_with("http://") || text.starts_with("https://") {
            let rest = text.split_once("://").map_or("", |(_, rest)| rest);
            if rest.starts_with('/') || rest.is_empty() {
                return Err(bad("write a host after ://"));
            }
            if rest.contains(['@', '?', '#', ' ']) {
                return Err(bad(
                    "user and password belong into IMGFACTORY_HTTP_USER and IMGFACTORY_HTTP_PASSWORD",
                ));
            }
            return Ok(Target::Http(slashed(text)));
        }
        if let Some(rest) = text.strip_prefix("rsync://") {
            let module =
                rest.split_once('/').is_some_and(|(host, path)| !host.is_empty() && !path.is_empty());
            return if module {
                Ok(Target::Rsync(slashed(text)))
            } else {
                Err(bad("a host and a module belong after ://"))
            };
        }
        if text.starts_with(['/', '.']) {
            return Ok(Target::Directory(text.into()));
        }
        match text.split_once(':') {
            Some((host, path)) if !host.is_empty() && !host.contains('/') && !path.starts_with("//") => {
                if path.is_empty() {
                    return Err(bad("write a path after the colon"));
                }
                Ok(Target::Rsync(slashed(text)))
            }
            None => Err(bad(DOTTED)),
            _ => Err(bad(KINDS)),
        }
    }
}

fn s3(rest: &str) -> Result<S3, &'static str> {
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    if bucket.is_empty() || !bucket.bytes().all(plain) {
        return Err("write a bucket after s3://");
    }
    let prefix = prefix.trim_end_matches('/');
    let good = |part: &str| !matches!(part, "" | "." | "..") && part.bytes().all(plain);
    if !prefix.is_empty() && !prefix.split('/').all(good) {
        return Err("a prefix is words of letters, digits, `.`, `-` and `_`, parted by /");
    }
    let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
    let mut found =
        S3 { bucket: bucket.into(), prefix, endpoint: None, region: "us-east-1".into(), in_host: true };
    let mut style = None;
    for option in query.split('&').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("endpoint", url)) if url.starts_with("http://") || url.starts_with("https://") => {
                found.endpoint = Some(url.trim_end_matches('/').into());
            }
            Some(("region", region)) if !region.is_empty() && region.bytes().all(plain) => {
                found.region = region.into();
            }
            Some(("style", "path")) => style = Some(false),
            Some(("style", "host")) => style = Some(true),
            _ => return Err("options are endpoint=URL, region=NAME and style=path|host, parted by &"),
        }
    }
    // What is not Amazon's mostly has no wildcard names.
    found.in_host = style.unwrap_or(found.endpoint.is_none());
    Ok(found)
}

impl Target {
    /// As a person may write it again: with all options, unlike what is shown.
    pub fn written(&self) -> String {
        match self {
            Target::S3(S3 { endpoint, region, in_host, .. }) => {
                let style = if *in_host { "host" } else { "path" };
                let endpoint = endpoint.iter().map(|url| format!("&endpoint={url}")).collect::<String>();
                format!("{self}?region={region}&style={style}{endpoint}")
            }
            Target::Directory(path)
                if path.is_relative() && !path.starts_with(".") && !path.starts_with("..") =>
            {
                format!("./{self}")
            }
            _ => self.to_string(),
        }
    }
}

impl Scalar for Target {
    const KIND: &str = "a place to publish to";

    fn read(text: &str) -> Result<Self, Wrong> {
        text.parse()
            .map_err(|BadTarget { text, why }| Wrong::new(format!("`{text}` is not a publish target"), why))
    }
}

impl HasSchema for Target {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Target".into()
    }

    fn schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "description": "a place to publish to" })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Directory(path) => path.display().fmt(f),
            Target::Rsync(text) | Target::Http(text) => f.write_str(text),
            Target::S3(S3 { bucket, prefix, .. }) => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_target_is_told_by_its_look() {
        let read = |text: &str| text.parse::<Target>().unwrap();
        assert_eq!(read("/srv/www"), Target::Directory("/srv/www".into()));
        assert_eq!(read("./mirror"), Target::Directory("./mirror".into()));
        assert_eq!(read("me@host.example:/srv/www"), Target::Rsync("me@host.example:/srv/www/".into()));
        assert_eq!(read("rsync://host/mod/x"), Target::Rsync("rsync://host/mod/x/".into()));
        assert_eq!(read("https://host:81/x"), Target::Http("https://host:81/x/".into()));
        let s3 = |prefix: &str, endpoint: Option<&str>, region: &str, in_host| {
            let (bucket, prefix, endpoint) = ("b".into(), prefix.into(), endpoint.map(Into::into));
            Target::S3(S3 { bucket, prefix, endpoint, region: region.into(), in_host })
        };
        assert_eq!(read("s3://b"), s3("", None, "us-east-1", true));
        assert_eq!(
            read("s3://b/x/y/?endpoint=http://127.0.0.1:9/&region=eu"),
            s3("x/y/", Some("http://127.0.0.1:9"), "eu", false)
        );
        assert_eq!(read("s3://b?style=path"), s3("", None, "us-east-1", false));
    }

    #[test]
    fn what_is_no_target_is_told_what_would_be_one() {
        for (text, why) in [
            ("mirror", DOTTED),
            ("", KINDS),
            ("--delete", KINDS),
            ("ftp://host/x", KINDS),
            ("host:", "write a path after the colon"),
            ("rsync://host", "a host and a module belong after ://"),
            ("http:///x", "write a host after ://"),
            (
                "https://me:pw@host/",
                "user and password belong into IMGFACTORY_HTTP_USER and IMGFACTORY_HTTP_PASSWORD",
            ),
            ("s3:///x", "write a bucket after s3://"),
            ("s3://b/../c", "a prefix is words of letters, digits, `.`, `-` and `_`, parted by /"),
            ("s3://b?zone=x", "options are endpoint=URL, region=NAME and style=path|host, parted by &"),
        ] {
            let error = text.parse::<Target>().unwrap_err();
            assert_eq!(error.to_string(), format!("`{text}` is not a publish target: {why}"));
        }
    }
}
