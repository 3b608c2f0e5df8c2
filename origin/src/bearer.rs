//! Tokens that open something for a while: got when there is none, kept, and renewed before their time is over. It must not know
//! what they open.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use percent_encoding::utf8_percent_encode;
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Method, Request, Url};
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::limits::{
    TOKEN_ANSWER_BYTES_MAX, TOKEN_LIFETIME_MAX, TOKEN_LIFETIME_UNSAID, TOKEN_RETRY, TOKEN_SILENCE_MAX,
};
use crate::transport::{self, Failure, VALUE};
use crate::{OriginError, refusal};

/// A token: a header, or whatever else says who asks.
pub(super) struct Token<T = HeaderValue> {
    value: T,
    renew_at: Instant,
    good_until: Instant,
}

/// Keeps one token.
pub(super) struct Keeper<T = HeaderValue>(Mutex<Kept<T>>);

struct Kept<T> {
    token: Option<Token<T>>,
    /// When there was none to be had the last time, and why.
    failed: Option<(Instant, OriginError)>,
    /// When the origin refused one the last time, so that there had to be another.
    refused: Option<Instant>,
}

/// What gives tokens for a form that has a secret in it (OAuth 2.0, RFC 6749 section 4.4 and 6).
pub(super) struct Giver {
    url: Url,
    form: String,
    advice: &'static str,
}

/// Who is asked for a token.
pub(super) struct Asked<'a> {
    /// For which source.
    pub(super) place: &'a str,
    /// By the name of its host.
    pub(super) host: &'a str,
    /// What to do when it gives none.
    pub(super) advice: &'a str,
}

/// For a form that was made of a Secret.
const ADVICE: &str = "check the credentials in the Secret of the source";

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
        Some(Self::of(authorization, lifetime, now))
    }
}

impl<T> Token<T> {
    /// One that is good for so long from `now`.
    pub(super) fn of(value: T, lifetime: Duration, now: Instant) -> Self {
        let lifetime = lifetime.min(TOKEN_LIFETIME_MAX);
        Self {
            value,
            renew_at: now + lifetime / 10 * 9,
            good_until: now + lifetime,
        }
    }
}

impl<T> Default for Keeper<T> {
    fn default() -> Self {
        Self(Mutex::new(Kept {
            token: None,
            failed: None,
            refused: None,
        }))
    }
}

impl<T: Clone> Keeper<T> {
    /// What says who asks, for a request at `now`. Of several at once one gets the token, and all have what came of it.
    ///
    /// # Errors
    /// Those of getting one, unless the one that is kept is still good.
    pub(super) async fn token(
        &self,
        now: Instant,
        get: impl Future<Output = Result<Token<T>, OriginError>>,
    ) -> Result<T, OriginError> {
        let mut kept = self.0.lock().await;
        if let Some(token) = kept.token.as_ref().filter(|token| now < token.renew_at) {
            return Ok(token.value.clone());
        }
        if let Some((_, error)) = kept.failed.as_ref().filter(|(at, _)| now < *at) {
            return Err(error.clone());
        }
        let silent =
            || OriginError::Unreachable("what gives tokens for the source fell silent; it is asked again".to_owned());
        let got = timeout(TOKEN_SILENCE_MAX, get).await.unwrap_or_else(|_| Err(silent()));
        match got {
            Ok(token) => {
                let value = token.value.clone();
                (kept.token, kept.failed) = (Some(token), None);
                Ok(value)
            }
            Err(error) => match kept.token.as_mut().filter(|token| now < token.good_until) {
                Some(token) => {
                    token.renew_at = now + TOKEN_RETRY;
                    Ok(token.value.clone())
                }
                None => {
                    kept.failed = Some((Instant::now(), error.clone()));
                    Err(error)
                }
            },
        }
    }

    /// Whether to ask again with another token, after the origin refused one at `now` that `is_it`. That one is not kept then. Where
    /// another one was refused a moment ago, a third would fare no better.
    pub(super) async fn is_worth_another(&self, now: Instant, is_it: impl FnOnce(&T) -> bool) -> bool {
        let mut kept = self.0.lock().await;
        match &kept.token {
            Some(token) if is_it(&token.value) => {
                let is_worth_it = kept.refused.is_none_or(|at| now >= at + TOKEN_RETRY);
                if is_worth_it {
                    (kept.token, kept.refused) = (None, Some(now));
                }
                is_worth_it
            }
            // Somebody else has seen to it.
            _ => true,
        }
    }
}

impl Giver {
    pub(super) fn new(url: Url, fields: &[(&str, &str)]) -> Self {
        Self {
            url,
            form: form(fields),
            advice: ADVICE,
        }
    }

    /// With another sentence on what to do when it gives none.
    pub(super) fn advising(self, advice: &'static str) -> Self {
        Self { advice, ..self }
    }

    /// Whom it asks, and for what.
    #[cfg(test)]
    pub(super) fn question(&self) -> (&str, &str) {
        (self.url.as_str(), &self.form)
    }

