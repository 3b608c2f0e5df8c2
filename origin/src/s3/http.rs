//! Signed GET requests to one bucket. It must not know what the answers mean.

use penstock_protocol::control::cache_node as wire;
use percent_encoding::utf8_percent_encode;
use reqsign_aws_v4::{Credential, RequestSigner};
use reqsign_core::{Context, SignRequest};
use reqwest::header::{HOST, HeaderName};
use reqwest::{Method, Request, Response, Url};

use super::access::Access;
use super::role;
use crate::transport::{self, Failure, PATH, VALUE};
use crate::{Network, OriginError};

/// Region for servers that have none: what every S3 look-alike accepts.
const REGION_DEFAULT: &str = "us-east-1";

/// Speaks to one bucket.
pub(super) struct Client {
    http: transport::Client,
    /// URL of the bucket without a slash at the end.
    bucket: String,
    signer: RequestSigner,
    access: Access,
}

/// Why there is no answer.
pub(super) enum Unanswered {
    /// Nothing says who asks, so the bucket was not.
    Nobody(OriginError),
    /// The bucket was asked.
    Failed(Failure),
}

impl From<Failure> for Unanswered {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Client {
    /// Asks nobody yet. The error is a sentence.
    pub(super) fn new(config: &wire::S3, network: &Network) -> Result<Self, String> {
        let wire::S3 {
            bucket,
            prefix: _,
            region,
            endpoint,
            virtual_host_style,
            keys,
            workload_identity,
        } = config;
        if bucket.ends_with("--x-s3") {
            return Err("directory buckets of S3 Express are not supported; use a general purpose bucket".to_owned());
        }
        let http = transport::client(network)?;
        let region = if region.is_empty() { REGION_DEFAULT } else { region };
        Ok(Self {
            http,
            bucket: bucket_url(bucket, region, endpoint, *virtual_host_style)?,
            signer: RequestSigner::new("s3", region),
            access: Access::new(keys.as_ref(), *workload_identity, network)?,
        })
    }

    /// The URL of an object, or of one of its versions; `None` when a URL cannot name it: `.` and `..` vanish from paths, encoded
    /// or not.
    pub(super) fn object(&self, key: &str, version_id: Option<&str>) -> Option<Url> {
        let mut text = format!("{}/{}", self.bucket, utf8_percent_encode(key, PATH));
        if let Some(id) = version_id {
            text += &format!("?versionId={}", utf8_percent_encode(id, VALUE));
        }
        Url::parse(&text).ok().filter(|url| url.as_str() == text)
    }

    /// The URL of a question about the bucket itself.
    pub(super) fn question(&self, query: &[(&str, &str)]) -> Option<Url> {
        let pairs = query
            .iter()
            .map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, VALUE)));
        Url::parse(&format!("{}?{}", self.bucket, pairs.collect::<Vec<_>>().join("&"))).ok()
    }

    /// The answer of the source at `place` to a GET, if it is a good one; its body is still to come.
    pub(super) async fn get(
        &self,
        url: Url,
        headers: &[(HeaderName, String)],
        place: &str,
    ) -> Result<Response, Unanswered> {
        let keys = || async { self.access.keys(place).await.map_err(Unanswered::Nobody) };
        let used = keys().await?;
        let outcome = self.get_with(&url, headers, used.as_ref()).await;
        if let Err(Failure::Refused { text, .. }) = &outcome
            && self.access.is_worth_others(used.as_ref(), text).await
        {
            return Ok(self.get_with(&url, headers, keys().await?.as_ref()).await?);
        }
        Ok(outcome?)
    }

    async fn get_with(
        &self,
        url: &Url,
        headers: &[(HeaderName, String)],
        keys: Option<&Credential>,
    ) -> Result<Response, Failure> {
        let request = self.signed(url, headers, keys).await.map_err(Failure::Transport)?;
        transport::send(&self.http, request).await
    }

    async fn signed(
        &self,
        url: &Url,
        headers: &[(HeaderName, String)],
        keys: Option<&Credential>,
    ) -> Result<Request, String> {
        let mut request = http::Request::get(url.as_str());
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let (mut parts, ()) = request.body(()).map_err(|error| error.to_string())?.into_parts();
        self.signer
            .sign_request(&Context::new(), &mut parts, keys, None)
            .await
            .map_err(|_| "the request cannot be signed".to_owned())?;
        // The transport sets its own.
        parts.headers.remove(HOST);
        let mut request = Request::new(Method::GET, url.clone());
        *request.headers_mut() = parts.headers;
        Ok(request)
    }
}

fn bucket_url(bucket: &str, region: &str, endpoint: &str, virtual_host_style: bool) -> Result<String, String> {
    let endpoint = match endpoint.trim_end_matches('/') {
        "" | "https://s3.amazonaws.com" => format!("https://s3.{region}.{}", role::domain(region)),
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
}
