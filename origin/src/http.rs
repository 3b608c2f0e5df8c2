//! A folder of a web server: the files that are named, those of a list with checksums, or those that its pages link to.
//!
//! Nothing in HTTP lists versions, so each file is asked for its length and version with a HEAD request. A strong ETag is one, else
//! the time of the last change, to the second; a checksum is a part of it, and alone one of a file that is small enough to be compared
//! with it. Files that have nothing of this are refused when they are listed, unless somebody allowed it by name, and so are servers that
//! send no ranges.
//!
//! A server looks at a file, says what it is, and sends what is in it, which may be something else by then: so what comes is passed on
//! after another look (`held_back.rs`).

mod evidence;
mod held_back;
mod links;
mod listing;
mod manifest;

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use globset::GlobSet;
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use penstock_protocol::control::cache_node as wire;
use penstock_revision::{ObjectVersion, Version};
use percent_encoding::utf8_percent_encode;
use reqwest::header::{self, HeaderName, HeaderValue};
use reqwest::{Method, Request, Response, StatusCode, Url};

use self::evidence::{Evidence, Said};
use crate::checked::{self, Checksum};
use crate::limits::AT_ONCE_BYTES_MAX;
use crate::selected::globs;
use crate::transport::{self, Failure, PATH, Wrong, quoted};
use crate::{Body, Network, Origin, OriginError, Pages};

/// A folder of a web server.
pub struct HttpOrigin(Arc<Shared>);

struct Shared {
    folder: Url,
    files: Vec<String>,
    /// Path of the list of files with checksums, or "".
    manifest: String,
    /// Files that are taken though nothing shows that they change.
    unversioned: GlobSet,
    login: Option<HeaderValue>,
    client: transport::Client,
}

/// What the page at an address links to, for whoever tries it with any bytes (`fuzz/`).
///
/// # Errors
/// When that is no address.
#[cfg(feature = "test-support")]
pub fn read_page(page: &str, html: &[u8]) -> Result<Vec<String>, OriginError> {
    let page = Url::parse(page).map_err(|error| OriginError::Invalid(error.to_string()))?;
    Ok(links::links(&page, html).names)
}

/// Paths and checksums of the manifest in these bytes, for whoever tries it with any bytes (`fuzz/`).
///
/// # Errors
/// When it is none.
#[cfg(feature = "test-support")]
pub fn read_manifest(pieces: &[&[u8]]) -> Result<Vec<(String, String)>, String> {
    let mut manifest = manifest::Manifest::default();
    pieces.iter().try_for_each(|piece| manifest.read(piece))?;
    let files = manifest.end()?.into_iter();
    Ok(files.map(|(path, sum)| (path, sum.to_string())).collect())
}

/// In which words a version of a file is more than that of other origins; `None` when it is not.
pub(crate) fn proof(version: &Version, bytes: u64) -> Option<&'static str> {
    let Evidence { said, sum } = Evidence::of(version)?;
    let is_compared = evidence::is_compared(bytes);
    match (said, sum.is_some()) {
        (Said::Nothing, true) if is_compared => Some("proven by its checksum in the manifest"),
        (Said::Nothing, _) => {
            Some("NOT proven: a change shows only if its length changes, which allowUnversioned accepts")
        }
        (_, true) if is_compared => Some("proven by its version and its checksum in the manifest"),
        _ => None,
    }
}

impl HttpOrigin {
    /// Makes the client; asks nobody yet.
    ///
    /// # Errors
    /// When the configuration makes no sense.
    pub fn new(config: wire::Http, network: &Network) -> Result<Self, OriginError> {
        let wire::Http {
            mut url,
            files,
            login,
            manifest,
            unversioned,
        } = config;
        // Whoever may have written a password is not quoted.
        let nameless = |text: String| OriginError::Invalid(format!("the URL of a web server {text}"));
        let parsed = Url::parse(&url)
            .map_err(|error| nameless(format!("is none ({error}); write one like https://host/folder/")))?;
        if !parsed.username().is_empty() || parsed.password().is_some() {
            return Err(nameless(
                "must not have a user or a password in it; take them out".to_owned(),
            ));
        }
        let invalid = |text: &str| OriginError::Invalid(format!("{url}: {text}"));
        if !matches!(parsed.scheme(), "http" | "https") {
            return Err(invalid("the URL of a web server begins with http:// or https://"));
        }
        if parsed.query().is_some() || parsed.fragment().is_some() {
            return Err(invalid("the URL of a folder has no `?` and no `#`"));
        }
        let named = files
            .iter()
            .chain(Some(&manifest).filter(|manifest| !manifest.is_empty()));
        if let Some(file) = named.into_iter().find(|file| !is_path(file)) {
            return Err(invalid(&format!(
                "{file:?} is no path of a file in it: no slash at an end, no part `.` or `..`"
            )));
        }
        if !files.is_empty() && !manifest.is_empty() {
            return Err(invalid(
                "its files are named one by one or by a manifest, not both; leave one of them out",
            ));
        }
        let unversioned = globs(&unversioned, &url)?;
        let login = login.map(|login| authorization(&login)).transpose().map_err(invalid)?;
        let client = transport::client(network).map_err(|text| invalid(&text))?;
        url = parsed.to_string();
        if !url.ends_with('/') {
            url.push('/');
        }
        let folder = Url::parse(&url).map_err(|error| OriginError::Invalid(error.to_string()))?;
        Ok(Self(Arc::new(Shared {
            folder,
            files,
            manifest,
            unversioned,
            login,
            client,
        })))
    }
}

