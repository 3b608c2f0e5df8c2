//! The bytes of an image, in memory or in a file. Of a file the pages that were read last are kept: who walks through an image reads
//! inodes and blocks of folders, both nearly in the order in which they lie there.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::reader::Damaged;
use crate::contents::{Checked, Contents, PAGE_BYTES};
use crate::limits::IMAGE_PAGES_KEPT;

/// The bytes; clones share them.
#[derive(Clone, Debug)]
pub(super) enum Pages {
    Memory(Bytes),
    File(Arc<Paged>),
}

#[derive(Debug)]
pub(super) struct Paged {
    file: Checked,
    /// By their numbers, the one that was used last at first.
    kept: Mutex<Vec<(u64, Bytes)>>,
}

impl From<Contents> for Pages {
    fn from(contents: Contents) -> Self {
        match contents {
            Contents::Memory(bytes) => Self::Memory(bytes),
            Contents::File(file) => Self::File(Arc::new(Paged {
                file,
                kept: Mutex::default(),
            })),
        }
    }
}

impl Pages {
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File(paged) => paged.file.bytes(),
        }
    }

    /// Bytes whose number is known.
    pub(super) fn array<const N: usize>(&self, at: u64) -> Result<[u8; N], Damaged> {
        let range = self.range(at, N)?;
        let copied = |bytes: &[u8]| bytes.first_chunk().copied().ok_or_else(|| outside(at));
        match self {
            // Not longer than what is in memory.
            Self::Memory(bytes) => copied(&bytes[range.start as usize..]),
            Self::File(paged) => paged.read(range, copied)?,
        }
    }

    /// Some bytes.
    pub(super) fn slice(&self, at: u64, length: usize) -> Result<Bytes, Damaged> {
        let range = self.range(at, length)?;
        match self {
            Self::Memory(bytes) => Ok(bytes.slice(range.start as usize..range.end as usize)),
            Self::File(paged) => paged.read(range, Bytes::copy_from_slice),
        }
    }

    fn range(&self, at: u64, length: usize) -> Result<Range<u64>, Damaged> {
        let end = at.checked_add(length as u64).filter(|end| *end <= self.bytes());
        Ok(at..end.ok_or_else(|| outside(at))?)
    }
}

impl Paged {
    /// Shows bytes, which are there.
    fn read<T>(&self, range: Range<u64>, show: impl FnOnce(&[u8]) -> T) -> Result<T, Damaged> {
        let unreadable = |error| Damaged(format!("its file cannot be read: {error}"));
        let number = range.start / PAGE_BYTES;
        let page = number * PAGE_BYTES;
        if range.end > page + PAGE_BYTES {
            // What we write lies in one page.
            return Ok(show(&self.file.read(range).map_err(unreadable)?));
        }
        let within = (range.start - page) as usize..(range.end - page) as usize;
        let mut kept = self.kept();
        match kept.iter().position(|(other, _)| *other == number) {
            Some(at) => kept[..=at].rotate_right(1),
            None => {
                let end = (page + PAGE_BYTES).min(self.file.bytes());
                let read = self.file.read(page..end).map_err(unreadable)?;
                kept.truncate(IMAGE_PAGES_KEPT - 1);
                kept.insert(0, (number, read));
            }
        }
        Ok(show(&kept[0].1[within]))
    }

    fn kept(&self) -> MutexGuard<'_, Vec<(u64, Bytes)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn outside(at: u64) -> Damaged {
    Damaged(format!("it points outside of itself, to {at}"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn a_file_gives_what_memory_gives_and_says_so_when_it_cannot() {
        let written: Vec<u8> = (0..40 * PAGE_BYTES + 4096).map(|at| (at / 3 % 251) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&written).unwrap();
        let (contents, _) = Contents::of_file(file.try_clone().unwrap()).unwrap();
        let (paged, memory) = (Pages::from(contents), Pages::Memory(written.clone().into()));
        assert_eq!(paged.bytes(), memory.bytes());
        // Back and forth, over the end of a page, and more pages than are kept.
        let places = (0..40).flat_map(|page| [page, 39 - page, page / 2].map(|page| page * PAGE_BYTES + page));
        for at in places.chain([PAGE_BYTES - 8, paged.bytes() - 64]) {
            assert_eq!(paged.slice(at, 64).unwrap(), memory.slice(at, 64).unwrap(), "{at}");
            assert_eq!(paged.array::<64>(at).unwrap(), memory.array::<64>(at).unwrap(), "{at}");
        }
        for (at, length) in [(paged.bytes() - 63, 64), (u64::MAX, 1), (u64::MAX - 5, 64)] {
            assert_eq!(paged.slice(at, length), memory.slice(at, length));
            assert_eq!(paged.slice(at, length), Err(outside(at)));
        }
        let Pages::File(inner) = &paged else {
            panic!("it is in a file")
        };
        assert_eq!(inner.kept().len(), IMAGE_PAGES_KEPT);
        inner.kept().clear();
        file.write_all_at(&[written[100] ^ 1], 100).unwrap();
        let error = paged.array::<8>(64).unwrap_err().to_string();
        assert!(error.contains("its file cannot be read"), "{error}");
        assert_eq!(
            paged.array::<8>(PAGE_BYTES),
            memory.array::<8>(PAGE_BYTES),
            "another page"
        );
    }
}
