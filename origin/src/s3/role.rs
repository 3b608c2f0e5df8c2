//! The keys of a role of AWS, for a while: those for which its token service takes the token of a service account (IRSA), or which an
//! agent on the node gives (EKS Pod Identity, ECS). Keys of the environment come first, as in AWS's own programs. It must not know what
//! is asked with them.
//!
//! The machine's own role is not asked for: it is seldom meant for a cache, and would hide that the pod's is missing.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use reqsign_aws_v4::Credential;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Method, Request, Url};
use serde::Deserialize;

use crate::OriginError;
use crate::bearer::{Asked, Token, form};
use crate::limits::TOKEN_LIFETIME_MAX;
use crate::workload_identity::WorkloadIdentity;

const TOKEN_FILE: &str = "AWS_WEB_IDENTITY_TOKEN_FILE";
const AGENT: &str = "AWS_CONTAINER_CREDENTIALS_FULL_URI";
const AGENT_TOKEN_FILE: &str = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE";
/// Of ECS, which names paths there.
const ECS: &str = "http://169.254.170.2";

/// How sessions are called in AWS's logs, where nobody says it.
const SESSION_NAME: &str = "penstock";

const ADVICE: &str =
    "check the trust policy of the role, or the Pod Identity association, of the cache nodes' service account";

/// The name that AWS has in a region.
pub(super) fn domain(region: &str) -> &'static str {
    if region.starts_with("cn-") {
        "amazonaws.com.cn"
    } else {
        "amazonaws.com"
    }
}

/// Keys for the source at `place`.
pub(super) async fn keys(identity: &WorkloadIdentity, place: &str) -> Result<Token<Credential>, OriginError> {
    let variable = |name| identity.variable(name);
    if let (Some(id), Some(secret)) = (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY")) {
        let keys = Credential {
            access_key_id: id.to_owned(),
            secret_access_key: secret.to_owned(),
            session_token: variable("AWS_SESSION_TOKEN").map(str::to_owned),
            expires_in: None,
        };
        return Ok(Token::of(keys, TOKEN_LIFETIME_MAX, Instant::now()));
    }
    if variable(TOKEN_FILE).is_some() {
        return of_service_account(identity, place).await;
    }
    let on_ecs = variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI").map(|path| format!("{ECS}{path}"));
    match variable(AGENT).map(str::to_owned).or(on_ecs) {
        Some(url) => of_agent(identity, &url, place).await,
        None => Err(OriginError::Denied(format!(
            "{place}: neither {TOKEN_FILE} nor {AGENT} is set, so the cache nodes have no role of AWS; set eks.amazonaws.com/role-arn in \
             spec.workloadIdentity.serviceAccountAnnotations of the CacheRuntime, or make a Pod Identity association and restart them"
        ))),
    }
}

async fn of_service_account(identity: &WorkloadIdentity, place: &str) -> Result<Token<Credential>, OriginError> {
    let role = identity.variable("AWS_ROLE_ARN").ok_or_else(|| {
        OriginError::Denied(format!(
            "{place}: {TOKEN_FILE} is set and AWS_ROLE_ARN is not; set eks.amazonaws.com/role-arn in \
             spec.workloadIdentity.serviceAccountAnnotations of the CacheRuntime"
        ))
    })?;
    let token = identity.file(TOKEN_FILE, place).await?;
    let session = identity.variable("AWS_ROLE_SESSION_NAME").unwrap_or(SESSION_NAME);
    let fields = [
        ("Action", "AssumeRoleWithWebIdentity"),
        ("Version", "2011-06-15"),
        ("RoleArn", role),
        ("RoleSessionName", session),
        ("WebIdentityToken", &token),
    ];
    let url = token_service(|name| identity.variable(name));
    let mut request = Request::new(Method::POST, named("AWS_ENDPOINT_URL_STS", &url, place)?);
    *request.body_mut() = Some(form(&fields).into());
    ask(identity, request, place, |body| {
        let Assumed { result } = quick_xml::de::from_reader(body).ok()?;
        Some(result.credentials)
    })
    .await
}

