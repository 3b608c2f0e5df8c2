//! From a request to its answer.

use std::path::PathBuf;
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use futures::StreamExt;
use http::header::{
    AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, IF_MATCH, RANGE,
    RETRY_AFTER,
};
use http::{Method, Request, Response, StatusCode};
use penstock_origin::folder::FolderOrigin;
use penstock_origin::volume::exchange::{Asked, Line, range_of};
use penstock_origin::{Origin, OriginError};
use penstock_revision::{Listed, ObjectVersion, Version};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;

use crate::Volume;
use crate::limits::{LISTING_PULSE, LISTINGS_MAX, READS_MAX, RETRY_AFTER_SECONDS, TURN_WAIT_MAX};
use crate::words::words;

/// What answers; clones share it.
#[derive(Clone)]
pub(crate) struct Reader(Arc<Shared>);

struct Shared {
    volume: PathBuf,
    folder: Option<String>,
    place: String,
    /// Of the token. Digests are compared in a time that says nothing of where they differ.
    token: blake3::Hash,
    reads: Arc<Semaphore>,
    listings: Arc<Semaphore>,
}

impl Reader {
    pub(crate) fn of(volume: Volume) -> Self {
        let Volume {
            path,
            folder,
            place,
            token,
        } = volume;
        Self(Arc::new(Shared {
            volume: path,
            folder,
            place,
            token: blake3::hash(token.as_bytes()),
            reads: Arc::new(Semaphore::new(READS_MAX)),
            listings: Arc::new(Semaphore::new(LISTINGS_MAX)),
        }))
    }

    pub(crate) async fn answer<B>(&self, request: Request<B>) -> Response<Body> {
        let uri = request.uri();
        if request.method() != Method::GET {
            return status(StatusCode::METHOD_NOT_ALLOWED);
        }
        if uri.path() == "/healthz" {
            return Response::new(Body::from("ok\n"));
        }
        if !self.is_known(request.headers()) {
            return status(StatusCode::UNAUTHORIZED);
        }
        match Asked::of(uri.path(), uri.query()) {
            None => status(StatusCode::BAD_REQUEST),
            Some(Asked::Listing { folder }) => self.listing(folder).await,
            Some(Asked::Reading { folder, key, bytes }) => self.reading(folder, key, bytes, request.headers()).await,
        }
    }

    fn is_known(&self, headers: &HeaderMap) -> bool {
        let said = headers.get(AUTHORIZATION).map(|value| value.as_bytes());
        let token = said.and_then(|said| said.strip_prefix(b"Bearer "));
        token.is_some_and(|token| blake3::hash(token) == self.0.token)
    }

    /// `None` for a folder of the node that is not served here.
    fn folder(&self, asked: String) -> Option<FolderOrigin> {
        let Shared {
            volume, folder, place, ..
        } = &*self.0;
        let Some(served) = folder else {
            let words = words(place, &asked);
            return Some(FolderOrigin::within(volume.clone(), vec![asked], words));
        };
        let below = asked.strip_prefix(place.trim_matches('/'))?;
        let below = if below.is_empty() {
            below
        } else {
            below.strip_prefix('/')?
        };
        let words = words(place, below);
        let steps = vec![served.clone(), below.to_owned()];
        Some(FolderOrigin::within(volume.clone(), steps, words))
    }

    async fn listing(&self, folder: String) -> Response<Body> {
        let Some(folder) = self.folder(folder) else {
            return elsewhere();
        };
        let Some(turn) = turn(&self.0.listings).await else {
            return busy();
        };
        let (lines, body) = mpsc::channel(1);
        tokio::spawn(list(folder, lines, turn));
        let body = ReceiverStream::new(body).map(Ok::<_, std::convert::Infallible>);
        let mut response = Response::new(Body::from_stream(body));
        set(&mut response, CONTENT_TYPE, "application/x-ndjson");
        response
    }

