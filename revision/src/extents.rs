//! The table from addresses to objects: chunks of at most [`CHUNK_EXTENTS`] extents in address order, each compressed on its own,
//! with an index of first addresses, so that looking up an address decodes one chunk.
//!
//! A chunk before compression is a run of entries: `gap` (blocks between the end of the extent before and this one),
//! `bytes`, `source`, `shared` (bytes of the key that the one before has too), the rest of the key, the version. Numbers are
//! LEB128, times 8 bytes. An entity tag of hexadecimal digits is stored as bytes.

use std::io;
use std::ops::Range;

use penstock_protocol::geometry::{BLOCK_BYTES, round_up_to_block};

use crate::limits::{CHUNK_BYTES_CLOSE, CHUNK_BYTES_MAX, CHUNK_EXTENTS, CHUNK_TEXT_BYTES_MAX};
use crate::object::{Extent, ObjectVersion, Version};

/// Bytes of an entry of the index: first address and offset of the chunk.
pub(crate) const INDEX_ENTRY_BYTES: usize = 16;
/// Compression level: 3 is the default of zstd; higher ones gained under 3 % here.
const ZSTD_LEVEL: i32 = 3;

/// Why a chunk cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the extents table is damaged")]
pub struct DamagedExtents;

/// The index of `extents`, which come sorted by address; each chunk goes to `chunks` as soon as it is full.
pub(crate) fn encode(
    extents: impl Iterator<Item = io::Result<Extent>>,
    chunks: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<Vec<u8>> {
    let mut table = Table {
        index: Vec::new(),
        chunks,
        chunk_bytes: 0,
        compressor: zstd::bulk::Compressor::new(ZSTD_LEVEL)?,
    };
    let (mut chunk, mut text_bytes) = (Vec::with_capacity(CHUNK_EXTENTS), 0);
    for extent in extents {
        let extent = extent?;
        if chunk.len() == CHUNK_EXTENTS || text_bytes >= CHUNK_BYTES_CLOSE {
            table.close(&chunk)?;
            chunk.clear();
            text_bytes = 0;
        }
        text_bytes += text_bytes_of(extent.object.key.len(), &extent.object.version);
        chunk.push(extent);
    }
    if !chunk.is_empty() {
        table.close(&chunk)?;
    }
    Ok(table.index)
}

/// What is written so far.
struct Table<C> {
    index: Vec<u8>,
    chunks: C,
    chunk_bytes: u64,
    compressor: zstd::bulk::Compressor<'static>,
}

impl<C: FnMut(&[u8]) -> io::Result<()>> Table<C> {
    fn close(&mut self, chunk: &[Extent]) -> io::Result<()> {
        self.index.extend_from_slice(&chunk[0].address.to_le_bytes());
        self.index.extend_from_slice(&self.chunk_bytes.to_le_bytes());
        let compressed = self.compressor.compress(&encode_chunk(chunk))?;
        self.chunk_bytes += compressed.len() as u64;
        (self.chunks)(&compressed)
    }
}

fn text_bytes_of(key_bytes: usize, version: &Version) -> usize {
    let tag_bytes = match version {
        Version::None | Version::Modified(_) => 0,
        Version::ETag(text) | Version::Id(text) => text.len(),
    };
    key_bytes + tag_bytes
}

fn encode_chunk(extents: &[Extent]) -> Vec<u8> {
    let mut out = Vec::with_capacity(extents.len() * 64);
    let (mut end, mut key_before) = (extents[0].address, "");
    for Extent {
        address,
        bytes,
        object: ObjectVersion { source, key, version },
    } in extents
    {
        put(&mut out, (address - end) / BLOCK_BYTES);
        put(&mut out, *bytes);
        put(&mut out, u64::from(*source));
        let shared = key.bytes().zip(key_before.bytes()).take_while(|(a, b)| a == b).count();
        put(&mut out, shared as u64);
        put_bytes(&mut out, &key.as_bytes()[shared..]);
        put_version(&mut out, version);
        end = address + round_up_to_block(*bytes);
        key_before = key;
    }
    out
}

pub(crate) fn put_version(out: &mut Vec<u8>, version: &Version) {
    match version {
        Version::None => out.push(0),
        Version::Modified(unix_nanos) => {
            out.push(3);
            out.extend_from_slice(&unix_nanos.to_le_bytes());
        }
        Version::Id(id) => {
            out.push(4);
            put_bytes(out, id.as_bytes());
        }
        Version::ETag(tag) => match hex_bytes(tag) {
            Some(bytes) => {
                out.push(2);
                put_bytes(out, &bytes);
            }
            None => {
                out.push(1);
                put_bytes(out, tag.as_bytes());
            }
        },
    }
}

/// The extents of a compressed chunk, which lie within these addresses and begin with the first.
pub(crate) fn decode_chunk(compressed: &[u8], within: Range<u64>) -> Result<Vec<Extent>, DamagedExtents> {
    let bytes = zstd::bulk::decompress(compressed, CHUNK_BYTES_MAX).map_err(|_| DamagedExtents)?;
    let mut from = bytes.as_slice();
    let (mut extents, mut end, mut key) = (Vec::with_capacity(CHUNK_EXTENTS), within.start, Vec::new());
    let mut text_bytes = 0;
    while !from.is_empty() {
        if extents.len() == CHUNK_EXTENTS {
            return Err(DamagedExtents);
        }
        let gap = take(&mut from)?.checked_mul(BLOCK_BYTES).ok_or(DamagedExtents)?;
        let address = end.checked_add(gap).ok_or(DamagedExtents)?;
        let bytes = take(&mut from)?;
        end = bytes
            .checked_next_multiple_of(BLOCK_BYTES)
            .and_then(|rounded| address.checked_add(rounded))
            .filter(|end| bytes > 0 && *end <= within.end)
            .ok_or(DamagedExtents)?;
        let source = u16::try_from(take(&mut from)?).map_err(|_| DamagedExtents)?;
        let shared = usize::try_from(take(&mut from)?).map_err(|_| DamagedExtents)?;
        let rest = take_bytes(&mut from)?;
        if shared > key.len() {
            return Err(DamagedExtents);
        }
        key.truncate(shared);
        key.extend_from_slice(rest);
        let version = take_version(&mut from)?;
        // What keys share is there once in the chunk and in each of them here.
        text_bytes += text_bytes_of(key.len(), &version);
        if text_bytes > CHUNK_TEXT_BYTES_MAX {
            return Err(DamagedExtents);
        }
        let text = std::str::from_utf8(&key).map_err(|_| DamagedExtents)?.to_owned();
        extents.push(Extent {
            address,
            bytes,
            object: ObjectVersion {
                source,
                key: text,
                version,
            },
        });
    }
    Ok(extents)
}

pub(crate) fn take_version(from: &mut &[u8]) -> Result<Version, DamagedExtents> {
    let (tag, rest) = from.split_first().ok_or(DamagedExtents)?;
    *from = rest;
    match tag {
        0 => Ok(Version::None),
        1 => take_text(from).map(Version::ETag),
        2 => Ok(Version::ETag(hex_text(take_bytes(from)?))),
        3 => {
            let (unix_nanos, rest) = from.split_first_chunk().ok_or(DamagedExtents)?;
            *from = rest;
            Ok(Version::Modified(i64::from_le_bytes(*unix_nanos)))
        }
        4 => take_text(from).map(Version::Id),
        _ => Err(DamagedExtents),
    }
}

/// The text of [`hex_bytes`]. Without `format!`, which took most of the time of decoding a chunk.
fn hex_text(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f',
    ];
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(DIGITS[usize::from(byte >> 4)]);
        text.push(DIGITS[usize::from(byte & 0xf)]);
    }
    text
}

