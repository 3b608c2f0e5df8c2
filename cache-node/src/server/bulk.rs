//! The bulk protocol's server: reads frames, asks the engine, answers in any order.
//!
//! Stored blocks that the kernel has in memory are sent from there, unread (sendfile(2)); their checksums go with them and the
//! client compares. All others, and those that a client asks to be checked, pass through a buffer and are checked before
//! they leave, as does everything where TLS is spoken. Buffers are bounded and a request that waits too long for one is answered Busy. Who waits for an origin has no
//! buffer, so that a stuck source keeps nobody from what is cached. A peer that takes nothing, or too little while others wait for
//! its buffers, is cut off with all that it asked for.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use penstock_protocol::frame::{FrameError, HEADER_BYTES, Header, Kind, MAGIC, Status};
use penstock_protocol::geometry::{BlockRange, PAGE_BYTES};
use penstock_protocol::ids::RevisionId;
use rustix::net::sockopt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::answers::{Answer, Answers};
use super::peer::Peer;
use super::seal::Seal;
use super::shares::Shares;
use crate::error::ReadError;
use crate::limits::{
    BUFFER_WAIT_MAX, CONNECTION_REQUESTS_MAX, HANDSHAKE_MAX, HANDSHAKES_MAX, PEER_SILENCE_MAX, REQUESTS_MAX,
    UNREAD_BYTES_MIN,
};
use crate::server::node::Node;
use crate::tiers::TryRead;

/// What a client that does not speak TLS is told.
const TLS_ONLY: &str = "this cache node speaks TLS only: give the other end an identity too (--tls)";

/// The server.
pub struct BulkServer {
    node: Node,
    answers: Arc<Answers>,
    /// Of pages that have arrived for reads that wait for more.
    waiting: Arc<Shares>,
    /// Requests that are worked on.
    requests: AtomicUsize,
    /// Greetings that may begin.
    handshakes: Semaphore,
    silence_max: Duration,
}

/// How busy a server is, for whoever watches it.
pub struct Queues {
    answers: Arc<Answers>,
    waiting: Arc<Shares>,
}

impl Queues {
    /// For buffers of answers, and for pages of reads that wait for origins: how many are used, and how many reads wait for more.
    pub fn depths(&self) -> [(&'static str, (usize, usize)); 2] {
        [("answers", self.answers.depth()), ("origins", self.waiting.depth())]
    }
}

/// The blocks of a read.
struct Filled {
    answer: Answer,
    sums: Vec<u32>,
}

type Refusal = (Status, String);

impl BulkServer {
    /// A server of `node`.
    pub fn new(node: Node) -> Self {
        Self::with_silence_max(node, PEER_SILENCE_MAX)
    }

    /// The same with another patience for peers that take nothing.
    pub fn with_silence_max(node: Node, silence_max: Duration) -> Self {
        let budget = node.engine().memory();
        Self {
            node,
            answers: Arc::new(Answers::new(budget.answers())),
            waiting: Shares::new(budget.waiting_pages()),
            requests: AtomicUsize::new(0),
            handshakes: Semaphore::new(HANDSHAKES_MAX),
            silence_max,
        }
    }

