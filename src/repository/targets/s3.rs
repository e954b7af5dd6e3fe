//! S3-compatible object stores. rusty-s3 signs URLs and reads lists; a PUT of an object is one step.

use std::time::Duration;

use rusty_s3::actions::ListObjectsV2;
use rusty_s3::{Bucket as Place3, Credentials, S3Action, UrlStyle};

use super::objects::{ObjectStore, Objects};
use super::wire::{Wire, unexpected};
use crate::publish::{Listed, RemoteError, RemotePath, S3};
use system::http::{Exchange, HttpOptions, Reply};

/// For how long a signed URL is good.
const SIGNED: Duration = Duration::from_secs(900);
/// Environment of credentials, as other tools have it.
const KEY: &str = "AWS_ACCESS_KEY_ID";
const SECRET: &str = "AWS_SECRET_ACCESS_KEY";
const SESSION: &str = "AWS_SESSION_TOKEN";
/// One page of a list: 1,000 objects.
const PAGE: u64 = 8 << 20;

/// A bucket, or a part of it.
pub struct Bucket {
    name: String,
    prefix: String,
    bucket: Place3,
    credentials: Credentials,
    wire: Wire,
}

impl Bucket {
    /// A bucket with the credentials of the environment.
    ///
    /// # Errors
    /// [`RemoteError`] without credentials, or when the endpoint is no URL.
    pub fn open(s3: &S3, jobs: usize, web: &HttpOptions) -> Result<Objects<Self>, RemoteError> {
        let name = format!("s3://{}/{}", s3.bucket, s3.prefix);
        let var = |key| std::env::var(key).ok().filter(|value: &String| !value.is_empty());
        let (Some(key), Some(secret)) = (var(KEY), var(SECRET)) else {
            return Err(RemoteError::new(name, format!("set {KEY} and {SECRET}")));
        };
        let credentials = match var(SESSION) {
            Some(token) => Credentials::new_with_token(key, secret, token),
            None => Credentials::new(key, secret),
        };
        let amazon = || format!("https://s3.{}.amazonaws.com", s3.region);
        let endpoint = s3.endpoint.clone().unwrap_or_else(amazon);
        let url =
            endpoint.parse().map_err(|_| RemoteError::new(&name, format!("`{endpoint}` is not a URL")))?;
        let style = if s3.in_host { UrlStyle::VirtualHost } else { UrlStyle::Path };
        let bucket = Place3::new(url, style, s3.bucket.clone(), s3.region.clone())
            .map_err(|error| RemoteError::new(&name, error))?;
        let wire = Wire::open(web, jobs, &name)?;
        let bucket = Bucket { name, prefix: s3.prefix.clone(), bucket, credentials, wire };
        Ok(Objects::new(bucket, jobs))
    }

    fn key(&self, place: &RemotePath) -> String {
        format!("{}{place}", self.prefix)
    }

    fn asked(&self, method: &'static str, url: &str, shown: &str, limit: u64) -> Result<Reply, RemoteError> {
        self.wire.ask(&Exchange { method, url, headers: vec![], body: &[], limit }, shown)
    }
}

impl ObjectStore for Bucket {
    fn name(&self) -> &str {
        &self.name
    }

    fn ask(&self, method: &'static str, place: &RemotePath, limit: u64) -> Result<Reply, RemoteError> {
        let (key, credentials) = (self.key(place), Some(&self.credentials));
        let url = match method {
            "HEAD" => self.bucket.head_object(credentials, &key).sign(SIGNED),
            "DELETE" => self.bucket.delete_object(credentials, &key).sign(SIGNED),
            _ => self.bucket.get_object(credentials, &key).sign(SIGNED),
        };
        self.asked(method, url.as_str(), &format!("{}{place}", self.name), limit)
    }

    fn send(&self, place: &RemotePath, bytes: &[u8]) -> Result<Reply, RemoteError> {
        let (key, shown) = (self.key(place), format!("{}{place}", self.name));
        let url = self.bucket.put_object(Some(&self.credentials), &key).sign(SIGNED).to_string();
        // What a CDN in front of the bucket will go by.
        let cache = if place.is_immutable() { "public, max-age=31536000, immutable" } else { "no-cache" };
        let headers = vec![
            ("cache-control", cache.to_owned()),
            ("content-type", "application/octet-stream".to_owned()),
        ];
        self.wire.ask(&Exchange { method: "PUT", url: &url, headers, body: bytes, limit: 4096 }, &shown)
    }

    fn is_missing(&self, said: &Reply) -> bool {
        said.status == 404 && !String::from_utf8_lossy(&said.body).contains("NoSuchBucket")
    }

    fn list(&self) -> Result<Option<Vec<Listed>>, RemoteError> {
        let mut all = Vec::new();
        let mut from: Option<String> = None;
        loop {
            let mut action = self.bucket.list_objects_v2(Some(&self.credentials));
            action.with_prefix(self.prefix.clone());
            if let Some(token) = &from {
                action.with_continuation_token(token.clone());
            }
            let said = self.asked("GET", action.sign(SIGNED).as_str(), &self.name, PAGE)?;
            if said.status != 200 {
                return Err(unexpected(&self.name, "list", &said));
            }
            let text = String::from_utf8_lossy(&said.body);
            let page = ListObjectsV2::parse_response(&text).map_err(|error| {
                RemoteError::new(format!("{}: can't read the bucket's list", self.name), error)
            })?;
            for object in page.contents {
                let path = object.key.strip_prefix(&self.prefix).unwrap_or(&object.key).to_owned();
                if !path.starts_with(crate::publish::CONTROL_DIR) {
                    all.push(Listed { path, len: object.size.unwrap_or(0) });
                }
            }
            match page.next_continuation_token {
                Some(token) if from.as_ref() != Some(&token) => from = Some(token),
                _ => return Ok(Some(all)),
            }
        }
    }
}
