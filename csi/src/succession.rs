//! Whose turn it is. During an upgrade two csi containers run on a node, and one at a time mounts and unmounts.
//!
//! ```text
//! starts ─► the lock is free ───────────────────────────────────────► works ─► asked by another: yields, and hands over
//!    └────► another works: it is asked to yield; the lock is waited for ─┘        what it keeps ─► the other ends ─► ends
//! ```
//!
//! Who starts last works. The kernel gives the lock back when its owner dies, so a file that is left means nothing. One
//! that yielded goes on holding its descriptors until it is asked to end, or the other ends; then its supervisor starts
//! it anew, and it may work again.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use penstock_mount::descriptors;
use penstock_protocol::control::mounter::{FromMounter, Succeed, from_mounter};
use prost::Message;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::keeper::LETTERS_VERSION;

/// The right to mount and unmount on this node, until it is dropped.
#[derive(Debug)]
pub struct Turn(#[allow(dead_code, reason = "the lock lives as long as the file is open")] File);

/// What was found at the start.
#[derive(Debug)]
pub enum Found {
    /// Nobody works on this node.
    Free(Turn),
    /// Somebody does.
    Taken(Waiting),
}

/// Waits for somebody who works on this node.
#[derive(Debug)]
pub struct Waiting {
    lock: File,
    /// The one who was asked to yield, if it answers.
    pub predecessor: Option<OwnedFd>,
}

impl Found {
    /// Looks whose turn it is, and asks whoever works to yield.
    ///
    /// # Errors
    /// When the lock cannot be opened.
    pub fn look(lock: &Path, keeper_socket: &Path) -> io::Result<Self> {
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(lock)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self::Free(Turn(lock))),
            Err(Errno::WOULDBLOCK) => {
                let predecessor = ask_to_yield(keeper_socket)
                    .inspect_err(|error| tracing::warn!(%error, "whoever works on this node cannot be asked to yield"));
                Ok(Self::Taken(Waiting {
                    lock,
                    predecessor: predecessor.ok(),
                }))
            }
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Waiting {
    /// Waits until whoever works has yielded or ended. Blocks.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn wait(self) -> io::Result<(Turn, Option<OwnedFd>)> {
        rustix::io::retry_on_intr(|| flock(&self.lock, FlockOperation::LockExclusive))?;
        Ok((Turn(self.lock), self.predecessor))
    }
}

fn ask_to_yield(keeper_socket: &Path) -> io::Result<OwnedFd> {
    let predecessor = descriptors::connect_to(keeper_socket)?;
    let letter = FromMounter {
        id: 0,
        letter: Some(from_mounter::Letter::Succeed(Succeed {
            version: LETTERS_VERSION,
        })),
    };
    descriptors::send(predecessor.as_fd(), &letter.encode_to_vec(), &[])?;
    Ok(predecessor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_has_the_turn_and_the_next_gets_it_when_it_is_given_back() {
        let folder = tempfile::tempdir().unwrap();
        let (lock, socket) = (folder.path().join("lock"), folder.path().join("socket"));
        let Found::Free(first) = Found::look(&lock, &socket).unwrap() else {
            panic!("nobody has it");
        };
        let Found::Taken(second) = Found::look(&lock, &socket).unwrap() else {
            panic!("the first has it");
        };
        assert!(second.predecessor.is_none(), "nobody listens");
        let second = std::thread::spawn(|| second.wait().unwrap());
        drop(first);
        let (_second, _) = second.join().unwrap();
        assert!(matches!(Found::look(&lock, &socket).unwrap(), Found::Taken(_)));
    }
}
