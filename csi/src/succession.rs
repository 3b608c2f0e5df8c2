//! Whose turn it is. During an upgrade two csi containers run on a node, and one at a time mounts and unmounts.
//!
//! ```text
//! starts ─► the lock is free ─────────────────────────────────────► works ─► asked by a younger one: yields, and hands
//!    └────► another works: it is asked to yield, and the lock waited for ─┘      over what it keeps ─► the other ends ─► ends
//! ```
//!
//! The youngest container works. The kernel gives the lock back when its owner dies, so a file that is left means nothing.
//! One that yielded goes on holding its descriptors until it is asked to end, or the other ends; then its supervisor
//! starts it anew, and it may work again: as it is older, it waits while the other lives and does not ask it to yield.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use penstock_descriptors as descriptors;
use penstock_protocol::control::mounter::{FromMounter, Succeed, from_mounter};
use prost::Message;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::keeper::LETTERS_VERSION;
use crate::limits::TURN_PAUSE;

/// The right to mount and unmount on this node, until it is dropped.
#[derive(Debug)]
pub struct Turn(#[allow(dead_code, reason = "the lock lives as long as the file is open")] File);

/// Waits until it is the turn of this container, which started at `started`, and asks whoever works to yield. Returns the
/// one that did, if there was one. Blocks.
///
/// # Errors
/// When the lock cannot be opened.
pub fn wait_for_turn(lock: &Path, keeper_socket: &Path, started: u64) -> io::Result<(Turn, Option<OwnedFd>)> {
    let lock = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(lock)?;
    let mut predecessor: Option<OwnedFd> = None;
    let mut said = false;
    loop {
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok((Turn(lock), predecessor)),
            Err(Errno::WOULDBLOCK | Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        if !std::mem::replace(&mut said, true) {
            tracing::info!("another csi container works on this node; it is asked to yield");
        }
        // Whoever works may not listen yet, or may have ended since.
        if predecessor.as_ref().is_none_or(has_hung_up) {
            predecessor = ask_to_yield(keeper_socket, started)
                .inspect_err(|error| tracing::debug!(%error, "whoever works on this node does not listen yet"))
                .ok();
        }
        std::thread::sleep(TURN_PAUSE);
    }
}

/// When the container of this process started, in clock ticks since the boot: its supervisor is PID 1 there.
///
/// # Errors
/// When `/proc` does not tell.
pub fn container_started() -> io::Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", std::os::unix::process::parent_id()))?;
    started_of(&stat).ok_or_else(|| io::Error::other(format!("not understood: {stat}")))
}

/// Field 22 of proc_pid_stat(5). The second one may contain anything, in parentheses.
fn started_of(stat: &str) -> Option<u64> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    behind_name.split_whitespace().nth(19)?.parse().ok()
}

fn has_hung_up(peer: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(peer, PollFlags::RDHUP)];
    poll(&mut polled, Some(&Timespec::default())).is_ok_and(|count| count > 0)
}

fn ask_to_yield(keeper_socket: &Path, started: u64) -> io::Result<OwnedFd> {
    let predecessor = descriptors::connect_to(keeper_socket)?;
    let letter = FromMounter {
        id: 0,
        letter: Some(from_mounter::Letter::Succeed(Succeed {
            version: LETTERS_VERSION,
            started,
        })),
    };
    descriptors::send(predecessor.as_fd(), &letter.encode_to_vec(), &[])?;
    Ok(predecessor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_has_the_turn_and_the_next_asks_until_it_is_heard() {
        let folder = tempfile::tempdir().unwrap();
        let (lock, socket) = (folder.path().join("lock"), folder.path().join("socket"));
        let (first, none) = wait_for_turn(&lock, &socket, 1).unwrap();
        assert!(none.is_none());
        let second = {
            let (lock, socket) = (lock.clone(), socket.clone());
            std::thread::spawn(move || wait_for_turn(&lock, &socket, 2).unwrap())
        };
        // It listens only now, and ends without an answer to the first who asks.
        let listener = descriptors::listen_at(&socket).unwrap();
        drop(descriptors::accept_peer(listener.as_fd()).unwrap());
        let asked = descriptors::accept_peer(listener.as_fd()).unwrap();
        let packet = descriptors::receive(asked.as_fd()).unwrap().unwrap();
        let letter = FromMounter::decode(packet.bytes.as_slice()).unwrap().letter;
        assert!(matches!(letter, Some(from_mounter::Letter::Succeed(succeed)) if succeed.started == 2));
        drop(first);
        let (_second, predecessor) = second.join().unwrap();
        assert!(predecessor.is_some_and(|predecessor| !has_hung_up(&predecessor)));
    }

    #[test]
    fn the_start_of_a_process_is_found_whatever_its_name_is() {
        let stat = "17 (a) b (c)) S 1 17 17 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 9 9";
        assert_eq!(started_of(stat), Some(4242));
        assert_eq!(started_of("nothing"), None);
        assert!(container_started().unwrap() > 0);
    }
}
