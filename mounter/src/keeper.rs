//! The mounter's side of the letters from the csi container, which keeps the FUSE connections.
//!
//! The mounter connects and says Hello; each letter is answered once. When the csi container goes away, sessions go on
//! serving: the mounter holds the connections too.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use penstock_buffer::BufferPool;
use penstock_cache_client::CacheClient;
use penstock_health::Readiness;
use penstock_mount::descriptors::{self, Packet};
use penstock_protocol::control::mounter::{
    Failed, Fetch, FetchedPackage, FromMounter, Hello, Serve, Serving, Stop, Stopped, ToMounter, from_mounter,
    to_mounter,
};
use penstock_protocol::ids::{RevisionId, SpaceId};
use prost::Message;
use rustix::fs::{MemfdFlags, SealFlags};

use crate::limits::{FETCH_DEADLINE, IDLE_BUFFERS_MAX, KEEPER_RECONNECT_PAUSE, READ_BYTES_MAX, READ_DEADLINE};
use crate::remote::RemoteSpace;
use crate::session::{Session, Start};

/// Version of the letters.
const LETTERS_VERSION: u32 = 1;

/// Serves what the keeper hands over.
pub struct Mounter {
    runtime: tokio::runtime::Handle,
    buffers: BufferPool,
    sessions: Mutex<Vec<(RevisionId, Session)>>,
}

type Answer = Result<(from_mounter::Letter, Option<OwnedFd>), Failed>;

impl Mounter {
    /// A mounter whose reads wait on `runtime`.
    pub fn new(runtime: tokio::runtime::Handle) -> Arc<Self> {
        // Two blocks more than the largest read, which may begin and end within a block.
        let buffers = BufferPool::new(READ_BYTES_MAX + 2 * 4096, IDLE_BUFFERS_MAX);
        Arc::new(Self {
            runtime,
            buffers,
            sessions: Mutex::default(),
        })
    }

    /// Connects to the keeper's socket, again and again, and answers its letters. Never returns.
    pub fn run(self: &Arc<Self>, socket: &Path, readiness: &Readiness) {
        loop {
            match descriptors::connect_to(socket) {
                Ok(keeper) => {
                    tracing::info!(socket = %socket.display(), "connected to the csi container");
                    readiness.set(true);
                    if let Err(error) = self.answer_letters(&Arc::new(keeper)) {
                        tracing::warn!(%error, "the csi container's connection ended");
                    }
                    readiness.set(false);
                }
                Err(error) => tracing::debug!(socket = %socket.display(), %error, "the csi container is not there"),
            }
            // A pause between attempts to connect; nothing tells when a socket appears in a folder of another container.
            std::thread::sleep(KEEPER_RECONNECT_PAUSE);
        }
    }

    fn answer_letters(self: &Arc<Self>, keeper: &Arc<OwnedFd>) -> io::Result<()> {
        send(
            keeper.as_fd(),
            0,
            from_mounter::Letter::Hello(Hello {
                version: LETTERS_VERSION,
            }),
            None,
        )?;
        while let Some(Packet { bytes, descriptors }) = descriptors::receive(keeper.as_fd())? {
            let letter = ToMounter::decode(bytes.as_slice()).map_err(io::Error::other)?;
            let (mounter, keeper) = (self.clone(), keeper.clone());
            std::thread::Builder::new().name("letter".into()).spawn(move || {
                let answer = mounter.act(letter.letter, descriptors);
                let (answer, descriptor) = answer.unwrap_or_else(|failed| (from_mounter::Letter::Failed(failed), None));
                if let Err(error) = send(keeper.as_fd(), letter.id, answer, descriptor) {
                    tracing::warn!(%error, "answer the csi container");
                }
            })?;
        }
        Ok(())
    }

    fn act(&self, letter: Option<to_mounter::Letter>, descriptors: Vec<OwnedFd>) -> Answer {
        match letter {
            Some(to_mounter::Letter::Fetch(fetch)) => self.fetch(&fetch),
            Some(to_mounter::Letter::Serve(serve)) => self.serve(serve, descriptors),
            Some(to_mounter::Letter::Stop(stop)) => self.stop(&stop),
            None => Err(refused("a letter of a kind that this mounter does not know".to_owned())),
        }
    }

    fn fetch(&self, fetch: &Fetch) -> Answer {
        let revision = revision(&fetch.revision)?;
        let later = |message: String| Failed { message, retry: true };
        let memory = rustix::fs::memfd_create("revision", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING);
        let mut file = std::fs::File::from(memory.map_err(|errno| later(errno.to_string()))?);
        let mut bytes = 0;
        let client = CacheClient::new(fetch.seeds.clone(), FETCH_DEADLINE);
        let sink = |piece: &[u8]| {
            bytes += piece.len() as u64;
            file.write_all(piece)
        };
        self.runtime
            .block_on(client.package(&revision, sink))
            .map_err(|error| later(error.to_string()))?;
        let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
        rustix::fs::fcntl_add_seals(&file, seals).map_err(|errno| later(errno.to_string()))?;
        Ok((
            from_mounter::Letter::FetchedPackage(FetchedPackage { bytes }),
            Some(file.into()),
        ))
    }

    fn serve(&self, serve: Serve, descriptors: Vec<OwnedFd>) -> Answer {
        let Serve {
            revision: id,
            space,
            device_bytes,
            seeds,
            initialised,
        } = serve;
        let revision = revision(&id)?;
        let space = SpaceId::try_from(space.as_slice()).map_err(|error| refused(error.to_string()))?;
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|(_, session)| !session.has_ended());
        if initialised && sessions.iter().any(|(served, _)| *served == revision) {
            // The keeper came back; we never stopped.
            return Ok((from_mounter::Letter::Serving(Serving {}), None));
        }
        let client = CacheClient::new(seeds, READ_DEADLINE);
        let session = Session::start(Start {
            descriptors,
            device_bytes,
            reader: Arc::new(RemoteSpace {
                client,
                revision,
                space,
            }),
            buffers: self.buffers.clone(),
            runtime: self.runtime.clone(),
            initialised,
            name: revision.to_string(),
        });
        sessions.push((
            revision,
            session.map_err(|error| refused(format!("serve a FUSE connection: {error}")))?,
        ));
        tracing::info!(%revision, initialised, "serving");
        Ok((from_mounter::Letter::Serving(Serving {}), None))
    }

    /// The file system is unmounted already, so the threads end by themselves.
    fn stop(&self, stop: &Stop) -> Answer {
        let revision = revision(&stop.revision)?;
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|(served, session)| *served != revision || !session.has_ended());
        tracing::info!(%revision, "stopped");
        Ok((from_mounter::Letter::Stopped(Stopped {}), None))
    }
}

fn revision(id: &[u8]) -> Result<RevisionId, Failed> {
    RevisionId::try_from(id).map_err(|error| refused(error.to_string()))
}

fn refused(message: String) -> Failed {
    Failed { message, retry: false }
}

fn send(keeper: BorrowedFd<'_>, id: u64, letter: from_mounter::Letter, descriptor: Option<OwnedFd>) -> io::Result<()> {
    let bytes = FromMounter {
        id,
        letter: Some(letter),
    }
    .encode_to_vec();
    let descriptors: Vec<BorrowedFd<'_>> = descriptor.iter().map(AsFd::as_fd).collect();
    descriptors::send(keeper, &bytes, &descriptors)
}
