//! The side that keeps FUSE descriptors and speaks with the unprivileged mounter: one letter a packet, descriptors beside
//! it. Must not know Kubernetes or mounts.
//!
//! ```text
//! mounter connects ─► Hello ─► is handed every kept space (initialised) ─► newest mounter: asked to fetch and to serve
//!        what it did not take is handed to it again, as long as it is there
//!        its process ends ─► the link ends ─► letters under way fail ─► the next one connects, and so on
//!                                        └─► another lives: the kernel is asked to send again what the dead one had taken
//! ```
//!
//! A successor asks the kernel by itself when it takes a connection over. If its predecessor was alive then, it may have
//! taken more requests afterwards, which end with it; so they are asked for once more when its link ends.
//!
//! *Lock order*: `links` is never held with another lock; `Link::waiting` may be taken within `spaces`; none is held while
//! a letter is under way.

mod kept;
mod link;

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, PermissionsExt, chown};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use penstock_mount::{descriptors, fuse};
use penstock_protocol::control::mounter::{Fetch, FetchedPackage, Serve, Stop, from_mounter, to_mounter};
use penstock_protocol::ids::{RevisionId, SpaceId};
use rustix::fs::SealFlags;

use self::kept::{Kept, KeptSpaces};
use self::link::Link;
use crate::limits::{ACCEPT_PAUSE, FETCH_DEADLINE, HAND_OVER_PAUSE, PACKAGE_BYTES_MAX, SERVE_DEADLINE, STOP_DEADLINE};

/// Version of the letters that is spoken here.
const LETTERS_VERSION: u32 = 1;

/// Why the mounter did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// None has connected.
    #[error(
        "the mounter of this node is not running yet; it will be tried again (see the pods of the DaemonSet penstock-mounter)"
    )]
    NoMounter,
    /// One is there, but has not taken over what its predecessor served.
    #[error("the mounter of this node has not taken a mounted revision over yet; it will be tried again")]
    NotServed,
    /// It ended, or does not take letters.
    #[error("the mounter of this node went away; it will be tried again")]
    Gone,
    /// It did not answer.
    #[error("the mounter of this node did not answer within {0} s; it will be tried again")]
    Silent(u64),
    /// It answered that it could not.
    #[error("{message}")]
    Failed {
        /// Its sentence.
        message: String,
        /// Whether it may work later.
        retry: bool,
    },
    /// Its answer makes no sense.
    #[error("the mounter of this node answered nonsense: {0}")]
    Nonsense(String),
}

impl KeeperError {
    /// Whether it may work later.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::NoMounter | Self::NotServed | Self::Gone | Self::Silent(_) => true,
            Self::Failed { retry, .. } => *retry,
            Self::Nonsense(_) => false,
        }
    }
}

/// A space that is to be served.
#[derive(Clone, Debug)]
pub struct Space {
    /// The revision whose objects it holds.
    pub revision: RevisionId,
    /// Its id.
    pub space: SpaceId,
    /// Lengths of its files.
    pub device_bytes: Vec<u64>,
    /// Cache nodes to ask first.
    pub seeds: Vec<String>,
}

/// The keeper. Shared by all calls.
#[derive(Default)]
pub struct Keeper {
    links: Mutex<Vec<Arc<Link>>>,
    spaces: KeptSpaces,
}

/// The mounter that began to serve a space.
pub struct Server(Arc<Link>);