    async fn reading(&self, folder: String, key: String, bytes: u64, headers: &HeaderMap) -> Response<Body> {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let tag = text(IF_MATCH).and_then(|tag| tag.strip_prefix('"')?.strip_suffix('"'));
        let Some(tag) = tag.map(str::to_owned) else {
            return status(StatusCode::PRECONDITION_REQUIRED);
        };
        let Some(range) = text(RANGE).and_then(|text| range_of(text, bytes)) else {
            return status(StatusCode::RANGE_NOT_SATISFIABLE);
        };
        let Some(folder) = self.folder(folder) else {
            return elsewhere();
        };
        let Some(turn) = turn(&self.0.reads).await else {
            return busy();
        };
        let object = ObjectVersion {
            source: 0,
            key,
            version: Version::ETag(tag.clone()),
        };
        let body = match folder.read(&object, bytes, range.clone()).await {
            Ok(body) => body,
            Err(error) => return fault(error),
        };
        // Its turn ends with the body.
        let body = body.map(move |piece| {
            let _ = &turn;
            piece
        });
        let mut response = Response::new(Body::from_stream(body));
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        set(&mut response, ETAG, &format!("\"{tag}\""));
        set(
            &mut response,
            CONTENT_RANGE,
            &format!("bytes {}-{}/{bytes}", range.start, range.end - 1),
        );
        set(&mut response, CONTENT_LENGTH, &(range.end - range.start).to_string());
        response
    }
}

/// `None` for who would wait too long.
async fn turn(turns: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    let turn = tokio::time::timeout(TURN_WAIT_MAX, turns.clone().acquire_owned());
    turn.await.ok()?.ok()
}

/// Sends lines until all is listed, or nobody listens.
async fn list(folder: FolderOrigin, lines: mpsc::Sender<Bytes>, turn: OwnedSemaphorePermit) {
    let _turn = turn;
    let mut pages = folder.list();
    loop {
        let (text, is_last) = match tokio::time::timeout(LISTING_PULSE, pages.next()).await {
            Err(_) => (b"\n".to_vec(), false),
            Ok(Some(Ok(page))) => (files(page), false),
            Ok(Some(Err(error))) => (line(&Line::Fault(error.into())), true),
            Ok(None) => (line(&Line::End), true),
        };
        if lines.send(text.into()).await.is_err() || is_last {
            return;
        }
    }
}

fn files(page: Vec<Listed>) -> Vec<u8> {
    let mut text = Vec::new();
    for listed in page {
        Line::File(listed.into()).write(&mut text);
    }
    text
}

fn line(line: &Line) -> Vec<u8> {
    let mut text = Vec::new();
    line.write(&mut text);
    text
}

fn fault(error: OriginError) -> Response<Body> {
    let status = match &error {
        OriginError::Denied(_) => StatusCode::FORBIDDEN,
        OriginError::NotFound(_) => StatusCode::NOT_FOUND,
        OriginError::Drifted(_) => StatusCode::PRECONDITION_FAILED,
        OriginError::Invalid(_) => StatusCode::BAD_REQUEST,
        OriginError::Unreachable(_)
        | OriginError::Throttled { .. }
        | OriginError::NotAllowed(_)
        | OriginError::Other(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let mut response = Response::new(Body::from(line(&Line::Fault(error.into()))));
    *response.status_mut() = status;
    response
}

/// By an older or a newer list of the CacheRuntime: the pod that has it comes, or has just gone.
fn elsewhere() -> Response<Body> {
    fault(OriginError::Unreachable(
        "the reader of the folder is being replaced by one that has it; it is tried again".to_owned(),
    ))
}

fn busy() -> Response<Body> {
    let mut response = status(StatusCode::SERVICE_UNAVAILABLE);
    set(&mut response, RETRY_AFTER, &RETRY_AFTER_SECONDS.to_string());
    response
}

fn status(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// Texts that are none for a header are left out; a client that misses one does not believe the answer.
fn set(response: &mut Response<Body>, name: HeaderName, text: &str) {
    if let Ok(value) = text.try_into() {
        response.headers_mut().insert(name, value);
    }
}
