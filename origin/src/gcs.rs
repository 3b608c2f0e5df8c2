//! Google Cloud Storage by its JSON API: one prefix of one bucket.
//!
//! An object is read by its generation, which names its content for ever: where the bucket keeps old ones, an object that was
//! overwritten can still be read as it was listed, and where it does not, there is no such object any more. Conditions
//! (`ifGenerationMatch`) ask for the newest one, so none is made.

mod key;
mod listing;
mod process;

use std::ops::Range;

use async_trait::async_trait;
use crc_fast::CrcAlgorithm;
use penstock_protocol::control::cache_node as wire;
use penstock_revision::{Listed, ObjectVersion, Version};
use percent_encoding::utf8_percent_encode;
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Request, Response, StatusCode, Url};

use self::key::Key;
use crate::checked::{self, Checksum};
use crate::limits::{CHECKED_OBJECT_BYTES_MAX, LISTING_PAGE_BYTES_MAX};
use crate::ranges::{self, Limits, PageStart, Paged, Splittable};
use crate::transport::{self, Failure, VALUE};
use crate::workload_identity::WorkloadIdentity;
use crate::{Body, Network, Origin, OriginError, Pages};

/// Google's own.
const ENDPOINT: &str = "https://storage.googleapis.com";

const GENERATION: HeaderName = HeaderName::from_static("x-goog-generation");
/// Checksums of the whole object, whatever range of it is sent.
const HASH: HeaderName = HeaderName::from_static("x-goog-hash");

/// What was asked for when something went wrong.
#[derive(Clone, Copy, Debug)]
enum Asked<'a> {
    Listing,
    Object(&'a str),
}

/// One prefix of one bucket.
pub struct GcsOrigin {
    bucket: String,
    prefix: String,
    endpoint: String,
    /// URL of the bucket's objects without a slash at the end.
    objects: String,
    key: Option<Key>,
    client: transport::Client,
    splittable: Splittable,
}

impl GcsOrigin {
    /// Makes the client; asks nobody yet.
    ///
    /// # Errors
    /// When the configuration makes no sense.
    pub fn new(config: wire::Gcs, network: &Network) -> Result<Self, OriginError> {
        let wire::Gcs {
            bucket,
            prefix,
            endpoint,
            key,
            workload_identity,
        } = config;
        let invalid = |text: String| OriginError::Invalid(format!("{}: {text}", place(&bucket, &prefix, &endpoint)));
        let objects = objects_url(&bucket, &endpoint).map_err(invalid)?;
        let key = match key {
            _ if workload_identity => WorkloadIdentity::new(network).map(|identity| Some(Key::of_process(identity))),
            Some(wire::GcsKey { json }) => Key::read(&json).map(Some),
            None => Ok(None),
        };
        let key = key.map_err(invalid)?;
        let client = transport::client(network).map_err(invalid)?;
        Ok(Self {
            bucket,
            prefix,
            endpoint,
            objects,
            key,
            client,
            splittable: Splittable::default(),
        })
    }

    /// The answer to a GET, if it is a good one; its body is still to come.
    async fn get(&self, url: Url, headers: HeaderMap, asked: Asked<'_>) -> Result<Response, OriginError> {
        let authorization = async || match &self.key {
            Some(key) => key.authorization(&self.client, &self.place()).await.map(Some),
            None => Ok(None),
        };
        let used = authorization().await?;
        let mut outcome = self.get_as(used.as_ref(), &url, &headers).await;
        if let (Err(Failure::Refused { status, .. }), Some(key), Some(used)) = (&outcome, &self.key, &used)
            && *status == StatusCode::UNAUTHORIZED
            && key.is_worth_another(used).await
        {
            outcome = self.get_as(authorization().await?.as_ref(), &url, &headers).await;
        }
        outcome.map_err(|failure| self.explain(failure, asked))
    }

    async fn get_as(
        &self,
        authorization: Option<&HeaderValue>,
        url: &Url,
        headers: &HeaderMap,
    ) -> Result<Response, Failure> {
        let mut request = Request::new(Method::GET, url.clone());
        *request.headers_mut() = headers.clone();
        let authorization = authorization.map(|value| (header::AUTHORIZATION, value.clone()));
        request.headers_mut().extend(authorization);
        transport::send(&self.client, request).await
    }

