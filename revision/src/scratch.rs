//! What a build keeps outside of its memory: logs of records and one flat file, both without names in a folder that was handed
//! in, so that nothing of them is left when the process ends.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use crate::limits::{SCRATCH_MEMORY_BYTES, SCRATCH_PIECE_BYTES};

/// Where a build keeps what its memory should not hold.
#[derive(Clone, Debug)]
pub struct Scratch {
    folder: Option<PathBuf>,
    memory_bytes: usize,
}

impl Scratch {
    /// Everything in memory: for what is known to be small.
    pub fn memory() -> Self {
        Self {
            folder: None,
            memory_bytes: usize::MAX,
        }
    }

    /// What is more than some tens of MiB goes to files in `folder`: about 500 bytes an object.
    pub fn folder(folder: impl Into<PathBuf>) -> Self {
        Self::folder_beyond(folder, SCRATCH_MEMORY_BYTES)
    }

    /// The same beyond `memory_bytes` for each of the lists of a build, for whoever tries it with few objects.
    pub fn folder_beyond(folder: impl Into<PathBuf>, memory_bytes: usize) -> Self {
        Self {
            folder: Some(folder.into()),
            memory_bytes,
        }
    }

    /// Whether so many bytes of a list are too many for memory.
    pub(crate) fn is_full(&self, bytes: usize) -> bool {
        self.folder.is_some() && bytes >= self.memory_bytes
    }

    /// A file without a name; `None` when everything stays in memory.
    pub(crate) fn file(&self) -> io::Result<Option<File>> {
        self.folder.as_ref().map(tempfile::tempfile_in).transpose()
    }
}

/// Bytes of the length in front of each record.
const LENGTH_BYTES: usize = 4;

/// Records in the order in which they were appended. Read from the front, as often as wanted.
pub(crate) struct Log {
    scratch: Scratch,
    file: Option<File>,
    file_bytes: u64,
    /// What is not in the file yet; whole records.
    tail: Vec<u8>,
}

impl Log {
    pub(crate) fn new(scratch: &Scratch) -> Self {
        Self {
            scratch: scratch.clone(),
            file: None,
            file_bytes: 0,
            tail: Vec::new(),
        }
    }

    pub(crate) fn append(&mut self, record: &[u8]) -> io::Result<()> {
        put_record(&mut self.tail, record);
        if self.scratch.is_full(self.tail.len().saturating_mul(8)) {
            self.spill()?;
        }
        Ok(())
    }

    /// Where the next record goes.
    pub(crate) fn end(&self) -> u64 {
        self.file_bytes + self.tail.len() as u64
    }

    /// Moves everything to the file.
    pub(crate) fn spill(&mut self) -> io::Result<()> {
        if self.file.is_none() {
            self.file = self.scratch.file()?;
        }
        if let Some(file) = &self.file {
            file.write_all_at(&self.tail, self.file_bytes)?;
            self.file_bytes += self.tail.len() as u64;
            self.tail.clear();
        }
        Ok(())
    }

    pub(crate) fn records(&self) -> Records<'_> {
        self.records_of(0..self.end())
    }

    /// Those between two ends; both in the file, or the second behind all of it.
    pub(crate) fn records_of(&self, range: Range<u64>) -> Records<'_> {
        let in_file = range.start..range.end.min(self.file_bytes);
        Records {
            file: self.file.as_ref(),
            in_file,
            buffer: Vec::new(),
            current: 0..0,
            memory: if range.end > self.file_bytes { &self.tail } else { &[] },
            is_in_memory: false,
        }
    }
}

pub(crate) fn put_record(out: &mut Vec<u8>, record: &[u8]) {
    // No record is nearly as long as 4 GiB.
    out.extend_from_slice(&(record.len() as u32).to_le_bytes());
    out.extend_from_slice(record);
}

/// A walk through a log.
pub(crate) struct Records<'a> {
    file: Option<&'a File>,
    /// What of the file was not read yet.
    in_file: Range<u64>,
    buffer: Vec<u8>,
    /// Where the record lies, in the buffer or in memory.
    current: Range<usize>,
    memory: &'a [u8],
    is_in_memory: bool,
}

