//! GET requests to a hub and to wherever it leads. It must not know what the answers mean.
//!
//! A hub leads on: from a repository's old name to its new one, from a file to where it is kept. Its own addresses are followed with
//! the token, those of others without it; nobody gets the token who is not the hub.

use std::ops::Range;
use std::time::Duration;

use reqwest::header::{self, HeaderName, HeaderValue};
use reqwest::{Method, Request, Response, Url};

use crate::Network;
use crate::limits::REDIRECTS_MAX;
use crate::transport::{self, Failure, unquoted};

/// The id of a file's content, where what is sent is not the file itself.
const LINKED_ETAG: HeaderName = HeaderName::from_static("x-linked-etag");
/// Why a hub refuses, for example "GatedRepo".
const ERROR_CODE: HeaderName = HeaderName::from_static("x-error-code");
/// How many questions are left, and until when (<https://huggingface.co/docs/hub/rate-limits>).
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// Speaks to one hub.
pub(super) struct Client {
    http: transport::Client,
    hub: Url,
    token: Option<HeaderValue>,
}

/// Where something is to be asked for. Its query may be as good as a key: it stands in no text.
#[derive(Clone)]
pub(super) struct Lead {
    url: Url,
    /// How much further it may lead.
    redirects: usize,
}

/// What the hub answers.
pub(super) struct Answer {
    pub(super) at: At,
    /// The id of the content, if it says so.
    pub(super) tag: Option<String>,
}

/// Where the content is.
pub(super) enum At {
    /// In this answer.
    Hub(Response),
    /// On another server.
    Elsewhere(Lead),
}

/// Why there is no answer.
pub(super) enum Trouble {
    Failed {
        failure: Failure,
        /// The hub's own word for it, or "".
        code: String,
        /// Which other server it was.
        elsewhere: Option<String>,
    },
    /// It leads to where nobody goes; what it does, for people.
    Astray(&'static str),
}

impl Client {
    /// Asks nobody yet. The error is a sentence.
    pub(super) fn new(hub: Url, token: Option<&str>, network: &Network) -> Result<Self, String> {
        let token = token.map(|token| HeaderValue::try_from(format!("Bearer {token}")));
        let mut token = token.transpose().map_err(|_| {
            "the token in its Secret has characters that no header can hold; correct HF_TOKEN".to_owned()
        })?;
        if let Some(token) = &mut token {
            token.set_sensitive(true);
        }
        let http = transport::client(network)?;
        Ok(Self { http, hub, token })
    }

    /// Whether requests have a token.
    pub(super) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Whether an address is the hub's.
    pub(super) fn is_hub(&self, url: &Url) -> bool {
        self.hub.origin() == url.origin()
    }

    /// What the hub says at one of its addresses.
    pub(super) async fn ask(&self, url: Url, range: Option<&Range<u64>>) -> Result<Answer, Trouble> {
        let (mut lead, mut linked) = (Lead::first(url), None);
        loop {
            let response = self.get(&lead, range, self.token.as_ref()).await?;
            let tag_in = |name| transport::header(&response, name).map(plain);
            linked = linked.or_else(|| tag_in(LINKED_ETAG));
            let tag = tag_in(header::ETAG);
            lead = match lead.onwards(&response)? {
                Some(next) if self.is_hub(&next.url) => next,
                Some(next) => {
                    let (at, tag) = (At::Elsewhere(next), linked);
                    return Ok(Answer { at, tag });
                }
                None => {
                    let (at, tag) = (At::Hub(good(response, None).await?), linked.or(tag));
                    return Ok(Answer { at, tag });
                }
            };
        }
    }

    /// A range of what is kept elsewhere.
    pub(super) async fn fetch(&self, mut lead: Lead, range: &Range<u64>) -> Result<Response, Trouble> {
        loop {
            // Not even when it leads back to the hub.
            let response = self.get(&lead, Some(range), None).await?;
            lead = match lead.onwards(&response)? {
                Some(next) => next,
                None => return good(response, Some(lead.host())).await,
            };
        }
    }

