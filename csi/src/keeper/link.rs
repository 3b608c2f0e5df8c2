//! One connected mounter: letters out, answers in, matched by their ids.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use penstock_descriptors::{self as descriptors, Packet};
use penstock_protocol::control::mounter::{FromMounter, ToMounter, from_mounter, to_mounter};
use penstock_protocol::ids::ConnectionId;
use prost::Message;
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use super::KeeperError;
use crate::limits::SEND_DEADLINE;

type Answer = (from_mounter::Letter, Vec<OwnedFd>);

/// A connected mounter.
pub(super) struct Link {
    socket: OwnedFd,
    next_id: AtomicU64,
    /// `None` once the mounter is gone.
    waiting: Mutex<Option<HashMap<u64, SyncSender<Answer>>>>,
}

/// Whoever has introduced itself.
pub(super) enum Introduced {
    /// It holds these connections.
    Holder(Arc<Link>, Vec<ConnectionId>),
    /// A csi container that started then wants to be handed what is kept here. Whatever version it speaks: it must not wait
    /// for ever because it is newer.
    Successor(OwnedFd, u64),
}

impl Introduced {
    /// Waits for the first letter.
    ///
    /// # Errors
    /// When it says something else, or speaks another version.
    pub(super) fn by(socket: OwnedFd, version: u32) -> io::Result<Self> {
        set_socket_timeout(&socket, Timeout::Send, Some(SEND_DEADLINE))?;
        set_socket_timeout(&socket, Timeout::Recv, Some(SEND_DEADLINE))?;
        let packet = descriptors::receive(socket.as_fd())?.ok_or(io::ErrorKind::UnexpectedEof)?;
        set_socket_timeout(&socket, Timeout::Recv, None)?;
        let letter = FromMounter::decode(packet.bytes.as_slice()).map_err(io::Error::other)?;
        match letter.letter {
            Some(from_mounter::Letter::Hello(hello)) if hello.version == version => {
                let holds = hello.connections.iter().map(|id| ConnectionId::try_from(id.as_slice()));
                let holds = holds.collect::<Result<_, _>>().map_err(io::Error::other)?;
                let link = Link {
                    socket,
                    next_id: AtomicU64::new(1),
                    waiting: Mutex::new(Some(HashMap::new())),
                };
                Ok(Self::Holder(Arc::new(link), holds))
            }
            Some(from_mounter::Letter::Succeed(succeed)) => Ok(Self::Successor(socket, succeed.started)),
            other => Err(io::Error::other(format!(
                "expected a Hello of version {version}, not {other:?}"
            ))),
        }
    }
}

impl Link {
    /// Takes answers to whoever waits for them, until the mounter goes away.
    pub(super) fn receive_answers(&self) {
        loop {
            match descriptors::receive(self.socket.as_fd()) {
                Ok(Some(packet)) => self.deliver(packet),
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(%error, "receive from the mounter");
                    break;
                }
            }
        }
        // Whoever waits learns it now.
        self.waiting().take();
        descriptors::shut_down(&self.socket);
    }

    /// Ends it, whatever is under way.
    pub(super) fn close(&self) {
        descriptors::shut_down(&self.socket);
    }

    /// Whether the mounter is still there.
    pub(super) fn is_open(&self) -> bool {
        self.waiting().is_some()
    }

    /// Sends a letter and waits for its answer.
    ///
    /// # Errors
    /// When it goes away, stays silent, or answers that it cannot.
    pub(super) fn ask(
        &self,
        letter: to_mounter::Letter,
        descriptors: &[BorrowedFd<'_>],
        deadline: Duration,
    ) -> Result<Answer, KeeperError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = sync_channel(1);
        self.waiting().as_mut().ok_or(KeeperError::Gone)?.insert(id, sender);
        let bytes = ToMounter {
            id,
            letter: Some(letter),
        }
        .encode_to_vec();
        let answer = match descriptors::send(self.socket.as_fd(), &bytes, descriptors) {
            Ok(()) => receiver.recv_timeout(deadline).map_err(|error| match error {
                RecvTimeoutError::Timeout => KeeperError::Silent(deadline.as_secs()),
                RecvTimeoutError::Disconnected => KeeperError::Gone,
            }),
            Err(error) => {
                tracing::warn!(%error, "send to the mounter");
                Err(KeeperError::Gone)
            }
        };
        if let Some(waiting) = self.waiting().as_mut() {
            waiting.remove(&id);
        }
        match answer? {
            (from_mounter::Letter::Failed(failed), _) => Err(KeeperError::Failed {
                message: failed.message,
                retry: failed.retry,
            }),
            answer => Ok(answer),
        }
    }

    fn deliver(&self, packet: Packet) {
        let Packet { bytes, descriptors } = packet;
        let (id, letter) = match FromMounter::decode(bytes.as_slice()) {
            Ok(FromMounter {
                id,
                letter: Some(letter),
            }) => (id, letter),
            other => {
                tracing::warn!(?other, "a letter of the mounter that nobody understands");
                return;
            }
        };
        let waiting = self.waiting().as_mut().and_then(|waiting| waiting.remove(&id));
        match waiting {
            // The channel has room for the one answer; if nobody waits any more, it is dropped with its descriptors.
            Some(sender) => drop(sender.try_send((letter, descriptors))),
            None => tracing::debug!(id, "an answer that nobody waits for any more"),
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Option<HashMap<u64, SyncSender<Answer>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
