//! Bodies of files that may be written to in place while they are sent: nothing of them is passed on before another look at the file,
//! after it came, has shown that it still is what was listed. Whoever writes to a file changes the time of its last change first.
//!
//! What this does not see: a server, or a cache in front of it, that goes on saying what the file was (`open_file_cache`), and writes
//! through `mmap(2)`, of which the time comes later.

use std::mem::take;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;

use super::File;
use crate::limits::{COPIED_PIECE_BYTES_MAX, HELD_BACK_BYTES_MAX};
use crate::{Body, OriginError};

struct HeldBack {
    file: File,
    body: Body,
    held: Held,
}

/// What came and may not go on yet.
#[derive(Default)]
struct Held {
    pieces: Vec<Bytes>,
    /// What came last, in small pieces: a server may send single bytes, and each is an allocation.
    small: BytesMut,
    /// Of all.
    bytes: usize,
}

impl Held {
    fn push(&mut self, piece: Bytes) {
        self.bytes += piece.len();
        if piece.len() <= COPIED_PIECE_BYTES_MAX {
            self.small.extend_from_slice(&piece);
            return;
        }
        self.end_small();
        self.pieces.push(piece);
    }

    fn end_small(&mut self) {
        if !self.small.is_empty() {
            self.pieces.push(take(&mut self.small).freeze());
        }
    }

    /// All, in the order in which it came; nothing is held afterwards.
    fn take(&mut self) -> Vec<Bytes> {
        self.end_small();
        take(self).pieces
    }
}

/// Some of what goes on, and the state after it; `None` when that was all.
type Step = (Vec<Result<Bytes, OriginError>>, Option<HeldBack>);

/// The body of a file that was listed like this.
pub(super) fn body(file: File, body: Body) -> Body {
    let held = Held::default();
    let held_back = HeldBack { file, body, held };
    let pieces = futures::stream::unfold(Some(held_back), async |held| Some(held?.next().await));
    pieces.flat_map(futures::stream::iter).boxed()
}

impl HeldBack {
    async fn next(mut self) -> Step {
        let error = match self.body.next().await {
            Some(Ok(piece)) => {
                self.held.push(piece);
                if self.held.bytes < HELD_BACK_BYTES_MAX {
                    // Nothing yet, so that whoever waits knows that something comes.
                    return (vec![Ok(Bytes::new())], Some(self));
                }
                None
            }
            Some(Err(error)) => Some(Err(error)),
            None if self.held.bytes == 0 => return (Vec::new(), None),
            None => Some(Ok(())),
        };
        if let Err(error) = self.file.prove().await {
            return (vec![Err(error)], None);
        }
        let mut pieces: Vec<_> = self.held.take().into_iter().map(Ok).collect();
        match error {
            None => (pieces, Some(self)),
            Some(end) => {
                // What came before it broke off need not come again.
                pieces.extend(end.err().map(Err));
                (pieces, None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_small_pieces_are_held_as_few_and_go_on_in_their_order() {
        let large = vec![b'l'; COPIED_PIECE_BYTES_MAX + 1];
        let mut held = Held::default();
        let mut expected = Vec::new();
        for _ in 0..3 {
            for number in 0..50_000u32 {
                let small = [number as u8];
                held.push(Bytes::copy_from_slice(&small));
                expected.extend(small);
            }
            held.push(large.clone().into());
            expected.extend(&large);
        }
        held.push(Bytes::from_static(b"end"));
        expected.extend(b"end");
        assert_eq!(held.bytes, expected.len());
        let pieces = held.take();
        assert_eq!(pieces.len(), 3 * 2 + 1);
        assert!(pieces.concat() == expected);
        assert!(held.bytes == 0 && held.take().is_empty());
    }
}
