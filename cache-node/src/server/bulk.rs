//! The bulk protocol's server: reads frames, asks the engine, answers in any order.
//!
//! Stored blocks that the kernel has in memory are sent from there, unread (sendfile(2)); their checksums go with them and the
//! client compares. All others, and those that a client asks to be checked, pass through a buffer and are checked before
//! they leave. Buffers are bounded and a request that waits too long for one is answered Busy. Who waits for an origin has no
//! buffer, so that a stuck source keeps nobody from what is cached. A peer that takes nothing is cut off with all that it
//! asked for.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use penstock_buffer::{Buffer, BufferPool};
use penstock_protocol::frame::{FrameError, HEADER_BYTES, Header, Kind, READ_BYTES_MAX, Status};
use penstock_protocol::geometry::BlockRange;
use penstock_protocol::ids::RevisionId;
use rustix::net::{self, SendFlags, sockopt};
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::error::ReadError;
use crate::limits::{
    BUFFER_WAIT_MAX, CONNECTION_REQUESTS_MAX, PEER_SILENCE_MAX, REVISION_MISSES_MAX, SERVER_BUFFERS_MAX,
    UNREAD_BYTES_MIN,
};
use crate::server::node::Node;
use crate::store::Stored;
use crate::tiers::TryRead;

/// The server.
pub struct BulkServer {
    node: Node,
    buffers: BufferPool,
    permits: Arc<Semaphore>,
    /// How many more reads of a revision may wait for origins; a revision of which none waits is not here.
    misses: std::sync::Mutex<HashMap<RevisionId, Arc<Semaphore>>>,
    silence_max: Duration,
}

/// A connection's sending side.
struct Peer {
    writing: Mutex<OwnedWriteHalf>,
    silence_max: Duration,
    /// Once an answer could not be written whole, nothing can.
    broken: CancellationToken,
}

/// The blocks of a read in a buffer of the server, and the right to have it.
struct Filled {
    buffer: Buffer,
    sums: Vec<u32>,
    _permit: OwnedSemaphorePermit,
}

type Refusal = (Status, String);

impl BulkServer {
    /// A server of `node`.
    pub fn new(node: Node) -> Self {
        Self::with_silence_max(node, PEER_SILENCE_MAX)
    }

    /// The same with another patience for peers that take nothing.
    pub fn with_silence_max(node: Node, silence_max: Duration) -> Self {
        Self {
            node,
            buffers: BufferPool::new(READ_BYTES_MAX as usize, SERVER_BUFFERS_MAX / 4),
            permits: Arc::new(Semaphore::new(SERVER_BUFFERS_MAX)),
            misses: std::sync::Mutex::default(),
            silence_max,
        }
    }

    /// Serves connections until the task is dropped.
    pub async fn serve(self, listener: TcpListener) {
        let server = Arc::new(self);
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let server = server.clone();
                    tokio::spawn(async move {
                        if let Err(error) = server.connection(stream).await {
                            tracing::debug!(%peer, %error, "a bulk connection ended");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "accept a bulk connection");
                    tokio::time::sleep(BUFFER_WAIT_MAX / 10).await;
                }
            }
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream) -> io::Result<()> {
        watch_over(&stream, self.silence_max)?;
        let (mut reading, writing) = stream.into_split();
        let peer = Arc::new(Peer {
            writing: Mutex::new(writing),
            silence_max: self.silence_max,
            broken: CancellationToken::new(),
        });
        let in_flight = Arc::new(Semaphore::new(CONNECTION_REQUESTS_MAX));
        let serving = async {
            while let Some(request) = next_header(&mut reading).await? {
                let request = match request {
                    Ok(request) => request,
                    Err(error) => {
                        // The stream has lost its place; a version that we do not speak is at least told so.
                        if let FrameError::Version(_) = error {
                            let unknown = Header::request(Kind::Ring, 0, RevisionId([0; 32]), 0, 0, 0);
                            self.refuse(&peer, &unknown, (Status::Unsupported, error.to_string()))
                                .await?;
                        }
                        return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                    }
                };
                // The semaphore is never closed.
                let Ok(permit) = in_flight.clone().acquire_owned().await else {
                    return Ok(());
                };
                let (server, peer) = (self.clone(), peer.clone());
                tokio::spawn(async move {
                    let _permit: OwnedSemaphorePermit = permit;
                    let answered = peer.broken.run_until_cancelled(server.answer(&peer, request)).await;
                    if let Some(Err(error)) = answered {
                        tracing::debug!(%error, "answer a bulk request; the connection is cut off");
                        peer.broken.cancel();
                    }
                });
            }
            Ok(())
        };
        match peer.broken.run_until_cancelled(serving).await {
            Some(ended) => ended,
            None => {
                // What is left to send would stay in the kernel until it gives up.
                let linger = sockopt::set_socket_linger(reading.as_ref(), Some(Duration::ZERO));
                linger?;
                Err(io::ErrorKind::BrokenPipe.into())
            }
        }
    }

