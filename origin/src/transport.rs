//! HTTP as origins of any kind speak it: requests that are not redirected, and answers that are what was asked for.

mod untrusted;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures::StreamExt;
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use penstock_revision::Version;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};
use reqwest::header::{self, HeaderName, RETRY_AFTER};
use reqwest::{Certificate, Request, Response, StatusCode, Url};

use crate::limits::{CONNECT_MAX, ERROR_BODY_BYTES_MAX, IDLE_CONNECTION_MAX, IDLE_CONNECTIONS_MAX};
use crate::meter::Meter;
use crate::reach::{self, Reach};
use crate::{Body, Network, OriginError};

/// What stands in a URL as it is: the unreserved characters of RFC 3986, which signatures leave alone too.
pub(super) const VALUE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
/// ... in its path.
pub(super) const PATH: &AsciiSet = &VALUE.remove(b'/');

/// Why there is no answer.
pub(super) enum Failure {
    /// The server was not reached or broke off; the cause for people.
    Transport(String),
    /// Nobody may reach it from here; why, for people.
    NotAllowed(String),
    /// The server's own words: status, the beginning of the body, and how long to wait.
    Refused {
        status: StatusCode,
        text: BytesMut,
        wait: Option<Duration>,
    },
}

/// In what an answer is not what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    Whole,
    NoVersion,
    OtherVersion,
    /// It is the version that was listed, and has another length.
    OtherLength,
    NoRange,
    OtherRange,
}

/// Asks servers that may be reached.
#[derive(Clone)]
pub(super) struct Client {
    http: reqwest::Client,
    reach: Reach,
    meter: Meter,
}

/// A client; the error is a sentence.
pub(super) fn client(network: &Network) -> Result<Client, String> {
    let Network {
        authorities,
        silence_max,
        reach,
        meter,
        environment: _,
    } = network;
    // Whoever was first wins; all install the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let authorities = Certificate::from_pem_bundle(authorities.as_bytes())
        .map_err(|_| "the certificates of its authorities are no PEM; correct caBundle of the source".to_owned())?;
    let client = reqwest::Client::builder()
        .tls_certs_merge(authorities)
        .connect_timeout(CONNECT_MAX)
        .read_timeout(*silence_max)
        .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
        .pool_idle_timeout(IDLE_CONNECTION_MAX)
        .tcp_nodelay(true)
        // What stands in the answer of an origin must not choose whom a cache node speaks to, keys in hand.
        .redirect(reqwest::redirect::Policy::none())
        .dns_resolver(Arc::new(reach::Resolver(reach.clone())))
        .build();
    let http = client.map_err(|error| error.to_string())?;
    let (reach, meter) = (reach.clone(), meter.clone());
    Ok(Client { http, reach, meter })
}

