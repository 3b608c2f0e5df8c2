//! Azure Blob Storage, and Data Lake Storage Gen2 by the same API: one prefix of one container.
//!
//! A blob is read by its ETag, which changes with each write. Where the account has a hierarchy of names, its directories are listed as
//! other stores list theirs: as names that end in a slash.

mod access;
mod listing;
mod process;

use std::ops::Range;

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt};
use penstock_protocol::control::cache_node as wire;
use penstock_revision::{Listed, ObjectVersion, Version};
use percent_encoding::{AsciiSet, utf8_percent_encode};
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Request, Response, StatusCode, Url};

use self::access::Access;
use crate::limits::AZURE_LISTING_PAGE_BYTES_MAX;
use crate::transport::{self, Failure, PATH, VALUE, quoted};
use crate::workload_identity::WorkloadIdentity;
use crate::{Body, Network, Origin, OriginError, Pages, refusal};

/// Of the protocol: since 2021-02-12 names that XML cannot hold are encoded, since 2020-10-02 directories are said to be such.
const VERSION: HeaderName = HeaderName::from_static("x-ms-version");
const VERSION_SPOKEN: &str = "2022-11-02";

/// A container is also called `$root` or `$web`.
const CONTAINER: &AsciiSet = &VALUE.remove(b'$');

/// What was asked for when something went wrong.
#[derive(Clone, Copy, Debug)]
enum Asked<'a> {
    Listing,
    Object(&'a str),
}

/// What of a listing is to be asked for.
enum Next {
    First,
    Page(String),
    Nothing,
}

/// One prefix of one container.
pub struct AzureOrigin {
    account: String,
    container: String,
    prefix: String,
    endpoint: String,
    /// URL of the container without a slash at the end.
    url: String,
    access: Access,
    client: transport::Client,
}

impl AzureOrigin {
    /// Makes the client; asks nobody yet.
    ///
    /// # Errors
    /// When the configuration makes no sense.
    pub fn new(config: wire::Azure, network: &Network) -> Result<Self, OriginError> {
        let wire::Azure {
            account,
            container,
            prefix,
            endpoint,
            key,
            workload_identity,
        } = config;
        let invalid =
            |text: String| OriginError::Invalid(format!("{}: {text}", place(&account, &container, &prefix, &endpoint)));
        if prefix.split('/').any(|part| matches!(part, "." | "..")) {
            return Err(invalid(
                "the prefix has a part `.` or `..`, which no URL can name; choose the prefix before it".to_owned(),
            ));
        }
        let base =
            transport::endpoint(&endpoint, &format!("https://{account}.blob.core.windows.net")).map_err(invalid)?;
        let url = format!("{base}/{}", utf8_percent_encode(&container, CONTAINER));
        if Url::parse(&url).ok().is_none_or(|parsed| parsed.as_str() != url) {
            return Err(invalid("no URL can name the container; correct its name".to_owned()));
        }
        let access = if workload_identity {
            WorkloadIdentity::new(network).map(|identity| Access::of_process(identity, &base))
        } else {
            Access::new(key, &account, &base)
        };
        let access = access.map_err(invalid)?;
        let client = transport::client(network).map_err(invalid)?;
        Ok(Self {
            account,
            container,
            prefix,
            endpoint,
            url,
            access,
            client,
        })
    }

    /// The answer to a GET, if it is a good one; its body is still to come.
    async fn get(&self, url: Url, headers: HeaderMap, asked: Asked<'_>) -> Result<Response, OriginError> {
        let request = self.signed(&url, &headers).await?;
        let used = request.headers().clone();
        let mut outcome = transport::send(&self.client, request).await;
        if let Err(Failure::Refused { status, .. }) = &outcome
            && *status == StatusCode::UNAUTHORIZED
            && self.access.is_worth_another(&used).await
        {
            outcome = transport::send(&self.client, self.signed(&url, &headers).await?).await;
        }
        outcome.map_err(|failure| self.explain(failure, asked))
    }