    async fn answer(&self, peer: &Peer, request: Header) -> io::Result<()> {
        let refusal = match request.kind {
            Kind::Read | Kind::ReadChecked => match self.read(peer, &request).await? {
                Ok(()) => return Ok(()),
                Err(refusal) => refusal,
            },
            Kind::Package => match self
                .node
                .package_piece(&request.revision, request.address, request.length as usize)
                .await
            {
                Some(piece) => return self.send(peer, &request, &[], &piece).await,
                None => (
                    Status::UnknownRevision,
                    format!("no package of revision {}", request.revision),
                ),
            },
            Kind::Ring => return self.send(peer, &request, &[], &self.node.ring().encode()).await,
            Kind::Data | Kind::Error => (Status::BadRequest, "an answer where a request was expected".to_owned()),
        };
        self.refuse(peer, &request, refusal).await
    }

    /// Answers a read; `Err` inside is a refusal that is still to be sent.
    async fn read(&self, peer: &Peer, request: &Header) -> io::Result<Result<(), Refusal>> {
        let range = match BlockRange::new(request.address, u64::from(request.length)) {
            Ok(range) => range,
            Err(error) => return Ok(Err((Status::BadRequest, error.to_string()))),
        };
        if request.kind == Kind::Read
            && range.bytes() >= UNREAD_BYTES_MIN
            && let Some(stored) = self.node.engine().stored(&request.revision, range)
        {
            let header = request.data(request.length, self.node.ring_epoch()).encode();
            let head = [&header[..], &encoded(stored.checksums())].concat();
            return peer.write_stored(&head, &stored, range.bytes() as usize).await.map(Ok);
        }
        match self.filled(&request.revision, range).await {
            Ok(Filled { buffer, sums, _permit }) => {
                let bytes = &buffer[..range.bytes() as usize];
                self.send(peer, request, &encoded(&sums), bytes).await.map(Ok)
            }
            Err(refusal) => Ok(Err(refusal)),
        }
    }

    async fn filled(&self, revision: &RevisionId, range: BlockRange) -> Result<Filled, Refusal> {
        let mut filled = self.empty(range).await?;
        let (bytes, engine) = (range.bytes() as usize, self.node.engine());
        let look = engine.try_read_now(revision, range, &mut filled.buffer[..bytes], Some(&mut filled.sums));
        let (look, filled) = match look {
            Some(look) => (look, filled),
            None => {
                let (engine, revision) = (engine.clone(), *revision);
                on_disk(move || {
                    let (buffer, sums) = (&mut filled.buffer[..bytes], &mut filled.sums);
                    (engine.try_read(&revision, range, buffer, Some(sums)), filled)
                })
                .await?
            }
        };
        if look == TryRead::Hit {
            return Ok(filled);
        }
        drop(filled);
        let refused = |error: ReadError| (status(&error), error.to_string());
        let _waits = permit(self.misses_of(revision), "too many reads wait for this origin").await?;
        let mut miss = engine.miss(revision, range).map_err(refused)?;
        loop {
            miss.arrive().await.map_err(refused)?;
            let mut filled = self.empty(range).await?;
            let (look, tried, filled) = on_disk(move || {
                let (buffer, sums) = (&mut filled.buffer[..bytes], &mut filled.sums);
                (miss.try_read(buffer, Some(sums)), miss, filled)
            })
            .await?;
            if look == TryRead::Hit {
                return Ok(filled);
            }
            miss = tried;
        }
    }

    async fn empty(&self, range: BlockRange) -> Result<Filled, Refusal> {
        let permit = permit(self.permits.clone(), "too many reads at the same time").await?;
        Ok(Filled {
            buffer: self.buffers.take(),
            sums: vec![0; range.block_count()],
            _permit: permit,
        })
    }