    fn explain(&self, failure: Failure, asked: Asked<'_>) -> OriginError {
        let place = self.place();
        let (status, text, wait) = match failure {
            Failure::Transport(cause) => {
                return OriginError::Unreachable(format!(
                    "{place} cannot be reached ({cause}); check the endpoint, name resolution and the network from the cache nodes"
                ));
            }
            Failure::NotAllowed(why) => {
                return OriginError::NotAllowed(format!("{place} may not be reached: {why}"));
            }
            Failure::Refused { status, text, wait } => (status.as_u16(), text, wait),
        };
        let reason = listing::error_reason(&text);
        let shown = if reason.is_empty() {
            status.to_string()
        } else {
            reason.clone()
        };
        // Some of it comes as a 403.
        let is_too_much = matches!(reason.as_str(), "rateLimitExceeded" | "userRateLimitExceeded");
        match (status, asked) {
            _ if is_too_much || matches!(status, 429 | 503) => OriginError::Throttled {
                text: format!(
                    "{place} asks to slow down ({shown}); if it stays so, raise its quota or read with fewer pods"
                ),
                wait,
            },
            (404 | 410, Asked::Object(key)) => OriginError::Drifted(format!(
                "{key} is gone from {place}; refresh the Dataset and restart the pods that need it"
            )),
            (412 | 416, Asked::Object(key)) => transport::drifted(&place, key),
            (404 | 300..=399, _) => OriginError::NotFound(format!(
                "{place} does not exist ({shown}); check bucket and endpoint of the source"
            )),
            (401 | 403, _) if self.key.is_none() => OriginError::Denied(format!(
                "{place} is not open to everybody ({shown}); name a Secret with the key file of a service account"
            )),
            (401 | 403, _) => OriginError::Denied(format!(
                "{place} refuses access ({shown}); check the credentials and their rights to list and read \
                 (roles/storage.objectViewer)"
            )),
            (400, _) => OriginError::Invalid(format!(
                "{place} does not take what it is asked ({shown}); check bucket and prefix of the source: buckets whose readers \
                 pay, and objects with keys of their owner, are not supported"
            )),
            (502 | 504, _) => OriginError::Unreachable(format!(
                "{place} cannot be reached by the gateway in front of it ({shown}); check the server behind the endpoint"
            )),
            _ => OriginError::Other(format!("{place} answered with an error ({shown}); it is tried again")),
        }
    }

    /// The server does something that makes it unusable.
    fn unusable(&self, what: &str) -> OriginError {
        OriginError::Invalid(format!("{} {what}; it cannot be an origin", self.place()))
    }

    /// The URL of a page of the listing. It begins with the key that it should begin behind, if there is one, as this API has it.
    fn question(&self, from: &PageStart) -> Option<Url> {
        let PageStart { start, behind, token } = from;
        let prefix = format!("{}{start}", self.prefix);
        let behind = behind.as_ref().map(|key| format!("{}{key}", self.prefix));
        let mut query = vec![
            ("prefix", prefix.as_str()),
            ("maxResults", "1000"),
            ("fields", listing::FIELDS),
        ];
        query.extend(behind.as_deref().map(|key| ("startOffset", key)));
        query.extend(token.as_deref().map(|token| ("pageToken", token)));
        let pairs = query
            .iter()
            .map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, VALUE)));
        Url::parse(&format!("{}?{}", self.objects, pairs.collect::<Vec<_>>().join("&"))).ok()
    }

    /// The URL of the content of an object; `None` when a URL cannot name it, as one whose whole name is `.` or `..`: a slash
    /// within a name is written as `%2F`, so that other names are one part of the path.
    fn content(&self, key: &str, generation: &str) -> Option<Url> {
        let name = format!("{}{key}", self.prefix);
        let text = format!(
            "{}/{}?alt=media&generation={}",
            self.objects,
            utf8_percent_encode(&name, VALUE),
            utf8_percent_encode(generation, VALUE)
        );
        Url::parse(&text).ok().filter(|url| url.as_str() == text)
    }
}

/// The source for people.
fn place(bucket: &str, prefix: &str, endpoint: &str) -> String {
    let at = if endpoint.is_empty() {
        String::new()
    } else {
        format!(" at {endpoint}")
    };
    format!("gs://{bucket}/{prefix}{at}")
}

