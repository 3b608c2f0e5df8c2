//! S3 and what speaks its protocol: one prefix of one bucket.
//!
//! Two requests of the protocol are enough, and both have to be exact, so they are made here and not by a general library:
//! such a library tidies keys (`a//b` becomes `a/b`, blanks at the ends go, `a/` is a folder), which would list and read
//! other objects. Every answer must carry the ETag, the length and the range that were asked for, for servers that ignore
//! If-Match or Range.

mod checksum;
mod http;
mod listing;

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use penstock_revision::{Listed, ObjectVersion, Version};
use reqwest::header;

use self::checksum::{Checked, Checksum};
use self::http::Client;
use super::transport::{self, Failure, quoted};
use super::{Body, Origin, OriginError};
use crate::limits::{LISTING_PAGE_BYTES_MAX, ORIGIN_SILENCE_MAX, WHOLE_OBJECT_BYTES_MAX};

/// Keys of an S3 origin. Its text forms hide them.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Credentials {
    /// Access key id.
    pub access_key_id: String,
    /// Secret access key.
    pub secret_access_key: String,
    /// Session token of temporary credentials; "" if there is none.
    pub session_token: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(hidden)")
    }
}

/// Where a source lies.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct S3Config {
    /// Name of the bucket.
    pub bucket: String,
    /// Keys begin with it; it is cut off. "" is the whole bucket.
    pub prefix: String,
    /// "" is `us-east-1`.
    pub region: String,
    /// URL; "" is AWS.
    pub endpoint: String,
    /// Whether the bucket is part of the host name; else of the path.
    pub virtual_host_style: bool,
    /// `None` sends unsigned requests.
    pub credentials: Option<Credentials>,
}

/// What was asked for when something went wrong.
#[derive(Clone, Copy, Debug)]
enum Asked<'a> {
    Listing,
    Object(&'a str),
}

/// One prefix of one bucket.
pub struct S3Origin {
    config: S3Config,
    client: Client,
}

impl S3Origin {
    /// Makes the client; asks nobody yet.
    ///
    /// # Errors
    /// When the configuration makes no sense.
    pub fn new(config: S3Config) -> Result<Self, OriginError> {
        Self::with_silence_max(config, ORIGIN_SILENCE_MAX)
    }

    /// The same with another patience for a server that sends nothing.
    ///
    /// # Errors
    /// When the configuration makes no sense.
    pub fn with_silence_max(config: S3Config, silence_max: Duration) -> Result<Self, OriginError> {
        let invalid = |text: String| OriginError::Invalid(format!("{}: {text}", place(&config)));
        if config.prefix.split('/').any(|part| matches!(part, "." | "..")) {
            return Err(invalid(
                "the prefix has a part `.` or `..`, which no URL can name; choose the prefix before it".to_owned(),
            ));
        }
        let client = Client::new(&config, silence_max).map_err(invalid)?;
        Ok(Self { config, client })
    }