    async fn get(
        &self,
        lead: &Lead,
        range: Option<&Range<u64>>,
        token: Option<&HeaderValue>,
    ) -> Result<Response, Trouble> {
        let mut request = Request::new(Method::GET, lead.url.clone());
        let headers = request.headers_mut();
        let range = range.map(|range| HeaderValue::try_from(format!("bytes={}-{}", range.start, range.end - 1)));
        headers.extend(range.and_then(Result::ok).map(|range| (header::RANGE, range)));
        // Ranges are those of the file, and its tag is not that of something else.
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        headers.extend(token.map(|token| (header::AUTHORIZATION, token.clone())));
        let answer = transport::answer(&self.http, request).await;
        answer.map_err(|failure| Trouble::Failed {
            failure,
            code: String::new(),
            elsewhere: (!self.is_hub(&lead.url)).then(|| lead.host()),
        })
    }
}

impl Lead {
    fn first(url: Url) -> Self {
        Self {
            url,
            redirects: REDIRECTS_MAX,
        }
    }

    /// Whose address it is, for people.
    fn host(&self) -> String {
        self.url.host_str().unwrap_or_default().to_owned()
    }

    /// Where an answer leads to, if it leads on.
    fn onwards(&self, response: &Response) -> Result<Option<Self>, Trouble> {
        if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
            return Ok(None);
        }
        let target = transport::header(response, header::LOCATION);
        let url = target.and_then(|target| self.url.join(target).ok());
        let url = url.ok_or(Trouble::Astray("leads to what is no address"))?;
        match (self.url.scheme(), url.scheme()) {
            ("http", "http") | (_, "https") => {}
            _ => return Err(Trouble::Astray("leads from https to http, or to what is no web server")),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Trouble::Astray("leads to an address with a user in it"));
        }
        let redirects = self.redirects.checked_sub(1);
        let redirects = redirects.ok_or(Trouble::Astray("leads from one address to the next without end"))?;
        Ok(Some(Self { url, redirects }))
    }
}

/// The answer, if it is a good one.
async fn good(response: Response, elsewhere: Option<String>) -> Result<Response, Trouble> {
    if response.status().is_success() {
        return Ok(response);
    }
    let code = transport::header(&response, ERROR_CODE).unwrap_or_default();
    let is_code = code.len() <= 64 && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let code = if is_code { code.to_owned() } else { String::new() };
    let until = transport::header(&response, RATE_LIMIT).and_then(until);
    let mut failure = transport::refused(response).await;
    if let Failure::Refused { wait, .. } = &mut failure {
        *wait = wait.or(until);
    }
    Err(Trouble::Failed {
        failure,
        code,
        elsewhere,
    })
}

/// A tag without its quotes and without the sign that the answer may have been packed on its way: the hub's tags are made of the
/// content.
fn plain(tag: &str) -> String {
    unquoted(tag.strip_prefix("W/").unwrap_or(tag)).to_owned()
}

/// How long it takes until questions are answered again, for example 55 s in `"api";r=0;t=55`.
fn until(limit: &str) -> Option<Duration> {
    let seconds = limit.split(';').find_map(|part| part.trim().strip_prefix("t="));
    Some(Duration::from_secs(seconds?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hub_says_when_it_answers_again() {
        for (limit, seconds) in [
            ("\"api\";r=0;t=55", Some(55)),
            ("\"resolvers\"; r=12 ; t=300", Some(300)),
            ("\"api\";r=0", None),
            ("t=soon", None),
            ("", None),
        ] {
            assert_eq!(until(limit), seconds.map(Duration::from_secs), "{limit:?}");
        }
    }

    #[test]
    fn what_leads_on_is_followed_to_web_servers_and_never_from_https_to_http() {
        for (from, location, target) in [
            ("https://hub/a/b", "/c?d", Some("https://hub/c?d")),
            ("http://hub/a", "http://cdn/b", Some("http://cdn/b")),
            ("http://hub/a", "https://cdn/b", Some("https://cdn/b")),
            ("https://hub/a", "https://cdn/b", Some("https://cdn/b")),
            ("https://hub/a", "http://hub/a", None),
            ("https://hub/a", "//me@hub/a", None),
            ("http://hub/a", "ftp://hub/a", None),
            ("http://hub/a", "https://", None),
        ] {
            let answer = ::http::Response::builder().status(302).header("Location", location);
            let answer = Response::from(answer.body("").unwrap());
            let lead = Lead::first(Url::parse(from).unwrap());
            let next = lead.onwards(&answer).ok().flatten();
            assert_eq!(
                next.as_ref().map(|lead| lead.url.as_str()),
                target,
                "{from} to {location}"
            );
        }
    }

    #[test]
    fn a_tag_is_what_stands_in_its_quotes() {
        for tag in ["abc", "\"abc\"", "W/\"abc\""] {
            assert_eq!(plain(tag), "abc", "{tag}");
        }
    }
}