fn objects_url(bucket: &str, endpoint: &str) -> Result<String, String> {
    let endpoint = transport::endpoint(endpoint, ENDPOINT)?;
    let text = format!("{endpoint}/storage/v1/b/{}/o", utf8_percent_encode(bucket, VALUE));
    match Url::parse(&text) {
        Ok(url) if url.as_str() == text => Ok(text),
        _ => Err("no URL can name the bucket; correct its name".to_owned()),
    }
}

/// The CRC-32C among the checksums of an answer.
fn checksum(headers: &HeaderMap) -> Option<Checksum> {
    let texts = headers
        .get_all(HASH)
        .into_iter()
        .filter_map(|value| value.to_str().ok());
    let mut values = texts.flat_map(|text| text.split(','));
    let value = values.find_map(|value| value.trim().strip_prefix("crc32c="))?;
    Checksum::read(CrcAlgorithm::Crc32Iscsi, value.as_bytes())
}

#[async_trait]
impl Paged for GcsOrigin {
    async fn page(&self, from: &PageStart) -> Result<(Vec<Listed>, Option<String>), OriginError> {
        let url = self.question(from);
        let url = url.ok_or_else(|| self.unusable("has a name that no URL can hold"))?;
        let response = self.get(url, HeaderMap::new(), Asked::Listing).await?;
        let bytes = transport::body(response, LISTING_PAGE_BYTES_MAX)
            .await
            .map_err(|failure| self.explain(failure, Asked::Listing))?;
        let page = listing::page(&bytes).map_err(|what| self.unusable(&what))?;
        let mut objects = Vec::with_capacity(page.objects.len());
        for mut listed in page.objects {
            let below = listed.key.strip_prefix(&self.prefix);
            let Some(key) = below.filter(|key| key.starts_with(&from.start)) else {
                return Err(self.unusable("lists names that do not begin with the prefix"));
            };
            // A marker of the folder that the prefix names stands for nothing in it.
            if listed.bytes > 0 || !matches!(key, "" | "/") {
                listed.key = key.to_owned();
                objects.push(listed);
            }
        }
        match page.next {
            Some(next) if Some(&next) == from.token.as_ref() => {
                Err(self.unusable("lists the same page again and again"))
            }
            next => Ok((objects, next)),
        }
    }
}

#[async_trait]
impl Origin for GcsOrigin {
    fn identity(&self) -> String {
        let Self {
            bucket,
            prefix,
            endpoint,
            ..
        } = self;
        format!("gs://{bucket}/{prefix}@{endpoint}")
    }

    fn place(&self) -> String {
        place(&self.bucket, &self.prefix, &self.endpoint)
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
        let place = self.place();
        let Version::Id(generation) = version else {
            return Err(OriginError::Invalid(format!(
                "{place} gives no generation for {key}, so its bytes cannot be proven to be those that were listed"
            )));
        };
        let Some(url) = self.content(key, generation) else {
            return Err(OriginError::Invalid(format!(
                "no URL can name {key}; rename the object"
            )));
        };
        let asked = format!("bytes={}-{}", range.start, range.end - 1);
        let asked = HeaderValue::try_from(asked).map_err(|error| OriginError::Invalid(error.to_string()))?;
        let headers = [
            (header::RANGE, asked),
            // Bytes as they are stored: an object that is compressed would come otherwise, and whole.
            (header::ACCEPT_ENCODING, HeaderValue::from_static("gzip")),
        ];
        let headers = headers.into_iter().collect();
        let response = self.get(url, headers, Asked::Object(key)).await?;
        let got = transport::header(&response, GENERATION).map(|generation| Version::Id(generation.to_owned()));
        transport::prove_version(&response, got, version, bytes, &range).map_err(|wrong| wrong.explain(&place, key))?;
        let is_whole = range == (0..bytes) && bytes <= CHECKED_OBJECT_BYTES_MAX;
        let checksum = checksum(response.headers()).filter(|_| is_whole);
        Ok(checked::body(response, checksum, bytes, &place, key))
    }
}

/// What a page of a listing says, and what to ask for next, for whoever tries it with any bytes (`fuzz/`).
///
/// # Errors
/// What the server does wrong.
#[cfg(feature = "test-support")]
pub fn read_listing(json: &[u8]) -> Result<(Vec<Listed>, Option<String>), String> {
    let listing::Page { objects, next } = listing::page(json)?;
    Ok((objects, next))
}

