//! Tokens that open something for a while: got when there is none, kept, and renewed before their time is over. It must not know
//! what they open.

use std::time::{Duration, Instant};

use percent_encoding::utf8_percent_encode;
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Method, Request, Url};
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::OriginError;
use crate::limits::{
    TOKEN_ANSWER_BYTES_MAX, TOKEN_LIFETIME_MAX, TOKEN_LIFETIME_UNSAID, TOKEN_RETRY, TOKEN_SILENCE_MAX,
};
use crate::transport::{self, Failure, VALUE};

/// A token.
pub(super) struct Token {
    authorization: HeaderValue,
    renew_at: Instant,
    good_until: Instant,
}

/// Keeps one token.
#[derive(Default)]
pub(super) struct Keeper(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    token: Option<Token>,
    /// When there was none to be had the last time, and why.
    failed: Option<(Instant, OriginError)>,
}

/// What gives tokens for a form that has a secret in it (OAuth 2.0, RFC 6749 section 4.4 and 6).
pub(super) struct Giver {
    url: Url,
    form: String,
}

#[derive(Deserialize)]
struct Given {
    access_token: String,
    expires_in: Option<u64>,
}

#[derive(Deserialize)]
struct Refusal {
    error: String,
}

impl Token {
    /// One that is good for so long from `now`; `None` when no header can hold it.
    pub(super) fn new(text: &str, lifetime: Duration, now: Instant) -> Option<Self> {
        let mut authorization = HeaderValue::try_from(format!("Bearer {text}")).ok()?;
        authorization.set_sensitive(true);
        Some(Self {
            authorization,
            renew_at: now + lifetime / 10 * 9,
            good_until: now + lifetime,
        })
    }
}

impl Keeper {
    /// What says who asks, for a request at `now`. Of several at once one gets the token, and all have what came of it.
    ///
    /// # Errors
    /// Those of getting one, unless the one that is kept is still good.
    pub(super) async fn authorization(
        &self,
        now: Instant,
        get: impl Future<Output = Result<Token, OriginError>>,
    ) -> Result<HeaderValue, OriginError> {
        let mut kept = self.0.lock().await;
        if let Some(token) = kept.token.as_ref().filter(|token| now < token.renew_at) {
            return Ok(token.authorization.clone());
        }
        if let Some((_, error)) = kept.failed.as_ref().filter(|(at, _)| now < *at) {
            return Err(error.clone());
        }
        let silent =
            || OriginError::Unreachable("what gives tokens for the source fell silent; it is asked again".to_owned());
        let got = timeout(TOKEN_SILENCE_MAX, get).await.unwrap_or_else(|_| Err(silent()));
        match got {
            Ok(token) => {
                let authorization = token.authorization.clone();
                *kept = Kept {
                    token: Some(token),
                    failed: None,
                };
                Ok(authorization)
            }
            Err(error) => match kept.token.as_mut().filter(|token| now < token.good_until) {
                Some(token) => {
                    token.renew_at = now + TOKEN_RETRY;
                    Ok(token.authorization.clone())
                }
                None => {
                    kept.failed = Some((Instant::now(), error.clone()));
                    Err(error)
                }
            },
        }
    }
}

impl Giver {
    pub(super) fn new(url: Url, fields: &[(&str, &str)]) -> Self {
        let pairs = fields
            .iter()
            .map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, VALUE)));
        let form = pairs.collect::<Vec<_>>().join("&");
        Self { url, form }
    }

    /// Whom it asks, and for what.
    #[cfg(test)]
    pub(super) fn question(&self) -> (&str, &str) {
        (self.url.as_str(), &self.form)
    }

    /// A new token for the source at `place`.
    pub(super) async fn token(&self, client: &transport::Client, place: &str) -> Result<Token, OriginError> {
        let mut request = Request::new(Method::POST, self.url.clone());
        let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
        request.headers_mut().insert(CONTENT_TYPE, kind);
        *request.body_mut() = Some(self.form.clone().into());
        let asked_at = Instant::now();
        let explain = |failure| explain(failure, place, self.url.host_str().unwrap_or_default());
        let response = transport::send(client, request).await.map_err(explain)?;
        let body = transport::body(response, TOKEN_ANSWER_BYTES_MAX)
            .await
            .map_err(explain)?;
        let given: Option<Given> = serde_json::from_slice(&body).ok();
        let token = given.and_then(
            |Given {
                 access_token,
                 expires_in,
             }| {
                let lifetime = expires_in.map_or(TOKEN_LIFETIME_UNSAID, Duration::from_secs);
                Token::new(&access_token, lifetime.min(TOKEN_LIFETIME_MAX), asked_at)
            },
        );
        token.ok_or_else(|| {
            OriginError::Invalid(format!(
                "{place}: {} answers with something else than a token; check the addresses in the Secret of the source",
                self.url.host_str().unwrap_or_default()
            ))
        })
    }
}

