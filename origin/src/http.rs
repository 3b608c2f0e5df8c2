//! A folder of a web server: the files that are named, or those that its pages link to.
//!
//! Nothing in HTTP lists versions, so each file is asked for its length and version with a HEAD request. A strong ETag is one, else
//! the time of the last change, to the second. Servers that have neither, or send no ranges, are refused when they are listed.

mod links;

use std::ops::Range;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use penstock_protocol::control::cache_node as wire;
use penstock_revision::{Listed, ObjectVersion, Version};
use percent_encoding::utf8_percent_encode;
use reqwest::header::{self, HeaderName, HeaderValue};
use reqwest::{Method, Request, Response, StatusCode, Url};

use crate::limits::{HTTP_DEPTH_MAX, HTTP_PAGE_FILES, HTTP_QUESTIONS_MAX, LISTING_PAGE_BYTES_MAX};
use crate::transport::{self, Failure, PATH, quoted, unquoted};
use crate::{Body, Network, Origin, OriginError, Pages};

/// A folder of a web server.
pub struct HttpOrigin {
    folder: Url,
    files: Vec<String>,
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

impl HttpOrigin {
    /// Makes the client; asks nobody yet.
    ///
    /// # Errors
    /// When the configuration makes no sense.
    pub fn new(config: wire::Http, network: &Network) -> Result<Self, OriginError> {
        let wire::Http { mut url, files, login } = config;
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
        let is_path = |file: &&String| file.split('/').all(|part| !matches!(part, "" | "." | ".."));
        if let Some(file) = files.iter().find(|file| !is_path(file)) {
            return Err(invalid(&format!(
                "{file:?} is no path of a file in it: no slash at an end, no part `.` or `..`"
            )));
        }
        let login = login.map(|login| authorization(&login)).transpose().map_err(invalid)?;
        let client = transport::client(network).map_err(|text| invalid(&text))?;
        url = parsed.to_string();
        if !url.ends_with('/') {
            url.push('/');
        }
        let folder = Url::parse(&url).map_err(|error| OriginError::Invalid(error.to_string()))?;
        Ok(Self {
            folder,
            files,
            login,
            client,
        })
    }

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

    /// The files that the pages of the folder and of its folders link to.
    async fn found(&self) -> Result<Vec<String>, OriginError> {
        let (mut files, mut folders) = (Vec::new(), vec![String::new()]);
        for _ in 0..HTTP_DEPTH_MAX {
            if folders.is_empty() {
                return Ok(files);
            }
            let pages = folders.drain(..).map(|folder| self.page(folder));
            let pages: Vec<_> = futures::stream::iter(pages)
                .buffered(HTTP_QUESTIONS_MAX)
                .try_collect()
                .await?;
            for key in pages.into_iter().flatten() {
                let into = if key.ends_with('/') { &mut folders } else { &mut files };
                into.push(key);
            }
        }
        Err(OriginError::Invalid(format!(
            "{} has folders within folders, more than {HTTP_DEPTH_MAX} deep, as when one leads back to one above it; name the files of the \
             source one by one, or a folder below",
            self.folder
        )))
    }

    /// What the page of a folder links to, relative to the whole.
    async fn page(&self, folder: String) -> Result<Vec<String>, OriginError> {
        let url = self.url(&folder)?;
        let explain = |failure| self.explain(failure, &folder, false);
        let response = match self.ask(Method::GET, url.clone(), Vec::new()).await {
            Ok(response) => response,
            Err(Failure::Refused { status, .. }) if is_gone(status) && !folder.is_empty() => {
                tracing::warn!(%url, "a page leads to a folder that is not there");
                return Ok(Vec::new());
            }
            Err(failure) => return Err(explain(failure)),
        };
        let kind = transport::header(&response, header::CONTENT_TYPE).unwrap_or_default();
        if !kind.starts_with("text/html") {
            return Err(OriginError::Invalid(format!(
                "{url} is no page with links ({kind}); name the files of the source one by one"
            )));
        }
        let html = transport::body(response, LISTING_PAGE_BYTES_MAX)
            .await
            .map_err(explain)?;
        let links::Links { names, awkward } = links::links(&url, &html);
        if awkward > 0 {
            tracing::warn!(%url, awkward, "links of a page that no file can be named after are left out");
        }
        Ok(names.into_iter().map(|name| format!("{folder}{name}")).collect())
    }

