//! S3 and what speaks its protocol: one prefix of one bucket.
//!
//! Two requests of the protocol are enough, and both have to be exact, so they are made here and not by a general library:
//! such a library tidies keys (`a//b` becomes `a/b`, blanks at the ends go, `a/` is a folder), which would list and read
//! other objects. Every answer must carry the ETag, the length and the range that were asked for, for servers that ignore
//! If-Match or Range.

mod access;
mod checksum;
mod http;
mod listing;
mod role;
mod versions;

use std::ops::Range;

use async_trait::async_trait;
use penstock_protocol::control::cache_node as wire;
use penstock_revision::{Listed, ObjectVersion, Version};
use reqwest::{StatusCode, header};

use self::http::{Client, Unanswered};
use self::versions::Versions;
use crate::checked;
use crate::limits::{CHECKED_OBJECT_BYTES_MAX, LISTING_PAGE_BYTES_MAX};
use crate::ranges::{self, Limits, PageStart, Paged, Splittable};
use crate::transport::{self, Failure, quoted};
use crate::{Body, Network, Origin, OriginError, Pages, refusal};

/// What was asked for when something went wrong.
#[derive(Clone, Copy, Debug)]
enum Asked<'a> {
    Listing,
    Object(&'a str),
}

/// One prefix of one bucket.
pub struct S3Origin {
    config: wire::S3,
    client: Client,
    versions: Versions,
    splittable: Splittable,
}

impl S3Origin {
    /// Makes the client; asks nobody yet.
    ///
    /// # Errors
    /// When the configuration makes no sense.
    pub fn new(config: wire::S3, network: &Network) -> Result<Self, OriginError> {
        let invalid = |text: String| OriginError::Invalid(format!("{}: {text}", place(&config)));
        if config.prefix.split('/').any(|part| matches!(part, "." | "..")) {
            return Err(invalid(
                "the prefix has a part `.` or `..`, which no URL can name; choose the prefix before it".to_owned(),
            ));
        }
        let client = Client::new(&config, network).map_err(invalid)?;
        Ok(Self {
            config,
            client,
            versions: Versions::default(),
            splittable: Splittable::default(),
        })
    }

    fn explain(&self, unanswered: impl Into<Unanswered>, asked: Asked<'_>) -> OriginError {
        let place = place(&self.config);
        let failure = match unanswered.into() {
            Unanswered::Nobody(error) => return error,
            Unanswered::Failed(failure) => failure,
        };
        let (status, text, wait) = match failure {
            Failure::Transport(cause) => {
                return OriginError::Unreachable(format!(
                    "{place} cannot be reached ({cause}); check the endpoint, name resolution and the network from the cache nodes"
                ));
            }
            Failure::NotAllowed(why) => {
                return OriginError::NotAllowed(format!("{place} may not be reached: {why}"));
            }
            Failure::Refused { status, text, wait } => (status, text, wait),
        };
        let code = refusal::error_code(&text);
        let shown = if code.is_empty() {
            format!(" ({})", status.as_u16())
        } else {
            format!(" ({code})")
        };
        match (status.as_u16(), code.as_str(), asked) {
            (404, code, Asked::Object(key)) if code != "NoSuchBucket" => OriginError::Drifted(format!(
                "{key} is gone from {place}; refresh the Dataset and restart the pods that need it"
            )),
            (412 | 416, _, Asked::Object(key)) => transport::drifted(&place, key),
            (404 | 300..=399, ..) => OriginError::NotFound(format!(
                "{place} does not exist{shown}; check bucket, endpoint and region of the source"
            )),
            (403, "InvalidObjectState", Asked::Object(key)) => OriginError::Invalid(format!(
                "{key} in {place} is archived{shown}; restore it, or leave it out of the Dataset by a pattern"
            )),
            (400, "InvalidRequest", Asked::Object(key)) => OriginError::Invalid(format!(
                "{key} in {place} cannot be read{shown}, as when it is encrypted with a key that each reader has to send (SSE-C); write it anew \
                 without that, or leave it out of the Dataset by a pattern"
            )),
            (401 | 403, _, Asked::Object(key)) => OriginError::Denied(format!(
                "{place} refuses access to {key}{shown}; check the keys and their rights to read it, and to use the key that it is encrypted \
                 with (kms:Decrypt)"
            )),
            (401 | 403, ..) => OriginError::Denied(format!(
                "{place} refuses access{shown}; check the keys and their rights to list and read"
            )),
            // 503 is how S3 and its look-alikes say it, with one code or another.
            (429 | 503, ..) | (_, "SlowDown", _) => OriginError::Throttled {
                text: format!(
                    "{place} asks to slow down{shown}; if it stays so, raise its limits or read with fewer pods"
                ),
                wait,
            },
            (502 | 504, ..) => OriginError::Unreachable(format!(
                "{place} cannot be reached by the gateway in front of it{shown}; check the server behind the endpoint"
            )),
            _ => OriginError::Other(format!("{place} answered with an error{shown}; it is tried again")),
        }
    }

