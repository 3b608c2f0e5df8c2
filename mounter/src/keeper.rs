//! The mounter's side of the letters from the csi container, which keeps the FUSE connections.
//!
//! The mounter connects, says Hello and what it holds; each letter is answered once. When the csi container goes away,
//! sessions go on serving; its successor is handed back what it lost.

use std::convert::Infallible;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use penstock_descriptors::{self as descriptors, Packet};
use penstock_health::Readiness;
use penstock_mount::memory;
use penstock_protocol::connection::Connection;
use penstock_protocol::control::mounter::{
    Completed, Failed, Fetch, FetchedPackage, FromMounter, HandedBack, Hello, Pong, Serve, Serving, Stopped, ToMounter,
    from_mounter, to_mounter,
};
use penstock_protocol::ids::{ConnectionId, RevisionId};
use penstock_revision::limits::PACKAGE_BYTES_MAX;
use prost::Message;
use rustix::fs::SealFlags;

use crate::limits::{FETCH_DEADLINE, KEEPER_RECONNECT_PAUSE};
use crate::sessions::{Left, Sessions};

/// Version of the letters.
const LETTERS_VERSION: u32 = 1;

/// Serves what the keeper hands over.
pub struct Mounter {
    runtime: tokio::runtime::Handle,
    sessions: Sessions,
}

type Answer = Result<(from_mounter::Letter, Vec<OwnedFd>), Failed>;

impl Mounter {
    /// A mounter with these sessions, which fetches packages on `runtime`.
    pub fn new(runtime: tokio::runtime::Handle, sessions: Sessions) -> Arc<Self> {
        Arc::new(Self { runtime, sessions })
    }

    /// Goes on with what a predecessor left, connects to the keeper's socket, again and again, and answers its letters. It is
    /// ready while it holds everything that the keeper has.
    ///
    /// # Errors
    /// When it cannot go on with something. Otherwise it never returns.
    pub fn run(self: &Arc<Self>, socket: &Path, readiness: &Readiness, left: Vec<Left>) -> io::Result<Infallible> {
        // The keeper must know of this process before it reads a request: it has others answer what we took, if we end.
        let mut keeper = introduce(socket, left.iter().map(|left| left.connection.id));
        self.sessions.resume(left)?;
        loop {
            match keeper {
                Ok(keeper) => {
                    tracing::info!(socket = %socket.display(), "connected to the csi container");
                    if let Err(error) = self.answer_letters(&Arc::new(keeper), readiness) {
                        tracing::warn!(%error, "the csi container's connection ended");
                    }
                    readiness.set(false);
                }
                Err(error) => tracing::debug!(socket = %socket.display(), %error, "the csi container is not there"),
            }
            // A pause between attempts to connect; nothing tells when a socket appears in a folder of another container.
            std::thread::sleep(KEEPER_RECONNECT_PAUSE);
            keeper = introduce(socket, self.sessions.held());
        }
    }

    fn answer_letters(self: &Arc<Self>, keeper: &Arc<OwnedFd>, readiness: &Readiness) -> io::Result<()> {
        while let Some(Packet { bytes, descriptors }) = descriptors::receive(keeper.as_fd())? {
            let letter = ToMounter::decode(bytes.as_slice()).map_err(io::Error::other)?;
            let (mounter, keeper, readiness) = (self.clone(), keeper.clone(), readiness.clone());
            std::thread::Builder::new().name("letter".into()).spawn(move || {
                let complete = matches!(letter.letter, Some(to_mounter::Letter::Complete(_)));
                let answer = mounter.act(letter.letter, descriptors);
                let (answer, descriptors) =
                    answer.unwrap_or_else(|failed| (from_mounter::Letter::Failed(failed), Vec::new()));
                match send(keeper.as_fd(), letter.id, answer, &descriptors) {
                    Ok(()) if complete => readiness.set(true),
                    Ok(()) => {}
                    Err(error) => tracing::warn!(%error, "answer the csi container"),
                }
            })?;
        }
        Ok(())
    }

