//! The bulk protocol's server: reads frames, asks the engine, answers in any order.
//!
//! A block is checked before it leaves, so its bytes pass through a buffer; buffers are bounded and a request that waits too
//! long for one is answered Busy.

use std::io::{self, IoSlice};
use std::sync::Arc;

use penstock_buffer::BufferPool;
use penstock_protocol::frame::{FrameError, HEADER_BYTES, Header, Kind, READ_BYTES_MAX, Status};
use penstock_protocol::geometry::{BLOCK_BYTES, BlockRange};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::engine::ReadError;
use crate::limits::{BUFFER_WAIT_MAX, CONNECTION_REQUESTS_MAX, PEER_SILENCE_MAX, SERVER_BUFFERS_MAX};
use crate::server::node::Node;

/// The server.
pub struct BulkServer {
    node: Node,
    buffers: BufferPool,
    permits: Arc<Semaphore>,
}

type Refusal = (Status, String);

impl BulkServer {
    /// A server of `node`.
    pub fn new(node: Node) -> Self {
        let buffers = BufferPool::new(READ_BYTES_MAX as usize, SERVER_BUFFERS_MAX / 4);
        Self {
            node,
            buffers,
            permits: Arc::new(Semaphore::new(SERVER_BUFFERS_MAX)),
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
        stream.set_nodelay(true)?;
        let (mut reading, writing) = stream.into_split();
        let writing = Arc::new(Mutex::new(writing));
        let in_flight = Arc::new(Semaphore::new(CONNECTION_REQUESTS_MAX));
        while let Some(request) = next_header(&mut reading).await? {
            let request = match request {
                Ok(request) => request,
                Err(error) => {
                    // The stream has lost its place; a version that we do not speak is at least told so.
                    if let FrameError::Version(_) = error {
                        let unknown =
                            Header::request(Kind::Ring, 0, penstock_protocol::ids::RevisionId([0; 32]), 0, 0, 0);
                        self.refuse(&writing, &unknown, (Status::Unsupported, error.to_string()))
                            .await?;
                    }
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                }
            };
            // The semaphore is never closed.
            let Ok(permit) = in_flight.clone().acquire_owned().await else {
                return Ok(());
            };
            let (server, writing) = (self.clone(), writing.clone());
            tokio::spawn(async move {
                let _permit: OwnedSemaphorePermit = permit;
                if let Err(error) = server.answer(&writing, request).await {
                    // The reading side notices the same and ends the connection.
                    tracing::debug!(%error, "answer a bulk request");
                }
            });
        }
        Ok(())
    }

    async fn answer(&self, writing: &Mutex<OwnedWriteHalf>, request: Header) -> io::Result<()> {
        let refusal = match request.kind {
            Kind::Read => match self.read(writing, &request).await? {
                Ok(()) => return Ok(()),
                Err(refusal) => refusal,
            },
            Kind::Package => match self.node.package(&request.revision) {
                Some(package) => {
                    let bytes = package.bytes();
                    let start = usize::try_from(request.address).unwrap_or(usize::MAX).min(bytes.len());
                    let end = start.saturating_add(request.length as usize).min(bytes.len());
                    return self.send(writing, &request, &[], &bytes[start..end]).await;
                }
                None => (
                    Status::UnknownRevision,
                    format!("no package of revision {}", request.revision),
                ),
            },
            Kind::Ring => return self.send(writing, &request, &[], &self.node.ring().encode()).await,
            Kind::Data | Kind::Error => (Status::BadRequest, "an answer where a request was expected".to_owned()),
        };
        self.refuse(writing, &request, refusal).await
    }

    /// Answers a read; `Err` inside is a refusal that is still to be sent.
    async fn read(&self, writing: &Mutex<OwnedWriteHalf>, request: &Header) -> io::Result<Result<(), Refusal>> {
        let range = match BlockRange::new(request.address, u64::from(request.length)) {
            Ok(range) => range,
            Err(error) => return Ok(Err((Status::BadRequest, error.to_string()))),
        };
        let permit = timeout(BUFFER_WAIT_MAX, self.permits.clone().acquire_owned()).await;
        let Ok(Ok(_permit)) = permit else {
            return Ok(Err((Status::Busy, "too many reads at the same time".to_owned())));
        };
        let mut buffer = self.buffers.take();
        let into = &mut buffer[..range.bytes() as usize];
        let mut sums = vec![0; range.block_count()];
        match self
            .node
            .engine()
            .read(&request.revision, range, into, Some(&mut sums))
            .await
        {
            Ok(()) => {
                let sums: Vec<u8> = sums.iter().flat_map(|sum| sum.to_le_bytes()).collect();
                debug_assert_eq!(sums.len() as u64 / 4, range.bytes() / BLOCK_BYTES);
                self.send(writing, request, &sums, into).await.map(Ok)
            }
            Err(error) => Ok(Err((status(&error), error.to_string()))),
        }
    }

    async fn send(
        &self,
        writing: &Mutex<OwnedWriteHalf>,
        request: &Header,
        sums: &[u8],
        bytes: &[u8],
    ) -> io::Result<()> {
        let header = request.data(bytes.len() as u32, self.node.ring().epoch).encode();
        write_all(writing, &[&header, sums, bytes]).await
    }

    async fn refuse(
        &self,
        writing: &Mutex<OwnedWriteHalf>,
        request: &Header,
        (status, text): Refusal,
    ) -> io::Result<()> {
        let header = request
            .error(status, text.len() as u32, self.node.ring().epoch)
            .encode();
        write_all(writing, &[&header, text.as_bytes()]).await
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

/// Writes all parts as one frame; nobody else's frame comes between.
async fn write_all(writing: &Mutex<OwnedWriteHalf>, parts: &[&[u8]]) -> io::Result<()> {
    let mut writing = writing.lock().await;
    let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
    let mut left = slices.as_mut_slice();
    let mut bytes: usize = parts.iter().map(|part| part.len()).sum();
    while bytes > 0 {
        let written = timeout(PEER_SILENCE_MAX, writing.write_vectored(left)).await;
        let written = written.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes -= written;
        IoSlice::advance_slices(&mut left, written);
    }
    Ok(())
}

fn status(error: &ReadError) -> Status {
    match error {
        ReadError::UnknownRevision(_) => Status::UnknownRevision,
        ReadError::Drifted(_) => Status::Drifted,
        ReadError::Unavailable(_) => Status::OriginUnavailable,
    }
}
