//! Signed GET requests to one bucket. It must not know what the answers mean.

use std::time::Duration;

use bytes::BytesMut;
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqsign_aws_v4::{Credential, RequestSigner};
use reqsign_core::{Context, SignRequest};
use reqwest::header::{HOST, HeaderName, RETRY_AFTER};
use reqwest::{Method, Request, Response, StatusCode, Url};

use super::{Credentials, S3Config, listing};
use crate::limits::{ERROR_BODY_BYTES_MAX, FETCHES_MAX, IDLE_CONNECTION_MAX, ORIGIN_CONNECT_MAX};

/// Region for servers that have none: what every S3 look-alike accepts.
const REGION_DEFAULT: &str = "us-east-1";
/// What stands in a URL as it is: the unreserved characters of RFC 3986, which the signature leaves alone too.
const VALUE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
const PATH: &AsciiSet = &VALUE.remove(b'/');

/// Why there is no answer.
pub(super) enum Failure {
    /// The server was not reached or broke off; the cause for people.
    Transport(String),
    /// The server's own words: status, code, "" if it gave none, and how long to wait.
    Refused {
        status: StatusCode,
        code: String,
        wait: Option<Duration>,
    },
}

/// Speaks to one bucket.
pub(super) struct Client {
    http: reqwest::Client,
    /// URL of the bucket without a slash at the end.
    bucket: String,
    signer: RequestSigner,
    credential: Option<Credential>,
}

impl Client {
    /// Asks nobody yet. The error is a sentence.
    pub(super) fn new(config: &S3Config, silence_max: Duration) -> Result<Self, String> {
        let S3Config {
            bucket,
            prefix: _,
            region,
            endpoint,
            virtual_host_style,
            credentials,
        } = config;
        if bucket.ends_with("--x-s3") {
            return Err("directory buckets of S3 Express are not supported; use a general purpose bucket".to_owned());
        }
        // Whoever was first wins; both install the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .connect_timeout(ORIGIN_CONNECT_MAX)
            .read_timeout(silence_max)
            .pool_max_idle_per_host(FETCHES_MAX)
            .pool_idle_timeout(IDLE_CONNECTION_MAX)
            .tcp_nodelay(true)
            // What stands in the answer of an origin must not choose whom a cache node speaks to, keys in hand.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| error.to_string())?;
        let region = if region.is_empty() { REGION_DEFAULT } else { region };
        let credential = credentials.as_ref().map(
            |Credentials {
                 access_key_id,
                 secret_access_key,
                 session_token,
             }| Credential {
                access_key_id: access_key_id.clone(),
                secret_access_key: secret_access_key.clone(),
                session_token: (!session_token.is_empty()).then(|| session_token.clone()),
                expires_in: None,
            },
        );
        if credential
            .as_ref()
            .is_some_and(|c| c.access_key_id.is_empty() || c.secret_access_key.is_empty())
        {
            return Err("an access key or its secret is empty; correct the Secret of the source".to_owned());
        }
        Ok(Self {
            http,
            bucket: bucket_url(bucket, region, endpoint, *virtual_host_style)?,
            signer: RequestSigner::new("s3", region),
            credential,
        })
    }

    /// The URL of an object; `None` when a URL cannot name it: `.` and `..` vanish from paths, encoded or not.
    pub(super) fn object(&self, key: &str) -> Option<Url> {
        let text = format!("{}/{}", self.bucket, utf8_percent_encode(key, PATH));
        Url::parse(&text).ok().filter(|url| url.as_str() == text)
    }

    /// The URL of a question about the bucket itself.
    pub(super) fn question(&self, query: &[(&str, &str)]) -> Option<Url> {
        let pairs = query
            .iter()
            .map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, VALUE)));
        Url::parse(&format!("{}?{}", self.bucket, pairs.collect::<Vec<_>>().join("&"))).ok()
    }

    /// The answer to a GET, if it is a good one; its body is still to come.
    pub(super) async fn get(&self, url: Url, headers: &[(HeaderName, String)]) -> Result<Response, Failure> {
        let request = self.signed(url, headers).await.map_err(Failure::Transport)?;
        let response = self.http.execute(request).await.map_err(|error| broken(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let asked = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok());
        let wait = asked.and_then(|text| retry_after(text, Timestamp::now()));
        // An error is an error even when its text does not arrive.
        let text = body(response, ERROR_BODY_BYTES_MAX).await.unwrap_or_default();
        let code = listing::error_code(&text);
        Err(Failure::Refused { status, code, wait })
    }

    async fn signed(&self, url: Url, headers: &[(HeaderName, String)]) -> Result<Request, String> {
        let mut request = http::Request::get(url.as_str());
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let (mut parts, ()) = request.body(()).map_err(|error| error.to_string())?.into_parts();
        self.signer
            .sign_request(&Context::new(), &mut parts, self.credential.as_ref(), None)
            .await
            .map_err(|_| "the request cannot be signed".to_owned())?;
        // The transport sets its own.
        parts.headers.remove(HOST);
        let mut request = Request::new(Method::GET, url);
        *request.headers_mut() = parts.headers;
        Ok(request)
    }
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

/// How long a Retry-After asks to wait: seconds, or until a time (RFC 9110, 10.2.3).
fn retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = rfc2822::DateTimeParser::new().parse_timestamp(text.trim()).ok()?;
    Some(Duration::try_from(until.duration_since(now)).unwrap_or_default())
}

fn bucket_url(bucket: &str, region: &str, endpoint: &str, virtual_host_style: bool) -> Result<String, String> {
    let endpoint = match endpoint.trim_end_matches('/') {
        "" | "https://s3.amazonaws.com" => format!("https://s3.{region}.amazonaws.com"),
        other if other.contains("://") => other.to_owned(),
        other => format!("https://{other}"),
    };
    let text = if virtual_host_style {
        endpoint.replacen("://", &format!("://{bucket}."), 1)
    } else {
        format!("{endpoint}/{}", utf8_percent_encode(bucket, VALUE))
    };
    let url = Url::parse(&text).map_err(|error| format!("{text} is no URL: {error}"))?;
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

/// The innermost cause of a broken request, for example "Connection refused (os error 111)": what is around it may quote
/// headers.
fn broken(error: &reqwest::Error) -> Failure {
    if error.is_timeout() && !error.is_connect() {
        return Failure::Transport("it fell silent".to_owned());
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let text = cause.to_string();
    Failure::Transport(text.lines().next().unwrap_or("no answer").chars().take(200).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_part_of_the_path_or_of_the_host_name() {
        for (bucket, endpoint, virtual_host, url) in [
            ("b", "", false, "https://s3.eu-west-1.amazonaws.com/b"),
            ("b", "", true, "https://b.s3.eu-west-1.amazonaws.com"),
            (
                "b",
                "https://s3.amazonaws.com/",
                true,
                "https://b.s3.eu-west-1.amazonaws.com",
            ),
            ("minio", "http://minio.svc:9000", false, "http://minio.svc:9000/minio"),
            ("b", "http://host:80", true, "http://b.host"),
        ] {
            let made = bucket_url(bucket, "eu-west-1", endpoint, virtual_host);
            assert_eq!(made.as_deref(), Ok(url), "{bucket} at {endpoint:?}");
        }
        assert!(bucket_url("b", "r", "http://a b", false).is_err());
    }

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