    /// The server does something that makes it unusable.
    fn unusable(&self, what: &str) -> OriginError {
        OriginError::Invalid(format!("{} {what}; it cannot be an origin", place(&self.config)))
    }
}

impl S3Origin {
    /// A range of the object with this ETag: as it is now, or of a version that the bucket keeps.
    async fn get(
        &self,
        key: &str,
        tag: &str,
        version_id: Option<&str>,
        bytes: u64,
        range: Range<u64>,
    ) -> Result<Body, OriginError> {
        let Some(url) = self.client.object(&format!("{}{key}", self.config.prefix), version_id) else {
            return Err(OriginError::Invalid(format!(
                "no URL can name {key}; rename the object"
            )));
        };
        let mut headers = vec![
            (header::RANGE, format!("bytes={}-{}", range.start, range.end - 1)),
            (header::IF_MATCH, quoted(tag)),
        ];
        let is_whole = range == (0..bytes) && bytes <= CHECKED_OBJECT_BYTES_MAX;
        if is_whole {
            headers.push((checksum::MODE, checksum::ENABLED.to_owned()));
        }
        let response = self.client.get(url, &headers, &place(&self.config)).await;
        let response = response.map_err(|unanswered| self.explain(unanswered, Asked::Object(key)))?;
        let version = Version::ETag(tag.to_owned());
        transport::prove(&response, &version, bytes, &range)
            .map_err(|wrong| wrong.explain(&place(&self.config), key))?;
        let checksum = checksum::of(response.headers()).filter(|_| is_whole);
        Ok(checked::body(response, checksum, bytes, &place(&self.config), key))
    }

    /// The id under which the bucket keeps what had this ETag. Who may not ask, or whose server does not know, has none.
    async fn old_version(&self, key: &str, tag: &str) -> Result<Option<String>, OriginError> {
        let key = format!("{}{key}", self.config.prefix);
        let query = [("versions", ""), ("encoding-type", "url"), ("prefix", &key)];
        let Some(url) = self.client.question(&query) else {
            return Ok(None);
        };
        let response = match self.client.get(url, &[], &place(&self.config)).await {
            Ok(response) => response,
            Err(Unanswered::Failed(Failure::Refused { status, .. })) if is_no(status) => return Ok(None),
            Err(unanswered) => return Err(self.explain(unanswered, Asked::Listing)),
        };
        let xml = transport::body(response, LISTING_PAGE_BYTES_MAX)
            .await
            .map_err(|failure| self.explain(failure, Asked::Listing))?;
        Ok(versions::find(&xml, &key, tag))
    }
}

/// Whether a server that answers so does not list versions, or not to us.
fn is_no(status: StatusCode) -> bool {
    status == StatusCode::NOT_IMPLEMENTED || status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS
}

/// The source for people.
fn place(config: &wire::S3) -> String {
    let wire::S3 {
        bucket,
        prefix,
        endpoint,
        ..
    } = config;
    let at = if endpoint.is_empty() {
        String::new()
    } else {
        format!(" at {endpoint}")
    };
    format!("s3://{bucket}/{prefix}{at}")
}

