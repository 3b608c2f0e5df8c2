//! Ends the patience of readers: a connection that nobody serves for as long as its Dataset allows is refused with EIO, until
//! somebody serves it again. What the kernel has needs nobody, and is read on.
//!
//! ```text
//! served ─► nobody answers on it ─► alone ─► read_timeout has passed ─► refused
//!    ▲                                │                                    │
//!    └──────────── a mounter serves ──┴────────────────────────────────────┘
//! ```

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_mount::fuse;
use penstock_protocol::connection::Connection;
use penstock_protocol::ids::ConnectionId;

use super::refusal::Refusal;
use super::{Keeper, Kept};
use crate::limits::PATIENCE_INTERVAL;
use crate::metrics::Done;

/// Since when connections are alone. Pure.
#[derive(Debug, Default)]
struct Alone(BTreeMap<ConnectionId, Instant>);

impl Alone {
    /// Whether a connection is to be refused now.
    fn is_over(&mut self, id: ConnectionId, is_served: bool, patience: Duration, now: Instant) -> bool {
        if is_served {
            self.0.remove(&id);
            return false;
        }
        now.duration_since(*self.0.entry(id).or_insert(now)) >= patience
    }

    fn retain(&mut self, is_kept: impl Fn(&ConnectionId) -> bool) {
        self.0.retain(|id, _| is_kept(id));
    }
}

impl Keeper {
    /// Looks after all connections, on a thread of its own. `told` hears of each that is refused from now on.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn watch(self: &Arc<Self>, told: impl Fn(&Connection) + Send + 'static) -> std::io::Result<()> {
        let keeper = self.clone();
        let watch = move || {
            let (mut alone, mut refusals) = (Alone::default(), BTreeMap::new());
            while !keeper.state().retired {
                keeper.settle();
                keeper.look(&mut alone, &mut refusals, &told);
                std::thread::sleep(PATIENCE_INTERVAL);
            }
            // The successor refuses if it must; what we refused ends here.
        };
        std::thread::Builder::new()
            .name("patience".into())
            .spawn(watch)
            .map(drop)
    }

    fn settle(&self) {
        let mut state = self.state();
        if state.settles_at.is_some_and(|at| at <= Instant::now()) {
            state.settles_at = None;
            state.takeover.settled();
            self.changed.notify_all();
        }
    }

    fn look(&self, alone: &mut Alone, refusals: &mut BTreeMap<ConnectionId, Refusal>, told: &impl Fn(&Connection)) {
        let mut all: Vec<(Arc<Kept>, bool)> = {
            let state = self.state();
            let kept = state.kept.values();
            kept.map(|kept| (kept.clone(), state.takeover.is_served(kept.connection.id)))
                .collect()
        };
        all.retain(|(kept, _)| {
            let held = kept.connection.held(&kept.descriptors);
            let lives = held
                .queues
                .iter()
                .all(|descriptor| fuse::is_connected(descriptor.as_fd()));
            if !lives {
                // It ended before it was kept, so that nobody could let go of it.
                self.forget(kept.connection.id);
            }
            lives
        });
        let is_kept = |id: &ConnectionId| all.iter().any(|(kept, _)| kept.connection.id == *id);
        alone.retain(is_kept);
        refusals.retain(|id, _| is_kept(id));
        for (kept, is_served) in &all {
            let connection = &kept.connection;
            let (id, patience) = (connection.id, connection.read_timeout);
            if !alone.is_over(id, *is_served, patience, Instant::now()) {
                if refusals.remove(&id).is_some() {
                    tracing::info!(revision = %connection.revision, number = connection.number, "reads are answered again");
                }
                continue;
            }
            if refusals.contains_key(&id) {
                continue;
            }
            match Refusal::begin(kept) {
                Ok(refusal) => {
                    tracing::error!(revision = %connection.revision, number = connection.number, ?patience, "nobody answers reads; they fail with EIO from now on");
                    refusals.insert(id, refusal);
                    self.metrics.done(Done::Refused);
                    told(connection);
                }
                Err(error) => tracing::error!(number = connection.number, %error, "refuse reads that nobody answers"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_is_over_after_its_time_alone_and_begins_anew_with_each_server() {
        let (mut alone, id) = (Alone::default(), ConnectionId([1; 16]));
        let (start, patience) = (Instant::now(), Duration::from_secs(10));
        let at = |seconds| start + Duration::from_secs(seconds);
        let looks = [
            (0, false),
            (9, false),
            (10, false),
            (11, true),
            (12, false),
            (21, false),
            (22, false),
        ];
        let over = looks.map(|(seconds, served)| alone.is_over(id, served, patience, at(seconds)));
        assert_eq!(over, [false, false, true, false, false, false, true]);
    }
}