    /// How busy it is.
    pub fn queues(&self) -> Queues {
        Queues {
            answers: self.answers.clone(),
            waiting: self.waiting.clone(),
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
        let greeted = timeout(HANDSHAKE_MAX, self.greeted(stream)).await?;
        let Some((stream, seal)) = greeted? else { return Ok(()) };
        let (mut reading, writing) = stream.into_split();
        let peer = Arc::new(Peer::new(writing, seal, self.silence_max, self.answers.clone()));
        let in_flight = Arc::new(Semaphore::new(CONNECTION_REQUESTS_MAX));
        let serving = async {
            while let Some(request) = next_header(&mut reading, peer.seal.as_ref()).await? {
                let request = match request {
                    Ok(request) => request,
                    // The stream has lost its place; a version that we do not speak is at least told so.
                    Err(error) => {
                        if let FrameError::Version(_) = error {
                            let refusal = unsupported(&error.to_string(), self.node.ring_epoch());
                            peer.turn().await.write_all(&[&refusal]).await?;
                        }
                        return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                    }
                };
                // What is at hand needs no task of its own, and nothing more is begun for a peer that takes nothing.
                match self.send_stored(&peer, &request).await {
                    Ok(true) => continue,
                    Ok(false) => {}
                    Err(error) => {
                        peer.broken.cancel();
                        return Err(error);
                    }
                }
                // The semaphore is never closed.
                let Ok(permit) = in_flight.clone().acquire_many_owned(self.request_weight()).await else {
                    return Ok(());
                };
                let (server, peer) = (self.clone(), peer.clone());
                let working = Working::begin(self.clone());
                tokio::spawn(async move {
                    let (_permit, _working): (OwnedSemaphorePermit, Working) = (permit, working);
                    let answered = peer.broken.run_until_cancelled(server.answer(&peer, request)).await;
                    if let Some(Err(error)) = answered {
                        tracing::debug!(%error, "answer a bulk request; the connection is cut off");
                        peer.broken.cancel();
                    }
                });
            }
            Ok(())
        };
        let ended = peer.broken.run_until_cancelled(serving).await;
        let ended = ended.unwrap_or_else(|| Err(io::ErrorKind::BrokenPipe.into()));
        if peer.broken.is_cancelled() {
            // What is left to send would stay in the kernel until it gives up.
            sockopt::set_socket_linger(reading.as_ref(), Some(Duration::ZERO))?;
        }
        // Nobody is there to whom what it has asked for could be sent.
        peer.broken.cancel();
        ended
    }

    /// Speaks TLS, where this node has an identity; who speaks plainly then is told so, and gets nothing.
    async fn greeted(&self, mut stream: TcpStream) -> io::Result<Option<(TcpStream, Option<Seal>)>> {
        let Some(identity) = self.node.identity() else {
            return Ok(Some((stream, None)));
        };
        // The semaphore is never closed.
        let _turn = self.handshakes.acquire().await;
        let mut first = [0];
        stream.peek(&mut first).await?;
        if !MAGIC.starts_with(&first) {
            let (stream, connection) = identity.accept(stream).await?;
            return Ok(Some((stream, Some(Seal::new(connection)))));
        }
        stream.read_exact(&mut [0; HEADER_BYTES]).await?;
        stream.write_all(&unsupported(TLS_ONLY, self.node.ring_epoch())).await?;
        Ok(None)
    }

    /// A connection has many requests worked on, or only one when there are too many in all.
    fn request_weight(&self) -> u32 {
        let are_many = self.requests.load(Ordering::Relaxed) >= REQUESTS_MAX;
        if are_many { CONNECTION_REQUESTS_MAX as u32 } else { 1 }
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
            Kind::Ring => {
                self.node.told_use(&request.revision);
                return self.send(peer, &request, &[], &self.node.ring().encode()).await;
            }
            Kind::Data | Kind::Error => (Status::BadRequest, "an answer where a request was expected".to_owned()),
        };
        self.refuse(peer, &request, refusal).await
    }

    /// Answers a read of blocks that the kernel has in memory, if it is one.
    async fn send_stored(&self, peer: &Peer, request: &Header) -> io::Result<bool> {
        let range = BlockRange::new(request.address, u64::from(request.length));
        let range = range.ok().filter(|range| range.bytes() >= UNREAD_BYTES_MIN);
        let (Some(range), Kind::Read, None) = (range, request.kind, &peer.seal) else {
            return Ok(false);
        };
        // Looked at when it can be sent.
        let turn = peer.turn().await;
        let Some(stored) = self.node.engine().stored(&request.revision, range) else {
            return Ok(false);
        };
        self.node.note_use(&request.revision);
        let header = request.data(request.length, self.node.ring_epoch()).encode();
        let head = [&header[..], &encoded(stored.checksums())].concat();
        turn.write_stored(&head, &stored, range.bytes() as usize).await?;
        Ok(true)
    }

    /// Answers a read; `Err` inside is a refusal that is still to be sent.
    async fn read(&self, peer: &Peer, request: &Header) -> io::Result<Result<(), Refusal>> {
        let range = match BlockRange::new(request.address, u64::from(request.length)) {
            Ok(range) => range,
            Err(error) => return Ok(Err((Status::BadRequest, error.to_string()))),
        };
        match self.filled(peer, &request.revision, range).await {
            Ok(Filled { answer, sums }) => {
                self.node.note_use(&request.revision);
                let bytes = &answer.buffer[..range.bytes() as usize];
                self.send(peer, request, &encoded(&sums), bytes).await.map(Ok)
            }
            Err(refusal) => Ok(Err(refusal)),
        }
    }