    fn explain(&self, failure: Failure, asked: Asked<'_>) -> OriginError {
        let place = place(&self.config);
        let (status, text, wait) = match failure {
            Failure::Transport(cause) => {
                return OriginError::Unreachable(format!(
                    "{place} cannot be reached ({cause}); check the endpoint, name resolution and the network from the cache nodes"
                ));
            }
            Failure::Refused { status, text, wait } => (status, text, wait),
        };
        let code = listing::error_code(&text);
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

    /// One page of the listing: its objects go to `objects`; the token of the next one, if there is one.
    async fn page(&self, token: Option<&str>, objects: &mut Vec<Listed>) -> Result<Option<String>, OriginError> {
        let explain = |failure| self.explain(failure, Asked::Listing);
        let mut query = vec![
            ("list-type", "2"),
            ("encoding-type", "url"),
            ("prefix", &self.config.prefix),
        ];
        query.extend(token.map(|token| ("continuation-token", token)));
        let url = self.client.question(&query);
        let url = url.ok_or_else(|| self.unusable("has a name that no URL can hold"))?;
        let response = self.client.get(url, &[]).await.map_err(explain)?;
        let bytes = transport::body(response, LISTING_PAGE_BYTES_MAX)
            .await
            .map_err(explain)?;
        let page = listing::page(&bytes).map_err(|what| self.unusable(&what))?;
        for mut listed in page.objects {
            let Some(key) = listed.key.strip_prefix(&self.config.prefix) else {
                return Err(self.unusable("lists keys that do not begin with the prefix"));
            };
            // A marker of the folder that the prefix names stands for nothing in it.
            if listed.bytes > 0 || !matches!(key, "" | "/") {
                listed.key = key.to_owned();
                objects.push(listed);
            }
        }
        match page.next {
            Some(next) if Some(next.as_str()) == token => Err(self.unusable("lists the same page again and again")),
            next => Ok(next),
        }
    }
}

/// The source for people.
fn place(config: &S3Config) -> String {
    let S3Config {
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
impl Origin for S3Origin {
    fn identity(&self) -> String {
        let S3Config {
            bucket,
            prefix,
            endpoint,
            ..
        } = &self.config;
        format!("s3://{bucket}/{prefix}@{endpoint}")
    }

    async fn list(&self) -> Result<Vec<Listed>, OriginError> {
        let mut objects = Vec::new();
        let mut token = self.page(None, &mut objects).await?;
        while let Some(next) = token {
            token = self.page(Some(&next), &mut objects).await?;
        }
        Ok(objects)
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
        let Some(url) = self.client.object(&format!("{}{key}", self.config.prefix)) else {
            return Err(OriginError::Invalid(format!(
                "no URL can name {key}; rename the object"
            )));
        };
        let mut headers = vec![
            (header::RANGE, format!("bytes={}-{}", range.start, range.end - 1)),
            (header::IF_MATCH, quoted(tag)),
        ];
        let is_whole = range == (0..bytes) && bytes <= WHOLE_OBJECT_BYTES_MAX;
        if is_whole {
            headers.push((checksum::MODE, checksum::ENABLED.to_owned()));
        }
        let response = self.client.get(url, &headers).await;
        let response = response.map_err(|failure| self.explain(failure, Asked::Object(key)))?;
        transport::prove(&response, version, bytes, &range)
            .map_err(|wrong| wrong.explain(&place(&self.config), key))?;
        let broken = OriginError::Unreachable(format!("{} broke off while sending {key}", place(&self.config)));
        let wrong = OriginError::Other(format!(
            "{} sent bytes of {key} that do not match its own checksum of them; it is asked again",
            place(&self.config)
        ));
        let checked = Checksum::of(response.headers()).filter(|_| is_whole);
        let checked = checked.map(|checksum| Checked::of(checksum, bytes));
        let pieces = futures::stream::unfold(Some((response, checked)), move |state| {
            let (broken, wrong) = (broken.clone(), wrong.clone());
            async move {
                let (mut response, checked) = state?;
                match (response.chunk().await, checked) {
                    (Ok(Some(piece)), None) => Some((Ok(vec![piece]), Some((response, None)))),
                    (Ok(Some(piece)), Some(mut checked)) => {
                        if !checked.hold(piece) {
                            return Some((Err(wrong), None));
                        }
                        // Nothing yet, so that whoever waits knows that something comes.
                        Some((Ok(vec![Bytes::new()]), Some((response, Some(checked)))))
                    }
                    (Ok(None), None) => None,
                    (Ok(None), Some(checked)) => Some((checked.release().ok_or(wrong), None)),
                    (Err(_), _) => Some((Err(broken), None)),
                }
            }
        });
        Ok(pieces
            .flat_map(|pieces| {
                let pieces =
                    pieces.map_or_else(|error| vec![Err(error)], |pieces| pieces.into_iter().map(Ok).collect());
                futures::stream::iter(pieces)
            })
            .boxed())
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
    listing::error_code(xml)
}