    fn act(&self, letter: Option<to_mounter::Letter>, descriptors: Vec<OwnedFd>) -> Answer {
        match letter {
            Some(to_mounter::Letter::Fetch(fetch)) => self.fetch(&fetch),
            Some(to_mounter::Letter::Serve(serve)) => self.serve(serve, descriptors),
            Some(to_mounter::Letter::Stop(stop)) => {
                self.sessions.stop(&connection(&stop.connection)?);
                Ok((from_mounter::Letter::Stopped(Stopped {}), Vec::new()))
            }
            Some(to_mounter::Letter::HandBack(hand_back)) => self.hand_back(&connection(&hand_back.connection)?),
            Some(to_mounter::Letter::Complete(_)) => Ok((from_mounter::Letter::Completed(Completed {}), Vec::new())),
            Some(to_mounter::Letter::Ping(_)) => {
                // Only if what answers reads is alive too.
                self.runtime.block_on(self.runtime.spawn(async {})).map_err(later)?;
                Ok((from_mounter::Letter::Pong(Pong {}), Vec::new()))
            }
            None => Err(refused("a letter of a kind that this mounter does not know".to_owned())),
        }
    }

    fn fetch(&self, fetch: &Fetch) -> Answer {
        let revision = RevisionId::try_from(fetch.revision.as_slice()).map_err(|error| refused(error.to_string()))?;
        let mut file = std::fs::File::from(memory::sealable("revision").map_err(later)?);
        let mut bytes = 0;
        let client = self.sessions.client(fetch.seeds.clone(), FETCH_DEADLINE);
        let sink = |piece: &[u8]| {
            bytes += piece.len() as u64;
            if bytes > PACKAGE_BYTES_MAX {
                return Err(io::Error::other("it sends a package that does not end"));
            }
            file.write_all(piece)
        };
        let fetched = async { tokio::time::timeout(FETCH_DEADLINE, client.package(&revision, sink)).await };
        let fetched = self.runtime.block_on(fetched);
        fetched
            .map_err(|_| later("the package did not arrive in time"))?
            .map_err(later)?;
        let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
        rustix::fs::fcntl_add_seals(&file, seals).map_err(later)?;
        let letter = from_mounter::Letter::FetchedPackage(FetchedPackage { bytes });
        Ok((letter, vec![file.into()]))
    }

    fn serve(&self, serve: Serve, descriptors: Vec<OwnedFd>) -> Answer {
        let Serve {
            connection,
            initialised,
        } = serve;
        let connection = connection.ok_or_else(|| refused("a letter without its connection".to_owned()))?;
        let connection = Connection::try_from(connection).map_err(|error| refused(error.to_string()))?;
        let served = self.sessions.serve(connection, descriptors, initialised);
        served.map_err(|error| refused(format!("serve a FUSE connection: {error}")))?;
        Ok((from_mounter::Letter::Serving(Serving {}), Vec::new()))
    }

    fn hand_back(&self, id: &ConnectionId) -> Answer {
        let copied = self.sessions.copy(id).map_err(later)?;
        let (connection, descriptors) =
            copied.ok_or_else(|| refused(format!("the connection {id} has ended meanwhile")))?;
        let letter = from_mounter::Letter::HandedBack(HandedBack {
            connection: Some((&connection).into()),
        });
        Ok((letter, descriptors))
    }
}

/// Connects to the keeper, and says which connections are held.
fn introduce(socket: &Path, held: impl IntoIterator<Item = ConnectionId>) -> io::Result<OwnedFd> {
    let keeper = descriptors::connect_to(socket)?;
    let hello = from_mounter::Letter::Hello(Hello {
        version: LETTERS_VERSION,
        connections: held.into_iter().map(|id| id.as_bytes().to_vec()).collect(),
    });
    send(keeper.as_fd(), 0, hello, &[])?;
    Ok(keeper)
}

fn connection(id: &[u8]) -> Result<ConnectionId, Failed> {
    ConnectionId::try_from(id).map_err(|error| refused(error.to_string()))
}

fn refused(message: String) -> Failed {
    Failed { message, retry: false }
}

fn later(error: impl ToString) -> Failed {
    Failed {
        message: error.to_string(),
        retry: true,
    }
}

fn send(keeper: BorrowedFd<'_>, id: u64, letter: from_mounter::Letter, descriptors: &[OwnedFd]) -> io::Result<()> {
    let bytes = FromMounter {
        id,
        letter: Some(letter),
    }
    .encode_to_vec();
    let descriptors: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
    descriptors::send(keeper, &bytes, &descriptors)
}
