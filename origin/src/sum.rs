//! Checksums of whole files, as people write them down beside files. It must not know where they stand.

use std::fmt;

use md5::Md5;
use sha1::Sha1;
use sha2::digest::DynDigest;
use sha2::{Sha256, Sha512};

/// The checksum of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sum {
    kind: &'static Kind,
    /// Followed by zeros. In place: there are many, and a heap has more around each.
    bytes: [u8; SUM_BYTES_MAX],
}

const SUM_BYTES_MAX: usize = 64;

/// How a checksum is computed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Kind {
    /// Bytes of a checksum, by which kinds are told apart.
    bytes: usize,
    /// As it stands in versions.
    name: &'static str,
    /// Other names for it.
    aliases: &'static [&'static str],
}

/// Those that `md5sum` and its like write.
static KINDS: [Kind; 4] = [
    Kind {
        bytes: 16,
        name: "md5",
        aliases: &[],
    },
    Kind {
        bytes: 20,
        name: "sha1",
        aliases: &["sha-1"],
    },
    Kind {
        bytes: 32,
        name: "sha256",
        aliases: &["sha-256", "sha2-256"],
    },
    Kind {
        bytes: 64,
        name: "sha512",
        aliases: &["sha-512", "sha2-512"],
    },
];

impl Kind {
    /// The one that is called so, in whatever case.
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        let is_it = |kind: &&Self| {
            std::iter::once(&kind.name)
                .chain(kind.aliases)
                .any(|known| known.eq_ignore_ascii_case(name))
        };
        KINDS.iter().find(is_it)
    }

    /// Computes one.
    fn begin(&self) -> Box<dyn DynDigest + Send> {
        match self.bytes {
            16 => Box::new(Md5::default()),
            20 => Box::new(Sha1::default()),
            32 => Box::new(Sha256::default()),
            _ => Box::new(Sha512::default()),
        }
    }
}

impl Sum {
    /// From hexadecimal digits, whose number says of which kind it is; `None` when there is no such kind.
    pub(super) fn read(digits: &str) -> Option<Self> {
        let kind = KINDS.iter().find(|kind| 2 * kind.bytes == digits.len())?;
        let (pairs, _) = digits.as_bytes().as_chunks::<2>();
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let byte = |pair: &[u8; 2]| u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok();
        let mut bytes = [0; SUM_BYTES_MAX];
        for (place, pair) in bytes.iter_mut().zip(pairs) {
            *place = byte(pair)?;
        }
        Some(Self { kind, bytes })
    }

    /// From what `to_string` gives.
    pub(super) fn read_named(text: &str) -> Option<Self> {
        let (name, digits) = text.split_once(':')?;
        Self::read(digits).filter(|sum| sum.kind.name == name)
    }

    pub(super) fn kind(&self) -> &'static Kind {
        self.kind
    }

    /// Of two of one file: which of them says more.
    pub(super) fn is_stronger_than(&self, other: &Self) -> bool {
        self.kind.bytes > other.kind.bytes
    }

    /// Computes one of its kind.
    pub(super) fn begin(&self) -> Box<dyn DynDigest + Send> {
        self.kind.begin()
    }

    /// Whether that is what was computed.
    pub(super) fn is(&self, computed: &[u8]) -> bool {
        *self.bytes() == *computed
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.kind.bytes]
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:", self.kind.name)?;
        self.bytes().iter().try_for_each(|byte| write!(out, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_of_the_standards_are_computed() {
        // Of "abc": RFC 1321 A.5, FIPS 180-4 examples.
        for (name, digits) in [
            ("md5", "900150983cd24fb0d6963f7d28e17f72"),
            ("sha1", "a9993e364706816aba3e25717850c26c9cd0d89d"),
            (
                "sha256",
                "BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD",
            ),
            (
                "sha512",
                "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd\
                 454d4423643ce80e2a9ac94fa54ca49f",
            ),
        ] {
            let sum = Sum::read(digits).unwrap();
            for (text, is_it) in [("abc", true), ("abd", false)] {
                let mut digest = sum.begin();
                digest.update(text.as_bytes());
                assert_eq!(sum.is(&digest.finalize()), is_it, "{name} of {text}");
            }
            let named = sum.to_string();
            assert_eq!(named, format!("{name}:{}", digits.to_ascii_lowercase()));
            assert_eq!(Sum::read_named(&named), Some(sum));
        }
    }

    #[test]
    fn what_is_no_checksum_is_none() {
        let digits = "900150983cd24fb0d6963f7d28e17f72";
        for text in [
            "",
            "90",
            &digits[1..],
            &digits.replace('9', "g"),
            &digits.replace("90", "é"),
        ] {
            assert_eq!(Sum::read(text), None, "{text:?}");
        }
        for text in [digits.to_owned(), format!("sha1:{digits}"), format!("md5:{digits} ")] {
            assert_eq!(Sum::read_named(&text), None, "{text:?}");
        }
        assert_eq!(Kind::named("SHA2-256"), Kind::named("sha256"));
        assert_eq!(Kind::named("BLAKE2b"), None);
    }
}
