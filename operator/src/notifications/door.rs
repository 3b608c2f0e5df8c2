//! From a request to its answer: who may tell us of changes, and what is done with it.
//!
//! *Guarantees*: whoever has not got the token of a Dataset does not learn whether there is such a Dataset: a refusal is always the same,
//! and comes after the same time. No URL that came from outside is opened. What somebody says marks what is listed next and nothing else.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use async_trait::async_trait;
use axum::body::{Body, to_bytes};
use axum::http::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use axum::http::{Method, Request, Response, StatusCode};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kube::ResourceExt;
use penstock_crds::Dataset;
use penstock_notifications::Said;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::marks::Mark;
use super::places;
use crate::error::Error;
use crate::limits::{
    NOTIFICATION_BODY_MAX, NOTIFICATION_BYTES_MAX, REFUSAL_DELAY, REFUSALS_MAX, RETRY_AFTER_SECONDS, TOKEN_BYTES_MIN,
    TOKEN_KEPT,
};
use crate::metrics::{Metrics, Outcome};

/// Whoever leads, as far as the door needs it.
#[async_trait]
pub trait Leader: Send + Sync {
    /// The Dataset of this name, if there is one.
    fn dataset(&self, namespace: &str, name: &str) -> Option<Arc<Dataset>>;

    /// The token in a Secret; `None` when there is none.
    ///
    /// # Errors
    /// When the API server cannot be asked.
    async fn token(&self, namespace: &str, secret: &str) -> Result<Option<String>, Error>;

    /// Remembers what has changed.
    fn mark(&self, dataset: &Dataset, marks: Vec<Mark>);

    /// Tells people who look at the Dataset.
    async fn tell(&self, dataset: &Dataset, reason: &str, note: String);
}

/// The door; clones share it.
#[derive(Clone)]
pub struct Door(Arc<Shared>);

struct Shared {
    leader: OnceLock<Arc<dyn Leader>>,
    metrics: Metrics,
    /// Digests of tokens by UID and Secret, as they were looked up last.
    tokens: Mutex<HashMap<(String, String), Known>>,
    refusals: Semaphore,
}

#[derive(Clone, Copy)]
struct Known {
    /// Digests are compared in a time that says nothing of where they differ.
    token: Option<blake3::Hash>,
    at: Instant,
}

/// Why a request ends early.
enum Refused {
    /// No such Dataset, or not its token.
    Unknown,
    /// The API server does not answer.
    Later,
}

impl Door {
    /// A door behind which nobody leads yet.
    pub fn new(metrics: Metrics) -> Self {
        Self(Arc::new(Shared {
            leader: OnceLock::new(),
            metrics,
            tokens: Mutex::default(),
            refusals: Semaphore::new(REFUSALS_MAX),
        }))
    }

    /// This process leads now.
    pub fn lead(&self, leader: Arc<dyn Leader>) {
        // A process leads once.
        let _ = self.0.leader.set(leader);
    }