    async fn signed(&self, url: &Url, headers: &HeaderMap) -> Result<Request, OriginError> {
        let mut request = Request::new(Method::GET, url.clone());
        *request.headers_mut() = headers.clone();
        request
            .headers_mut()
            .insert(VERSION, HeaderValue::from_static(VERSION_SPOKEN));
        self.access.sign(&mut request, &self.client, &self.place()).await?;
        Ok(request)
    }

    fn explain(&self, failure: Failure, asked: Asked<'_>) -> OriginError {
        let place = self.place();
        let (status, text, wait) = match failure {
            Failure::Transport(cause) => {
                return OriginError::Unreachable(format!(
                    "{place} cannot be reached ({cause}); check account and endpoint, name resolution and the network from the cache \
                     nodes"
                ));
            }
            Failure::NotAllowed(why) => {
                return OriginError::NotAllowed(format!("{place} may not be reached: {why}"));
            }
            Failure::Refused { status, text, wait } => (status.as_u16(), text, wait),
        };
        let code = refusal::error_code(&text);
        let shown = if code.is_empty() {
            status.to_string()
        } else {
            code.clone()
        };
        match (status, code.as_str(), asked) {
            (429 | 503, ..) | (_, "ServerBusy", _) => OriginError::Throttled {
                text: format!(
                    "{place} asks to slow down ({shown}); if it stays so, raise the limits of the account or read with fewer pods"
                ),
                wait,
            },
            (409, "BlobArchived" | "BlobBeingRehydrated", Asked::Object(key)) => OriginError::Invalid(format!(
                "{key} in {place} is archived ({shown}); move it to the tier hot, cool or cold, which takes hours, then refresh the \
                 Dataset"
            )),
            // What a container that is not open answers to everybody.
            (404, "ResourceNotFound", _) | (401 | 403, ..) | (409, "PublicAccessNotPermitted", _)
                if self.access.is_for_everybody() =>
            {
                OriginError::Denied(format!(
                    "{place} is not there or not open to everybody ({shown}); check account and container, and name a Secret with a key"
                ))
            }
            (404, code, Asked::Object(key)) if code != "ContainerNotFound" => OriginError::Drifted(format!(
                "{key} is gone from {place}; refresh the Dataset and restart the pods that need it"
            )),
            (412 | 416, _, Asked::Object(key)) => transport::drifted(&place, key),
            (404 | 300..=399, ..) => OriginError::NotFound(format!(
                "{place} does not exist ({shown}); check account, container and endpoint of the source"
            )),
            (401 | 403, ..) => OriginError::Denied(format!(
                "{place} refuses access ({shown}); check the credentials of the source, their rights to list and read (Storage Blob Data \
                 Reader), and the firewall of the account"
            )),
            (400, ..) => OriginError::Invalid(format!(
                "{place} does not take what it is asked ({shown}); check account, container, prefix and endpoint of the source"
            )),
            (502 | 504, ..) => OriginError::Unreachable(format!(
                "{place} cannot be reached by the gateway in front of it ({shown}); check the server behind the endpoint"
            )),
            _ => OriginError::Other(format!("{place} answered with an error ({shown}); it is tried again")),
        }
    }

    /// The server does something that makes it unusable.
    fn unusable(&self, what: &str) -> OriginError {
        OriginError::Invalid(format!("{} {what}; it cannot be an origin", self.place()))
    }

