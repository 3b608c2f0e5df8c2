//! A keeper whose csi container was replaced: it answers its successor, as a mounter does, until one of the two ends.

use std::os::fd::{AsFd, OwnedFd};

use penstock_descriptors as descriptors;
use penstock_protocol::control::mounter::{
    Completed, Failed, FromMounter, HandedBack, Hello, Stopped, ToMounter, from_mounter, to_mounter,
};
use penstock_protocol::ids::ConnectionId;
use prost::Message;

use super::{Keeper, LETTERS_VERSION};

impl Keeper {
    /// Lets mounters go to the successor, and hands over what is kept. Returns when the successor has ended. Blocks.
    ///
    /// # Errors
    /// When the successor cannot be understood.
    pub fn retire(&self, successor: &OwnedFd) -> std::io::Result<()> {
        let mut state = self.state();
        state.retired = true;
        // Whoever has connected and was not accepted yet is refused when the socket is closed.
        if let Some(listener) = state.listener.take() {
            descriptors::shut_down(&*listener);
        }
        state.links.values().for_each(|link| link.close());
        let kept = state.kept.keys().map(|id| id.as_bytes().to_vec()).collect();
        drop(state);

        let hello = from_mounter::Letter::Hello(Hello {
            version: LETTERS_VERSION,
            connections: kept,
        });
        answer(successor, 0, hello, &[])?;
        while let Some(packet) = descriptors::receive(successor.as_fd())? {
            let ToMounter { id, letter } = ToMounter::decode(packet.bytes.as_slice()).map_err(std::io::Error::other)?;
            self.answer_successor(successor, id, letter)?;
        }
        Ok(())
    }

    fn answer_successor(
        &self,
        successor: &OwnedFd,
        id: u64,
        letter: Option<to_mounter::Letter>,
    ) -> std::io::Result<()> {
        let kept = |id: &[u8]| {
            let id = ConnectionId::try_from(id).ok()?;
            self.state().kept.get(&id).cloned()
        };
        match letter {
            Some(to_mounter::Letter::HandBack(hand_back)) => {
                let Some(kept) = kept(&hand_back.connection) else {
                    return answer(successor, id, refused("a connection that is not kept here"), &[]);
                };
                let connection = Some((&kept.connection).into());
                let letter = from_mounter::Letter::HandedBack(HandedBack { connection });
                answer(successor, id, letter, &kept.descriptors)
            }
            Some(to_mounter::Letter::Stop(stop)) => {
                if let Some(kept) = kept(&stop.connection) {
                    self.forget(kept.connection.id);
                }
                answer(successor, id, from_mounter::Letter::Stopped(Stopped {}), &[])
            }
            Some(to_mounter::Letter::Complete(_)) => {
                tracing::info!("the successor has everything");
                answer(successor, id, from_mounter::Letter::Completed(Completed {}), &[])
            }
            _ => answer(successor, id, refused("this csi container serves nothing"), &[]),
        }
    }
}

fn refused(message: &str) -> from_mounter::Letter {
    from_mounter::Letter::Failed(Failed {
        message: message.to_owned(),
        retry: false,
    })
}

fn answer(successor: &OwnedFd, id: u64, letter: from_mounter::Letter, descriptors: &[OwnedFd]) -> std::io::Result<()> {
    let bytes = FromMounter {
        id,
        letter: Some(letter),
    }
    .encode_to_vec();
    let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    descriptors::send(successor.as_fd(), &bytes, &descriptors)
}
