//! The side that keeps FUSE descriptors and speaks with the unprivileged mounter: one letter a packet, descriptors beside
//! it. Must not know Kubernetes or mounts.
//!
//! Whatever is mounted on the node is kept here, by the supervisor of this container, by every mounter, and by theirs.
//! `takeover` says who lacks what; a thread for each mounter (`steps`) does it; `link` carries the letters.
//!
//! ```text
//! this process starts ─► the supervisor's entries ─┐
//! mounter connects ─► Hello, with what it holds ───┴─► handed back and over ─► Complete ─► asked to fetch and to serve
//!        its process ends ─► the link ends ─► letters under way fail ─► others are sent again what it had taken
//! ```
//!
//! *Lock order*: within `state` only the lock of a link may be taken; neither is held while a letter is under way.

mod error;
mod link;
mod package;
mod patience;
mod refusal;
mod retired;
mod steps;
mod takeover;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use penstock_descriptors as descriptors;
use penstock_protocol::connection::Connection;
use penstock_protocol::control::mounter::{Fetch, FetchedPackage, from_mounter, to_mounter};
use penstock_protocol::ids::{ConnectionId, RevisionId};
use penstock_supervisor::{Entry, Store};
use tokio::sync::watch;

pub use self::error::KeeperError;
use self::link::{Introduced, Link};
pub use self::takeover::Holder;
use self::takeover::{LinkId, Takeover};
use crate::limits::{ACCEPT_PAUSE, FETCH_DEADLINE, INHERIT_DEADLINE, LINKS_MAX, SETTLE_PAUSE, STRANGERS_MAX};
use crate::metrics::Metrics;

/// Version of the letters that is spoken here.
pub(crate) const LETTERS_VERSION: u32 = 1;

/// The user of csi containers.
const ROOT: u32 = 0;

/// The descriptors of a connection as they are to be kept, from those that somebody had; `None` when it is not mounted on this
/// node.
pub type Adopt = dyn Fn(&Connection, Vec<OwnedFd>) -> Option<Vec<OwnedFd>> + Send + Sync;

/// The keeper. Shared by all calls.
pub struct Keeper {
    adopt: Box<Adopt>,
    /// When this container did, see [`crate::succession`].
    started: u64,
    store: Store,
    metrics: Metrics,
    state: Mutex<State>,
    /// Something may be left to be done with a mounter, or was done.
    changed: Condvar,
    /// Counts, by its owners, the peers that have not said yet who they are.
    strangers: Arc<()>,
    /// Another csi container that was started to replace this one.
    successor: watch::Sender<Option<Arc<OwnedFd>>>,
}

#[derive(Default)]
struct State {
    takeover: Takeover,
    links: BTreeMap<LinkId, Arc<Link>>,
    kept: BTreeMap<ConnectionId, Arc<Kept>>,
    links_so_far: LinkId,
    listener: Option<Arc<OwnedFd>>,
    /// When it is to be asked for a resend of what mounters took that were not connected for a moment.
    settles_at: Option<Instant>,
    /// Another csi container works on this node now.
    retired: bool,
    /// Older csi containers that wait for the end of this one.
    waiting: Vec<OwnedFd>,
}

/// A connection, and what travels with it.
struct Kept {
    connection: Connection,
    descriptors: Vec<OwnedFd>,
}

/// The mounter that began to serve a connection which is not kept yet.
#[derive(Clone, Copy, Debug)]
pub struct Server(LinkId);

