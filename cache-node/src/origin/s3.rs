//! S3 and what speaks its protocol, through OpenDAL.
//!
//! Reads go through OpenDAL's service directly: its operator tidies paths (`a//b` becomes `a/b`, blanks at the ends go), which
//! would read another object. Every answer must carry the ETag and the length that were listed, for servers that ignore
//! If-Match.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use http::{Request, Response, StatusCode, header};
use opendal::options::ReaderOptions;
use opendal::raw::{OpRead, OpReader};
use opendal::services::S3;
use opendal::{Buffer, ErrorKind, HttpBody, HttpTransport, HttpTransporter, Operator};
use opendal_http_transport_reqwest::ReqwestTransport;
use penstock_revision::{Listed, ObjectVersion, Version};

use super::{Body, Origin, OriginError};
use crate::limits::{ORIGIN_CONNECT_MAX, ORIGIN_REQUESTS_MAX};

/// Idle connections are closed before the server does it (20 s is the shortest that servers here use).
const IDLE_CONNECTION_MAX: Duration = Duration::from_secs(15);
/// Region for servers that have none: what every S3 look-alike accepts.
const REGION_DEFAULT: &str = "us-east-1";

/// Keys of an S3 origin. Its text forms hide them.
#[derive(Clone, PartialEq, Eq)]
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
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// A transport that takes no whole object for a part of it: OpenDAL accepts a 200 for a ranged read, and its length is then
/// that of the object, so nothing else would notice.
#[derive(Debug)]
struct StrictRanges(ReqwestTransport);

impl HttpTransport for StrictRanges {
    async fn fetch(&self, request: Request<Buffer>) -> opendal::Result<Response<HttpBody>> {
        let asked_range = request.headers().contains_key(header::RANGE);
        let response = self.0.fetch(request).await?;
        if asked_range && response.status() == StatusCode::OK {
            return Err(opendal::Error::new(ErrorKind::Unsupported, "the server ignores ranges"));
        }
        Ok(response)
    }
}

/// One prefix of one bucket.
pub struct S3Origin {
    config: S3Config,
    operator: Operator,
}

impl S3Origin {
    /// Makes the client; asks nobody yet.
    ///
    /// # Errors
    /// When the configuration makes no sense.
    pub fn new(config: S3Config) -> Result<Self, OriginError> {
        // Whoever was first wins; both install the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut service = S3::default()
            .bucket(&config.bucket)
            .root("/")
            .region(if config.region.is_empty() {
                REGION_DEFAULT
            } else {
                &config.region
            })
            // Nothing of the machine's own configuration or identity is used unless it was asked for.
            .disable_config_load()
            .disable_ec2_metadata();
        if !config.endpoint.is_empty() {
            service = service.endpoint(&config.endpoint);
        }
        if config.virtual_host_style {
            service = service.enable_virtual_host_style();
        }
        service = match &config.credentials {
            None => service.skip_signature(),
            Some(Credentials {
                access_key_id,
                secret_access_key,
                session_token,
            }) => {
                let service = service
                    .access_key_id(access_key_id)
                    .secret_access_key(secret_access_key);
                if session_token.is_empty() {
                    service
                } else {
                    service.session_token(session_token)
                }
            }
        };
        let invalid = |text: String| OriginError::Invalid(format!("{}: {text}", place(&config)));
        let operator = Operator::new(service).map_err(|error| invalid(error.message().to_owned()))?;
        let client = reqwest::Client::builder()
            .connect_timeout(ORIGIN_CONNECT_MAX)
            .pool_max_idle_per_host(ORIGIN_REQUESTS_MAX)
            .pool_idle_timeout(IDLE_CONNECTION_MAX)
            .tcp_nodelay(true)
            .build()
            .map_err(|error| invalid(error.to_string()))?;
        let transport = HttpTransporter::new(StrictRanges(ReqwestTransport::new(client)));
        let context = operator.context().with_http_transport(transport);
        Ok(Self {
            operator: operator.with_context(context),
            config,
        })
    }

