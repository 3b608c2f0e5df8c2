//! The frames of the bulk protocol, version 1: how blocks and packages travel between mounters and cache nodes.
//!
//! A connection (TCP or a Unix socket) carries requests one way and replies the other, many in flight, replies in any
//! order. A frame is a header of [`HEADER_BYTES`] bytes, little-endian, and a body:
//!
//! ```text
//!  0 magic "PSTK"   4 version u8   5 kind u8   6 status u16   8 length u32   12 header CRC32C u32 (over the header with 0 here)
//! 16 request id u64                            24 address u64
//! 32 ring epoch u64                            40 revision, 32 bytes
//! ```
//!
//! | kind | request | reply `Data` |
//! |---|---|---|
//! | `Read` | `length` bytes (whole blocks, one stripe) at `address` of the revision's space; no body | a CRC32C per block (`u32` each, see [`crate::checksum`]), then `length` bytes |
//! | `ReadChecked` | the same | the same; the sender has compared the blocks with their checksums, which it need not for `Read` |
//! | `Package` | up to `length` bytes of the revision's package from offset `address`; no body | `length` bytes; fewer than asked for means the package ends here |
//! | `Ring` | no body; the revision is one that the sender serves to pods, or zeros | `length` bytes of [`crate::ring::Ring::encode`] |
//!
//! A mounter that names a revision when it asks for the ring says that the revision is in use, whether or not it is read. A node
//! that does not know this answers all the same.
//!
//! The client compares each block with its checksum, and asks with `ReadChecked` for what did not match: then the sender
//! finds out whether it is stored damaged, and mends it.
//!
//! A reply repeats request id, address and revision, and carries the epoch of the sender's ring: a client that sees a
//! larger epoch than its own asks for the ring. A failed request is answered by `Error` with a [`Status`] and `length`
//! bytes of UTF-8 text for people. An `Error` with request id 0, which no request has, is about the connection: the request
//! could not be read, and the connection closes.
//!
//! A part speaks versions n and n−1 and refuses others with [`Status::Unsupported`] (the reply's own version says what
//! it speaks). The decoder never panics and never allocates: lengths are bounded before anybody reserves memory.

use crate::checksum::crc32c;
use crate::geometry::BLOCK_BYTES;
use crate::ids::RevisionId;

/// The newest version of the protocol that this code speaks.
pub const VERSION: u8 = 1;
/// The oldest version that this code speaks.
pub const VERSION_MIN: u8 = 1;
/// Bytes of a header.
pub const HEADER_BYTES: usize = 72;
/// Most bytes that one `Read` may ask for: four FUSE reads of the largest size, so that a read-ahead window fits, and
/// small enough that a slow reader holds little memory.
pub const READ_BYTES_MAX: u32 = 4 << 20;
/// Most bytes of one piece of a package.
pub const PACKAGE_BYTES_MAX: u32 = 4 << 20;
/// Most bytes of an encoded ring or of an error's text.
pub const TEXT_BYTES_MAX: u32 = 1 << 20;

/// With what a frame begins.
pub const MAGIC: [u8; 4] = *b"PSTK";

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Request: blocks of a revision.
    Read = 1,
    /// Request: a piece of a package.
    Package = 2,
    /// Request: the ring.
    Ring = 3,
    /// Request: blocks of a revision that the sender compares with their checksums before it sends them.
    ReadChecked = 4,
    /// Reply: what was asked for.
    Data = 128,
    /// Reply: why it cannot be had.
    Error = 129,
}

/// Why a request failed; what the client should do follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Status {
    /// It did not fail.
    Ok = 0,
    /// The version of the request is not spoken here. Final for this connection.
    Unsupported = 1,
    /// The request makes no sense (range, length). Final: a fault of the client.
    BadRequest = 2,
    /// This node does not know the revision (yet). Ask the next node, or later.
    UnknownRevision = 3,
    /// Too much to do. Ask again after a pause, or the next node.
    Busy = 4,
    /// The origin did not answer or refused. Ask again after a pause.
    OriginUnavailable = 5,
    /// The origin no longer has this version of the object, and this node has not the block. Final for this node and
    /// revision: another owner may hold the block still.
    Drifted = 6,
    /// Any other fault of the node. Ask the next node.
    Internal = 7,
}

/// A decoded header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Version in which the frame is written.
    pub version: u8,
    /// What the frame is.
    pub kind: Kind,
    /// [`Status::Ok`] except in an error.
    pub status: Status,
    /// Bytes asked for, or bytes of the answer; see the table above.
    pub length: u32,
    /// Chosen by the client, unique among its requests in flight on the connection, not 0.
    pub request_id: u64,
    /// Address in the space, or offset in the package.
    pub address: u64,
    /// Epoch of the sender's ring, 0 if it has none.
    pub ring_epoch: u64,
    /// The revision that is asked about; in a `Ring` request one that is in use, or zeros.
    pub revision: RevisionId,
}

/// Why bytes are not a header that this code can act upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Not the first bytes of a frame: the peer speaks something else, or the stream lost its place.
    #[error("not a frame of the bulk protocol (wrong magic)")]
    Magic,
    /// The header was damaged.
    #[error("the header's checksum does not match")]
    Checksum,
    /// A version outside n−1..=n.
    #[error("version {0} of the bulk protocol is not spoken here (versions {VERSION_MIN} to {VERSION} are)")]
    Version(u8),
    /// A kind or status that this version does not have.
    #[error("unknown kind {kind} or status {status}")]
    Unknown {
        /// The byte for the kind.
        kind: u8,
        /// The number for the status.
        status: u16,
    },
    /// A length above the bound of its kind.
    #[error("length {0} is above the bound for its kind")]
    Length(u32),
}

