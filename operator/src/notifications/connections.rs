//! Connections of those who tell us of changes: how many, and how slow they may be.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::door::Door;
use crate::limits::{
    ACCEPT_PAUSE, NOTIFICATION_HEADER_BYTES_MAX, NOTIFICATION_HEADER_MAX, NOTIFICATION_HEADERS_MAX, NOTIFIER_MAX,
    NOTIFIERS_MAX,
};

/// Answers until the process ends.
pub async fn serve(listener: TcpListener, door: Door) {
    let room = Arc::new(Semaphore::new(NOTIFIERS_MAX));
    loop {
        // Never closed.
        let Ok(place) = room.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let door = door.clone();
                tokio::spawn(async move {
                    // Whoever takes longer, sending or reading, connects again.
                    let _ = tokio::time::timeout(NOTIFIER_MAX, serve_one(stream, door)).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_one(stream: TcpStream, door: Door) {
    let service = service_fn(|request: hyper::Request<hyper::body::Incoming>| {
        let door = door.clone();
        async move { Ok::<_, Infallible>(door.answer(request.map(Body::new)).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // One that rests takes the place of somebody who has something to say.
        .keep_alive(false)
        .header_read_timeout(NOTIFICATION_HEADER_MAX)
        .max_header_size(NOTIFICATION_HEADER_BYTES_MAX)
        .max_headers(NOTIFICATION_HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection ended");
    }
}
