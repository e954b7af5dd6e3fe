//! S3-compatible object stores. rusty-s3 signs URLs and reads lists; a PUT of an object is one step.

use std::time::Duration;

use rusty_s3::actions::ListObjectsV2;
use rusty_s3::{Bucket as Place3, Credentials, S3Action, UrlStyle};

use super::wire::{Ask, Said, Wire, unexpected};
use super::{parallel, send_all};
use crate::publish::{Files, Item, Listed, Place, Remote, RemoteError, S3};

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
    jobs: usize,
}

impl Bucket {
    /// A bucket with the credentials of the environment.
    ///
    /// # Errors
    /// [`RemoteError`] without credentials, or when the endpoint is no URL.
    pub fn new(s3: &S3, jobs: usize) -> Result<Self, RemoteError> {
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
        let url = endpoint.parse().map_err(|_| RemoteError::new(&name, format!("`{endpoint}` is no URL")))?;
        let style = if s3.in_host { UrlStyle::VirtualHost } else { UrlStyle::Path };
        let bucket = Place3::new(url, style, s3.bucket.clone(), s3.region.clone())
            .map_err(|error| RemoteError::new(&name, error))?;
        Ok(Bucket { name, prefix: s3.prefix.clone(), bucket, credentials, wire: Wire::new(jobs), jobs })
    }

    fn key(&self, place: &Place) -> String {
        format!("{}{place}", self.prefix)
    }

    fn ask<'a>(
        &'a self,
        method: &'static str,
        action: impl S3Action<'a>,
        shown: &str,
        limit: u64,
    ) -> Result<Said, RemoteError> {
        let url = action.sign(SIGNED).to_string();
        self.wire.ask(&Ask { method, url: &url, headers: vec![], body: &[], limit }, shown)
    }

    fn send(&self, place: &Place, bytes: &[u8]) -> Result<(), RemoteError> {
        let (key, shown) = (self.key(place), format!("{}{place}", self.name));
        let url = self.bucket.put_object(Some(&self.credentials), &key).sign(SIGNED).to_string();
        // What a CDN in front of the bucket will go by.
        let cache = if place.is_immutable() { "public, max-age=31536000, immutable" } else { "no-cache" };
        let headers = vec![
            ("cache-control", cache.to_owned()),
            ("content-type", "application/octet-stream".to_owned()),
        ];
        let said =
            self.wire.ask(&Ask { method: "PUT", url: &url, headers, body: bytes, limit: 4096 }, &shown)?;
        if said.status == 200 { Ok(()) } else { Err(unexpected(&shown, "write", &said)) }
    }
}

impl Remote for Bucket {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn get(&self, place: &Place) -> Result<Option<Vec<u8>>, RemoteError> {
        let (key, shown) = (self.key(place), format!("{}{place}", self.name));
        let action = self.bucket.get_object(Some(&self.credentials), &key);
        let said = self.ask("GET", action, &shown, place.limit())?;
        match said.status {
            200 if said.body.len() as u64 > place.limit() => Err(RemoteError::new(
                format!("{shown}: can't read"),
                format!("more than {} bytes", place.limit()),
            )),
            200 => Ok(Some(said.body)),
            404 if !String::from_utf8_lossy(&said.body).contains("NoSuchBucket") => Ok(None),
            _ => Err(unexpected(&shown, "read", &said)),
        }
    }

    fn lengths(&self, items: &[Item]) -> Result<Vec<Option<u64>>, RemoteError> {
        parallel(items, self.jobs, |item| {
            let place = Place::File(item.path.clone());
            let (key, shown) = (self.key(&place), format!("{}{place}", self.name));
            let action = self.bucket.head_object(Some(&self.credentials), &key);
            let said = self.ask("HEAD", action, &shown, 0)?;
            match said.status {
                200 => Ok(said.len),
                404 => Ok(None),
                _ => Err(unexpected(&shown, "look at", &said)),
            }
        })
    }

    fn put(&self, tree: &dyn Files, items: &[Item], sent: &(dyn Fn(u64) + Sync)) -> Result<(), RemoteError> {
        send_all(tree, items, self.jobs, sent, |place, bytes| self.send(place, bytes))
    }

    fn write(&self, place: &Place, bytes: &[u8]) -> Result<(), RemoteError> {
        self.send(place, bytes)
    }

    fn remove(&self, places: &[Place]) -> Result<(), RemoteError> {
        parallel(places, self.jobs, |place| {
            let (key, shown) = (self.key(place), format!("{}{place}", self.name));
            let said =
                self.ask("DELETE", self.bucket.delete_object(Some(&self.credentials), &key), &shown, 4096)?;
            match said.status {
                200 | 204 | 404 => Ok(()),
                _ => Err(unexpected(&shown, "remove", &said)),
            }
        })?;
        Ok(())
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
            let said = self.ask("GET", action, &self.name, PAGE)?;
            if said.status != 200 {
                return Err(unexpected(&self.name, "list", &said));
            }
            let text = String::from_utf8_lossy(&said.body);
            let page = ListObjectsV2::parse_response(&text)
                .map_err(|error| RemoteError::new(format!("{}: its list can't be read", self.name), error))?;
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