    /// A file as the server describes it; `None` when a page leads to one that is not there.
    async fn described(&self, key: String) -> Result<Option<Listed>, OriginError> {
        let url = self.url(&key)?;
        let response = match self.ask(Method::HEAD, url, Vec::new()).await {
            Ok(response) => response,
            Err(Failure::Refused { status, .. }) if is_gone(status) && self.files.is_empty() => return Ok(None),
            Err(failure) => return Err(self.explain(failure, &key, false)),
        };
        let unusable =
            |what: &str| OriginError::Invalid(format!("{} {what} {key}; it cannot be an origin", self.folder));
        let length = transport::header(&response, header::CONTENT_LENGTH).and_then(|length| length.parse().ok());
        let modified = transport::last_modified(&response);
        let tag = transport::header(&response, header::ETAG).filter(|tag| !tag.starts_with("W/"));
        let version = match (tag, modified) {
            (Some(tag), _) => Version::ETag(unquoted(tag).to_owned()),
            (None, Some(modified)) => Version::Modified(modified),
            (None, None) => {
                return Err(unusable(
                    "gives neither a strong ETag nor the time of the last change of",
                ));
            }
        };
        Ok(Some(Listed {
            bytes: length.ok_or_else(|| unusable("does not say the length of"))?,
            modified_unix_nanos: modified.unwrap_or(0),
            version,
            key,
        }))
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
        self.folder.to_string()
    }

    fn place(&self) -> String {
        self.identity()
    }

    fn list(&self) -> Pages<'_> {
        let keys = async {
            if self.files.is_empty() {
                self.found().await
            } else {
                Ok(self.files.clone())
            }
        };
        let keys = futures::stream::once(keys).map_ok(|keys| futures::stream::iter(keys).map(Ok));
        let described = keys
            .try_flatten()
            .map_ok(|key| self.described(key))
            .try_buffered(HTTP_QUESTIONS_MAX)
            .try_filter_map(async |described| Ok(described));
        described.try_chunks(HTTP_PAGE_FILES).map_err(|error| error.1).boxed()
    }

    async fn read(&self, object: &ObjectVersion, bytes: u64, range: Range<u64>) -> Result<Body, OriginError> {
        let ObjectVersion {
            source: _,
            key,
            version,
        } = object;
        let place = self.folder.as_str();
        let mut headers = vec![(header::RANGE, format!("bytes={}-{}", range.start, range.end - 1))];
        match version {
            Version::ETag(tag) => headers.push((header::IF_MATCH, quoted(tag))),
            Version::Modified(unix_nanos) => headers.push((header::IF_UNMODIFIED_SINCE, http_date(*unix_nanos))),
            Version::None | Version::Id(_) => {}
        }
        let headers = headers
            .into_iter()
            .map(|(name, value)| Ok((name, HeaderValue::try_from(value)?)))
            .collect::<Result<_, header::InvalidHeaderValue>>()
            .map_err(|_| OriginError::Invalid(format!("the ETag of {key} in {place} is none")))?;
        let response = self.ask(Method::GET, self.url(key)?, headers).await;
        let response = response.map_err(|failure| self.explain(failure, key, true))?;
        transport::prove(&response, version, bytes, &range).map_err(|wrong| wrong.explain(place, key))?;
        let broken = OriginError::Unreachable(format!("{place} broke off while sending {key}"));
        Ok(transport::pieces(response, broken))
    }
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