/// The bytes that a text of lower-case hexadecimal digits stands for.
fn hex_bytes(text: &str) -> Option<Vec<u8>> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let pairs = text.as_bytes().chunks_exact(2);
    if text.is_empty() || !pairs.remainder().is_empty() {
        return None;
    }
    pairs.map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

pub(crate) fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub(crate) fn take(from: &mut &[u8]) -> Result<u64, DamagedExtents> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = from.split_first().ok_or(DamagedExtents)?;
        *from = rest;
        if shift == 63 && *byte > 1 {
            return Err(DamagedExtents);
        }
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(DamagedExtents)
}

fn take_text(from: &mut &[u8]) -> Result<String, DamagedExtents> {
    String::from_utf8(take_bytes(from)?.to_vec()).map_err(|_| DamagedExtents)
}

pub(crate) fn take_bytes<'a>(from: &mut &'a [u8]) -> Result<&'a [u8], DamagedExtents> {
    let length = usize::try_from(take(from)?).map_err(|_| DamagedExtents)?;
    let (bytes, rest) = from.split_at_checked(length).ok_or(DamagedExtents)?;
    *from = rest;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn version() -> impl Strategy<Value = Version> {
        prop_oneof![
            Just(Version::None),
            any::<i64>().prop_map(Version::Modified),
            "[0-9a-f]{0,40}".prop_map(Version::ETag),
            ".{0,20}".prop_map(Version::ETag),
            ".{0,20}".prop_map(Version::Id)
        ]
    }

    fn extent(address: u64, key: String) -> Extent {
        let (bytes, source, version) = (1, 0, Version::None);
        let object = ObjectVersion { source, key, version };
        Extent { address, bytes, object }
    }

    #[test]
    fn keys_that_share_everything_take_no_more_memory_than_our_own() {
        let chunk = |key_bytes: usize| {
            let key = "k".repeat(key_bytes);
            let extents = (0..CHUNK_EXTENTS as u64).map(|at| extent(at * BLOCK_BYTES, key.clone()));
            zstd::bulk::compress(&encode_chunk(&extents.collect::<Vec<_>>()), 1).unwrap()
        };
        let whole = 0..u64::MAX;
        assert!(decode_chunk(&chunk(1024), whole.clone()).is_ok());
        assert_eq!(decode_chunk(&chunk(100 << 10), whole), Err(DamagedExtents));
    }

    #[test]
    fn extents_end_where_the_next_chunk_or_nothing_begins() {
        let chunk = zstd::bulk::compress(
            &encode_chunk(&[extent(4096, String::new()), extent(8192, String::new())]),
            1,
        );
        let chunk = chunk.unwrap();
        assert!(decode_chunk(&chunk, 4096..12288).is_ok());
        assert_eq!(decode_chunk(&chunk, 4096..8192), Err(DamagedExtents));
    }

    proptest! {
        #[test]
        fn a_chunk_reads_what_it_wrote(entries in prop::collection::vec((0u64..9, 1u64..1 << 43, 0u16..9, ".{0,30}", version()), 1..CHUNK_EXTENTS)) {
            let mut end = 1 << 20;
            let extents: Vec<Extent> = entries.into_iter().map(|(gap, bytes, source, key, version)| {
                let address = end + gap * BLOCK_BYTES;
                end = address + round_up_to_block(bytes);
                Extent { address, bytes, object: ObjectVersion { source, key, version } }
            }).collect();
            let mut chunk = Vec::new();
            let written = encode(extents.iter().cloned().map(Ok), |bytes| {
                chunk.extend_from_slice(bytes);
                Ok(())
            });
            prop_assert!(written.is_ok());
            prop_assert_eq!(decode_chunk(&chunk, extents[0].address..u64::MAX), Ok(extents));
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let compressed = zstd::bulk::compress(&bytes, 1).unwrap();
            let _ = decode_chunk(&compressed, 4096..1 << 40);
            let _ = decode_chunk(&bytes, u64::MAX..u64::MAX);
        }
    }
}