    fn explain(&self, error: &opendal::Error, doing: &str) -> OriginError {
        let place = place(&self.config);
        // What OpenDAL says may quote headers and signatures of the request; only the server's code is passed on.
        let code = server_code(error);
        match error.kind() {
            ErrorKind::NotFound if doing != "list" => OriginError::Drifted(format!(
                "{doing} is gone from {place}; refresh the Dataset and restart the pods that need it"
            )),
            ErrorKind::ConditionNotMatch | ErrorKind::RangeNotSatisfied => OriginError::Drifted(format!(
                "{doing} changed in {place} since it was listed; refresh the Dataset and restart the pods that need it"
            )),
            ErrorKind::ConfigInvalid | ErrorKind::NotFound => OriginError::NotFound(format!(
                "{place} does not exist{code}; check bucket, endpoint and region of the source"
            )),
            ErrorKind::PermissionDenied => OriginError::Denied(format!(
                "{place} refuses access{code}; check the keys and their rights to list and read"
            )),
            ErrorKind::Unsupported => OriginError::Invalid(format!(
                "{place} sends whole objects where parts are asked for; it cannot be an origin"
            )),
            ErrorKind::RateLimited => OriginError::Throttled(format!("{place} asks to slow down{code}")),
            _ if code.is_empty() => OriginError::Unreachable(format!(
                "{place} cannot be reached ({}); check the endpoint, name resolution and the network from the cache nodes",
                transport_cause(error)
            )),
            _ => OriginError::Other(format!("{place} answered with an error{code}; it is tried again")),
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

/// " (CODE)" as the server said it, "" if the answer was not the server's.
fn server_code(error: &opendal::Error) -> String {
    let text = error.message();
    let code = text
        .split("code: \"")
        .nth(1)
        .and_then(|rest| rest.split('"').next())
        .unwrap_or("");
    let is_code = !code.is_empty() && code.len() <= 64 && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if is_code { format!(" ({code})") } else { String::new() }
}

/// The innermost cause of a failed connection, for example "Connection refused (os error 111)".
fn transport_cause(error: &opendal::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let text = cause.to_string();
    text.lines().next().unwrap_or("no answer").chars().take(200).collect()
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
        let prefix = &self.config.prefix;
        let path = if prefix.is_empty() { "/" } else { prefix };
        let explain = |error: opendal::Error| self.explain(&error, "list");
        let mut lister = self.operator.lister_with(path).recursive(true).await.map_err(explain)?;
        let mut objects = Vec::new();
        while let Some(entry) = lister.next().await {
            let (key, metadata) = entry.map_err(explain)?.into_parts();
            // The prefix itself may be an object, a marker of a folder.
            let Some(key) = key
                .strip_prefix(prefix.as_str())
                .filter(|key| !key.is_empty() && *key != "/")
            else {
                continue;
            };
            objects.push(Listed {
                key: key.to_owned(),
                bytes: if metadata.is_dir() {
                    0
                } else {
                    metadata.content_length()
                },
                modified_unix_nanos: metadata
                    .last_modified()
                    .map_or(0, |time| i64::try_from(time.into_inner().as_nanosecond()).unwrap_or(0)),
                version: metadata
                    .etag()
                    .map_or(Version::None, |tag| Version::ETag(unquoted(tag).to_owned())),
            });
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
        let explain = |error: opendal::Error| self.explain(&error, key);
        let options = ReaderOptions {
            if_match: Some(quoted(tag)),
            ..ReaderOptions::default()
        };
        let (arguments, _): (OpRead, OpReader) = options.into();
        let path = format!("{}{key}", self.config.prefix);
        let service = self.operator.service();
        let reader = service
            .read_dyn(self.operator.context(), &path, arguments)
            .map_err(explain)?;
        let (reply, stream) = reader.open_dyn(range.into()).await.map_err(explain)?;
        if let Some(metadata) = reply.metadata() {
            let other_tag = metadata.etag().is_some_and(|got| unquoted(got) != tag);
            if other_tag || metadata.content_length() != bytes {
                return Err(OriginError::Drifted(format!(
                    "{key} changed in {} since it was listed; refresh the Dataset and restart the pods that need it",
                    place(&self.config)
                )));
            }
        }
        let broken = OriginError::Unreachable(format!("{} broke off while sending {key}", place(&self.config)));
        let pieces = futures::stream::unfold(stream, move |mut stream| {
            let broken = broken.clone();
            async move {
                match stream.read_dyn().await {
                    Ok(piece) if piece.is_empty() => None,
                    Ok(piece) => Some((Ok(piece), stream)),
                    Err(_) => Some((Err(broken), stream)),
                }
            }
        });
        // A piece of OpenDAL may consist of several; flattening copies nothing.
        let body = pieces.flat_map(|piece: Result<opendal::Buffer, OriginError>| match piece {
            Ok(buffer) => futures::stream::iter(Iterator::map(buffer, Ok).collect::<Vec<_>>()),
            Err(error) => futures::stream::iter(vec![Err(error)]),
        });
        Ok(body.boxed())
    }
}

fn unquoted(tag: &str) -> &str {
    tag.strip_prefix('"')
        .and_then(|tag| tag.strip_suffix('"'))
        .unwrap_or(tag)
}

fn quoted(tag: &str) -> String {
    if tag.starts_with("W/") {
        tag.to_owned()
    } else {
        format!("\"{tag}\"")
    }
}
