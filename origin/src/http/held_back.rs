//! Bodies of files that may be written to in place while they are sent: nothing of them is passed on before another look at the file,
//! after it came, has shown that it still is what was listed. Whoever writes to a file changes the time of its last change first.
//!
//! What this does not see: a server, or a cache in front of it, that goes on saying what the file was (`open_file_cache`), and writes
//! through `mmap(2)`, of which the time comes later.

use std::mem::take;

use bytes::Bytes;
use futures::StreamExt;

use super::File;
use crate::limits::HELD_BACK_BYTES_MAX;
use crate::{Body, OriginError};

struct HeldBack {
    file: File,
    body: Body,
    pieces: Vec<Bytes>,
}

/// Some of what goes on, and the state after it; `None` when that was all.
type Step = (Vec<Result<Bytes, OriginError>>, Option<HeldBack>);

/// The body of a file that was listed like this.
pub(super) fn body(file: File, body: Body) -> Body {
    let pieces = Vec::new();
    let held = HeldBack { file, body, pieces };
    let pieces = futures::stream::unfold(Some(held), async |held| Some(held?.next().await));
    pieces.flat_map(futures::stream::iter).boxed()
}

impl HeldBack {
    async fn next(mut self) -> Step {
        let error = match self.body.next().await {
            Some(Ok(piece)) => {
                self.pieces.push(piece);
                let bytes: usize = self.pieces.iter().map(Bytes::len).sum();
                if bytes < HELD_BACK_BYTES_MAX {
                    // Nothing yet, so that whoever waits knows that something comes.
                    return (vec![Ok(Bytes::new())], Some(self));
                }
                None
            }
            Some(Err(error)) => Some(Err(error)),
            None if self.pieces.is_empty() => return (Vec::new(), None),
            None => Some(Ok(())),
        };
        if let Err(error) = self.file.prove().await {
            return (vec![Err(error)], None);
        }
        let mut pieces: Vec<_> = take(&mut self.pieces).into_iter().map(Ok).collect();
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