impl Header {
    /// A request.
    pub fn request(
        kind: Kind,
        request_id: u64,
        revision: RevisionId,
        address: u64,
        length: u32,
        ring_epoch: u64,
    ) -> Self {
        Self {
            version: VERSION,
            kind,
            status: Status::Ok,
            length,
            request_id,
            address,
            ring_epoch,
            revision,
        }
    }

    /// The header of the answer to `self` that carries `length` bytes.
    pub fn data(&self, length: u32, ring_epoch: u64) -> Self {
        Self {
            kind: Kind::Data,
            status: Status::Ok,
            length,
            ring_epoch,
            ..*self
        }
    }

    /// The header of the refusal of `self` that carries `length` bytes of text.
    pub fn error(&self, status: Status, length: u32, ring_epoch: u64) -> Self {
        Self {
            kind: Kind::Error,
            status,
            length,
            ring_epoch,
            ..*self
        }
    }

    /// Bytes of block checksums that stand before the data when this header answers a `Read`.
    pub fn checksum_bytes(&self) -> usize {
        (u64::from(self.length) / BLOCK_BYTES) as usize * 4
    }

    /// The header as bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[0..4].copy_from_slice(&MAGIC);
        out[4] = self.version;
        out[5] = self.kind as u8;
        out[6..8].copy_from_slice(&(self.status as u16).to_le_bytes());
        out[8..12].copy_from_slice(&self.length.to_le_bytes());
        out[16..24].copy_from_slice(&self.request_id.to_le_bytes());
        out[24..32].copy_from_slice(&self.address.to_le_bytes());
        out[32..40].copy_from_slice(&self.ring_epoch.to_le_bytes());
        out[40..72].copy_from_slice(self.revision.as_bytes());
        let sum = crc32c(&out);
        out[12..16].copy_from_slice(&sum.to_le_bytes());
        out
    }

    /// The header in `bytes`.
    ///
    /// # Errors
    /// See [`FrameError`]. After any of them the connection has to be closed, because the stream has lost its place.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, FrameError> {
        if bytes[0..4] != MAGIC {
            return Err(FrameError::Magic);
        }
        let mut unsigned = *bytes;
        unsigned[12..16].fill(0);
        if crc32c(&unsigned) != u32_at(bytes, 12) {
            return Err(FrameError::Checksum);
        }
        let version = bytes[4];
        if !(VERSION_MIN..=VERSION).contains(&version) {
            return Err(FrameError::Version(version));
        }
        let (kind_byte, status_number) = (bytes[5], u16::from_le_bytes([bytes[6], bytes[7]]));
        let unknown = FrameError::Unknown {
            kind: kind_byte,
            status: status_number,
        };
        let kind = Kind::from_byte(kind_byte).ok_or(unknown)?;
        let status = Status::from_number(status_number).ok_or(unknown)?;
        let header = Self {
            version,
            kind,
            status,
            length: u32_at(bytes, 8),
            request_id: u64_at(bytes, 16),
            address: u64_at(bytes, 24),
            ring_epoch: u64_at(bytes, 32),
            revision: RevisionId(std::array::from_fn(|i| bytes[40 + i])),
        };
        if header.length > header.kind.length_max() {
            return Err(FrameError::Length(header.length));
        }
        Ok(header)
    }
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [
            Kind::Read,
            Kind::Package,
            Kind::Ring,
            Kind::ReadChecked,
            Kind::Data,
            Kind::Error,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == byte)
    }

    fn length_max(self) -> u32 {
        match self {
            Kind::Read | Kind::ReadChecked => READ_BYTES_MAX,
            Kind::Package => PACKAGE_BYTES_MAX,
            Kind::Data => READ_BYTES_MAX.max(PACKAGE_BYTES_MAX),
            Kind::Ring | Kind::Error => TEXT_BYTES_MAX,
        }
    }
}

impl Status {
    fn from_number(number: u16) -> Option<Self> {
        [
            Status::Ok,
            Status::Unsupported,
            Status::BadRequest,
            Status::UnknownRevision,
            Status::Busy,
            Status::OriginUnavailable,
            Status::Drifted,
            Status::Internal,
        ]
        .into_iter()
        .find(|status| *status as u16 == number)
    }
}

fn u32_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

fn u64_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header::request(Kind::Read, 7, RevisionId([3; 32]), 1 << 40, 1 << 20, 12)
    }

    fn signed(mut bytes: [u8; HEADER_BYTES]) -> [u8; HEADER_BYTES] {
        bytes[12..16].fill(0);
        let sum = crc32c(&bytes);
        bytes[12..16].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    #[test]
    fn a_header_reads_what_it_wrote() {
        let request = header();
        for header in [request, request.data(4096, 13), request.error(Status::Drifted, 20, 13)] {
            assert_eq!(Header::decode(&header.encode()), Ok(header));
        }
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let good = header().encode();
        for bit in 0..HEADER_BYTES * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn what_this_version_does_not_have_is_refused() {
        for (at, value, error) in [
            (4, 9, FrameError::Version(9)),
            (5, 77, FrameError::Unknown { kind: 77, status: 0 }),
            (6, 99, FrameError::Unknown { kind: 1, status: 99 }),
            (11, 0xff, FrameError::Length(0xff10_0000)),
        ] {
            let mut bytes = header().encode();
            bytes[at] = value;
            assert_eq!(Header::decode(&signed(bytes)), Err(error));
        }
    }
}
