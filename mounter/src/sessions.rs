//! The connections that this process serves. Each is kept by the supervisor too, so that the next process goes on.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use penstock_buffer::BufferPool;
use penstock_cache_client::CacheClient;
use penstock_cache_client::limits::USE_TOLD_INTERVAL;
use penstock_mount::mapped;
use penstock_protocol::connection::{Connection, Held};
use penstock_protocol::ids::ConnectionId;
use penstock_supervisor::{Entry, Store};
use penstock_tls::Identity;

use crate::files::{Devices, Files, Tree};
use crate::limits::{IDLE_BUFFERS_MAX, READ_BYTES_MAX};
use crate::metrics::Metrics;
use crate::neighbours::Neighbours;
use crate::notes::Notes;
use crate::remote::RemoteSpace;
use crate::session::{Session, Start};

/// All sessions of a process.
pub struct Sessions {
    runtime: tokio::runtime::Handle,
    buffers: BufferPool,
    store: Store,
    neighbours: Neighbours,
    identity: Option<Arc<Identity>>,
    metrics: Metrics,
    sessions: Mutex<BTreeMap<ConnectionId, Served>>,
}

/// A connection that this process serves.
struct Served {
    connection: Connection,
    session: Session,
    /// Image and ledger, kept for whoever serves it next.
    others: Vec<OwnedFd>,
}

/// A connection that nobody of this process serves yet.
pub struct Left {
    /// What it is.
    pub connection: Connection,
    descriptors: Vec<OwnedFd>,
}

impl Sessions {
    /// None yet; their reads wait on `runtime`, and their descriptors are kept in `store`. Cache nodes
    /// of this node are found in `neighbours`; with others TLS is spoken if there is an identity.
    pub fn new(
        runtime: tokio::runtime::Handle,
        store: Store,
        neighbours: Neighbours,
        identity: Option<Arc<Identity>>,
        metrics: Metrics,
    ) -> Self {
        Self {
            runtime,
            // Two blocks more than the largest read, which may begin and end within a block.
            buffers: BufferPool::new(READ_BYTES_MAX + 2 * 4096, IDLE_BUFFERS_MAX),
            store,
            neighbours,
            identity,
            metrics,
            sessions: Mutex::default(),
        }
    }

    /// A client of the cache nodes that `seeds` know.
    pub(crate) fn client(&self, seeds: Vec<String>, deadline: Duration) -> CacheClient {
        CacheClient::with_identity(seeds, deadline, self.identity.clone())
    }

    /// What a predecessor served, from its entries in the store.
    pub fn left_by_predecessor(&self, entries: Vec<Entry<Vec<OwnedFd>>>) -> Vec<Left> {
        let left = entries
            .into_iter()
            .filter_map(|entry| match Connection::decode(&entry.state) {
                Ok(connection) => Some(Left {
                    connection,
                    descriptors: entry.descriptors,
                }),
                Err(error) => {
                    tracing::error!(%error, "a connection of the predecessor is lost");
                    self.store.forget(entry.id);
                    None
                }
            });
        left.collect()
    }

    /// Goes on with it.
    ///
    /// # Errors
    /// When no thread can be started, the kernel cannot resend, or a ledger is full.
    pub fn resume(&self, left: Vec<Left>) -> io::Result<()> {
        left.into_iter()
            .try_for_each(|left| self.start(left.connection, left.descriptors, true))
    }

    /// Serves a connection; `initialised` when a predecessor did so. One that is served already goes on as it is.
    ///
    /// # Errors
    /// When no thread can be started, the kernel cannot resend, or image or ledger are none.
    pub fn serve(&self, connection: Connection, descriptors: Vec<OwnedFd>, initialised: bool) -> io::Result<()> {
        self.forget_ended();
        if self.sessions().contains_key(&connection.id) {
            return Ok(());
        }
        let kept: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        self.store.keep(connection.id.0, connection.encode(), &kept);
        let id = connection.id;
        self.start(connection, descriptors, initialised)
            .inspect_err(|_| self.store.forget(id.0))
    }

    /// Lets go of a connection. It is unmounted already, so its threads end by themselves.
    pub fn stop(&self, id: &ConnectionId) {
        self.store.forget(id.0);
        self.sessions().remove(id);
        self.forget_ended();
    }

    /// The connections that are held.
    pub fn held(&self) -> Vec<ConnectionId> {
        self.forget_ended();
        self.sessions().keys().copied().collect()
    }

    /// A connection with copies of its descriptors; `None` when it is not held.
    ///
    /// # Errors
    /// When the process has too many descriptors.
    pub fn copy(&self, id: &ConnectionId) -> io::Result<Option<(Connection, Vec<OwnedFd>)>> {
        let sessions = self.sessions();
        let Some(served) = sessions.get(id) else {
            return Ok(None);
        };
        let descriptors = served
            .session
            .descriptors()
            .chain(served.others.iter().map(AsFd::as_fd));
        let copies = descriptors.map(|descriptor: BorrowedFd<'_>| descriptor.try_clone_to_owned());
        Ok(Some((served.connection.clone(), copies.collect::<io::Result<_>>()?)))
    }

    fn start(&self, connection: Connection, mut descriptors: Vec<OwnedFd>, initialised: bool) -> io::Result<()> {
        let Held { queues, image, ledger } = connection.held(&descriptors);
        let files = shown(&connection, image)?;
        let notes = ledger.map(|ledger| Notes::begin(ledger.as_fd())).transpose()?;
        let others = descriptors.split_off(queues.len());
        let reader = RemoteSpace::new(
            self.client(connection.seeds.clone(), connection.read_timeout),
            (connection.revision, connection.space),
            connection.read_timeout,
            &self.neighbours,
            self.metrics.clone(),
        );
        let reader = reader.told(&self.runtime, USE_TOLD_INTERVAL);
        let session = Session::start(Start {
            descriptors,
            files,
            reader: Arc::new(reader),
            buffers: self.buffers.clone(),
            runtime: self.runtime.clone(),
            initialised,
            notes,
            name: connection.revision.to_string(),
            metrics: self.metrics.clone(),
        })?;
        if initialised {
            self.metrics.taken_over();
        }
        tracing::info!(revision = %connection.revision, number = connection.number, initialised, "serving");
        let mut sessions = self.sessions();
        let served = Served {
            connection,
            session,
            others,
        };
        sessions.insert(served.connection.id, served);
        self.metrics.connections(sessions.len());
        Ok(())
    }

    /// A connection that csi aborted while nobody could tell us.
    fn forget_ended(&self) {
        let mut sessions = self.sessions();
        sessions.retain(|id, served| {
            let ended = served.session.has_ended();
            if ended {
                self.store.forget(id.0);
            }
            !ended
        });
        self.metrics.connections(sessions.len());
    }

    fn sessions(&self) -> MutexGuard<'_, BTreeMap<ConnectionId, Served>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the kernel is shown on a connection.
fn shown(connection: &Connection, image: Option<&OwnedFd>) -> io::Result<Box<dyn Files>> {
    match image {
        Some(image) => {
            let image = Bytes::from_owner(mapped::read_only(image.as_fd())?);
            Ok(Box::new(Tree::open(image).map_err(io::Error::other)?))
        }
        None => Ok(Box::new(Devices(connection.device_bytes.clone()))),
    }
}