#[async_trait]
impl Paged for S3Origin {
    async fn page(&self, from: &PageStart) -> Result<(Vec<Listed>, Option<String>), OriginError> {
        let PageStart { start, behind, token } = from;
        let prefix = format!("{}{start}", self.config.prefix);
        let mut query = vec![("list-type", "2"), ("encoding-type", "url"), ("prefix", &prefix)];
        let behind = behind.as_ref().map(|key| format!("{}{key}", self.config.prefix));
        match (token, &behind) {
            (Some(token), _) => query.push(("continuation-token", token)),
            (None, Some(key)) => query.push(("start-after", key)),
            (None, None) => {}
        }
        let url = self.client.question(&query);
        let url = url.ok_or_else(|| self.unusable("has a name that no URL can hold"))?;
        let response = self.client.get(url, &[], &place(&self.config)).await;
        let response = response.map_err(|unanswered| self.explain(unanswered, Asked::Listing))?;
        let bytes = transport::body(response, LISTING_PAGE_BYTES_MAX)
            .await
            .map_err(|failure| self.explain(failure, Asked::Listing))?;
        let page = listing::page(&bytes).map_err(|what| self.unusable(&what))?;
        let mut objects = Vec::with_capacity(page.objects.len());
        for mut listed in page.objects {
            let below = listed.key.strip_prefix(&self.config.prefix);
            let Some(key) = below.filter(|key| key.starts_with(&from.start)) else {
                return Err(self.unusable("lists keys that do not begin with the prefix"));
            };
            // A marker of the folder that the prefix names stands for nothing in it.
            if listed.bytes > 0 || !matches!(key, "" | "/") {
                listed.key = key.to_owned();
                objects.push(listed);
            }
        }
        match page.next {
            Some(next) if Some(&next) == token.as_ref() => Err(self.unusable("lists the same page again and again")),
            next => Ok((objects, next)),
        }
    }
}

#[async_trait]
impl Origin for S3Origin {
    fn identity(&self) -> String {
        let wire::S3 {
            bucket,
            prefix,
            endpoint,
            ..
        } = &self.config;
        format!("s3://{bucket}/{prefix}@{endpoint}")
    }

    fn place(&self) -> String {
        place(&self.config)
    }

    fn list(&self) -> Pages<'_> {
        ranges::list(self, "", &self.splittable, Limits::default(), self.place())
    }

    fn list_below(&self, start: &str) -> Option<Pages<'_>> {
        Some(ranges::list(
            self,
            start,
            &self.splittable,
            Limits::default(),
            self.place(),
        ))
    }

    async fn read(&self, object: &ObjectVersion, bytes: u64, range: Range<u64>) -> Result<Body, OriginError> {
        let ObjectVersion {
            source: _,
            key,
            version,
        } = object;
        let Version::ETag(tag) = version else {
            return Err(OriginError::Invalid(format!(
                "{} gives no ETag for {key}, so its bytes cannot be proven to be those that were listed",
                place(&self.config)
            )));
        };
        let known = self.versions.id(key, tag);
        let drifted = match self.get(key, tag, known.as_deref(), bytes, range.clone()).await {
            Err(OriginError::Drifted(text)) => text,
            other => return other,
        };
        if self.versions.has_none(key, tag) {
            return Err(OriginError::Drifted(drifted));
        }
        let found = self.old_version(key, tag).await?;
        if let Some(id) = found.filter(|id| known.as_ref() != Some(id)) {
            match self.get(key, tag, Some(&id), bytes, range).await {
                Ok(read) => {
                    self.versions.remember(key, tag, &id);
                    return Ok(read);
                }
                Err(error) if error.may_pass() => return Err(error),
                // Without the right to read versions it is as if there were none.
                Err(_) => {}
            }
        }
        self.versions.remember_none(key, tag);
        Err(OriginError::Drifted(drifted))
    }
}

/// What a page of a listing says, and what to ask for next, for whoever tries it with any bytes (`fuzz/`).
///
/// # Errors
/// What the server does wrong.
#[cfg(feature = "test-support")]
pub fn read_listing(xml: &[u8]) -> Result<(Vec<Listed>, Option<String>), String> {
    let listing::Page { objects, next } = listing::page(xml)?;
    Ok((objects, next))
}

/// The code in the body of a refusal, likewise.
#[cfg(feature = "test-support")]
pub fn read_refusal(xml: &[u8]) -> String {
    refusal::error_code(xml)
}