    /// The URL of a page of the listing.
    fn question(&self, start: &str, marker: Option<&str>) -> Option<Url> {
        let prefix = format!("{}{start}", self.prefix);
        let mut query = vec![("restype", "container"), ("comp", "list"), ("maxresults", "5000")];
        query.extend((!prefix.is_empty()).then_some(("prefix", prefix.as_str())));
        query.extend(marker.map(|marker| ("marker", marker)));
        let pairs = query
            .iter()
            .map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, VALUE)));
        Url::parse(&format!("{}?{}", self.url, pairs.collect::<Vec<_>>().join("&"))).ok()
    }

    /// The URL of a blob; `None` when a URL cannot name it: `.` and `..` vanish from paths, encoded or not.
    fn content(&self, key: &str) -> Option<Url> {
        let name = format!("{}{key}", self.prefix);
        let text = format!("{}/{}", self.url, utf8_percent_encode(&name, PATH));
        Url::parse(&text).ok().filter(|url| url.as_str() == text)
    }

    /// One page of the listing of the names that begin with `start`: its blobs go to `objects`; the marker of the next one, if there is
    /// one.
    async fn page(
        &self,
        start: &str,
        marker: Option<&str>,
        objects: &mut Vec<Listed>,
    ) -> Result<Option<String>, OriginError> {
        let url = self.question(start, marker);
        let url = url.ok_or_else(|| self.unusable("has a name that no URL can hold"))?;
        let response = self.get(url, HeaderMap::new(), Asked::Listing).await?;
        let bytes = transport::body(response, AZURE_LISTING_PAGE_BYTES_MAX)
            .await
            .map_err(|failure| self.explain(failure, Asked::Listing))?;
        let page = listing::page(&bytes).map_err(|what| self.unusable(&what))?;
        for mut listed in page.objects {
            let below = listed.key.strip_prefix(&self.prefix);
            let Some(key) = below.filter(|key| key.starts_with(start)) else {
                return Err(self.unusable("lists names that do not begin with the prefix"));
            };
            // A marker of the folder that the prefix names stands for nothing in it.
            if listed.bytes > 0 || !matches!(key, "" | "/") {
                listed.key = key.to_owned();
                objects.push(listed);
            }
        }
        match page.next {
            Some(next) if Some(next.as_str()) == marker => Err(self.unusable("lists the same page again and again")),
            next => Ok(next),
        }
    }

    /// All pages, one after the other.
    fn pages(&self, start: String) -> Pages<'_> {
        let pages = futures::stream::try_unfold((start, Next::First), async move |(start, next)| {
            let marker = match &next {
                Next::First => None,
                Next::Page(marker) => Some(marker.as_str()),
                Next::Nothing => return Ok(None),
            };
            let mut objects = Vec::new();
            let next = self.page(&start, marker, &mut objects).await?;
            let next = next.map_or(Next::Nothing, Next::Page);
            Ok(Some((objects, (start, next))))
        });
        pages.boxed()
    }

    /// The marker of a folder where names are a hierarchy: it is listed by the name without a slash, which is the first that begins so.
    async fn marker(&self, folder: &str) -> Result<Vec<Listed>, OriginError> {
        let name = folder.strip_suffix('/').unwrap_or(folder);
        let mut pages = self.pages(name.to_owned());
        while let Some(mut page) = pages.try_next().await? {
            if !page.is_empty() {
                page.truncate(1);
                page.retain(|listed| listed.key == folder && listed.bytes == 0);
                return Ok(page);
            }
        }
        Ok(Vec::new())
    }
}

/// The source for people.
fn place(account: &str, container: &str, prefix: &str, endpoint: &str) -> String {
    let at = if endpoint.is_empty() {
        String::new()
    } else {
        format!(" at {endpoint}")
    };
    format!("azure://{account}/{container}/{prefix}{at}")
}

#[async_trait]
impl Origin for AzureOrigin {
    fn identity(&self) -> String {
        let Self {
            account,
            container,
            prefix,
            endpoint,
            ..
        } = self;
        format!("azure://{account}/{container}/{prefix}@{endpoint}")
    }

    fn place(&self) -> String {
        place(&self.account, &self.container, &self.prefix, &self.endpoint)
    }

