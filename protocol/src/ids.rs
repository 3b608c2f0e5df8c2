//! Typed ids: what names a space, a revision and a connection everywhere, as bytes on the wire and as hexadecimal text for people.

use std::fmt;
use std::str::FromStr;

/// Why a text is not an id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {digits} hexadecimal digits")]
pub struct NotAnId {
    text: String,
    digits: usize,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub [u8; $bytes]);

        impl $name {
            /// The id as bytes, as it stands on the wire.
            pub const fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = NotAnId;

            fn from_str(text: &str) -> Result<Self, NotAnId> {
                let refused = || NotAnId { text: text.chars().take(80).collect(), digits: 2 * $bytes };
                if text.len() != 2 * $bytes || !text.bytes().all(|c| c.is_ascii_hexdigit()) {
                    return Err(refused());
                }
                let mut id = [0; $bytes];
                for (byte, at) in id.iter_mut().zip((0..).step_by(2)) {
                    *byte = u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| refused())?;
                }
                Ok(Self(id))
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = NotAnId;

            fn try_from(bytes: &[u8]) -> Result<Self, NotAnId> {
                bytes.try_into().map(Self).map_err(|_| NotAnId { text: format!("{} bytes", bytes.len()), digits: 2 * $bytes })
            }
        }
    };
}

id!(
    /// The random id of a space. An address of a space never means two objects, so the id changes whenever that cannot
    /// be promised.
    SpaceId,
    16
);

id!(
    /// The id of a revision: the BLAKE3 digest of its package.
    RevisionId,
    32
);

id!(
    /// The random id of a FUSE connection. The kernel's number of one is reused.
    ConnectionId,
    16
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_what_it_prints() {
        let id = SpaceId(std::array::from_fn(|i| (i * 17) as u8));
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn a_text_that_is_no_id_is_refused() {
        for text in [
            "",
            "00",
            &"0".repeat(63),
            &"g".repeat(64),
            &"é".repeat(32),
            &"+1".repeat(32),
        ] {
            assert!(text.parse::<RevisionId>().is_err(), "{text}");
        }
    }
}
