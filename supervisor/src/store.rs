//! The worker's side.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use penstock_descriptors as descriptors;
use rustix::net::SocketType;
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_type};

use crate::letter::{ALIVE_INTERVAL, Entry, EntryId, Letter};

/// How long the supervisor may leave a letter in its queue. It does nothing else than read them.
const SEND_DEADLINE: Duration = Duration::from_secs(2);

/// Where descriptors of this process outlive it. Clones are the same store.
#[derive(Clone, Debug, Default)]
pub struct Store(Option<Arc<OwnedFd>>);

impl Store {
    /// The store of this process, with everything that a predecessor left in it. A process without a supervisor has a
    /// store that keeps nothing.
    ///
    /// # Errors
    /// When the supervisor speaks another language.
    pub fn of_this_process() -> io::Result<(Self, Vec<Entry<Vec<OwnedFd>>>)> {
        let stdin = io::stdin();
        if socket_type(&stdin).ok() != Some(SocketType::SEQPACKET) {
            return Ok((Self(None), Vec::new()));
        }
        let socket = stdin.as_fd().try_clone_to_owned()?;
        set_socket_timeout(&socket, Timeout::Send, Some(SEND_DEADLINE))?;
        let entries = receive_all(socket.as_fd())?;
        Ok((Self(Some(Arc::new(socket))), entries))
    }

    /// Keeps copies of descriptors. When this returns they are safe from the end of this process.
    pub fn keep(&self, id: EntryId, state: Vec<u8>, descriptors: &[BorrowedFd<'_>]) {
        self.send(&Letter::Keep(id, state), descriptors);
    }

    /// Lets go of an entry; one that is not there is fine.
    pub fn forget(&self, id: EntryId) {
        self.send(&Letter::Forget(id), &[]);
    }

    /// Says again and again that this process is alive. A process whose runtime hangs does not, and is killed: run it where
    /// the work is done. Never ends.
    pub async fn stay_alive(self) {
        let mut interval = tokio::time::interval(ALIVE_INTERVAL);
        loop {
            interval.tick().await;
            self.send(&Letter::Alive, &[]);
        }
    }

    fn send(&self, letter: &Letter, descriptors: &[BorrowedFd<'_>]) {
        let Some(socket) = &self.0 else { return };
        if let Err(error) = descriptors::send(socket.as_fd(), &letter.encode(), descriptors) {
            // The work goes on; only the next worker would miss it, and the other container has it too.
            tracing::error!(%error, "the supervisor does not take a letter");
        }
    }
}

fn receive_all(socket: BorrowedFd<'_>) -> io::Result<Vec<Entry<Vec<OwnedFd>>>> {
    let mut entries = Vec::new();
    loop {
        let packet = descriptors::receive(socket)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        match Letter::decode(&packet.bytes) {
            Some(Letter::Keep(id, state)) => entries.push(Entry {
                id,
                state,
                descriptors: packet.descriptors,
            }),
            Some(Letter::All) => return Ok(entries),
            other => return Err(io::Error::other(format!("an unexpected letter: {other:?}"))),
        }
    }
}
