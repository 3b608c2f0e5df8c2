//! The checksum that a server keeps of an object and sends with it ("Checking object integrity", Amazon S3 User Guide). It must not
//! know how an object is read.

use crc_fast::CrcAlgorithm;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use crate::checked::Checksum;

/// Asks for the checksum of an object that is read whole.
pub(super) const MODE: HeaderName = HeaderName::from_static("x-amz-checksum-mode");
pub(super) const ENABLED: &str = "ENABLED";

const KIND: HeaderName = HeaderName::from_static("x-amz-checksum-type");

/// Those that cost nothing beside the transfer.
const KNOWN: [(HeaderName, CrcAlgorithm); 3] = [
    (
        HeaderName::from_static("x-amz-checksum-crc64nvme"),
        CrcAlgorithm::Crc64Nvme,
    ),
    (
        HeaderName::from_static("x-amz-checksum-crc32c"),
        CrcAlgorithm::Crc32Iscsi,
    ),
    (
        HeaderName::from_static("x-amz-checksum-crc32"),
        CrcAlgorithm::Crc32IsoHdlc,
    ),
];

/// The one that an answer has, if we know its kind and it is of all bytes: of an object that was uploaded in parts it may be that of
/// the parts' checksums.
pub(super) fn of(headers: &HeaderMap) -> Option<Checksum> {
    let is_of_parts = |kind: &HeaderValue| kind.as_bytes().eq_ignore_ascii_case(b"COMPOSITE");
    if headers.get(KIND).is_some_and(is_of_parts) {
        return None;
    }
    KNOWN
        .into_iter()
        .find_map(|(name, algorithm)| Checksum::read(algorithm, headers.get(name)?.as_bytes()))
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
            assert!(of(&headers(pairs)).is_none(), "{pairs:?}");
        }
        let whole = [
            ("x-amz-checksum-crc32c", "4waSgw=="),
            ("x-amz-checksum-type", "FULL_OBJECT"),
        ];
        assert!(of(&headers(&whole)).is_some());
    }
}