impl Shared {
    fn url(&self, key: &str) -> Result<Url, OriginError> {
        let url = self.folder.join(&format!("./{}", utf8_percent_encode(key, PATH)));
        url.map_err(|error| OriginError::Invalid(format!("no URL can name {key} ({error})")))
    }

    async fn ask(
        &self,
        method: Method,
        url: Url,
        headers: Vec<(HeaderName, HeaderValue)>,
    ) -> Result<Response, Failure> {
        let mut request = Request::new(method, url);
        request.headers_mut().extend(headers);
        request
            .headers_mut()
            .extend(self.login.clone().map(|login| (header::AUTHORIZATION, login)));
        transport::send(&self.client, request).await
    }

    fn explain(&self, failure: Failure, key: &str, was_listed: bool) -> OriginError {
        let folder = &self.folder;
        let (status, wait) = match failure {
            Failure::Transport(cause) => {
                return OriginError::Unreachable(format!(
                    "{folder} cannot be reached ({cause}); check the URL, name resolution and the network from the cache nodes"
                ));
            }
            Failure::NotAllowed(why) => {
                return OriginError::NotAllowed(format!("{folder} may not be reached: {why}"));
            }
            Failure::Refused { status, wait, .. } => (status, wait),
        };
        let shown = status.as_u16();
        match shown {
            _ if was_listed && is_gone(status) => OriginError::Drifted(format!(
                "{key} is gone from {folder}; refresh the Dataset and restart the pods that need it"
            )),
            412 | 416 if was_listed => transport::drifted(folder.as_str(), key),
            300..=399 => OriginError::Invalid(format!(
                "{folder}{key} leads to another address ({shown}), which is not followed; name that address as the URL"
            )),
            404 | 410 if key == self.manifest && !key.is_empty() => OriginError::NotFound(format!(
                "{folder}{key} does not exist; check the URL and the manifest of the source"
            )),
            404 | 410 if !self.manifest.is_empty() => OriginError::NotFound(format!(
                "{folder}{key} does not exist, and the manifest {} names it; write it, or a manifest without it",
                self.manifest
            )),
            404 | 410 => OriginError::NotFound(format!("{folder}{key} does not exist; check the URL of the source")),
            405 | 501 if !was_listed => OriginError::Invalid(format!(
                "{folder}{key} cannot be asked for its length and version ({shown} to HEAD); it cannot be an origin"
            )),
            401 | 403 if self.login.is_none() => OriginError::Denied(format!(
                "{folder}{key} is not open to everybody ({shown}); name a Secret with what it asks for"
            )),
            401 | 403 => OriginError::Denied(format!(
                "{folder}{key} refuses access ({shown}); check the user, password or token in the Secret of the source"
            )),
            429 | 503 => OriginError::Throttled {
                text: format!("{folder} asks to slow down ({shown}); if it stays so, read with fewer pods"),
                wait,
            },
            502 | 504 => OriginError::Unreachable(format!(
                "{folder} cannot be reached by the gateway in front of it ({shown}); check the server behind it"
            )),
            _ => OriginError::Other(format!(
                "{folder}{key} answered with an error ({shown}); it is tried again"
            )),
        }
    }
}

#[async_trait]
impl Origin for HttpOrigin {
    fn identity(&self) -> String {
        self.0.folder.to_string()
    }

    fn place(&self) -> String {
        self.identity()
    }

