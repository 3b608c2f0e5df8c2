//! `/livez`, `/readyz` and `/metrics` over plain HTTP, the same in every process.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;

/// Whether the process can do its job; clones share the answer.
#[derive(Clone, Default)]
pub struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// Sets the answer of `/readyz`.
    pub fn set(&self, ready: bool) {
        if self.0.swap(ready, Ordering::Relaxed) != ready {
            tracing::info!(ready, "readiness changed");
        }
    }

    /// The answer of `/readyz`.
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Answers until the process ends; `metrics` writes the text of `/metrics` (Prometheus exposition format).
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve(
    listen: SocketAddr,
    readiness: Readiness,
    metrics: impl Fn() -> String + Clone + Send + Sync + 'static,
) -> io::Result<()> {
    Pages::new(readiness).page("/metrics", metrics).serve(listen).await
}

/// The pages of a process that has more to tell.
pub struct Pages(Router);

impl Pages {
    /// `/livez` and `/readyz`.
    pub fn new(readiness: Readiness) -> Self {
        let ready = move || async move {
            if readiness.get() {
                (StatusCode::OK, "ready\n")
            } else {
                (StatusCode::SERVICE_UNAVAILABLE, "not ready yet\n")
            }
        };
        let router = Router::new()
            .route("/livez", get(|| async { "alive\n" }))
            .route("/readyz", get(ready));
        Self(router)
    }

    /// With a page of text more.
    pub fn page(self, path: &str, text: impl Fn() -> String + Clone + Send + Sync + 'static) -> Self {
        Self(self.0.route(path, get(move || async move { text() })))
    }

    /// Answers until the process ends.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn serve(self, listen: SocketAddr) -> io::Result<()> {
        axum::serve(TcpListener::bind(listen).await?, self.0).await
    }
}
