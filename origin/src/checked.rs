//! Bodies of objects that are read whole and compared with the checksum that their server keeps of them, or a list beside them. It must
//! not know how these say it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use crc_fast::CrcAlgorithm;
use futures::StreamExt;
use reqwest::Response;
use sha2::digest::DynDigest;

use crate::sum::Sum;
use crate::{Body, OriginError, transport};

/// The checksum of a whole object.
pub(super) enum Checksum {
    Crc { algorithm: CrcAlgorithm, value: u64 },
    Sum(Sum),
}

/// The checksum of what has come so far, and what it has to be in the end.
enum Computed {
    Crc {
        digest: Box<crc_fast::Digest>,
        expected: u64,
    },
    Sum {
        digest: Box<dyn DynDigest + Send>,
        expected: Sum,
    },
}

/// An object of which nothing is believed before all of it has come.
struct Checked {
    computed: Computed,
    pieces: Vec<Bytes>,
    /// Bytes that are still to come.
    left: u64,
}

impl Checksum {
    /// From Base64 of big-endian bytes; `None` when that is not what the algorithm gives.
    pub(super) fn read(algorithm: CrcAlgorithm, text: &[u8]) -> Option<Self> {
        let length = match algorithm {
            CrcAlgorithm::Crc64Nvme => 8,
            _ => 4,
        };
        let bytes = STANDARD.decode(text).ok()?;
        let value = bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
        (bytes.len() == length).then_some(Self::Crc { algorithm, value })
    }

    fn begin(self) -> Computed {
        match self {
            Self::Crc { algorithm, value } => Computed::Crc {
                digest: Box::new(crc_fast::Digest::new(algorithm)),
                expected: value,
            },
            Self::Sum(expected) => Computed::Sum {
                digest: expected.begin(),
                expected,
            },
        }
    }
}

impl Computed {
    fn update(&mut self, piece: &[u8]) {
        match self {
            Self::Crc { digest, expected: _ } => digest.update(piece),
            Self::Sum { digest, expected: _ } => digest.update(piece),
        }
    }

    fn matches(self) -> bool {
        match self {
            Self::Crc { digest, expected } => digest.finalize() == expected,
            Self::Sum { digest, expected } => expected.is(&digest.finalize()),
        }
    }
}

impl Checked {
    /// An object of so many bytes.
    fn of(checksum: Checksum, bytes: u64) -> Self {
        Self {
            computed: checksum.begin(),
            pieces: Vec::new(),
            left: bytes,
        }
    }

    /// The next piece has come. False when it is more than the object has.
    fn hold(&mut self, piece: Bytes) -> bool {
        let left = self.left.checked_sub(piece.len() as u64);
        self.left = left.unwrap_or(0);
        self.computed.update(&piece);
        self.pieces.push(piece);
        left.is_some()
    }

    /// All of it, if it is the object.
    fn release(self) -> Option<Vec<Bytes>> {
        self.computed.matches().then_some(self.pieces)
    }
}

/// The body of `key` at `place`, held back as a whole of so many bytes where there is a checksum of it.
pub(super) fn body(response: Response, checksum: Option<Checksum>, bytes: u64, place: &str, key: &str) -> Body {
    let broken = OriginError::Unreachable(format!("{place} broke off while sending {key}"));
    let Some(checksum) = checksum else {
        return transport::pieces(response, broken);
    };
    let wrong = OriginError::Other(format!(
        "{place} sent bytes of {key} that do not match its own checksum of them; it is asked again"
    ));
    whole(response, checksum, bytes, broken, wrong)
}

/// The body of an object of so many bytes, held back until all of it has come; `broken` is the error when it ends early, `wrong` when it
/// is something else.
pub(super) fn whole(
    response: Response,
    checksum: Checksum,
    bytes: u64,
    broken: OriginError,
    wrong: OriginError,
) -> Body {
    let checked = Checked::of(checksum, bytes);
    let pieces = futures::stream::unfold(Some((response, checked)), move |state| {
        let (broken, wrong) = (broken.clone(), wrong.clone());
        async move {
            let (mut response, mut checked) = state?;
            match response.chunk().await {
                Ok(Some(piece)) => Some(if checked.hold(piece) {
                    // Nothing yet, so that whoever waits knows that something comes.
                    (Ok(vec![Bytes::new()]), Some((response, checked)))
                } else {
                    (Err(wrong), None)
                }),
                Ok(None) => Some((checked.release().ok_or(wrong), None)),
                Err(_) => Some((Err(broken), None)),
            }
        }
    });
    pieces
        .flat_map(|pieces| {
            let pieces = pieces.map_or_else(|error| vec![Err(error)], |pieces| pieces.into_iter().map(Ok).collect());
            futures::stream::iter(pieces)
        })
        .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_of_the_standards_are_compared() {
        // Check values of the catalogue of parametrised CRC algorithms, of "123456789".
        for (algorithm, value) in [
            (CrcAlgorithm::Crc64Nvme, "rosUhgp5mIg="),
            (CrcAlgorithm::Crc32Iscsi, "4waSgw=="),
            (CrcAlgorithm::Crc32IsoHdlc, "y/Q5Jg=="),
        ] {
            let checked = |pieces: &[&'static str]| {
                let mut checked = Checked::of(Checksum::read(algorithm, value.as_bytes()).unwrap(), 9);
                assert!(pieces.iter().all(|piece| checked.hold(Bytes::from(*piece))));
                checked.release().map(|pieces| pieces.concat())
            };
            assert_eq!(
                checked(&["1234", "56789"]).as_deref(),
                Some(&b"123456789"[..]),
                "{algorithm:?}"
            );
            assert_eq!(checked(&["1234", "5678"]), None, "{algorithm:?}");
            let mut short = Checked::of(Checksum::read(algorithm, value.as_bytes()).unwrap(), 8);
            assert!(short.hold(Bytes::from("1234")) && !short.hold(Bytes::from("56789")));
        }
    }
}
