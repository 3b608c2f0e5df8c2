//! The packets between supervisor and worker: one byte says which, 16 are an id, the rest is the entry's state.

use std::time::Duration;

/// Names an entry.
pub type EntryId = [u8; 16];

/// Descriptors `D` that are kept, with what their owner wants to remember about them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<D> {
    /// Its name; a second one of the same name takes its place.
    pub id: EntryId,
    /// Bytes of the worker's own, below 64 KiB.
    pub state: Vec<u8>,
    /// The descriptors.
    pub descriptors: D,
}

/// A packet without its descriptors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Letter {
    /// Supervisor to worker: here is one. Worker to supervisor: keep this one.
    Keep(EntryId, Vec<u8>),
    /// Worker to supervisor: it is not needed any more.
    Forget(EntryId),
    /// Worker to supervisor: still alive. From the first one on, a worker that is silent for [`SILENCE_MAX`] is killed.
    Alive,
    /// Supervisor to worker: that was all.
    All,
}

/// How often a worker says that it is alive.
pub const ALIVE_INTERVAL: Duration = Duration::from_secs(1);

/// How long a worker may be silent before it counts as hanging. Its end costs its readers less than its silence, but a
/// machine that is short of processors must not be taken for it.
pub const SILENCE_MAX: Duration = Duration::from_secs(10);

const KEEP: u8 = 1;
const FORGET: u8 = 2;
const ALIVE: u8 = 3;
const ALL: u8 = 4;

impl Letter {
    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Keep(id, state) => [&[KEEP], id.as_slice(), state].concat(),
            Self::Forget(id) => [&[FORGET], id.as_slice()].concat(),
            Self::Alive => vec![ALIVE],
            Self::All => vec![ALL],
        }
    }

    /// From bytes; `None` when they are no letter.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        match *kind {
            KEEP => {
                let (id, state) = rest.split_first_chunk()?;
                Some(Self::Keep(*id, state.to_vec()))
            }
            FORGET => Some(Self::Forget(rest.try_into().ok()?)),
            ALIVE if rest.is_empty() => Some(Self::Alive),
            ALL if rest.is_empty() => Some(Self::All),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_reads_what_it_wrote_and_nothing_else() {
        for letter in [
            Letter::Keep([7; 16], b"state".to_vec()),
            Letter::Keep([7; 16], Vec::new()),
            Letter::Forget([8; 16]),
            Letter::Alive,
            Letter::All,
        ] {
            assert_eq!(Letter::decode(&letter.encode()), Some(letter));
        }
        for bytes in [
            &b""[..],
            b"\x00",
            b"\x01short",
            b"\x02short",
            b"\x03more",
            b"\x04more",
            b"\x09",
        ] {
            assert_eq!(Letter::decode(bytes), None, "{bytes:?}");
        }
    }
}
