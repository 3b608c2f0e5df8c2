//! The cache nodes of the same node. What they have cached is read from their files, without a network between
//! (`protocol/proto/neighbour.proto`).
//!
//! ```text
//! read ──► Stripes of the session ──► files: present, in memory, checksums match? ──► answered
//!              ▲                              │ no
//!              │ opened in the background     ▼
//!          Neighbour: a socket and a thread   the owner, as always over the network
//! ```
//!
//! *Guarantees*: a thread that serves the kernel waits neither for a cache node nor for a file to be opened or closed; all
//! that is done on the thread of its neighbour, so that one that hangs keeps nobody but itself. Whatever the files show, only
//! blocks that match their checksums are used. A cache node is asked only for revisions whose blocks it is the owner of, so one
//! that lies does so to its own Datasets only. The files are used also while the cache node is away.
//!
//! *Lock order*: the stripes of a session, then nothing; what is found, then nothing.

#[cfg(feature = "test-support")]
mod near_files;
mod neighbour;
mod stripe;
mod stripes;

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits::{NEIGHBOUR_STRIPES_MAX, NEIGHBOURS_LOOK_INTERVAL, NEIGHBOURS_MAX};
#[cfg(feature = "test-support")]
pub use near_files::NearFiles;
use neighbour::Neighbour;
pub(crate) use stripes::Stripes;

/// The cache nodes of this node; clones share everything.
#[derive(Clone)]
pub struct Neighbours(Arc<Inner>);

struct Inner {
    /// A folder with the socket of each, which csi made for it.
    folder: PathBuf,
    runtime: tokio::runtime::Handle,
    /// How many more stripes may be open.
    room: Arc<Semaphore>,
    /// Of all sessions, to close what was used longest ago.
    sessions: Mutex<Vec<Weak<stripes::Inner>>>,
    clock: AtomicU64,
    found: RwLock<Found>,
}

#[derive(Default)]
struct Found {
    at: Option<Instant>,
    is_looking: bool,
    /// By [`name`].
    neighbours: HashMap<String, Arc<Neighbour>>,
}

impl Neighbours {
    /// Those that have a folder below `folder`; there may be none, now or ever. `descriptors_max` is what this process may have
    /// open.
    pub fn new(folder: PathBuf, descriptors_max: u64, runtime: tokio::runtime::Handle) -> Self {
        // Up to eight descriptors each, and half of all are left to everything else.
        let stripes =
            usize::try_from(descriptors_max / 16).map_or(NEIGHBOUR_STRIPES_MAX, |few| few.min(NEIGHBOUR_STRIPES_MAX));
        Self(Arc::new(Inner {
            folder,
            runtime,
            room: Arc::new(Semaphore::new(stripes)),
            sessions: Mutex::default(),
            clock: AtomicU64::new(0),
            found: RwLock::default(),
        }))
    }

    /// The cache node at `address` (`host:port` in a ring), if it is known to be on this node. Looks again in the background
    /// when it is time to.
    fn find(&self, address: &str) -> Option<Arc<Neighbour>> {
        let found = self.0.found.read().unwrap_or_else(PoisonError::into_inner);
        let neighbour = found.neighbours.get(name(address)).cloned();
        let is_time = found.at.is_none_or(|at| at.elapsed() >= NEIGHBOURS_LOOK_INTERVAL) && !found.is_looking;
        drop(found);
        if is_time {
            self.look_aside();
        }
        neighbour
    }

    fn look_aside(&self) {
        let mut found = self.0.found.write().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::replace(&mut found.is_looking, true) {
            let neighbours = self.clone();
            self.0.runtime.spawn_blocking(move || neighbours.look());
        }
    }

    /// Looks who is there now. May wait for the disk.
    fn look(&self) {
        let names = self.names().unwrap_or_else(|error| {
            tracing::debug!(folder = %self.0.folder.display(), %error, "no cache node of this node is read directly");
            Vec::new()
        });
        let mut found = self.0.found.write().unwrap_or_else(PoisonError::into_inner);
        found.at = Some(Instant::now());
        found.is_looking = false;
        // One whose files are in use is the same when it comes back.
        let is_used = |neighbour: &Arc<Neighbour>| Arc::strong_count(neighbour) > 1;
        found
            .neighbours
            .retain(|name, neighbour| names.contains(name) || is_used(neighbour));
        for name in names {
            if found.neighbours.contains_key(&name) {
                continue;
            }
            match Neighbour::start(self.0.folder.join(&name).join("socket")) {
                Ok(neighbour) => drop(found.neighbours.insert(name, Arc::new(neighbour))),
                Err(error) => tracing::warn!(name, %error, "start a thread; this cache node is read over the network"),
            }
        }
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let entries = std::fs::read_dir(&self.0.folder)?.take(NEIGHBOURS_MAX);
        Ok(entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect())
    }

    /// The right to have one more stripe open, from the one that was used longest ago if need be.
    fn room(&self) -> Option<OwnedSemaphorePermit> {
        let room = || self.0.room.clone().try_acquire_owned().ok();
        room().or_else(|| {
            let mut sessions = self.0.sessions.lock().unwrap_or_else(PoisonError::into_inner);
            sessions.retain(|session| session.strong_count() > 0);
            let sessions: Vec<_> = sessions.iter().filter_map(Weak::upgrade).collect();
            let oldest = sessions.iter().filter_map(|session| Some((session.oldest()?, session)));
            let ((_, stripe), session) = oldest.min_by_key(|((used_at, _), _)| *used_at)?;
            // The place is free when its files are closed, which takes a moment.
            session.close(stripe);
            room()
        })
    }

    fn tick(&self) -> u64 {
        self.0.clock.fetch_add(1, Ordering::Relaxed)
    }
}

/// The name of a cache node's folder, from its address: POD.CACHERUNTIME.NAMESPACE in a cluster.
fn name(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let mut dots = host.match_indices('.').map(|(at, _)| at);
    match dots.nth(2) {
        Some(third) if host[third..].starts_with(".svc.") => &host[..third],
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::name;

    #[test]
    fn the_folder_is_named_like_the_pod_in_the_cluster() {
        for (address, expected) in [
            ("pool-0.pool.vision.svc.cluster.local:7070", "pool-0.pool.vision"),
            ("svc-0.svc.svc.svc.cluster.local:7070", "svc-0.svc.svc"),
            ("127.0.0.1:7070", "127.0.0.1"),
            ("pool-0", "pool-0"),
        ] {
            assert_eq!(name(address), expected);
        }
    }
}