/// The reason in the body of a refusal, likewise.
#[cfg(feature = "test-support")]
pub fn read_refusal(json: &[u8]) -> String {
    listing::error_reason(json)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(bucket: &str, prefix: &str, endpoint: &str) -> Result<GcsOrigin, OriginError> {
        let config = wire::Gcs {
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
            endpoint: endpoint.to_owned(),
            ..Default::default()
        };
        GcsOrigin::new(config, &Network::default())
    }

    #[test]
    fn any_name_of_an_object_is_one_part_of_the_path() {
        for (prefix, key, part) in [
            ("", "plain.tar", "plain.tar"),
            ("", "a b+c", "a%20b%2Bc"),
            ("p/", "é", "p%2F%C3%A9"),
            ("", "/a//b/", "%2Fa%2F%2Fb%2F"),
            ("", "q?a&b=c;d", "q%3Fa%26b%3Dc%3Bd"),
            ("", "100%25 #1", "100%2525%20%231"),
            ("", "a/../b/.", "a%2F..%2Fb%2F."),
            ("", "%2e%2e", "%252e%252e"),
            ("a/", "..", "a%2F.."),
        ] {
            let url = origin("b.u_k-et", prefix, "").unwrap().content(key, "17").unwrap();
            assert_eq!(
                url.as_str(),
                format!("https://storage.googleapis.com/storage/v1/b/b.u_k-et/o/{part}?alt=media&generation=17")
            );
        }
        for (prefix, key) in [("", "."), ("", ".."), (".", ".")] {
            assert!(
                origin("bucket", prefix, "").unwrap().content(key, "17").is_none(),
                "{prefix}{key}"
            );
        }
    }

    #[test]
    fn a_listing_asks_for_what_is_needed_of_the_names_below_the_prefix() {
        let origin = origin("bucket", "a b/", "http://host:4443/").unwrap();
        let fields = "nextPageToken%2Citems%28name%2Csize%2CtimeCreated%2Cgeneration%29";
        let first = format!("http://host:4443/storage/v1/b/bucket/o?prefix=a%20b%2F&maxResults=1000&fields={fields}");
        let from = |behind: Option<&str>, token: Option<&str>| PageStart {
            start: String::new(),
            behind: behind.map(str::to_owned),
            token: token.map(str::to_owned),
        };
        for (from, more) in [
            (from(None, None), ""),
            (from(None, Some("x=+/")), "&pageToken=x%3D%2B%2F"),
            (from(Some("k&/"), None), "&startOffset=a%20b%2Fk%26%2F"),
            (from(Some("k"), Some("x")), "&startOffset=a%20b%2Fk&pageToken=x"),
        ] {
            assert_eq!(origin.question(&from).unwrap().as_str(), format!("{first}{more}"));
        }
        let below = PageStart {
            start: "x/".to_owned(),
            ..from(Some("x/y"), None)
        };
        let below = origin.question(&below).unwrap();
        assert!(below.as_str().contains("prefix=a%20b%2Fx%2F&"), "{below}");
        assert!(below.as_str().ends_with("&startOffset=a%20b%2Fx%2Fy"), "{below}");
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_a_reason() {
        for (bucket, endpoint, says) in [
            ("..", "", "no URL can name the bucket"),
            ("b", "http://a b", "is no URL"),
            ("b", "ftp://host", "begins with http:// or https://"),
        ] {
            let error = origin(bucket, "p/", endpoint).err().unwrap().to_string();
            assert!(error.starts_with("gs://") && error.contains(says), "{error}");
        }
    }

    #[test]
    fn the_checksum_of_an_answer_is_its_crc32c() {
        for (values, is_one) in [
            (&["crc32c=4waSgw==,md5=JfnnlDI7RTiF9RgfG2JNCw=="][..], true),
            (&["md5=JfnnlDI7RTiF9RgfG2JNCw==", "crc32c=4waSgw=="], true),
            (&["md5=JfnnlDI7RTiF9RgfG2JNCw=="], false),
            (&["crc32c=?"], false),
            (&[], false),
        ] {
            let headers = values.iter().map(|value| (HASH, HeaderValue::from_static(value)));
            let mut all = HeaderMap::new();
            headers.for_each(|(name, value)| {
                all.append(name, value);
            });
            assert_eq!(checksum(&all).is_some(), is_one, "{values:?}");
        }
    }
}