impl Records<'_> {
    /// Steps to the next record; false behind the last.
    pub(crate) fn advance(&mut self) -> io::Result<bool> {
        if !self.is_in_memory {
            self.fill(LENGTH_BYTES)?;
            if self.buffer.len() > self.current.end {
                let length = length_at(&self.buffer, self.current.end)?;
                self.fill(LENGTH_BYTES + length)?;
                return self.step(length, self.buffer.len());
            }
            self.is_in_memory = true;
            self.current = 0..0;
        }
        if self.current.end == self.memory.len() {
            return Ok(false);
        }
        let length = length_at(self.memory, self.current.end)?;
        self.step(length, self.memory.len())
    }

    /// The record; empty before the first step.
    pub(crate) fn current(&self) -> &[u8] {
        if self.is_in_memory {
            &self.memory[self.current.clone()]
        } else {
            &self.buffer[self.current.clone()]
        }
    }

    pub(crate) fn next(&mut self) -> io::Result<Option<&[u8]>> {
        Ok(self.advance()?.then(|| self.current()))
    }

    fn step(&mut self, length: usize, end: usize) -> io::Result<bool> {
        let start = self.current.end + LENGTH_BYTES;
        if length > end - start.min(end) {
            return Err(torn());
        }
        self.current = start..start + length;
        Ok(true)
    }

    /// Reads until so many bytes stand behind the current record, if there are as many.
    fn fill(&mut self, bytes: usize) -> io::Result<()> {
        let Some(file) = self.file else { return Ok(()) };
        let have = self.buffer.len() - self.current.end;
        let left = usize::try_from(self.in_file.end - self.in_file.start).unwrap_or(usize::MAX);
        if have >= bytes || left == 0 {
            return Ok(());
        }
        self.buffer.drain(..self.current.end);
        self.current = 0..0;
        let more = bytes.max(SCRATCH_PIECE_BYTES).saturating_sub(have).min(left);
        self.buffer.resize(have + more, 0);
        file.read_exact_at(&mut self.buffer[have..], self.in_file.start)?;
        self.in_file.start += more as u64;
        Ok(())
    }
}

fn length_at(bytes: &[u8], at: usize) -> io::Result<usize> {
    let length = bytes.get(at..).and_then(<[u8]>::first_chunk).ok_or_else(torn)?;
    Ok(u32::from_le_bytes(*length) as usize)
}

/// A record is not what was written: the disk's fault.
pub(crate) fn torn() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "a file of the build is damaged; check the disk",
    )
}

/// Bytes of which the length is known, most of them written one behind the other and some anywhere. What nobody wrote is zeros.
pub(crate) struct Plane {
    file: Option<File>,
    bytes: u64,
    /// All bytes when there is no file, else those that follow one another and are not written yet.
    window: Vec<u8>,
    window_at: u64,
    /// Where the next bytes go that follow the ones before.
    next_at: u64,
}