    async fn filled(&self, peer: &Peer, revision: &RevisionId, range: BlockRange) -> Result<Filled, Refusal> {
        let mut filled = self.empty(peer, revision, range).await?;
        let (bytes, engine) = (range.bytes() as usize, self.node.engine());
        let into = &mut filled.answer.buffer[..bytes];
        let look = engine.try_read_now(revision, range, into, Some(&mut filled.sums));
        let (look, filled) = match look {
            Some(look) => (look, filled),
            None => {
                let (engine, revision) = (engine.clone(), *revision);
                on_disk(move || {
                    let (buffer, sums) = (&mut filled.answer.buffer[..bytes], &mut filled.sums);
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
        let pages = range.end().div_ceil(PAGE_BYTES) - range.address() / PAGE_BYTES;
        let place = self.waiting.enter(revision, pages as usize, BUFFER_WAIT_MAX).await;
        let _place = place.ok_or_else(|| (Status::Busy, "too many reads wait for this origin".to_owned()))?;
        let mut miss = engine.miss(revision, range).map_err(refused)?;
        loop {
            miss.arrive().await.map_err(refused)?;
            let mut filled = self.empty(peer, revision, range).await?;
            let (look, tried, filled) = on_disk(move || {
                let (buffer, sums) = (&mut filled.answer.buffer[..bytes], &mut filled.sums);
                (miss.try_read(buffer, Some(sums)), miss, filled)
            })
            .await?;
            if look == TryRead::Hit {
                return Ok(filled);
            }
            miss = tried;
        }
    }

    async fn empty(&self, peer: &Peer, revision: &RevisionId, range: BlockRange) -> Result<Filled, Refusal> {
        let answer = self.answers.take(revision, &peer.allowance).await;
        Ok(Filled {
            answer: answer.ok_or_else(|| (Status::Busy, "too many reads at the same time".to_owned()))?,
            sums: vec![0; range.block_count()],
        })
    }

    async fn send(&self, peer: &Peer, request: &Header, sums: &[u8], bytes: &[u8]) -> io::Result<()> {
        let header = request.data(bytes.len() as u32, self.node.ring_epoch()).encode();
        peer.turn().await.write_all(&[&header, sums, bytes]).await
    }

    async fn refuse(&self, peer: &Peer, request: &Header, (status, text): Refusal) -> io::Result<()> {
        let header = request
            .error(status, text.len() as u32, self.node.ring_epoch())
            .encode();
        peer.turn().await.write_all(&[&header, text.as_bytes()]).await
    }
}

/// The frame that says why nothing at all is answered on a connection.
fn unsupported(why: &str, ring_epoch: u64) -> Vec<u8> {
    let unknown = Header::request(Kind::Ring, 0, RevisionId([0; 32]), 0, 0, 0);
    let header = unknown.error(Status::Unsupported, why.len() as u32, ring_epoch);
    [&header.encode(), why.as_bytes()].concat()
}

async fn next_header(
    reading: &mut OwnedReadHalf,
    seal: Option<&Seal>,
) -> io::Result<Option<Result<Header, FrameError>>> {
    let mut bytes = [0; HEADER_BYTES];
    let read = match seal {
        None => reading.read_exact(&mut bytes).await.map(drop),
        Some(seal) => seal.read_exact(reading, &mut bytes).await,
    };
    match read {
        Ok(()) => Ok(Some(Header::decode(&bytes))),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

/// Does what may wait for a disk where it holds up nobody.
async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
    let ended = |error: tokio::task::JoinError| (Status::Internal, format!("reading the cache failed: {error}"));
    spawn_blocking(work).await.map_err(ended)
}

/// A request that is worked on, until it is dropped.
struct Working(Arc<BulkServer>);

impl Working {
    fn begin(server: Arc<BulkServer>) -> Self {
        server.requests.fetch_add(1, Ordering::Relaxed);
        Self(server)
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
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
