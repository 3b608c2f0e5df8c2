//! An API server for tests: objects in memory, read, listed, made, applied and deleted as the operator does. It must not know what they
//! are: validation, other versions and watches are not here.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::http::{Method, Request, Response, Uri};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

/// Clones are the same server.
#[derive(Clone, Default)]
pub(crate) struct FakeApi(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// By path.
    objects: BTreeMap<String, Value>,
    made: u32,
    refused: Option<String>,
}

impl FakeApi {
    /// A client of it.
    pub(crate) fn client(&self) -> Client {
        let api = self.clone();
        let answer = move |request| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.answer(request).await) }
        };
        Client::new(tower::service_fn(answer), "default")
    }

    /// Somebody makes an object; says its UID.
    pub(crate) fn make(&self, path: &str, object: Value) -> String {
        let made = self.lock().store(path, object);
        made["metadata"]["uid"].as_str().unwrap_or_default().to_owned()
    }

    /// From now on what writes to a path that begins so is refused.
    pub(crate) fn refuse(&self, path: &str) {
        self.lock().refused = Some(path.to_owned());
    }

    /// What there is: the paths, without what all of them begin with.
    pub(crate) fn kinds(&self) -> Vec<String> {
        let kind = |path: &String| path.rsplit('/').nth(1).unwrap_or_default().to_owned();
        self.lock().objects.keys().map(kind).collect()
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let body = body.collect_bytes().await.unwrap_or_default();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let (code, answer) = match self.lock().answer(&head.method, &head.uri, body) {
            Ok(answer) => (200, answer),
            Err((code, reason)) => {
                let status = json!({
                    "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                    "message": reason, "reason": reason, "code": code,
                });
                (code, status)
            }
        };
        let mut response = Response::new(Body::from(answer.to_string().into_bytes()));
        *response.status_mut() = axum::http::StatusCode::from_u16(code).unwrap_or_default();
        response
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn answer(&mut self, method: &Method, uri: &Uri, body: Value) -> Result<Value, (u16, &'static str)> {
        let path = uri.path();
        let missing = (404, "NotFound");
        if *method != Method::GET && self.refused.as_deref().is_some_and(|refused| path.starts_with(refused)) {
            return Err((403, "Forbidden"));
        }
        match *method {
            Method::GET if is_of_many(path) => Ok(self.list(path, &labels(uri))),
            Method::GET => self.objects.get(path).cloned().ok_or(missing),
            Method::POST => {
                let path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap_or_default());
                if self.objects.contains_key(&path) {
                    return Err((409, "AlreadyExists"));
                }
                Ok(self.store(&path, body))
            }
            Method::PATCH => Ok(self.store(path, body)),
            Method::DELETE => {
                let object = self.objects.get(path).ok_or(missing)?;
                let wanted = &body["preconditions"]["uid"];
                if !wanted.is_null() && *wanted != object["metadata"]["uid"] {
                    return Err((409, "Conflict"));
                }
                self.objects.remove(path).ok_or(missing)
            }
            _ => Err((405, "MethodNotAllowed")),
        }
    }

    fn store(&mut self, path: &str, mut object: Value) -> Value {
        let before = self.objects.get(path).map(|before| before["metadata"]["uid"].clone());
        self.made += 1;
        object["metadata"]["uid"] = before.unwrap_or_else(|| json!(format!("uid-{}", self.made)));
        object["metadata"]["resourceVersion"] = json!(self.made.to_string());
        self.objects.insert(path.to_owned(), object.clone());
        object
    }

    fn list(&self, path: &str, labels: &[(String, String)]) -> Value {
        let start = format!("{path}/");
        let is_wanted = |object: &Value| {
            let has = |(name, value): &(String, String)| object["metadata"]["labels"][name] == json!(value);
            labels.iter().all(has)
        };
        let below = self.objects.iter().filter(|(path, _)| path.starts_with(&start));
        let items: Vec<&Value> = below
            .map(|(_, object)| object)
            .filter(|object| is_wanted(object))
            .collect();
        json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": items})
    }
}

/// Whether a path is that of a kind in a namespace and of no object.
fn is_of_many(path: &str) -> bool {
    let below = path.split_once("/namespaces/").map(|(_, below)| below);
    below.is_some_and(|below| below.split('/').count() == 2)
}

/// The labels that a list is asked for.
fn labels(uri: &Uri) -> Vec<(String, String)> {
    let selector = uri
        .query()
        .unwrap_or_default()
        .split('&')
        .find_map(|part| part.strip_prefix("labelSelector="));
    let selector = percent_encoding::percent_decode_str(selector.unwrap_or_default()).decode_utf8_lossy();
    let pair = |pair: &str| {
        pair.split_once('=')
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
    };
    selector.split(',').filter_map(pair).collect()
}
