//! The sending side of a bulk connection: one frame after the other, and an end for who takes too little.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::{self, SendFlags};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::answers::Answers;
use crate::limits::{ANSWER_PRESSED_MAX, PRESSURE_LOOK_INTERVAL};
use crate::store::Stored;

/// Whoever is at the other end.
pub(super) struct Peer {
    writing: Mutex<OwnedWriteHalf>,
    silence_max: Duration,
    answers: Arc<Answers>,
    /// How many more buffers it may have.
    pub(super) buffers: Arc<Semaphore>,
    /// Once an answer could not be written whole, nothing can.
    pub(super) broken: CancellationToken,
}

impl Peer {
    pub(super) fn new(writing: OwnedWriteHalf, silence_max: Duration, answers: Arc<Answers>) -> Self {
        Self {
            writing: Mutex::new(writing),
            silence_max,
            buffers: Arc::new(Semaphore::new(answers.of_connection())),
            answers,
            broken: CancellationToken::new(),
        }
    }

    /// Writes all parts as one frame; nobody else's frame comes between.
    pub(super) async fn write_all(&self, parts: &[&[u8]]) -> io::Result<()> {
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
    pub(super) async fn write_stored(&self, head: &[u8], stored: &Stored, bytes: usize) -> io::Result<()> {
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
        let (mut sent, mut progress) = (0, Progress::begin());
        while sent < bytes {
            match stream.try_io(Interest::WRITABLE, || some(stream, sent)) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    sent += written;
                    progress.silent_since = None;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable(stream, &mut progress).await?,
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
            let left = self.silence_max.saturating_sub(silent_since.elapsed());
            if let Ok(writable) = timeout(left.min(PRESSURE_LOOK_INTERVAL), stream.writable()).await {
                return writable;
            }
            let is_slow = progress.begun.elapsed() >= ANSWER_PRESSED_MAX;
            if silent_since.elapsed() >= self.silence_max || is_slow && self.is_in_the_way() {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }

    /// Whether it has buffers for which others wait.
    fn is_in_the_way(&self) -> bool {
        self.buffers.available_permits() < self.answers.of_connection() && self.answers.are_waited_for()
    }
}

/// How an answer is taken.
struct Progress {
    begun: Instant,
    /// Since when nothing was taken, while that is so.
    silent_since: Option<Instant>,
}

impl Progress {
    fn begin() -> Self {
        Self {
            begun: Instant::now(),
            silent_since: None,
        }
    }
}