    /// A new token for the source at `place`.
    pub(super) async fn token(&self, client: &transport::Client, place: &str) -> Result<Token, OriginError> {
        let Self { url, form, advice } = self;
        let mut request = Request::new(Method::POST, url.clone());
        *request.body_mut() = Some(form.clone().into());
        let host = url.host_str().unwrap_or_default();
        let asked = Asked { place, host, advice };
        let asked_at = Instant::now();
        let body = asked.answer(client, request).await?;
        asked.read(given(&body, asked_at))
    }
}

/// Fields as a form has them.
pub(super) fn form(fields: &[(&str, &str)]) -> String {
    let pairs = fields
        .iter()
        .map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, VALUE)));
    pairs.collect::<Vec<_>>().join("&")
}

impl Asked<'_> {
    /// What it says to a request, which has a form if it has a body.
    pub(super) async fn answer(
        &self,
        client: &transport::Client,
        mut request: Request,
    ) -> Result<BytesMut, OriginError> {
        if request.body().is_some() {
            let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
            request.headers_mut().insert(CONTENT_TYPE, kind);
        }
        let explain = |failure| explain(failure, self);
        let response = transport::send(client, request).await.map_err(explain)?;
        transport::body(response, TOKEN_ANSWER_BYTES_MAX).await.map_err(explain)
    }

    /// What was made of that, if it was understood.
    pub(super) fn read<T>(&self, token: Option<T>) -> Result<T, OriginError> {
        let Self { place, host, advice } = self;
        token.ok_or_else(|| {
            OriginError::Invalid(format!(
                "{place}: {host} answers with something else than a token; {advice}"
            ))
        })
    }
}

/// The token in an answer to a question of `asked_at`, as OAuth 2.0 has it.
pub(super) fn given(body: &[u8], asked_at: Instant) -> Option<Token> {
    let Given {
        access_token,
        expires_in,
    } = serde_json::from_slice(body).ok()?;
    let lifetime = expires_in.map_or(TOKEN_LIFETIME_UNSAID, Duration::from_secs);
    Token::new(&access_token, lifetime, asked_at)
}

fn explain(failure: Failure, Asked { place, host, advice }: &Asked<'_>) -> OriginError {
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
        300..=499 => OriginError::Denied(format!("{place}: {host} gives no token ({shown}); {advice}")),
        502 | 504 => OriginError::Unreachable(format!(
            "{place}: {host}, which gives the tokens for it, cannot be reached by the gateway in front of it ({shown}); it is asked again"
        )),
        _ => OriginError::Other(format!(
            "{place}: {host}, which gives the tokens for it, answered with an error ({shown}); it is asked again"
        )),
    }
}

/// For example "invalid_grant", or "AccessDenied" of AWS, which speaks XML. Nothing else of a refusal is passed on.
fn error_code(text: &[u8]) -> Option<String> {
    let Ok(Refusal { error }) = serde_json::from_slice(text) else {
        return Some(refusal::error_code(text)).filter(|code| !code.is_empty());
    };
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
            let authorization = keeper.token(now, get).await;
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
        let (keeper, now) = (Keeper::<HeaderValue>::default(), Instant::now());
        let failed = keeper.token(now, async { Err(away()) }).await;
        assert_eq!(failed.unwrap_err(), away());
        let waited = keeper.token(now, async { unreachable!("it was asked a moment ago") });
        assert_eq!(waited.await.unwrap_err(), away());
    }

    #[tokio::test]
    async fn a_token_that_the_origin_refuses_is_renewed_once_and_not_for_each_that_asked_with_it() {
        let (keeper, begin) = (Keeper::default(), Instant::now());
        let get = async |at: Duration, text: &str| {
            let now = begin + at;
            keeper
                .token(now, async { Ok(Token::new(text, HOUR, now).unwrap()) })
                .await
                .unwrap()
        };
        let is = |token: &HeaderValue| {
            let token = token.clone();
            move |kept: &HeaderValue| *kept == token
        };
        let first = get(Duration::ZERO, "1").await;
        assert!(keeper.is_worth_another(begin, is(&first)).await);
        let second = get(Duration::ZERO, "2").await;
        assert_eq!(second, "Bearer 2");
        // Who asked with the first one a moment ago has the second one too.
        assert!(keeper.is_worth_another(begin, is(&first)).await);
        assert_eq!(get(Duration::ZERO, "3").await, second);
        // Whatever it is, tokens do not mend it.
        assert!(!keeper.is_worth_another(begin, is(&second)).await);
        assert_eq!(get(Duration::ZERO, "3").await, second);
        assert!(keeper.is_worth_another(begin + TOKEN_RETRY, is(&second)).await);
        assert_eq!(get(TOKEN_RETRY, "3").await, "Bearer 3");
    }

    #[test]
    fn a_token_does_not_show_itself() {
        let token = Token::new("hush", HOUR, Instant::now()).unwrap();
        assert!(!format!("{:?}", token.value).contains("hush"));
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
            (
                403,
                "<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>hush</Message></Error></ErrorResponse>",
                "denied AccessDenied",
            ),
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
            let asked = Asked {
                place: "gs://b/",
                host: "host",
                advice: ADVICE,
            };
            let error = explain(failure, &asked);
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