async fn of_agent(identity: &WorkloadIdentity, url: &str, place: &str) -> Result<Token<Credential>, OriginError> {
    let mut request = Request::new(Method::GET, named(AGENT, url, place)?);
    let token = match identity.variable(AGENT_TOKEN_FILE) {
        Some(_) => Some(identity.file(AGENT_TOKEN_FILE, place).await?),
        None => identity
            .variable("AWS_CONTAINER_AUTHORIZATION_TOKEN")
            .map(str::to_owned),
    };
    if let Some(token) = token {
        let mut authorization = HeaderValue::try_from(token).map_err(|_| {
            OriginError::Denied(format!(
                "{place}: the token for {url} is one that no header can hold; look at {AGENT_TOKEN_FILE}"
            ))
        })?;
        authorization.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, authorization);
    }
    ask(identity, request, place, |body| serde_json::from_slice(body).ok()).await
}

/// Where the token service is.
fn token_service<'a>(variable: impl Fn(&'static str) -> Option<&'a str>) -> String {
    if let Some(url) = variable("AWS_ENDPOINT_URL_STS") {
        return url.to_owned();
    }
    let is_global = variable("AWS_STS_REGIONAL_ENDPOINTS") == Some("legacy");
    match variable("AWS_REGION").or_else(|| variable("AWS_DEFAULT_REGION")) {
        Some(region) if !is_global => format!("https://sts.{region}.{}", domain(region)),
        _ => "https://sts.amazonaws.com".to_owned(),
    }
}

fn named(variable: &str, url: &str, place: &str) -> Result<Url, OriginError> {
    Url::parse(url).map_err(|error| OriginError::Denied(format!("{place}: {variable} is no URL ({error}); correct it")))
}

async fn ask(
    identity: &WorkloadIdentity,
    request: Request,
    place: &str,
    read: impl FnOnce(&[u8]) -> Option<Keys>,
) -> Result<Token<Credential>, OriginError> {
    let host = request.url().host_str().unwrap_or_default().to_owned();
    let asked = Asked {
        place,
        host: &host,
        advice: ADVICE,
    };
    let asked_at = (Instant::now(), Timestamp::now());
    let body = asked.answer(&identity.client, request).await?;
    asked.read(read(&body).and_then(|keys| keys.token(asked_at)))
}

/// What AssumeRoleWithWebIdentity answers, as far as it is needed.
#[derive(Deserialize)]
struct Assumed {
    #[serde(rename = "AssumeRoleWithWebIdentityResult")]
    result: AssumedResult,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AssumedResult {
    credentials: Keys,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Keys {
    access_key_id: String,
    secret_access_key: String,
    /// An agent calls it so.
    #[serde(alias = "Token")]
    session_token: String,
    expiration: String,
}

impl Keys {
    /// As they are good from when they were asked for.
    fn token(self, (asked_at, time): (Instant, Timestamp)) -> Option<Token<Credential>> {
        let Self {
            access_key_id,
            secret_access_key,
            session_token,
            expiration,
        } = self;
        let until: Timestamp = expiration.parse().ok()?;
        // Those of a clock that is far ahead are asked for each time, instead of never.
        let lifetime = Duration::try_from(until.duration_since(time)).unwrap_or_default();
        let keys = Credential {
            access_key_id,
            secret_access_key,
            session_token: Some(session_token),
            expires_in: None,
        };
        Some(Token::of(keys, lifetime, asked_at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_service_is_that_of_the_region_unless_somebody_says_otherwise() {
        for (variables, url) in [
            (&[][..], "https://sts.amazonaws.com"),
            (&[("AWS_REGION", "eu-west-1")], "https://sts.eu-west-1.amazonaws.com"),
            (
                &[
                    ("AWS_DEFAULT_REGION", "cn-north-1"),
                    ("AWS_STS_REGIONAL_ENDPOINTS", "regional"),
                ],
                "https://sts.cn-north-1.amazonaws.com.cn",
            ),
            (
                &[("AWS_REGION", "eu-west-1"), ("AWS_STS_REGIONAL_ENDPOINTS", "legacy")],
                "https://sts.amazonaws.com",
            ),
            (
                &[
                    ("AWS_REGION", "eu-west-1"),
                    ("AWS_ENDPOINT_URL_STS", "https://vpce.example.org"),
                ],
                "https://vpce.example.org",
            ),
        ] {
            let variable = |name| {
                variables
                    .iter()
                    .find(|(known, _)| *known == name)
                    .map(|(_, value)| *value)
            };
            assert_eq!(token_service(variable), url);
        }
    }
}