    /// The answer to a request.
    pub async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let began = Instant::now();
        let Some((namespace, name)) = dataset_of(request.uri().path()) else {
            return said(StatusCode::NOT_FOUND, "POST to /v1/notifications/NAMESPACE/DATASET\n");
        };
        if !matches!(*request.method(), Method::POST | Method::OPTIONS) {
            let mut response = said(StatusCode::METHOD_NOT_ALLOWED, "");
            set(&mut response, ALLOW, "POST, OPTIONS");
            return response;
        }
        let Some(leader) = self.0.leader.get() else {
            return self.later(Outcome::NotLeading, StatusCode::SERVICE_UNAVAILABLE);
        };
        let tokens = tokens_in(request.headers(), request.uri().query());
        let dataset = match self.authenticate(&**leader, &namespace, &name, &tokens).await {
            Ok(dataset) => dataset,
            Err(Refused::Later) => return self.later(Outcome::NotLeading, StatusCode::SERVICE_UNAVAILABLE),
            Err(Refused::Unknown) => return self.refuse(began).await,
        };
        if request.method() == Method::OPTIONS {
            return self.handshake(request.headers());
        }
        let body = to_bytes(request.into_body(), NOTIFICATION_BYTES_MAX);
        let Ok(Ok(body)) = tokio::time::timeout(NOTIFICATION_BODY_MAX, body).await else {
            self.0.metrics.notified(Outcome::TooMuch);
            return said(StatusCode::PAYLOAD_TOO_LARGE, "at most 1 MiB, within 10 s\n");
        };
        self.act(&**leader, &dataset, penstock_notifications::read(&body)).await
    }

    async fn authenticate(
        &self,
        leader: &dyn Leader,
        namespace: &str,
        name: &str,
        tokens: &[Vec<u8>],
    ) -> Result<Arc<Dataset>, Refused> {
        let dataset = leader.dataset(namespace, name).ok_or(Refused::Unknown)?;
        let refresh = dataset.spec.refresh.as_ref();
        let notifications = refresh.and_then(|refresh| refresh.notifications.as_ref());
        let secret = &notifications.ok_or(Refused::Unknown)?.token_secret_ref.name;
        let right = self.right_token(leader, &dataset, namespace, secret).await?;
        let is_right = |token: &Vec<u8>| right.is_some_and(|right| blake3::hash(token) == right);
        if tokens.iter().any(is_right) {
            Ok(dataset)
        } else {
            Err(Refused::Unknown)
        }
    }

    /// Digest of the token that is right. Remembered for a while, so that nobody can make us ask the API server.
    async fn right_token(
        &self,
        leader: &dyn Leader,
        dataset: &Dataset,
        namespace: &str,
        secret: &str,
    ) -> Result<Option<blake3::Hash>, Refused> {
        let lock = || self.0.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (dataset.uid().unwrap_or_default(), secret.to_owned());
        let known = lock()
            .get(&key)
            .copied()
            .filter(|known| known.at.elapsed() < TOKEN_KEPT);
        if let Some(known) = known {
            return Ok(known.token);
        }
        let about = || (dataset.name_any(), namespace);
        let found = leader.token(namespace, secret).await.map_err(|error| {
            let (dataset, namespace) = about();
            tracing::warn!(dataset, namespace, %error, "look up the token of notifications");
            Refused::Later
        })?;
        let token = found
            .as_deref()
            .map(str::trim)
            .filter(|token| token.len() >= TOKEN_BYTES_MIN);
        if token.is_none() {
            let (dataset, namespace) = about();
            tracing::warn!(
                dataset,
                namespace,
                secret,
                "notifications are refused: the Secret does not exist or has no key `token` of 16 characters or more; create it"
            );
        }
        let known = Known {
            token: token.map(|token| blake3::hash(token.as_bytes())),
            at: Instant::now(),
        };
        let mut tokens = lock();
        tokens.retain(|_, known| known.at.elapsed() < TOKEN_KEPT);
        tokens.insert(key, known);
        Ok(known.token)
    }

    /// Says no, as late as it says no to anybody, and to so many at a time.
    async fn refuse(&self, began: Instant) -> Response<Body> {
        let Ok(_place) = self.0.refusals.try_acquire() else {
            return self.later(Outcome::TooMuch, StatusCode::TOO_MANY_REQUESTS);
        };
        tokio::time::sleep_until(began + REFUSAL_DELAY).await;
        self.0.metrics.notified(Outcome::Refused);
        said(StatusCode::UNAUTHORIZED, "no such Dataset, or not its token\n")
    }

    fn later(&self, outcome: Outcome, status: StatusCode) -> Response<Body> {
        self.0.metrics.notified(outcome);
        let mut response = said(status, "come back in a moment\n");
        set(&mut response, RETRY_AFTER, RETRY_AFTER_SECONDS);
        response
    }

    /// Senders of CloudEvents ask before they send.
    fn handshake(&self, headers: &HeaderMap) -> Response<Body> {
        self.0.metrics.notified(Outcome::Handshake);
        let mut response = said(StatusCode::OK, "");
        if let Some(origin) = headers.get("webhook-request-origin") {
            let headers = response.headers_mut();
            headers.insert(HeaderName::from_static("webhook-allowed-origin"), origin.clone());
            headers.insert(
                HeaderName::from_static("webhook-allowed-rate"),
                HeaderValue::from_static("*"),
            );
        }
        set(&mut response, ALLOW, "POST, OPTIONS");
        response
    }

    async fn act(&self, leader: &dyn Leader, dataset: &Dataset, what: Said) -> Response<Body> {
        let accepted = |outcome, text| {
            self.0.metrics.notified(outcome);
            said(StatusCode::ACCEPTED, text)
        };
        match what {
            Said::Changed(changes) => {
                let marks = places::marks(dataset, &changes);
                if marks.is_empty() {
                    return accepted(Outcome::Ignored, "it is about no source of this Dataset\n");
                }
                leader.mark(dataset, marks);
                accepted(Outcome::Marked, "it is looked at\n")
            }
            Said::Anything => {
                leader.mark(dataset, vec![Mark::All]);
                accepted(Outcome::Marked, "all sources are looked at\n")
            }
            Said::NotUnderstood => {
                leader.mark(dataset, vec![Mark::All]);
                accepted(
                    Outcome::NotUnderstood,
                    "it is not understood, so all sources are looked at\n",
                )
            }
            Said::Nothing => accepted(Outcome::Ignored, "it is about nothing that could be listed\n"),
            Said::Confirm { topic, url } => {
                let how = match url.as_str() {
                    "" => "its URL is none of SNS, so do not open it".to_owned(),
                    url => format!("if it is yours, open {url}"),
                };
                let note = format!("the SNS topic {topic:?} wants to send notifications: {how}");
                let (name, namespace) = (dataset.name_any(), dataset.namespace());
                tracing::info!(
                    dataset = name,
                    namespace,
                    topic,
                    url,
                    "a subscription waits to be confirmed"
                );
                leader.tell(dataset, "SubscriptionWaits", note).await;
                accepted(Outcome::Handshake, "its owner has to confirm it\n")
            }
            Said::Validate(code) => {
                self.0.metrics.notified(Outcome::Handshake);
                let text = serde_json::json!({ "validationResponse": code }).to_string();
                let mut response = Response::new(Body::from(text));
                set(&mut response, CONTENT_TYPE, "application/json");
                response
            }
        }
    }
}