    fn list(&self) -> Pages<'_> {
        self.pages(String::new())
    }

    fn list_below(&self, start: &str) -> Option<Pages<'_>> {
        let start = start.to_owned();
        if !start.ends_with('/') {
            return Some(self.pages(start));
        }
        let pages = async move {
            let marker = self.marker(&start).await?;
            let is_known = !marker.is_empty();
            let rest = self.pages(start.clone()).map_ok(move |mut page| {
                page.retain(|listed| !is_known || listed.bytes > 0 || listed.key != start);
                page
            });
            Ok::<_, OriginError>(futures::stream::iter([Ok(marker)]).chain(rest))
        };
        Some(futures::stream::once(pages).try_flatten().boxed())
    }

    async fn read(&self, object: &ObjectVersion, bytes: u64, range: Range<u64>) -> Result<Body, OriginError> {
        let ObjectVersion {
            source: _,
            key,
            version,
        } = object;
        let place = self.place();
        let Version::ETag(tag) = version else {
            return Err(OriginError::Invalid(format!(
                "{place} gives no ETag for {key}, so its bytes cannot be proven to be those that were listed"
            )));
        };
        let Some(url) = self.content(key) else {
            return Err(OriginError::Invalid(format!("no URL can name {key}; rename the blob")));
        };
        let headers = [
            (header::RANGE, format!("bytes={}-{}", range.start, range.end - 1)),
            (header::IF_MATCH, quoted(tag)),
        ];
        let headers = headers
            .into_iter()
            .map(|(name, value)| Ok((name, HeaderValue::try_from(value)?)))
            .collect::<Result<_, header::InvalidHeaderValue>>()
            .map_err(|_| OriginError::Invalid(format!("the ETag of {key} in {place} is none")))?;
        let response = self.get(url, headers, Asked::Object(key)).await?;
        transport::prove(&response, version, bytes, &range).map_err(|wrong| wrong.explain(&place, key))?;
        let broken = OriginError::Unreachable(format!("{place} broke off while sending {key}"));
        Ok(transport::pieces(response, broken))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(container: &str, prefix: &str, endpoint: &str) -> Result<AzureOrigin, OriginError> {
        let config = wire::Azure {
            account: "acc".to_owned(),
            container: container.to_owned(),
            prefix: prefix.to_owned(),
            endpoint: endpoint.to_owned(),
            ..Default::default()
        };
        AzureOrigin::new(config, &Network::default())
    }

    #[test]
    fn slashes_of_a_name_are_those_of_the_path_and_all_else_is_encoded() {
        for (prefix, key, path) in [
            ("", "plain.tar", "plain.tar"),
            ("", "a b+c", "a%20b%2Bc"),
            ("p/", "é", "p/%C3%A9"),
            ("", "/a//b/", "/a//b/"),
            ("", "q?a&b=c;d", "q%3Fa%26b%3Dc%3Bd"),
            ("", "100%25 #1", "100%2525%20%231"),
            ("", "a\\b..", "a%5Cb.."),
        ] {
            let url = origin("c-1", prefix, "").unwrap().content(key).unwrap();
            assert_eq!(url.as_str(), format!("https://acc.blob.core.windows.net/c-1/{path}"));
        }
        for key in [".", "..", "a/../b", "a/."] {
            assert!(origin("c", "", "").unwrap().content(key).is_none(), "{key}");
        }
        let root = origin("$root", "", "https://acc.blob.core.usgovcloudapi.net/").unwrap();
        assert_eq!(
            root.content("a").unwrap().as_str(),
            "https://acc.blob.core.usgovcloudapi.net/$root/a"
        );
    }

    #[test]
    fn a_listing_asks_for_the_names_below_the_prefix() {
        let base = "http://127.0.0.1:10000/acc/c?restype=container&comp=list&maxresults=5000";
        let origin = |prefix| origin("c", prefix, "http://127.0.0.1:10000/acc").unwrap();
        assert_eq!(origin("").question("", None).unwrap().as_str(), base);
        assert_eq!(
            origin("a b/").question("", Some("2!x+/=")).unwrap().as_str(),
            format!("{base}&prefix=a%20b%2F&marker=2%21x%2B%2F%3D")
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_a_reason() {
        for (container, prefix, endpoint, says) in [
            ("..", "", "", "no URL can name the container"),
            ("c", "a/../", "", "a part `.` or `..`"),
            ("c", "", "http://a b", "is no URL"),
            ("c", "", "ftp://host", "begins with http:// or https://"),
        ] {
            let error = origin(container, prefix, endpoint).err().unwrap().to_string();
            assert!(error.starts_with("azure://acc/") && error.contains(says), "{error}");
        }
    }
}
