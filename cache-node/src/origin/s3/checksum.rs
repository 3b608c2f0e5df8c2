//! The checksum that a server keeps of an object and sends with it ("Checking object integrity", Amazon S3 User Guide). It must not
//! know how an object is read.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use crc_fast::CrcAlgorithm;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

/// Asks for the checksum of an object that is read whole.
pub(super) const MODE: HeaderName = HeaderName::from_static("x-amz-checksum-mode");
pub(super) const ENABLED: &str = "ENABLED";

const KIND: HeaderName = HeaderName::from_static("x-amz-checksum-type");

/// Those that cost nothing beside the transfer, and how many bytes each has.
const KNOWN: [(HeaderName, CrcAlgorithm, usize); 3] = [
    (
        HeaderName::from_static("x-amz-checksum-crc64nvme"),
        CrcAlgorithm::Crc64Nvme,
        8,
    ),
    (
        HeaderName::from_static("x-amz-checksum-crc32c"),
        CrcAlgorithm::Crc32Iscsi,
        4,
    ),
    (
        HeaderName::from_static("x-amz-checksum-crc32"),
        CrcAlgorithm::Crc32IsoHdlc,
        4,
    ),
];

/// The checksum of a whole object.
pub(super) struct Checksum {
    algorithm: CrcAlgorithm,
    value: u64,
}

/// An object of which nothing is believed before all of it has come.
pub(super) struct Checked {
    digest: crc_fast::Digest,
    expected: u64,
    pieces: Vec<Bytes>,
    /// Bytes that are still to come.
    left: u64,
}

impl Checksum {
    /// The one that an answer has, if we know its kind and it is of all bytes: of an object that was uploaded in parts it may be
    /// that of the parts' checksums.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let is_of_parts = |kind: &HeaderValue| kind.as_bytes().eq_ignore_ascii_case(b"COMPOSITE");
        if headers.get(KIND).is_some_and(is_of_parts) {
            return None;
        }
        KNOWN.into_iter().find_map(|(name, algorithm, length)| {
            let bytes = STANDARD.decode(headers.get(name)?.as_bytes()).ok()?;
            let value = bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
            (bytes.len() == length).then_some(Self { algorithm, value })
        })
    }
}

impl Checked {
    /// An object of so many bytes.
    pub(super) fn of(checksum: Checksum, bytes: u64) -> Self {
        Self {
            digest: crc_fast::Digest::new(checksum.algorithm),
            expected: checksum.value,
            pieces: Vec::new(),
            left: bytes,
        }
    }

    /// The next piece has come. False when it is more than the object has.
    pub(super) fn hold(&mut self, piece: Bytes) -> bool {
        let left = self.left.checked_sub(piece.len() as u64);
        self.left = left.unwrap_or(0);
        self.digest.update(&piece);
        self.pieces.push(piece);
        left.is_some()
    }

    /// All of it, if it is the object.
    pub(super) fn release(self) -> Option<Vec<Bytes>> {
        (self.digest.finalize() == self.expected).then_some(self.pieces)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs.iter();
        pairs
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn checksums_of_the_standards_are_compared() {
        // Check values of the catalogue of parametrised CRC algorithms, of "123456789".
        for (name, value) in [
            ("x-amz-checksum-crc64nvme", "rosUhgp5mIg="),
            ("x-amz-checksum-crc32c", "4waSgw=="),
            ("x-amz-checksum-crc32", "y/Q5Jg=="),
        ] {
            let checked = |pieces: &[&'static str]| {
                let mut checked = Checked::of(Checksum::of(&headers(&[(name, value)])).unwrap(), 9);
                assert!(pieces.iter().all(|piece| checked.hold(Bytes::from(*piece))));
                checked.release().map(|pieces| pieces.concat())
            };
            assert_eq!(
                checked(&["1234", "56789"]).as_deref(),
                Some(&b"123456789"[..]),
                "{name}"
            );
            assert_eq!(checked(&["1234", "5678"]), None, "{name}");
            let mut short = Checked::of(Checksum::of(&headers(&[(name, value)])).unwrap(), 8);
            assert!(short.hold(Bytes::from("1234")) && !short.hold(Bytes::from("56789")));
        }
    }

    #[test]
    fn what_is_no_checksum_of_all_bytes_is_none() {
        for pairs in [
            &[][..],
            &[("x-amz-checksum-crc32c", "4waSgw==-3")],
            &[("x-amz-checksum-crc32c", "4waS")],
            &[("x-amz-checksum-crc32c", "?")],
            &[("x-amz-checksum-sha1", "98O8HYCOBHMqCsCkrxQNYcc=")],
            &[
                ("x-amz-checksum-crc32c", "4waSgw=="),
                ("x-amz-checksum-type", "COMPOSITE"),
            ],
        ] {
            assert!(Checksum::of(&headers(pairs)).is_none(), "{pairs:?}");
        }
        let whole = [
            ("x-amz-checksum-crc32c", "4waSgw=="),
            ("x-amz-checksum-type", "FULL_OBJECT"),
        ];
        assert!(Checksum::of(&headers(&whole)).is_some());
    }
}