impl Keeper {
    /// Listens for mounters at `socket`, for processes of the user `uid` only, on a thread of its own.
    ///
    /// # Errors
    /// When the folder of the socket cannot be written.
    pub fn listen(self: &Arc<Self>, socket: &Path, uid: u32) -> io::Result<()> {
        let listener = descriptors::listen_at(socket)?;
        chown(socket, Some(uid), Some(uid))?;
        fs::set_permissions(socket, fs::Permissions::from_mode(0o600))?;
        let keeper = self.clone();
        std::thread::Builder::new().name("keeper".into()).spawn(move || {
            loop {
                match descriptors::accept_peer(listener.as_fd()) {
                    Ok(peer) => keeper.welcome(peer, uid),
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
        match descriptors::peer(peer.as_fd()) {
            Ok((found, _)) if found == uid => {}
            Ok((found, pid)) => {
                tracing::warn!(uid = found, pid, "refused a process that is not the mounter");
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "a mounter went away at once");
                return;
            }
        }
        let keeper = self.clone();
        let spawned = std::thread::Builder::new().name("mounter".into()).spawn(move || {
            let link = match Link::open(peer, LETTERS_VERSION) {
                Ok(link) => Arc::new(link),
                Err(error) => {
                    tracing::warn!(%error, "a mounter did not introduce itself");
                    return;
                }
            };
            tracing::info!("a mounter connected");
            keeper.links().push(link.clone());
            keeper.hand_over(link.clone());
            link.receive_answers();
            keeper.links().retain(|other| !Arc::ptr_eq(other, &link));
            tracing::warn!("a mounter went away");
            keeper.resend();
        });
        if let Err(error) = spawned {
            tracing::error!(%error, "start a thread");
        }
    }

    /// Whether a mounter is there.
    pub fn has_mounter(&self) -> bool {
        !self.links().is_empty()
    }

    /// How many spaces are kept.
    pub fn kept(&self) -> usize {
        self.spaces.count()
    }

    /// How many of them a mounter serves.
    pub fn served(&self) -> usize {
        self.spaces.served()
    }

    /// Fetches the package of a revision from the cache nodes. Its digest is not checked here.
    ///
    /// # Errors
    /// When there is no mounter, or it cannot.
    pub fn fetch(&self, revision: &RevisionId, seeds: &[String]) -> Result<Bytes, KeeperError> {
        let letter = to_mounter::Letter::Fetch(Fetch {
            revision: revision.as_bytes().to_vec(),
            seeds: seeds.to_vec(),
        });
        match self.newest()?.ask(letter, &[], FETCH_DEADLINE)? {
            (from_mounter::Letter::FetchedPackage(FetchedPackage { bytes }), descriptors) => {
                let descriptor = descriptors.into_iter().next();
                let memory =
                    descriptor.ok_or_else(|| KeeperError::Nonsense("a package without a descriptor".into()))?;
                read_sealed(memory, bytes).map(Bytes::from)
            }
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Lets the mounter serve a fresh connection.
    ///
    /// # Errors
    /// When there is no mounter, or it cannot.
    pub fn serve(&self, space: &Space, descriptors: &[OwnedFd]) -> Result<Server, KeeperError> {
        let link = self.newest()?;
        serve(&link, space, descriptors, false)?;
        Ok(Server(link))
    }

    /// Keeps a served connection: every mounter that comes is handed it, until [`Keeper::forget`].
    pub fn keep(self: &Arc<Self>, connection: u32, space: Space, descriptors: Vec<OwnedFd>, server: Server) {
        let Server(server) = server;
        self.spaces
            .insert(connection, Kept { space, descriptors }, server.clone());
        // A mounter that came between `serve` and now has not been handed it.
        let newer = self
            .links()
            .last()
            .filter(|newest| !Arc::ptr_eq(newest, &server))
            .cloned();
        if let Some(link) = newer {
            self.hand_over(link);
        }
    }

    /// Whether the connection is kept, so that a mounter serves it or will.
    pub fn keeps(&self, connection: u32) -> bool {
        self.spaces.contains(connection)
    }

    /// Whether somebody answers the kernel on a connection now.
    ///
    /// # Errors
    /// [`KeeperError::NoMounter`] or [`KeeperError::NotServed`] when nobody does.
    pub fn check_served(&self, connection: u32) -> Result<(), KeeperError> {
        if self.spaces.is_served(connection) {
            return Ok(());
        }
        self.newest()?;
        Err(KeeperError::NotServed)
    }

    /// Gives up a connection that is unmounted.
    pub fn forget(&self, connection: u32, revision: &RevisionId) {
        self.spaces.remove(connection);
        let letter = to_mounter::Letter::Stop(Stop {
            revision: revision.as_bytes().to_vec(),
        });
        let Ok(link) = self.newest() else { return };
        // It notices by itself that the connection has ended; the letter lets it forget the revision too.
        if let Err(error) = link.ask(letter, &[], STOP_DEADLINE) {
            tracing::warn!(%revision, %error, "the mounter was not told that a revision is unmounted");
        }
    }

    /// Hands a mounter what it does not serve yet, on a thread of its own, again and again until it took everything or
    /// went away.
    fn hand_over(self: &Arc<Self>, link: Arc<Link>) {
        let keeper = self.clone();
        let hand_over = move || {
            let mut said = false;
            while !keeper.hand_over_once(&link, said) && link.is_open() {
                said = true;
                std::thread::sleep(HAND_OVER_PAUSE);
            }
        };
        if let Err(error) = std::thread::Builder::new().name("hand-over".into()).spawn(hand_over) {
            tracing::error!(%error, "start a thread");
        }
    }

    /// Whether the mounter serves everything now. What it did not take is logged unless it was `said` before.
    fn hand_over_once(&self, link: &Arc<Link>, said: bool) -> bool {
        let mut took_all = true;
        for (connection, kept) in self.spaces.left_for(link) {
            let revision = kept.space.revision;
            match serve(link, &kept.space, &kept.descriptors, true) {
                Ok(()) => {
                    self.spaces.taken(connection, link);
                    tracing::info!(%revision, connection, "a mounter took a connection over");
                }
                Err(error) => {
                    took_all = false;
                    if !said {
                        tracing::error!(%revision, connection, %error, "a mounter did not take a connection over; it will be asked again");
                    }
                }
            }
        }
        took_all
    }

    /// Makes the kernel send again what a mounter that has ended took and did not answer. Where nobody serves there is
    /// nobody to send it to: the next mounter does it.
    fn resend(&self) {
        for (connection, kept) in self.spaces.served_by_others() {
            let Some(descriptor) = kept.descriptors.first() else {
                continue;
            };
            if let Err(error) = fuse::resend(descriptor) {
                tracing::error!(connection, %error, "reads that a mounter left unanswered are lost");
            }
        }
    }

    fn newest(&self) -> Result<Arc<Link>, KeeperError> {
        self.links().last().cloned().ok_or(KeeperError::NoMounter)
    }

    fn links(&self) -> MutexGuard<'_, Vec<Arc<Link>>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn serve(link: &Link, space: &Space, descriptors: &[OwnedFd], initialised: bool) -> Result<(), KeeperError> {
    let Space {
        revision,
        space,
        device_bytes,
        seeds,
    } = space;
    let letter = to_mounter::Letter::Serve(Serve {
        revision: revision.as_bytes().to_vec(),
        space: space.as_bytes().to_vec(),
        device_bytes: device_bytes.clone(),
        seeds: seeds.clone(),
        initialised,
    });
    let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    match link.ask(letter, &descriptors, SERVE_DEADLINE)? {
        (from_mounter::Letter::Serving(_), _) => Ok(()),
        (other, _) => Err(unexpected(&other)),
    }
}

fn unexpected(letter: &from_mounter::Letter) -> KeeperError {
    KeeperError::Nonsense(format!("an answer to another question: {letter:?}"))
}

/// The bytes of a memory file that nobody can change any more. The mounter is not trusted: what it sends could be a pipe
/// that never ends, or change after it was verified.
fn read_sealed(memory: OwnedFd, bytes: u64) -> Result<Vec<u8>, KeeperError> {
    let nonsense = |text: String| KeeperError::Nonsense(text);
    if bytes > PACKAGE_BYTES_MAX {
        return Err(nonsense(format!(
            "a package of {bytes} bytes; at most {PACKAGE_BYTES_MAX} are taken"
        )));
    }
    let wanted = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW;
    match rustix::fs::fcntl_get_seals(&memory) {
        Ok(seals) if seals.contains(wanted) => {}
        _ => return Err(nonsense("a package that is no sealed memory file".to_owned())),
    }
    let mut content = vec![0; bytes as usize];
    let read = fs::File::from(memory).read_exact_at(&mut content, 0);
    read.map_err(|error| nonsense(format!("a package shorter than it says: {error}")))?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::MemfdFlags;
    use std::io::Write;

    fn memory(content: &[u8], seals: SealFlags) -> OwnedFd {
        let descriptor = rustix::fs::memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap();
        let mut file = fs::File::from(descriptor);
        file.write_all(content).unwrap();
        rustix::fs::fcntl_add_seals(&file, seals).unwrap();
        file.into()
    }

    #[test]
    fn only_a_sealed_memory_file_of_its_length_is_taken_for_a_package() {
        let all = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW;
        assert_eq!(read_sealed(memory(b"abc", all), 3).unwrap(), b"abc");
        assert!(read_sealed(memory(b"abc", SealFlags::GROW), 3).is_err());
        assert!(read_sealed(memory(b"abc", all), 4).is_err());
        assert!(read_sealed(memory(b"abc", all), u64::MAX).is_err());
        assert!(read_sealed(tempfile::tempfile().unwrap().into(), 0).is_err());
    }
}