/// Namespace and name in a path.
fn dataset_of(path: &str) -> Option<(String, String)> {
    let rest = path.strip_prefix("/v1/notifications/")?;
    let (namespace, name) = rest.split_once('/')?;
    let is_name = |name: &str| {
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        (1..=63).contains(&name.len()) && name.bytes().all(is_plain)
    };
    (is_name(namespace) && is_name(name)).then(|| (namespace.to_owned(), name.to_owned()))
}

/// The tokens in a request. A sender may have an authorization of its own beside ours, so each may be the right one.
fn tokens_in(headers: &HeaderMap, query: Option<&str>) -> Vec<Vec<u8>> {
    let said = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let mut tokens = Vec::new();
    if let Some((scheme, rest)) = said.and_then(|said| said.split_once(' ')) {
        let rest = rest.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            tokens.push(rest.as_bytes().to_vec());
        } else if scheme.eq_ignore_ascii_case("basic")
            && let Ok(pair) = STANDARD.decode(rest)
            && let Some(colon) = pair.iter().position(|byte| *byte == b':')
        {
            tokens.push(pair[colon + 1..].to_vec());
        }
    }
    let pairs = query.unwrap_or_default().split('&');
    let in_query = pairs.filter_map(|pair| pair.strip_prefix("token="));
    tokens.extend(in_query.map(|token| percent_encoding::percent_decode_str(token).collect()));
    // Each costs a digest.
    tokens.truncate(4);
    tokens
}

fn said(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response
}

fn set(response: &mut Response<Body>, name: HeaderName, value: &'static str) {
    response.headers_mut().insert(name, HeaderValue::from_static(value));
}

#[cfg(test)]
mod tests;