    fn list(&self) -> Pages<'_> {
        self.0.pages()
    }

    async fn read(&self, object: &ObjectVersion, bytes: u64, range: Range<u64>) -> Result<Body, OriginError> {
        let ObjectVersion {
            source: _,
            key,
            version,
        } = object;
        let shared = &self.0;
        let place = shared.folder.as_str();
        let wrong = |wrong: Wrong| wrong.explain(place, key);
        let Evidence { said, sum } = Evidence::of(version).ok_or_else(|| wrong(Wrong::NoVersion))?;
        // The whole of it, for a part of a file has no checksum.
        let sum = sum.filter(|_| evidence::is_compared(bytes));
        let asked = if sum.is_some() { 0..bytes } else { range.clone() };
        let headers = conditions(&said, &asked)
            .map_err(|_| OriginError::Invalid(format!("the ETag of {key} in {place} is none")))?;
        let response = shared.ask(Method::GET, shared.url(key)?, headers).await;
        let response = response.map_err(|failure| shared.explain(failure, key, true))?;
        match &said {
            Said::Tag(tag) => transport::prove(&response, &Version::ETag(tag.clone()), bytes, &asked),
            Said::Modified(unix_nanos) => transport::prove(&response, &Version::Modified(*unix_nanos), bytes, &asked),
            Said::Nothing => transport::prove_range(&response, bytes, &asked),
        }
        .map_err(wrong)?;
        let broken = OriginError::Unreachable(format!("{place} broke off while sending {key}"));
        let Some(sum) = sum else {
            let body = transport::pieces(response, broken);
            if said == Said::Nothing || range.end - range.start <= AT_ONCE_BYTES_MAX {
                return Ok(body);
            }
            let shared = shared.clone();
            let file = File {
                shared,
                key: key.clone(),
                said,
                bytes,
            };
            return Ok(held_back::body(file, body));
        };
        let mismatch = if said != Said::Nothing {
            OriginError::Other(format!(
                "{place} sent bytes of {key} that do not match its checksum in the manifest, though it is the version that was listed; it is \
                 asked again, and if it stays so: mend the file or the manifest there, and refresh the Dataset"
            ))
        } else {
            transport::drifted(place, key)
        };
        let whole = checked::whole(response, Checksum::Sum(sum), bytes, broken, mismatch);
        Ok(part(whole, range))
    }
}

/// A file as it was listed.
struct File {
    shared: Arc<Shared>,
    key: String,
    said: Said,
    bytes: u64,
}

impl File {
    /// Whether it still is what was listed.
    async fn prove(&self) -> Result<(), OriginError> {
        let Self {
            shared,
            key,
            said,
            bytes,
        } = self;
        let response = shared.ask(Method::HEAD, shared.url(key)?, Vec::new()).await;
        let response = response.map_err(|failure| shared.explain(failure, key, true))?;
        let is_it = match said {
            Said::Tag(tag) => listing::tag(&response).as_ref() == Some(tag),
            Said::Modified(unix_nanos) => transport::last_modified(&response) == Some(*unix_nanos),
            Said::Nothing => true,
        };
        (is_it && listing::length(&response) == Some(*bytes))
            .then_some(())
            .ok_or_else(|| transport::drifted(shared.folder.as_str(), key))
    }
}

/// What is asked for of a file, and in which version.
fn conditions(said: &Said, range: &Range<u64>) -> Result<Vec<(HeaderName, HeaderValue)>, header::InvalidHeaderValue> {
    let mut headers = vec![(header::RANGE, format!("bytes={}-{}", range.start, range.end - 1))];
    match said {
        Said::Tag(tag) => headers.push((header::IF_MATCH, quoted(tag))),
        Said::Modified(unix_nanos) => headers.push((header::IF_UNMODIFIED_SINCE, http_date(*unix_nanos))),
        Said::Nothing => {}
    }
    let headers = headers.into_iter();
    headers
        .map(|(name, value)| Ok((name, HeaderValue::try_from(value)?)))
        .collect()
}

/// The bytes `range` of a whole body.
fn part(whole: Body, range: Range<u64>) -> Body {
    let mut end = 0;
    let part = whole.map_ok(move |piece: Bytes| {
        let start = end;
        end += piece.len() as u64;
        let within = |at: u64| (at.clamp(start, end) - start) as usize;
        piece.slice(within(range.start)..within(range.end))
    });
    part.boxed()
}

/// Whether that is a path of a file below the folder.
fn is_path(text: &str) -> bool {
    !text.contains('\0') && text.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

/// What says who asks (RFC 7617, RFC 6750).
fn authorization(login: &wire::HttpLogin) -> Result<HeaderValue, &'static str> {
    let wire::HttpLogin { user, password, bearer } = login;
    let text = if bearer.is_empty() {
        format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
    } else {
        format!("Bearer {bearer}")
    };
    let mut value =
        HeaderValue::try_from(text).map_err(|_| "the token in its Secret has characters that no header can hold")?;
    value.set_sensitive(true);
    Ok(value)
}

fn is_gone(status: StatusCode) -> bool {
    matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE)
}

/// As RFC 9110, 5.6.7 has it; empty for a time that has none, which no server takes for one.
fn http_date(unix_nanos: i64) -> String {
    Timestamp::from_nanosecond(unix_nanos.into())
        .ok()
        .and_then(|time| rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&time).ok())
        .unwrap_or_default()
}
