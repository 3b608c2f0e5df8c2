//! The sending side of a bulk connection: one frame after the other, and an end for who takes too little.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::{self, SendFlags};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::answers::{Allowance, Answers};
use super::seal::Seal;
use crate::limits::{ANSWER_PRESSED_MAX, PRESSED_BYTES_PER_SECOND, PRESSURE_LOOK_INTERVAL};
use crate::store::Stored;

/// Whoever is at the other end.
pub(super) struct Peer {
    writing: Mutex<OwnedWriteHalf>,
    /// If TLS is spoken.
    pub(super) seal: Option<Seal>,
    silence_max: Duration,
    answers: Arc<Answers>,
    /// Its buffers.
    pub(super) allowance: Allowance,
    /// Once an answer could not be written whole, nothing can.
    pub(super) broken: CancellationToken,
}

impl Peer {
    pub(super) fn new(
        writing: OwnedWriteHalf,
        seal: Option<Seal>,
        silence_max: Duration,
        answers: Arc<Answers>,
    ) -> Self {
        Self {
            writing: Mutex::new(writing),
            seal,
            silence_max,
            allowance: Allowance::new(&answers),
            answers,
            broken: CancellationToken::new(),
        }
    }

    /// Its turn to write a frame; nobody else's frame comes between.
    pub(super) async fn turn(&self) -> Turn<'_> {
        let writing = self.writing.lock().await;
        Turn { peer: self, writing }
    }

    /// Whether it has buffers for which others wait.
    fn is_in_the_way(&self) -> bool {
        self.allowance.is_used() && self.answers.are_waited_for()
    }
}

/// The right to write one frame.
pub(super) struct Turn<'a> {
    peer: &'a Peer,
    writing: MutexGuard<'a, OwnedWriteHalf>,
}

impl Turn<'_> {
    /// Writes all parts as one frame.
    pub(super) async fn write_all(self, parts: &[&[u8]]) -> io::Result<()> {
        let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let mut left = slices.as_mut_slice();
        let bytes = parts.iter().map(|part| part.len()).sum();
        let (seal, mut progress) = (self.peer.seal.as_ref(), Progress::begin());
        self.push(bytes, &mut progress, |stream, _| {
            let written = match seal {
                None => rustix::io::writev(stream, left)?,
                Some(seal) => seal.write(stream, left)?,
            };
            IoSlice::advance_slices(&mut left, written);
            Ok(written)
        })
        .await?;
        if let Some(seal) = seal {
            self.push(1, &mut progress, |stream, _| seal.flush(stream).map(|()| 1))
                .await?;
        }
        Ok(())
    }

    /// Writes a frame whose end is stored, on a connection without TLS.
    pub(super) async fn write_stored(self, head: &[u8], stored: &Stored, bytes: usize) -> io::Result<()> {
        let mut progress = Progress::begin();
        self.push(head.len(), &mut progress, |stream, sent| {
            Ok(net::send(stream, &head[sent..], SendFlags::MORE | SendFlags::NOSIGNAL)?)
        })
        .await?;
        self.push(bytes, &mut progress, |stream, sent| stored.send(stream, sent))
            .await
    }

    /// Writes `bytes` bytes by `some`, which is told how many were sent and sends what the socket takes.
    async fn push(
        &self,
        bytes: usize,
        progress: &mut Progress,
        mut some: impl FnMut(&TcpStream, usize) -> io::Result<usize>,
    ) -> io::Result<()> {
        let (stream, mut sent) = (self.writing.as_ref(), 0);
        while sent < bytes {
            match stream.try_io(Interest::WRITABLE, || some(stream, sent)) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    sent += written;
                    progress.sent += written;
                    progress.silent_since = None;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let taken = self.peer.seal.as_ref().map_or(0, Seal::taken);
                    if std::mem::replace(&mut progress.taken, taken) != taken {
                        progress.silent_since = None;
                    }
                    self.writable(stream, progress).await?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits until the socket takes more; an error when the peer took nothing for too long, or too little for those that wait.
    async fn writable(&self, stream: &TcpStream, progress: &mut Progress) -> io::Result<()> {
        let silent_since = *progress.silent_since.get_or_insert_with(Instant::now);
        loop {
            let left = self.peer.silence_max.saturating_sub(silent_since.elapsed());
            let took = progress.begun.elapsed();
            let is_slow =
                took >= ANSWER_PRESSED_MAX && (progress.sent as u64) < PRESSED_BYTES_PER_SECOND * took.as_secs();
            if left.is_zero() || is_slow && self.peer.is_in_the_way() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            if let Ok(writable) = timeout(left.min(PRESSURE_LOOK_INTERVAL), stream.writable()).await {
                return writable;
            }
        }
    }
}

/// How an answer is taken.
struct Progress {
    begun: Instant,
    /// Bytes that were.
    sent: usize,
    /// Of the connection, sealed.
    taken: u64,
    /// Since when nothing was taken, while that is so.
    silent_since: Option<Instant>,
}

impl Progress {
    fn begin() -> Self {
        Self {
            begun: Instant::now(),
            sent: 0,
            taken: 0,
            silent_since: None,
        }
    }
}
