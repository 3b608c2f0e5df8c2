//! The bytes of a package: in memory, or in a file of which only what is asked for is read.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use penstock_protocol::checksum::crc32c;

use crate::scratch::Scratch;

/// Bytes of a file that are checked together.
pub(crate) const PAGE_BYTES: u64 = 16 << 10;
/// Bytes that are read at once while the digest is computed.
const PIECE_BYTES: usize = 1 << 20;

/// BLAKE3 of something.
pub(crate) type Digest = [u8; 32];

/// Bytes that do not change.
#[derive(Debug)]
pub(crate) enum Contents {
    Memory(Bytes),
    File(Checked),
}

/// A file whose digest was computed, with the checksum of each of its pages: what is read later is what the digest is that of, also
/// after years on a disk.
#[derive(Debug)]
pub(crate) struct Checked {
    file: File,
    bytes: u64,
    checksums: Vec<u32>,
    /// Whether a part of it could not be read.
    has_failed: AtomicBool,
}

impl Contents {
    /// A whole file and its digest. Reads it once from its beginning.
    pub(crate) fn of_file(file: File) -> io::Result<(Self, Digest)> {
        let (mut hasher, mut checksums) = (blake3::Hasher::new(), Vec::new());
        let mut piece = vec![0; PIECE_BYTES];
        let mut bytes = 0;
        loop {
            let length = read_piece(&file, bytes, &mut piece)?;
            hasher.update(&piece[..length]);
            checksums.extend(piece[..length].chunks(PAGE_BYTES as usize).map(crc32c));
            bytes += length as u64;
            if length < piece.len() {
                break;
            }
        }
        let checked = Checked {
            file,
            bytes,
            checksums,
            has_failed: AtomicBool::new(false),
        };
        Ok((Self::File(checked), *hasher.finalize().as_bytes()))
    }

    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File(checked) => checked.bytes,
        }
    }

    /// Whether a part of it could not be read.
    pub(crate) fn has_failed(&self) -> bool {
        match self {
            Self::Memory(_) => false,
            Self::File(checked) => checked.has_failed.load(Ordering::Relaxed),
        }
    }

    /// What is in `range`, as far as there is something.
    pub(crate) fn read(&self, range: Range<u64>) -> io::Result<Bytes> {
        let end = range.end.min(self.bytes());
        let start = range.start.min(end);
        match self {
            // Shorter than what is in memory.
            Self::Memory(bytes) => Ok(bytes.slice(start as usize..end as usize)),
            Self::File(checked) => checked
                .read(start..end)
                .inspect_err(|_| checked.has_failed.store(true, Ordering::Relaxed)),
        }
    }
}

impl Checked {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn read(&self, range: Range<u64>) -> io::Result<Bytes> {
        let first = range.start / PAGE_BYTES;
        let begin = first * PAGE_BYTES;
        let end = range.end.next_multiple_of(PAGE_BYTES).min(self.bytes);
        // What somebody asks for at once fits in memory.
        let mut pages = vec![0; (end - begin) as usize];
        self.file.read_exact_at(&mut pages, begin)?;
        for (page, checksum) in pages.chunks(PAGE_BYTES as usize).zip(&self.checksums[first as usize..]) {
            if crc32c(page) != *checksum {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "what the disk gives is not what was written",
                ));
            }
        }
        let pages = Bytes::from(pages);
        Ok(pages.slice((range.start - begin) as usize..(range.end - begin) as usize))
    }
}

/// Reads until `piece` is full or the file ends.
fn read_piece(file: &File, offset: u64, piece: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < piece.len() {
        match file.read_at(&mut piece[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Contents that are being written, from the front.
pub(crate) enum Draft {
    Memory(Vec<u8>),
    File(BufWriter<File>),
}

impl Draft {
    /// Of so many bytes that only a file has room for them.
    pub(crate) fn of_any_length(scratch: &Scratch) -> io::Result<Self> {
        Ok(match scratch.file()? {
            Some(file) => Self::in_file(file),
            None => Self::Memory(Vec::new()),
        })
    }

    /// Of some `bytes` bytes.
    pub(crate) fn new(scratch: &Scratch, bytes: usize) -> io::Result<Self> {
        let file = if scratch.is_full(bytes) { scratch.file()? } else { None };
        Ok(match file {
            Some(file) => Self::in_file(file),
            None => Self::Memory(Vec::with_capacity(bytes)),
        })
    }

    fn in_file(file: File) -> Self {
        Self::File(BufWriter::with_capacity(PIECE_BYTES, file))
    }

    /// With other bytes at a place that was written.
    pub(crate) fn finish(self, place: usize, patch: &[u8]) -> io::Result<(Contents, Digest)> {
        match self {
            Self::Memory(mut bytes) => {
                bytes[place..place + patch.len()].copy_from_slice(patch);
                bytes.shrink_to_fit();
                let digest = *blake3::hash(&bytes).as_bytes();
                Ok((Contents::Memory(bytes.into()), digest))
            }
            Self::File(file) => {
                let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
                file.write_all_at(patch, place as u64)?;
                Contents::of_file(file)
            }
        }
    }
}

impl Write for Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Memory(memory) => memory.write(bytes),
            Self::File(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Memory(_) => Ok(()),
            Self::File(file) => file.flush(),
        }
    }
}

/// A part of something, from its front.
pub(crate) struct Part<'a> {
    pub(crate) contents: &'a Contents,
    pub(crate) left: Range<u64>,
}

impl Read for Part<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let wanted = self.left.end.min(self.left.start + out.len().min(PIECE_BYTES) as u64);
        let piece = self.contents.read(self.left.start..wanted)?;
        out[..piece.len()].copy_from_slice(&piece);
        self.left.start += piece.len() as u64;
        Ok(piece.len())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_file_is_read_as_what_it_had_when_its_digest_was_computed_or_not_at_all() {
        for length in [
            0,
            1,
            PAGE_BYTES - 1,
            PAGE_BYTES,
            3 * PAGE_BYTES + 5,
            PIECE_BYTES as u64,
            PIECE_BYTES as u64 + 1,
        ] {
            let written: Vec<u8> = (0..length).map(|at| (at * 7 % 251) as u8).collect();
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&written).unwrap();
            let (contents, digest) = Contents::of_file(file.try_clone().unwrap()).unwrap();
            assert_eq!(digest, *blake3::hash(&written).as_bytes());
            assert_eq!(contents.bytes(), length);
            let memory = Contents::Memory(written.clone().into());
            for range in [
                0..length,
                0..1,
                length / 2..length,
                length / 3..length / 2,
                length..length + 9,
                length + 5..length + 4,
            ] {
                let expected = memory.read(range.clone()).unwrap();
                assert_eq!(contents.read(range).unwrap(), expected);
            }
            let mut read = Vec::new();
            let (contents, left) = (&contents, length / 5..length);
            Part { contents, left }.read_to_end(&mut read).unwrap();
            assert_eq!(read, written[(length / 5) as usize..]);
            if length <= PAGE_BYTES {
                continue;
            }
            assert!(!contents.has_failed());
            file.write_all_at(&[written[length as usize - 1] ^ 1], length - 1)
                .unwrap();
            assert_eq!(
                contents.read(length - 1..length).unwrap_err().kind(),
                io::ErrorKind::InvalidData
            );
            assert!(contents.has_failed());
            assert_eq!(contents.read(0..1).unwrap(), written[..1], "of another page");
            file.set_len(length / 2).unwrap();
            assert!(contents.read(length - 1..length).is_err(), "cut off");
        }
    }
}
