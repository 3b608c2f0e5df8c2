//! Ctrl-C: noticed by whoever works, so that everything is taken down in order. For programs, not for stories.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Result, ensure};
use tokio::signal::unix::{SignalKind, signal};

/// Whether the person wants the program to end.
#[derive(Clone)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Listens for SIGINT and SIGTERM from now on.
    ///
    /// # Errors
    /// When the process cannot listen.
    pub fn on_signals() -> Result<Self> {
        let stop = Self(Arc::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let (mut interrupt, mut terminate) = {
            let _inside = runtime.enter();
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
        };
        let noticed = stop.clone();
        thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            });
            noticed.0.store(true, Ordering::Relaxed);
        });
        Ok(stop)
    }

    /// Goes on unless it was asked to end.
    ///
    /// # Errors
    /// When it was.
    pub fn check(&self) -> Result<()> {
        ensure!(
            !self.0.load(Ordering::Relaxed),
            "interrupted; everything was taken down"
        );
        Ok(())
    }
}