    fn misses_of(&self, revision: &RevisionId) -> Arc<Semaphore> {
        let mut misses = self.misses.lock().unwrap_or_else(PoisonError::into_inner);
        misses.retain(|_, waiting| Arc::strong_count(waiting) > 1);
        let new = || Arc::new(Semaphore::new(REVISION_MISSES_MAX));
        misses.entry(*revision).or_insert_with(new).clone()
    }

    async fn send(&self, peer: &Peer, request: &Header, sums: &[u8], bytes: &[u8]) -> io::Result<()> {
        let header = request.data(bytes.len() as u32, self.node.ring_epoch()).encode();
        peer.write_all(&[&header, sums, bytes]).await
    }

    async fn refuse(&self, peer: &Peer, request: &Header, (status, text): Refusal) -> io::Result<()> {
        let header = request
            .error(status, text.len() as u32, self.node.ring_epoch())
            .encode();
        peer.write_all(&[&header, text.as_bytes()]).await
    }
}

async fn next_header(reading: &mut OwnedReadHalf) -> io::Result<Option<Result<Header, FrameError>>> {
    let mut bytes = [0; HEADER_BYTES];
    match reading.read_exact(&mut bytes).await {
        Ok(_) => Ok(Some(Header::decode(&bytes))),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

/// Does what may wait for a disk where it holds up nobody.
async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
    let ended = |error: tokio::task::JoinError| (Status::Internal, format!("reading the cache failed: {error}"));
    spawn_blocking(work).await.map_err(ended)
}

async fn permit(of: Arc<Semaphore>, busy: &str) -> Result<OwnedSemaphorePermit, Refusal> {
    match timeout(BUFFER_WAIT_MAX, of.acquire_owned()).await {
        Ok(Ok(permit)) => Ok(permit),
        _ => Err((Status::Busy, busy.to_owned())),
    }
}

/// Lets the kernel end a connection whose peer vanished without a word: idle, or in the middle of an answer.
fn watch_over(stream: &TcpStream, silence_max: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, PEER_SILENCE_MAX)?;
    sockopt::set_tcp_keepintvl(stream, PEER_SILENCE_MAX / 3)?;
    sockopt::set_tcp_user_timeout(stream, silence_max.as_millis() as u32)?;
    // Where BBR is the default, its pacing takes three quarters of the speed of what is sent unread. A kernel that refuses
    // goes on as it is set up.
    let _ = sockopt::set_tcp_congestion(stream, "cubic");
    Ok(())
}

impl Peer {
    /// Writes all parts as one frame; nobody else's frame comes between.
    async fn write_all(&self, parts: &[&[u8]]) -> io::Result<()> {
        let writing = self.writing.lock().await;
        let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let mut left = slices.as_mut_slice();
        let bytes = parts.iter().map(|part| part.len()).sum();
        self.push(writing.as_ref(), bytes, |stream, _| {
            let written = rustix::io::writev(stream, left)?;
            IoSlice::advance_slices(&mut left, written);
            Ok(written)
        })
        .await
    }

    /// Writes a frame whose end is stored; nobody else's frame comes between.
    async fn write_stored(&self, head: &[u8], stored: &Stored, bytes: usize) -> io::Result<()> {
        let writing = self.writing.lock().await;
        self.push(writing.as_ref(), head.len(), |stream, sent| {
            Ok(net::send(stream, &head[sent..], SendFlags::MORE | SendFlags::NOSIGNAL)?)
        })
        .await?;
        self.push(writing.as_ref(), bytes, |stream, sent| stored.send(stream, sent))
            .await
    }

    /// Writes `bytes` bytes by `some`, which is told how many were sent and sends what the socket takes.
    async fn push(
        &self,
        stream: &TcpStream,
        bytes: usize,
        mut some: impl FnMut(&TcpStream, usize) -> io::Result<usize>,
    ) -> io::Result<()> {
        let mut sent = 0;
        while sent < bytes {
            match stream.try_io(Interest::WRITABLE, || some(stream, sent)) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => sent += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let writable = timeout(self.silence_max, stream.writable()).await;
                    writable.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Checksums as they travel.
fn encoded(sums: &[u32]) -> Vec<u8> {
    sums.iter().flat_map(|sum| sum.to_le_bytes()).collect()
}

fn status(error: &ReadError) -> Status {
    match error {
        ReadError::UnknownRevision(_) => Status::UnknownRevision,
        ReadError::Drifted(_) => Status::Drifted,
        ReadError::Unavailable(_) => Status::OriginUnavailable,
    }
}