impl Keeper {
    /// A keeper of a container that started then, whose descriptors are in `store` too.
    pub fn new(
        started: u64,
        store: Store,
        metrics: Metrics,
        adopt: impl Fn(&Connection, Vec<OwnedFd>) -> Option<Vec<OwnedFd>> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            adopt: Box::new(adopt),
            started,
            store,
            metrics,
            state: Mutex::default(),
            changed: Condvar::new(),
            strangers: Arc::default(),
            successor: watch::Sender::default(),
        })
    }

    /// Goes on with what a predecessor kept. Call it before anything is mounted or unmounted.
    pub fn resume(&self, entries: Vec<Entry<Vec<OwnedFd>>>) {
        for Entry { id, state, descriptors } in entries {
            match Connection::decode(&state) {
                Ok(connection) => match (self.adopt)(&connection, descriptors) {
                    Some(descriptors) => {
                        tracing::info!(revision = %connection.revision, number = connection.number, "kept on");
                        let kept = Kept {
                            connection,
                            descriptors,
                        };
                        self.insert(kept, None);
                    }
                    None => self.store.forget(id),
                },
                Err(error) => {
                    tracing::error!(%error, "a connection of the predecessor is lost");
                    self.store.forget(id);
                }
            }
        }
    }

    /// Listens for mounters at `socket`, which are processes of the user `uid`, and for a successor, which is root's, on a
    /// thread of its own.
    ///
    /// # Errors
    /// When the folder of the socket cannot be written.
    pub fn listen(self: &Arc<Self>, socket: &Path, uid: u32) -> io::Result<()> {
        let listener = Arc::new(descriptors::listen_at(socket)?);
        let mut state = self.state();
        state.listener = Some(listener.clone());
        state.settles_at = Some(Instant::now() + SETTLE_PAUSE);
        drop(state);
        chown(socket, Some(uid), Some(uid))?;
        fs::set_permissions(socket, fs::Permissions::from_mode(0o600))?;
        let keeper = self.clone();
        std::thread::Builder::new().name("keeper".into()).spawn(move || {
            loop {
                match descriptors::accept_peer(listener.as_fd()) {
                    Ok(peer) => keeper.welcome(peer, uid),
                    // A successor listens now.
                    Err(error) if error.kind() == io::ErrorKind::InvalidInput => return,
                    Err(error) => {
                        tracing::error!(%error, "accept a mounter");
                        // It stays in the queue, so that without a pause this would spin until descriptors are free.
                        std::thread::sleep(ACCEPT_PAUSE);
                    }
                }
            }
        })?;
        Ok(())
    }

    fn welcome(self: &Arc<Self>, peer: OwnedFd, uid: u32) {
        let found = match descriptors::peer(peer.as_fd()) {
            Ok((found, _)) if found == uid || found == ROOT => found,
            Ok((found, pid)) => {
                tracing::warn!(uid = found, pid, "refused a process that is not the mounter");
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "a mounter went away at once");
                return;
            }
        };
        let stranger = self.strangers.clone();
        // The keeper's own is one of the owners.
        if Arc::strong_count(&stranger) > STRANGERS_MAX + 1 {
            tracing::warn!(uid = found, "refused one more who does not say who it is");
            return;
        }
        let keeper = self.clone();
        let spawned = std::thread::Builder::new().name("mounter".into()).spawn(move || {
            let introduced = Introduced::by(peer, LETTERS_VERSION);
            drop(stranger);
            match introduced {
                Ok(Introduced::Holder(link, holds)) if found == uid => keeper.converse(&link, holds),
                Ok(Introduced::Successor(peer, started)) if found == ROOT => keeper.asked_to_yield(peer, started),
                Ok(_) => tracing::warn!(uid = found, "refused a process that is not who it says"),
                Err(error) => tracing::warn!(%error, "a mounter did not introduce itself"),
            }
        });
        if let Err(error) = spawned {
            tracing::error!(%error, "start a thread");
        }
    }

    fn asked_to_yield(&self, peer: OwnedFd, started: u64) {
        if started >= self.started {
            tracing::info!("another csi container takes this node over");
            self.successor.send_replace(Some(Arc::new(peer)));
            return;
        }
        tracing::info!("an older csi container of this node waits");
        let mut state = self.state();
        if state.waiting.len() < LINKS_MAX {
            // Its end of the socket tells it when this process ends.
            state.waiting.push(peer);
        }
    }

    /// The csi container that is to replace this one, if there is one.
    pub fn found_successor(&self) -> Option<Arc<OwnedFd>> {
        self.successor.borrow().clone()
    }

    /// Waits for a successor.
    pub async fn successor(&self) {
        // The sender is ours.
        let _ = self.successor.subscribe().wait_for(Option::is_some).await;
    }

    /// Takes what a predecessor keeps that yielded, on threads of its own, and waits until everything is here.
    pub fn inherit(self: &Arc<Self>, predecessor: OwnedFd) {
        let keeper = self.clone();
        let (told, everything) = std::sync::mpsc::channel();
        let spawned = std::thread::Builder::new().name("predecessor".into()).spawn(move || {
            match Introduced::by(predecessor, LETTERS_VERSION) {
                Ok(Introduced::Holder(link, holds)) => {
                    let id = keeper.join(&link, holds, false);
                    let _ = told.send(id);
                    keeper.converse_as(id, &link);
                }
                Ok(Introduced::Successor(..)) => tracing::warn!("two csi containers want to replace each other"),
                // It ended instead of yielding.
                Err(error) => tracing::warn!(%error, "the predecessor hands nothing over"),
            }
        });
        if let Err(error) = spawned {
            tracing::error!(%error, "start a thread");
            return;
        }
        // Without an answer there is nothing to wait for.
        let Ok(id) = everything.recv() else { return };
        let state = self.state();
        let incomplete = |state: &mut State| state.takeover.is_incomplete(id);
        let waited = self.changed.wait_timeout_while(state, INHERIT_DEADLINE, incomplete);
        if waited.is_ok_and(|(_, waited)| waited.timed_out()) {
            tracing::error!("the predecessor did not hand everything over in time; mounters have it too");
        }
    }

    /// Takes the answers of a mounter until it goes away.
    fn converse(self: &Arc<Self>, link: &Arc<Link>, holds: Vec<ConnectionId>) {
        let id = self.join(link, holds, true);
        self.converse_as(id, link);
    }

    fn join(&self, link: &Arc<Link>, holds: Vec<ConnectionId>, serves: bool) -> LinkId {
        tracing::info!(holds = holds.len(), serves, "a holder of connections is here");
        let mut state = self.state();
        if state.retired {
            // It finds the one that works now.
            link.close();
        }
        // One mounter, two while they are replaced; a mounter that was taken over must not take all our descriptors.
        if state.links.len() >= LINKS_MAX
            && let Some((_, oldest)) = state.links.first_key_value()
        {
            oldest.close();
        }
        state.links_so_far += 1;
        let id = state.links_so_far;
        state.takeover.joined(id, serves, holds);
        state.links.insert(id, link.clone());
        id
    }

    fn converse_as(self: &Arc<Self>, id: LinkId, link: &Arc<Link>) {
        let (keeper, steps) = (self.clone(), link.clone());
        let spawned = std::thread::Builder::new()
            .name("hand-over".into())
            .spawn(move || keeper.take_steps(id, &steps));
        match spawned {
            Ok(_) => link.receive_answers(),
            Err(error) => tracing::error!(%error, "start a thread"),
        }
        let mut state = self.state();
        state.takeover.left(id);
        state.settles_at = Some(Instant::now() + SETTLE_PAUSE);
        state.links.remove(&id);
        self.changed.notify_all();
        tracing::warn!("a holder of connections went away");
    }

    /// Whether a mounter is there.
    pub fn has_mounter(&self) -> bool {
        self.state().takeover.newest().is_some()
    }

    /// Waits until a mounter is here, and every one that is has handed back what it had. Blocks.
    pub fn wait_for_a_complete_mounter(&self) {
        let missing = |state: &mut State| state.takeover.newest().is_none() || !state.takeover.is_complete();
        let waited = self.changed.wait_while(self.state(), missing);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// Everybody who is connected.
    pub fn holders(&self) -> Vec<Holder> {
        self.state().takeover.holders()
    }

    /// How many connections are kept.
    pub fn kept(&self) -> usize {
        self.state().kept.len()
    }

    /// How many of them a mounter serves.
    pub fn served(&self) -> usize {
        let state = self.state();
        state.kept.keys().filter(|id| state.takeover.is_served(**id)).count()
    }

    /// Fetches the package of a revision from the cache nodes, as a file in memory that nobody changes any more. Its digest is not
    /// checked here.
    ///
    /// # Errors
    /// When there is no mounter, or it cannot.
    pub fn fetch(&self, revision: &RevisionId, seeds: &[String]) -> Result<File, KeeperError> {
        let letter = to_mounter::Letter::Fetch(Fetch {
            revision: revision.as_bytes().to_vec(),
            seeds: seeds.to_vec(),
        });
        let (_, link) = self.newest()?;
        match link.ask(letter, &[], FETCH_DEADLINE)? {
            (from_mounter::Letter::FetchedPackage(FetchedPackage { bytes }), descriptors) => {
                let descriptor = descriptors.into_iter().next();
                let memory =
                    descriptor.ok_or_else(|| KeeperError::Nonsense("a package without a descriptor".into()))?;
                package::sealed(memory, bytes)
            }
            (other, _) => Err(KeeperError::unexpected(&other)),
        }
    }

    /// Lets the mounter serve a fresh connection, which is to be kept or abandoned next.
    ///
    /// # Errors
    /// When there is no mounter, or it cannot.
    pub fn serve(&self, connection: &Connection, descriptors: &[OwnedFd]) -> Result<Server, KeeperError> {
        let (id, link) = self.newest()?;
        steps::serve(&link, connection, descriptors, false)?;
        Ok(Server(id))
    }

    /// Keeps a served connection: every mounter that comes is handed it, until [`Keeper::forget`].
    pub fn keep(&self, connection: Connection, descriptors: Vec<OwnedFd>, server: Server) {
        self.insert(
            Kept {
                connection,
                descriptors,
            },
            Some(server.0),
        );
    }

    /// Gives up a connection that was served and never mounted.
    pub fn abandon(&self, id: ConnectionId, server: Server) {
        self.state().takeover.abandoned(id, server.0);
        self.changed.notify_all();
    }

    /// Whether the connection of that number is kept, so that a mounter serves it or will.
    pub fn keeps(&self, number: u32) -> bool {
        self.state().find(number).is_some()
    }

    /// Whether somebody answers the kernel on a connection now.
    ///
    /// # Errors
    /// [`KeeperError::NoMounter`] or [`KeeperError::NotServed`] when nobody does.
    pub fn check_served(&self, number: u32) -> Result<(), KeeperError> {
        let state = self.state();
        match state.find(number) {
            Some(kept) if state.takeover.is_served(kept.connection.id) => Ok(()),
            _ if state.takeover.newest().is_none() => Err(KeeperError::NoMounter),
            _ => Err(KeeperError::NotServed),
        }
    }

    /// The kept connection of that number. Ask while a mount holds the number: it is free afterwards.
    pub fn id_of(&self, number: u32) -> Option<ConnectionId> {
        Some(self.state().find(number)?.connection.id)
    }

    /// Lets go of a connection that is unmounted, here and in every mounter, which are told and not waited for.
    pub fn forget(&self, id: ConnectionId) {
        let mut state = self.state();
        state.kept.remove(&id);
        state.takeover.unwanted(id);
        drop(state);
        self.store.forget(id.0);
        self.changed.notify_all();
    }

    fn insert(&self, kept: Kept, served_by: Option<LinkId>) {
        let id = kept.connection.id;
        let descriptors: Vec<_> = kept.descriptors.iter().map(AsFd::as_fd).collect();
        self.store.keep(id.0, kept.connection.encode(), &descriptors);
        let mut state = self.state();
        state.kept.insert(id, Arc::new(kept));
        state.takeover.kept(id, served_by);
        self.changed.notify_all();
    }

    fn newest(&self) -> Result<(LinkId, Arc<Link>), KeeperError> {
        let state = self.state();
        let newest = state.takeover.newest().ok_or(KeeperError::NoMounter)?;
        let link = state.links.get(&newest).ok_or(KeeperError::NoMounter)?;
        Ok((newest, link.clone()))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn find(&self, number: u32) -> Option<&Arc<Kept>> {
        self.kept.values().find(|kept| kept.connection.number == number)
    }
}
