//! The csi container's side of the letters, played by the test.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use penstock_descriptors::{self as descriptors, Packet};
use penstock_protocol::control::mounter::{FromMounter, Hello, ToMounter, from_mounter, to_mounter};
use penstock_protocol::ids::ConnectionId;
use prost::Message;
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use crate::scene::PATIENCE;

pub struct Keeper {
    listener: OwnedFd,
    pub socket: PathBuf,
}

pub struct Line(OwnedFd);

impl Keeper {
    pub fn listen(folder: &Path) -> Self {
        let socket = folder.join("keeper.socket");
        let listener = descriptors::listen_at(&socket).unwrap();
        set_socket_timeout(&listener, Timeout::Recv, Some(PATIENCE)).unwrap();
        Self { listener, socket }
    }

    /// The mounter that connects next, after its Hello.
    pub fn accept(&self) -> Line {
        self.accept_holder().0
    }

    /// As [`Keeper::accept`], with the connections that it says it holds.
    pub fn accept_holder(&self) -> (Line, Vec<ConnectionId>) {
        let line = descriptors::accept_peer(self.listener.as_fd()).expect("a mounter should have connected");
        set_socket_timeout(&line, Timeout::Recv, Some(PATIENCE)).unwrap();
        let line = Line(line);
        let (hello, _) = line.receive();
        let Some(from_mounter::Letter::Hello(Hello {
            version: 1,
            connections,
        })) = hello.letter
        else {
            panic!("{hello:?}");
        };
        let held = connections.iter().map(|id| id.as_slice().try_into().unwrap());
        (line, held.collect())
    }
}

impl Line {
    /// Sends a letter and returns its answer.
    pub fn ask(&self, letter: to_mounter::Letter, fds: &[OwnedFd]) -> (from_mounter::Letter, Vec<OwnedFd>) {
        self.send_letter(42, letter, fds);
        let (answer, fds) = self.receive();
        assert_eq!(answer.id, 42);
        (answer.letter.expect("an answer has a letter"), fds)
    }

    pub fn send_letter(&self, id: u64, letter: to_mounter::Letter, fds: &[OwnedFd]) {
        let bytes = ToMounter {
            id,
            letter: Some(letter),
        }
        .encode_to_vec();
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        descriptors::send(self.0.as_fd(), &bytes, &fds).unwrap();
    }

    pub fn send_bytes(&self, bytes: &[u8]) {
        descriptors::send(self.0.as_fd(), bytes, &[]).unwrap();
    }

    pub fn receive(&self) -> (FromMounter, Vec<OwnedFd>) {
        let packet = descriptors::receive(self.0.as_fd()).unwrap();
        let Packet { bytes, descriptors } = packet.expect("the mounter closed the connection");
        (FromMounter::decode(bytes.as_slice()).unwrap(), descriptors)
    }
}
