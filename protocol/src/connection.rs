//! A FUSE connection with all that whoever answers on it must know: it travels wherever the descriptors go, so that a
//! successor needs nothing else.

use std::time::Duration;

use prost::Message;

use crate::control::mounter;
use crate::ids::{ConnectionId, NotAnId, RevisionId, SpaceId};

/// The connection over which the files of one revision's space are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Its own id.
    pub id: ConnectionId,
    /// The kernel's number of it, as in the mount table. Reused once the connection has ended.
    pub number: u32,
    /// The revision whose objects are served.
    pub revision: RevisionId,
    /// Their space.
    pub space: SpaceId,
    /// Lengths in bytes of the files "0", "1", ...
    pub device_bytes: Vec<u64>,
    /// Cache nodes to ask first, `host:port`.
    pub seeds: Vec<String>,
    /// How long a read may wait before it fails with EIO, in whole seconds.
    pub read_timeout: Duration,
    /// What the kernel is shown.
    pub shows: Shows,
    /// How a successor learns what was taken and not answered.
    pub unanswered: Unanswered,
}

/// What the kernel is shown on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shows {
    /// The files "0", "1", ... of the space.
    Devices,
    /// The revision's tree. Its image travels with the connection, behind the queues.
    Tree,
}

/// How a successor learns what was taken from a connection and not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unanswered {
    /// The kernel sends it again when it is asked to (Linux 6.9).
    Resent,
    /// It is in the connection's ledger, which travels with the connection, as the last descriptor.
    InLedger,
}

/// What travels with a [`Connection`].
#[derive(Clone, Copy, Debug)]
pub struct Held<'a, D> {
    /// The connection and its clones.
    pub queues: &'a [D],
    /// The revision's image, if the tree is shown.
    pub image: Option<&'a D>,
    /// The ledger, if the kernel cannot resend.
    pub ledger: Option<&'a D>,
}

/// Why bytes are no connection.
#[derive(Debug, thiserror::Error)]
pub enum NotAConnection {
    /// No such message.
    #[error("a connection that nobody understands: {0}")]
    Message(#[from] prost::DecodeError),
    /// One of its ids.
    #[error("a connection with a wrong id: {0}")]
    Id(#[from] NotAnId),
}

impl Connection {
    /// Tells descriptors that travelled with it apart: queues, image, ledger.
    pub fn held<'a, D>(&self, descriptors: &'a [D]) -> Held<'a, D> {
        let last = |descriptors: &'a [D], is_there: bool| match descriptors.split_last() {
            Some((last, others)) if is_there => (others, Some(last)),
            _ => (descriptors, None),
        };
        let (others, ledger) = last(descriptors, self.unanswered == Unanswered::InLedger);
        let (queues, image) = last(others, self.shows == Shows::Tree);
        Held { queues, image, ledger }
    }

    /// As it lies beside the descriptors.
    pub fn encode(&self) -> Vec<u8> {
        mounter::Connection::from(self).encode_to_vec()
    }

    /// The opposite of [`Connection::encode`].
    ///
    /// # Errors
    /// When they are something else.
    pub fn decode(bytes: &[u8]) -> Result<Self, NotAConnection> {
        Ok(mounter::Connection::decode(bytes)?.try_into()?)
    }
}

impl From<&Connection> for mounter::Connection {
    fn from(connection: &Connection) -> Self {
        Self {
            id: connection.id.as_bytes().to_vec(),
            number: connection.number,
            revision: connection.revision.as_bytes().to_vec(),
            space: connection.space.as_bytes().to_vec(),
            device_bytes: connection.device_bytes.clone(),
            seeds: connection.seeds.clone(),
            read_timeout_seconds: u32::try_from(connection.read_timeout.as_secs()).unwrap_or(u32::MAX),
            shows_tree: connection.shows == Shows::Tree,
            has_ledger: connection.unanswered == Unanswered::InLedger,
        }
    }
}

impl TryFrom<mounter::Connection> for Connection {
    type Error = NotAnId;

    fn try_from(message: mounter::Connection) -> Result<Self, NotAnId> {
        Ok(Self {
            id: message.id.as_slice().try_into()?,
            number: message.number,
            revision: message.revision.as_slice().try_into()?,
            space: message.space.as_slice().try_into()?,
            device_bytes: message.device_bytes,
            seeds: message.seeds,
            read_timeout: Duration::from_secs(message.read_timeout_seconds.into()),
            shows: if message.shows_tree {
                Shows::Tree
            } else {
                Shows::Devices
            },
            unanswered: if message.has_ledger {
                Unanswered::InLedger
            } else {
                Unanswered::Resent
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Connection {
        Connection {
            id: ConnectionId([1; 16]),
            number: 42,
            revision: RevisionId([2; 32]),
            space: SpaceId([3; 16]),
            device_bytes: vec![4096, 1 << 44],
            seeds: vec!["pool-0.pool:7070".into()],
            read_timeout: Duration::from_secs(300),
            shows: Shows::Tree,
            unanswered: Unanswered::InLedger,
        }
    }

    #[test]
    fn a_connection_reads_what_it_wrote() {
        let connection = some();
        assert_eq!(Connection::decode(&connection.encode()).unwrap(), connection);
    }

    #[test]
    fn what_travels_with_a_connection_is_told_apart() {
        let all = ["queue", "clone", "image", "ledger"];
        let [queues, image, ledger] = [&all[..2], &all[2..3], &all[3..]];
        for (shows, unanswered, more) in [
            (Shows::Devices, Unanswered::Resent, vec![]),
            (Shows::Tree, Unanswered::Resent, vec![image]),
            (Shows::Devices, Unanswered::InLedger, vec![ledger]),
            (Shows::Tree, Unanswered::InLedger, vec![image, ledger]),
        ] {
            let connection = Connection {
                shows,
                unanswered,
                ..some()
            };
            let descriptors = [queues, &more.concat()].concat();
            let held = connection.held(&descriptors);
            let is_there = |what: &[&'static str]| more.contains(&what).then_some(&what[0]).copied();
            assert_eq!(held.queues, queues);
            assert_eq!(
                (held.image.copied(), held.ledger.copied()),
                (is_there(image), is_there(ledger))
            );
            assert!(connection.held::<&str>(&[]).queues.is_empty());
        }
    }

    #[test]
    fn bytes_that_are_no_connection_are_refused() {
        assert!(matches!(Connection::decode(&[]), Err(NotAConnection::Id(_))));
        assert!(matches!(
            Connection::decode(&[0xff; 9]),
            Err(NotAConnection::Message(_))
        ));
    }
}
