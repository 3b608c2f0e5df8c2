//! Connections: how many, how slow they may be, and how they end.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::sockopt::set_tcp_user_timeout;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::answer::Reader;
use crate::limits::{ACCEPT_PAUSE, CONNECTIONS_MAX, ENDING_MAX, HEADER_BYTES_MAX, HEADER_MAX, HEADERS_MAX, STALL_MAX};

pub(crate) async fn serve(listener: TcpListener, reader: Reader, ended: impl Future<Output = ()>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let (ending, told) = watch::channel(());
    let mut connections = JoinSet::new();
    let accepting = async {
        loop {
            // Never closed.
            let Ok(place) = room.clone().acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let (reader, told) = (reader.clone(), told.clone());
                    connections.spawn(async move {
                        serve_one(stream, reader, told).await;
                        drop(place);
                    });
                    while connections.try_join_next().is_some() {}
                }
                Err(error) => {
                    tracing::warn!(%error, "accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = accepting => {}
        () = ended => {}
    }
    drop(listener);
    drop(ending);
    let rest = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(ENDING_MAX, rest).await.is_err() {
        tracing::warn!("what was under way did not end in time");
    }
}

async fn serve_one(stream: TcpStream, reader: Reader, mut ending: watch::Receiver<()>) {
    let stall_millis = u32::try_from(STALL_MAX.as_millis()).unwrap_or(u32::MAX);
    let set = set_tcp_user_timeout(&stream, stall_millis).map_err(std::io::Error::from);
    if let Err(error) = set.and_then(|()| stream.set_nodelay(true)) {
        tracing::debug!(%error, "set options of a connection");
    }
    let service = service_fn(|request| {
        let reader = reader.clone();
        async move { Ok::<_, Infallible>(reader.answer(request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_MAX)
        .max_header_size(HEADER_BYTES_MAX)
        .max_buf_size(HEADER_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        // Only by the end of whoever could say it.
        _ = ending.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "a connection ended");
    }
}