/// Where URLs of a service begin, without a slash at the end; the error is a sentence.
pub(super) fn endpoint(text: &str, default: &str) -> Result<String, String> {
    let text = match text.trim_end_matches('/') {
        "" => default.to_owned(),
        text if text.contains("://") => text.to_owned(),
        text => format!("https://{text}"),
    };
    let url = Url::parse(&text).map_err(|error| format!("the endpoint {text} is no URL ({error}); correct it"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("its endpoint begins with http:// or https://; correct it".to_owned());
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

/// The answer, if it is a good one; its body is still to come.
pub(super) async fn send(client: &Client, request: Request) -> Result<Response, Failure> {
    let response = answer(client, request).await?;
    if response.status().is_success() {
        return Ok(response);
    }
    Err(refused(response).await)
}

/// The answer, whatever it says; its body is still to come.
pub(super) async fn answer(client: &Client, request: Request) -> Result<Response, Failure> {
    let Client { http, reach, meter } = client;
    let url = request.url();
    reach.check(url).map_err(not_allowed)?;
    meter.sending().await;
    let (host, port) = (reach::bare_host(url).to_owned(), url.port_or_known_default());
    let answer = reach::asking(port.unwrap_or_default(), http.execute(request));
    let answer = answer.await.map_err(|error| broken(&error))?;
    // A connection may be older than what is allowed now.
    if let Some(address) = answer.remote_addr() {
        reach.judge(&host, address.ip(), port).map_err(not_allowed)?;
    }
    Ok(answer)
}

fn not_allowed(why: reach::NotAllowed) -> Failure {
    Failure::NotAllowed(why.to_string())
}

/// What an answer says that is no good one.
pub(super) async fn refused(response: Response) -> Failure {
    let status = response.status();
    let wait = header(&response, RETRY_AFTER).and_then(|text| retry_after(text, Timestamp::now()));
    // An error is an error even when its text does not arrive.
    let text = body(response, ERROR_BODY_BYTES_MAX).await.unwrap_or_default();
    Failure::Refused { status, text, wait }
}

/// A whole body of at most `bytes_max` bytes.
pub(super) async fn body(mut response: Response, bytes_max: usize) -> Result<BytesMut, Failure> {
    let mut bytes = BytesMut::new();
    while let Some(piece) = response.chunk().await.map_err(|error| broken(&error))? {
        if bytes.len() + piece.len() > bytes_max {
            return Err(Failure::Transport(format!("an answer of more than {bytes_max} bytes")));
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// The body in pieces; `broken` is the error when it ends early.
pub(super) fn pieces(response: Response, broken: OriginError) -> Body {
    let pieces = futures::stream::unfold(Some(response), move |response| {
        let broken = broken.clone();
        async move {
            let mut response = response?;
            match response.chunk().await {
                Ok(Some(piece)) => Some((Ok(piece), Some(response))),
                Ok(None) => None,
                Err(_) => Some((Err(broken), None)),
            }
        }
    });
    pieces.boxed()
}

/// A header as text.
pub(super) fn header(response: &Response, name: HeaderName) -> Option<&str> {
    response.headers().get(name).and_then(|value| value.to_str().ok())
}

/// Whether an answer is this range of an object of `bytes` bytes, in this version, as far as HTTP itself says it.
pub(super) fn prove(response: &Response, version: &Version, bytes: u64, range: &Range<u64>) -> Result<(), Wrong> {
    let got = match version {
        Version::None | Version::Id(_) => None,
        Version::ETag(_) => header(response, header::ETAG).map(|tag| Version::ETag(unquoted(tag).to_owned())),
        Version::Modified(_) => last_modified(response).map(Version::Modified),
    };
    prove_version(response, got, version, bytes, range)
}

/// ... where `got` is the version that the server says it is.
pub(super) fn prove_version(
    response: &Response,
    got: Option<Version>,
    version: &Version,
    bytes: u64,
    range: &Range<u64>,
) -> Result<(), Wrong> {
    if response.status() != StatusCode::PARTIAL_CONTENT {
        return Err(Wrong::Whole);
    }
    match got {
        None => return Err(Wrong::NoVersion),
        Some(got) if got != *version => return Err(Wrong::OtherVersion),
        Some(_) => {}
    }
    prove_range(response, bytes, range).map_err(|wrong| match (wrong, version) {
        // A time is that of two versions, when a file changes twice within what it can tell apart.
        (Wrong::OtherVersion, Version::ETag(_) | Version::Id(_)) => Wrong::OtherLength,
        _ => wrong,
    })
}

/// ... whatever says that it is this version.
pub(super) fn prove_range(response: &Response, bytes: u64, range: &Range<u64>) -> Result<(), Wrong> {
    if response.status() != StatusCode::PARTIAL_CONTENT {
        return Err(Wrong::Whole);
    }
    let sent = header(response, header::CONTENT_RANGE).and_then(|text| text.strip_prefix("bytes ")?.split_once('/'));
    let (sent, total) = sent.ok_or(Wrong::NoRange)?;
    if total != bytes.to_string() {
        return Err(Wrong::OtherVersion);
    }
    if sent != format!("{}-{}", range.start, range.end - 1) {
        return Err(Wrong::OtherRange);
    }
    Ok(())
}

impl Wrong {
    /// As an error about an object of the origin at `place`.
    pub(super) fn explain(self, place: &str, key: &str) -> OriginError {
        let unusable = |what: &str| OriginError::Invalid(format!("{place} {what}; it cannot be an origin"));
        match self {
            Self::Whole => unusable("sends whole objects where parts are asked for"),
            Self::NoVersion => unusable(&format!(
                "sends {key} without the version by which it was listed (its ETag, generation or time of last change), so nothing proves \
                 that it is what was listed"
            )),
            Self::OtherVersion => drifted(place, key),
            Self::OtherLength => OriginError::Invalid(format!(
                "{place} lists {key} with another length than it has in that version, which no refresh mends; correct what lists it there, or \
                 leave it out of the Dataset by a pattern"
            )),
            Self::NoRange => unusable("does not say which range of an object it sends"),
            Self::OtherRange => unusable(&format!("sends another range of {key} than was asked for")),
        }
    }
}

/// An object is another one than was listed.
pub(super) fn drifted(place: &str, key: &str) -> OriginError {
    OriginError::Drifted(format!(
        "{key} changed in {place} since it was listed; refresh the Dataset and restart the pods that need it"
    ))
}

/// When an object changed last, nanoseconds since 1970.
pub(super) fn last_modified(response: &Response) -> Option<i64> {
    time(response, header::LAST_MODIFIED)
}

/// A time in a header, nanoseconds since 1970.
pub(super) fn time(response: &Response, name: HeaderName) -> Option<i64> {
    let time = header(response, name)?;
    let time = rfc2822::DateTimeParser::new().parse_timestamp(time.trim()).ok()?;
    i64::try_from(time.as_nanosecond()).ok()
}

/// An entity tag without its quotes.
pub(super) fn unquoted(tag: &str) -> &str {
    tag.strip_prefix('"')
        .and_then(|tag| tag.strip_suffix('"'))
        .unwrap_or(tag)
}

/// ... and with them.
pub(super) fn quoted(tag: &str) -> String {
    if tag.starts_with("W/") {
        tag.to_owned()
    } else {
        format!("\"{tag}\"")
    }
}

/// How long a Retry-After asks to wait: seconds, or until a time (RFC 9110, 10.2.3).
fn retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = rfc2822::DateTimeParser::new().parse_timestamp(text.trim()).ok()?;
    Some(Duration::try_from(until.duration_since(now)).unwrap_or_default())
}

/// The innermost cause of a broken request, for example "Connection refused (os error 111)": what is around it may quote
/// headers.
pub(super) fn broken(error: &reqwest::Error) -> Failure {
    if let Some(why) = reach::not_allowed(error) {
        return not_allowed(why);
    }
    if error.is_timeout() && !error.is_connect() {
        return Failure::Transport("it fell silent".to_owned());
    }
    let mut cause: &(dyn std::error::Error + 'static) = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    if let Some(why) = untrusted::why(cause) {
        return Failure::Transport(why);
    }
    let text = cause.to_string();
    Failure::Transport(text.lines().next().unwrap_or("no answer").chars().take(200).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_to_wait_is_said_in_seconds_or_as_a_time() {
        let now = "2026-11-26T10:00:00Z".parse().unwrap();
        for (text, seconds) in [
            ("0", Some(0)),
            (" 17 ", Some(17)),
            ("Thu, 26 Nov 2026 10:00:05 GMT", Some(5)),
            ("Thu, 26 Nov 2026 09:00:00 GMT", Some(0)),
            ("", None),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(retry_after(text, now), seconds.map(Duration::from_secs), "{text:?}");
        }
    }
}