fn explain(failure: Failure, place: &str, host: &str) -> OriginError {
    let (status, text, wait) = match failure {
        Failure::Transport(cause) => {
            return OriginError::Unreachable(format!(
                "{place}: {host}, which gives the tokens for it, cannot be reached ({cause}); check name resolution and the network from \
                 the cache nodes"
            ));
        }
        Failure::NotAllowed(why) => {
            return OriginError::NotAllowed(format!(
                "{place}: {host}, which gives the tokens for it, may not be reached: {why}"
            ));
        }
        Failure::Refused { status, text, wait } => (status.as_u16(), text, wait),
    };
    let shown = error_code(&text).unwrap_or_else(|| status.to_string());
    match status {
        429 | 503 => OriginError::Throttled {
            text: format!(
                "{place}: {host}, which gives the tokens for it, asks to slow down ({shown}); it is asked again"
            ),
            wait,
        },
        300..=499 => OriginError::Denied(format!(
            "{place}: {host} gives no token ({shown}); check the credentials in the Secret of the source"
        )),
        502 | 504 => OriginError::Unreachable(format!(
            "{place}: {host}, which gives the tokens for it, cannot be reached by the gateway in front of it ({shown}); it is asked again"
        )),
        _ => OriginError::Other(format!(
            "{place}: {host}, which gives the tokens for it, answered with an error ({shown}); it is asked again"
        )),
    }
}

/// For example "invalid_grant". Nothing else of a refusal is passed on.
fn error_code(json: &[u8]) -> Option<String> {
    let Refusal { error } = serde_json::from_slice(json).ok()?;
    let is_code = error.len() <= 64 && error.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    (is_code && !error.is_empty()).then_some(error)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn away() -> OriginError {
        OriginError::Unreachable("away".to_owned())
    }

    #[tokio::test]
    async fn a_token_is_kept_and_renewed_before_its_time_is_over() {
        let (keeper, begin, got) = (Keeper::default(), Instant::now(), Cell::new(0));
        let ask = async |at: Duration, has_more: bool| {
            let now = begin + at;
            let get = async {
                got.set(got.get() + 1);
                let text = format!("token-{}", got.get());
                has_more.then(|| Token::new(&text, HOUR, now).unwrap()).ok_or_else(away)
            };
            let authorization = keeper.authorization(now, get).await;
            authorization.map(|value| value.to_str().unwrap().to_owned())
        };
        let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
        for (at, has_more, expected) in [
            (minutes(0), false, Err(away())),
            (minutes(1), true, Ok("Bearer token-2")),
            (minutes(54), true, Ok("Bearer token-2")),
            // Due, but there is no other yet.
            (minutes(55), false, Ok("Bearer token-2")),
            (minutes(55) + TOKEN_RETRY / 2, true, Ok("Bearer token-2")),
            (minutes(55) + TOKEN_RETRY, true, Ok("Bearer token-4")),
            (minutes(55) + TOKEN_RETRY + HOUR, false, Err(away())),
            (
                minutes(55) + TOKEN_RETRY + HOUR + minutes(1),
                true,
                Ok("Bearer token-6"),
            ),
        ] {
            assert_eq!(ask(at, has_more).await, expected.map(str::to_owned), "{at:?}");
        }
    }

    #[tokio::test]
    async fn whoever_waited_while_there_was_none_has_the_same_error() {
        let (keeper, now) = (Keeper::default(), Instant::now());
        let failed = keeper.authorization(now, async { Err(away()) }).await;
        assert_eq!(failed.unwrap_err(), away());
        let waited = keeper.authorization(now, async { unreachable!("it was asked a moment ago") });
        assert_eq!(waited.await.unwrap_err(), away());
    }

    #[test]
    fn a_token_does_not_show_itself() {
        let token = Token::new("hush", HOUR, Instant::now()).unwrap();
        assert!(!format!("{:?}", token.authorization).contains("hush"));
        assert!(Token::new("a\nb", HOUR, Instant::now()).is_none());
    }

    #[test]
    fn refusals_are_told_apart_and_only_their_code_is_passed_on() {
        for (status, body, expected) in [
            (
                400,
                r#"{"error": "invalid_grant", "error_description": "hush"}"#,
                "denied invalid_grant",
            ),
            (401, r#"{"error": "invalid_client"}"#, "denied invalid_client"),
            (404, "hush", "denied 404"),
            (302, "", "denied 302"),
            (400, r#"{"error": "hush 1"}"#, "denied 400"),
            (400, r#"{"error": {"message": "hush"}}"#, "denied 400"),
            (429, "", "throttled 429"),
            (503, "", "throttled 503"),
            (502, "", "unreachable 502"),
            (500, r#"{"error": "server_error"}"#, "other server_error"),
        ] {
            let failure = Failure::Refused {
                status: reqwest::StatusCode::from_u16(status).unwrap(),
                text: body.as_bytes().into(),
                wait: None,
            };
            let error = explain(failure, "gs://b/", "host");
            let kind = match &error {
                OriginError::Denied(_) => "denied",
                OriginError::Throttled { .. } => "throttled",
                OriginError::Unreachable(_) => "unreachable",
                _ => "other",
            };
            let text = error.to_string();
            let (expected, shown) = expected.split_once(' ').unwrap();
            assert_eq!(kind, expected, "{text}");
            assert!(text.contains(&format!("({shown})")) && !text.contains("hush"), "{text}");
        }
    }
}
