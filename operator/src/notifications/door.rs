//! From a request to its answer: who may tell us of changes, and what is done with it.
//!
//! *Guarantees*: whoever has not got the token of a Dataset does not learn whether there is such a Dataset: a refusal is always the same,
//! and comes after the same time. The one exception: the first look-up that the API server does not answer is answered otherwise than
//! refusals were before it. No URL that came from outside is opened. What somebody says marks what is listed next and nothing else.

use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard};

use async_trait::async_trait;
use axum::body::{Body, to_bytes};
use axum::http::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use axum::http::{Method, Request, Response, StatusCode};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kube::ResourceExt;
use penstock_crds::Dataset;
use penstock_notifications::Said;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::marks::Mark;
use super::places;
use super::tokens::{Tokens, Unanswered};
use crate::error::Error;
use crate::limits::{
    NOTIFICATION_BODIES_MAX, NOTIFICATION_BODY_MAX, NOTIFICATION_BYTES_MAX, REFUSAL_DELAY, REFUSALS_MAX,
    RETRY_AFTER_SECONDS,
};
use crate::metrics::{Metrics, Outcome};

/// Whoever leads, as far as the door needs it.
#[async_trait]
pub trait Leader: Send + Sync {
    /// Whether it has seen which Datasets there are. Before that nobody could tell one that is not there from one that was not seen yet.
    fn knows_datasets(&self) -> bool;

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
    /// Held while something is remembered, so that nothing is once it is closed.
    is_closed: RwLock<bool>,
    metrics: Metrics,
    tokens: Tokens,
    refusals: Semaphore,
    bodies: Semaphore,
    reading: Semaphore,
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
            is_closed: RwLock::default(),
            metrics,
            tokens: Tokens::default(),
            refusals: Semaphore::new(REFUSALS_MAX),
            bodies: Semaphore::new(NOTIFICATION_BODIES_MAX),
            reading: Semaphore::new(1),
        }))
    }

    /// This process leads now.
    pub fn lead(&self, leader: Arc<dyn Leader>) {
        // A process leads once.
        let _ = self.0.leader.set(leader);
    }

    /// This process stops to lead: what was taken until now is looked at by whoever leads next, who begins with a look at everything, and
    /// nothing is taken any more.
    pub fn close(&self) {
        *self.0.is_closed.write().unwrap_or_else(PoisonError::into_inner) = true;
    }

    /// The answer to a request.
    pub async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let Some((namespace, name)) = dataset_of(request.uri().path()) else {
            return said(StatusCode::NOT_FOUND, "POST to /v1/notifications/NAMESPACE/DATASET\n");
        };
        if !matches!(*request.method(), Method::POST | Method::OPTIONS) {
            let mut response = said(StatusCode::METHOD_NOT_ALLOWED, "");
            set(&mut response, ALLOW, "POST, OPTIONS");
            return response;
        }
        let Some(leader) = self.leader() else {
            return self.later(Outcome::NotLeading, StatusCode::SERVICE_UNAVAILABLE);
        };
        // Before anything that takes longer for some than for others.
        let place = self.0.refusals.try_acquire().ok();
        let until = Instant::now() + REFUSAL_DELAY;
        let tokens = tokens_in(request.headers(), request.uri().query());
        let dataset = match self.authenticate(leader, &namespace, &name, &tokens, until).await {
            Ok(dataset) => dataset,
            Err(refused) => return self.refuse(refused, place, until).await,
        };
        drop(place);
        if request.method() == Method::OPTIONS {
            return self.handshake(request.headers());
        }
        match self.read(request.into_body()).await {
            Ok(what) => self.act(&**leader, &dataset, what).await,
            Err(response) => response,
        }
    }

    fn leader(&self) -> Option<&Arc<dyn Leader>> {
        let leader = self.0.leader.get()?;
        (leader.knows_datasets() && !*self.is_closed()).then_some(leader)
    }

    fn is_closed(&self) -> RwLockReadGuard<'_, bool> {
        self.0.is_closed.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers what has changed, unless this process does not lead any more.
    fn mark(
        &self,
        leader: &dyn Leader,
        dataset: &Dataset,
        marks: Vec<Mark>,
        outcome: Outcome,
        text: &'static str,
    ) -> Response<Body> {
        let is_closed = self.is_closed();
        if *is_closed {
            return self.later(Outcome::NotLeading, StatusCode::SERVICE_UNAVAILABLE);
        }
        leader.mark(dataset, marks);
        drop(is_closed);
        self.accepted(outcome, text)
    }

    fn accepted(&self, outcome: Outcome, text: &'static str) -> Response<Body> {
        self.0.metrics.notified(outcome);
        said(StatusCode::ACCEPTED, text)
    }

    async fn authenticate(
        &self,
        leader: &Arc<dyn Leader>,
        namespace: &str,
        name: &str,
        tokens: &[Vec<u8>],
        until: Instant,
    ) -> Result<Arc<Dataset>, Refused> {
        let dataset = leader.dataset(namespace, name).ok_or(Refused::Unknown)?;
        let refresh = dataset.spec.refresh.as_ref();
        let notifications = refresh.and_then(|refresh| refresh.notifications.as_ref());
        let secret = &notifications.ok_or(Refused::Unknown)?.token_secret_ref.name;
        let right = self.0.tokens.right(leader, &dataset, secret, until).await;
        let right = right.map_err(|Unanswered| Refused::Later)?;
        let is_right = |token: &Vec<u8>| right.is_some_and(|right| blake3::hash(token) == right);
        if tokens.iter().any(is_right) {
            Ok(dataset)
        } else {
            Err(Refused::Unknown)
        }
    }

    /// Says no, as late as it says no to anybody, and to so many at a time.
    async fn refuse(&self, refused: Refused, place: Option<SemaphorePermit<'_>>, until: Instant) -> Response<Body> {
        tokio::time::sleep_until(until).await;
        if place.is_none() {
            return self.later(Outcome::TooMuch, StatusCode::TOO_MANY_REQUESTS);
        }
        match refused {
            // Otherwise it would say that there is a Dataset whose token was looked up in vain.
            Refused::Unknown if !self.0.tokens.is_unanswered() => {
                self.0.metrics.notified(Outcome::Refused);
                said(StatusCode::UNAUTHORIZED, "no such Dataset, or not its token\n")
            }
            Refused::Unknown | Refused::Later => self.later(Outcome::Unavailable, StatusCode::SERVICE_UNAVAILABLE),
        }
    }

    /// What a body says. One is read at a time, on a thread where nothing else waits for it.
    async fn read(&self, body: Body) -> Result<Said, Response<Body>> {
        let place = tokio::time::timeout(NOTIFICATION_BODY_MAX, self.0.bodies.acquire()).await;
        let _place = place.map_err(|_| self.later(Outcome::TooMuch, StatusCode::TOO_MANY_REQUESTS))?;
        let body = tokio::time::timeout(NOTIFICATION_BODY_MAX, to_bytes(body, NOTIFICATION_BYTES_MAX)).await;
        let Ok(Ok(body)) = body else {
            self.0.metrics.notified(Outcome::TooMuch);
            return Err(said(StatusCode::PAYLOAD_TOO_LARGE, "at most 1 MiB, within 10 s\n"));
        };
        let _turn = self.0.reading.acquire().await;
        let what = spawn_blocking(move || penstock_notifications::read(&body)).await;
        // One that makes us panic is not understood.
        Ok(what.unwrap_or(Said::NotUnderstood))
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
        match what {
            Said::Changed(changes) => {
                let marks = places::marks(dataset, &changes);
                if marks.is_empty() {
                    return self.accepted(Outcome::Ignored, "it is about no source of this Dataset\n");
                }
                self.mark(leader, dataset, marks, Outcome::Marked, "it is looked at\n")
            }
            Said::Anything => {
                let text = "all sources are looked at\n";
                self.mark(leader, dataset, vec![Mark::All], Outcome::Marked, text)
            }
            Said::NotUnderstood => {
                let text = "it is not understood, so all sources are looked at\n";
                self.mark(leader, dataset, vec![Mark::All], Outcome::NotUnderstood, text)
            }
            Said::Nothing => self.accepted(Outcome::Ignored, "it is about nothing that could be listed\n"),
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
                self.accepted(Outcome::Handshake, "its owner has to confirm it\n")
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