impl Plane {
    /// What follows begins at `next_at`.
    pub(crate) fn new(scratch: &Scratch, bytes: u64, next_at: u64) -> io::Result<Self> {
        let length = usize::try_from(bytes).map_err(io::Error::other)?;
        let file = if scratch.is_full(length) { scratch.file()? } else { None };
        let (window, window_at) = match &file {
            Some(file) => {
                file.set_len(bytes)?;
                (Vec::new(), next_at)
            }
            None => (vec![0; length], 0),
        };
        Ok(Self {
            file,
            bytes,
            window,
            window_at,
            next_at,
        })
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Where the next bytes go that follow the ones before.
    pub(crate) fn next_at(&self) -> u64 {
        self.next_at
    }

    /// Writes behind what was written so before. Costs a system call now and then.
    pub(crate) fn follow(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.file.is_none() {
            self.write_at(self.next_at, bytes)?;
        } else {
            self.window.extend_from_slice(bytes);
            if self.window.len() >= SCRATCH_PIECE_BYTES {
                self.flush()?;
            }
        }
        self.next_at += bytes.len() as u64;
        Ok(())
    }

    /// Writes anywhere but where bytes will follow.
    pub(crate) fn write_at(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let (end, window_end) = (at + bytes.len() as u64, self.window_at + self.window.len() as u64);
        if at >= self.window_at && end <= window_end {
            let start = (at - self.window_at) as usize;
            self.window[start..start + bytes.len()].copy_from_slice(bytes);
            return Ok(());
        }
        if at < window_end && end > self.window_at {
            // The window would be written over it.
            self.flush()?;
        }
        match &self.file {
            Some(file) => file.write_all_at(bytes, at),
            None => Err(io::Error::other(
                "the build writes outside of its image, which is a fault of this program",
            )),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        if let Some(file) = &self.file {
            file.write_all_at(&self.window, self.window_at)?;
            self.window_at += self.window.len() as u64;
            self.window.clear();
        }
        Ok(())
    }

    /// All bytes, a piece at a time.
    pub(crate) fn read(&mut self, mut visit: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        self.flush()?;
        let Some(file) = &self.file else {
            return visit(&self.window);
        };
        let mut piece = vec![0; SCRATCH_PIECE_BYTES];
        for at in (0..self.bytes).step_by(SCRATCH_PIECE_BYTES) {
            let length = usize::try_from(self.bytes - at).unwrap_or(usize::MAX).min(piece.len());
            file.read_exact_at(&mut piece[..length], at)?;
            visit(&piece[..length])?;
        }
        Ok(())
    }

    /// The first bytes, as many as `piece` has.
    pub(crate) fn head(&mut self, piece: &mut [u8]) -> io::Result<()> {
        self.flush()?;
        match &self.file {
            Some(file) => file.read_exact_at(piece, 0),
            None => {
                let head = self.window.get(..piece.len()).ok_or_else(torn)?;
                piece.copy_from_slice(head);
                Ok(())
            }
        }
    }

    /// All of it in memory.
    pub(crate) fn into_bytes(mut self) -> io::Result<Vec<u8>> {
        if self.file.is_none() {
            return Ok(self.window);
        }
        let mut all = Vec::new();
        self.read(|piece| {
            all.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scratches() -> (tempfile::TempDir, [Scratch; 3]) {
        let folder = tempfile::tempdir().unwrap();
        let all = [
            Scratch::memory(),
            Scratch::folder_beyond(folder.path(), 1),
            Scratch::folder_beyond(folder.path(), 3000),
        ];
        (folder, all)
    }

    proptest! {
        #[test]
        fn a_log_reads_what_was_appended_wherever_it_lies(records in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..60)) {
            let (folder, scratches) = scratches();
            for scratch in scratches {
                let mut log = Log::new(&scratch);
                for record in &records {
                    log.append(record).unwrap();
                }
                for _ in 0..2 {
                    let mut read = log.records();
                    for record in &records {
                        prop_assert_eq!(read.next().unwrap(), Some(record.as_slice()));
                    }
                    prop_assert_eq!(read.next().unwrap(), None);
                    prop_assert_eq!(read.next().unwrap(), None);
                }
            }
            prop_assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        }

        #[test]
        fn a_plane_holds_what_was_written_last_anywhere(writes in prop::collection::vec((0usize..200_000, 1usize..9000, any::<u8>(), any::<bool>()), 0..60)) {
            let (_folder, scratches) = scratches();
            for scratch in scratches {
                let mut expected = vec![0; 1 << 20];
                let mut plane = Plane::new(&scratch, expected.len() as u64, 1000).unwrap();
                let mut next = 1000;
                for (at, length, byte, follows) in &writes {
                    let bytes = vec![*byte; *length];
                    // Before what follows, or far behind it.
                    let at = if *follows { next } else if at + length <= next { *at } else { (1 << 19) + at };
                    expected[at..at + length].copy_from_slice(&bytes);
                    if *follows {
                        prop_assert_eq!(plane.next_at(), at as u64);
                        plane.follow(&bytes).unwrap();
                        next += length;
                    } else {
                        plane.write_at(at as u64, &bytes).unwrap();
                    }
                }
                let mut head = [0; 100];
                plane.head(&mut head).unwrap();
                prop_assert_eq!(&head[..], &expected[..100]);
                prop_assert!(plane.into_bytes().unwrap() == expected);
            }
        }
    }
}
