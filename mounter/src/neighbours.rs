//! The cache nodes of the same node. What they have cached is read from their files, without a network between
//! (`protocol/proto/neighbour.proto`).
//!
//! ```text
//! read ──► Stripes of the session ──► files: present, in memory, checksums match? ──► answered
//!              ▲                              │ no
//!              │ opened in the background     ▼
//!          Neighbour (a socket)  ◄── the owner, as always over the network
//! ```
//!
//! *Guarantees*: a thread that serves the kernel waits neither for a cache node nor for a disk here. Whatever the files show,
//! only blocks that match their checksums are used. A cache node is asked only for revisions whose blocks it is an owner of,
//! so one that lies does so to its own Datasets only. The files are used also while the cache node is away.

mod neighbour;
mod stripe;
mod stripes;

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use tokio::sync::Semaphore;

use crate::limits::{NEIGHBOUR_STRIPES_MAX, NEIGHBOURS_LOOK_INTERVAL, NEIGHBOURS_MAX};
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
    stripes: Arc<Semaphore>,
    found: RwLock<Found>,
}

#[derive(Default)]
struct Found {
    at: Option<Instant>,
    /// By [`name`].
    neighbours: HashMap<String, Arc<Neighbour>>,
}

/// What is known of a cache node without a look at the disk.
enum Known {
    Neighbour(Arc<Neighbour>),
    Elsewhere,
    /// It is time to look again.
    Unknown,
}

impl Neighbours {
    /// Those that have a folder below `folder`; there may be none, now or ever. `descriptors_max` is what this process may have
    /// open.
    pub fn new(folder: PathBuf, descriptors_max: u64, runtime: tokio::runtime::Handle) -> Self {
        // Two descriptors each, and most are left to everything else.
        let stripes =
            usize::try_from(descriptors_max / 8).map_or(NEIGHBOUR_STRIPES_MAX, |few| few.min(NEIGHBOUR_STRIPES_MAX));
        Self(Arc::new(Inner {
            folder,
            runtime,
            stripes: Arc::new(Semaphore::new(stripes)),
            found: RwLock::default(),
        }))
    }

    /// False when it is known that it is elsewhere.
    fn may_be_here(&self, address: &str) -> bool {
        !matches!(self.known(address), Known::Elsewhere)
    }

    /// The cache node at `address`, if it is on this node. May wait for the disk.
    fn find(&self, address: &str) -> Option<Arc<Neighbour>> {
        if let Known::Unknown = self.known(address) {
            self.look();
        }
        match self.known(address) {
            Known::Neighbour(neighbour) => Some(neighbour),
            Known::Elsewhere | Known::Unknown => None,
        }
    }

    fn known(&self, address: &str) -> Known {
        let found = self.0.found.read().unwrap_or_else(PoisonError::into_inner);
        match found.at {
            Some(at) if at.elapsed() < NEIGHBOURS_LOOK_INTERVAL => found
                .neighbours
                .get(name(address))
                .map_or(Known::Elsewhere, |neighbour| Known::Neighbour(neighbour.clone())),
            _ => Known::Unknown,
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
        found.neighbours.retain(|name, _| names.contains(name));
        for name in names {
            let socket = self.0.folder.join(&name).join("socket");
            found
                .neighbours
                .entry(name)
                .or_insert_with(|| Arc::new(Neighbour::new(socket)));
        }
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let entries = std::fs::read_dir(&self.0.folder)?.take(NEIGHBOURS_MAX);
        Ok(entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect())
    }
}

/// The name of a cache node's folder, from its address: POD.CACHERUNTIME.NAMESPACE in a cluster.
fn name(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.split_once(".svc.").map_or(host, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::name;

    #[test]
    fn the_folder_is_named_like_the_pod_in_the_cluster() {
        for (address, expected) in [
            ("pool-0.pool.vision.svc.cluster.local:7070", "pool-0.pool.vision"),
            ("127.0.0.1:7070", "127.0.0.1"),
            ("pool-0", "pool-0"),
        ] {
            assert_eq!(name(address), expected);
        }
    }
}
