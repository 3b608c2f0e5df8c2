//! Load on a file system, as a reader makes it: sequential, random, a shuffled epoch of small files, and the calls that
//! read no bytes. Knows paths only: it must not know what is mounted there.
//!
//! Buffers are page-aligned and touched before the clock starts: a read into an unaligned buffer runs several times
//! slower on CPUs with fast short `rep movsb`, and would measure that.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::random::Random;

const PAGE_BYTES: usize = 4096;
const READ_BYTES: usize = 1 << 20;

/// How long a load took and what it moved.
#[derive(Clone, Copy, Debug)]
pub struct Took {
    /// Wall-clock time from the first call to the end of the last.
    pub time: Duration,
    /// Calls, files or entries, as the load counts.
    pub count: u64,
    /// Bytes read.
    pub bytes: u64,
}

impl Took {
    /// GiB a second.
    pub fn gib_per_second(&self) -> f64 {
        self.bytes as f64 / self.time.as_secs_f64() / (1u64 << 30) as f64
    }

    /// Things a second.
    pub fn per_second(&self) -> f64 {
        self.count as f64 / self.time.as_secs_f64()
    }

    /// Microseconds a thing.
    pub fn micros_each(&self) -> f64 {
        self.time.as_secs_f64() * 1e6 / self.count as f64
    }
}

/// A page-aligned buffer whose pages exist.
pub struct Buffer {
    storage: Vec<u8>,
    start: usize,
    bytes: usize,
}

impl Buffer {
    /// `bytes` bytes, aligned to a page.
    pub fn new(bytes: usize) -> Self {
        let storage = vec![1; bytes + PAGE_BYTES];
        let start = storage.as_ptr().align_offset(PAGE_BYTES);
        Self { storage, start, bytes }
    }

    /// The bytes.
    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.storage[self.start..self.start + self.bytes]
    }
}

/// Reads a file once from its first byte to its last, 1 MiB a call.
///
/// # Errors
/// When a read fails or the file is empty.
pub fn sequential(file: &Path) -> Result<Took> {
    let mut buffer = Buffer::new(READ_BYTES);
    let started = Instant::now();
    let opened = File::open(file).with_context(|| format!("open {}", file.display()))?;
    let mut bytes = 0;
    loop {
        let got = opened.read_at(buffer.bytes(), bytes)?;
        if got == 0 {
            break;
        }
        bytes += got as u64;
    }
    ensure!(bytes > 0, "{} is empty", file.display());
    Ok(Took {
        time: started.elapsed(),
        count: 1,
        bytes,
    })
}

/// Opens, reads and closes every file once, in an order shuffled by `seed`, split over `threads` readers.
///
/// # Errors
/// When a file cannot be opened or read.
pub fn epoch(files: &[PathBuf], seed: u64, threads: usize) -> Result<Took> {
    let mut order: Vec<&PathBuf> = files.iter().collect();
    Random(seed).shuffle(&mut order);
    let gate = Barrier::new(threads + 1);
    let parts: Vec<_> = order.chunks(order.len().div_ceil(threads).max(1)).collect();
    thread::scope(|scope| {
        let readers: Vec<_> = (0..threads)
            .map(|reader| {
                let (part, gate) = (parts.get(reader).copied().unwrap_or_default(), &gate);
                scope.spawn(move || {
                    let mut buffer = Buffer::new(READ_BYTES);
                    gate.wait();
                    part.iter().try_fold(0, |bytes, file| Ok(bytes + read_file(file, &mut buffer)?))
                })
            })
            .collect();
        gate.wait();
        let started = Instant::now();
        let bytes = readers.into_iter().try_fold(0, |bytes, reader| match reader.join() {
            Ok(read) => read.map(|read: u64| bytes + read),
            Err(_) => anyhow::bail!("a reader panicked"),
        })?;
        Ok(Took {
            time: started.elapsed(),
            count: files.len() as u64,
            bytes,
        })
    })
}

/// `stat` of every file, in order.
///
/// # Errors
/// When one fails.
pub fn stat(files: &[PathBuf]) -> Result<Took> {
    each(files, |file| Ok(drop(fs::symlink_metadata(file)?)))
}

/// `open` and `close` of every file, in order.
///
/// # Errors
/// When one fails.
pub fn open_close(files: &[PathBuf]) -> Result<Took> {
    each(files, |file| Ok(drop(File::open(file)?)))
}

/// Lists one folder.
///
/// # Errors
/// When it cannot be listed.
pub fn readdir(folder: &Path) -> Result<Took> {
    let started = Instant::now();
    let mut count = 0;
    for entry in fs::read_dir(folder)? {
        entry?;
        count += 1;
    }
    Ok(Took {
        time: started.elapsed(),
        count,
        bytes: 0,
    })
}

/// Aligned reads of 4 KiB at `count` different places of a file, split over `threads` readers. No place is read twice in
/// one call, so that each read is a first touch when the file was cold.
///
/// # Errors
/// When a read fails or comes short.
pub fn random_blocks(file: &Path, seed: u64, count: usize, threads: usize) -> Result<Took> {
    // Read-ahead would fetch what nobody asked for: a random reader says so, and databases do.
    let opened = OpenOptions::new().read(true).custom_flags(0).open(file)?;
    rustix::fs::fadvise(&opened, 0, None, rustix::fs::Advice::Random)?;
    let blocks = opened.metadata()?.len() / PAGE_BYTES as u64;
    ensure!(blocks as usize >= count, "{} has only {blocks} blocks", file.display());
    let mut places: Vec<u64> = (0..blocks).collect();
    Random(seed).shuffle(&mut places);
    places.truncate(count);
    let gate = Barrier::new(threads + 1);
    thread::scope(|scope| {
        let readers: Vec<_> = places
            .chunks(count.div_ceil(threads))
            .map(|part| {
                let (opened, gate) = (&opened, &gate);
                scope.spawn(move || -> Result<()> {
                    let mut buffer = Buffer::new(PAGE_BYTES);
                    gate.wait();
                    for block in part {
                        opened.read_exact_at(buffer.bytes(), block * PAGE_BYTES as u64)?;
                    }
                    Ok(())
                })
            })
            .collect();
        ensure!(readers.len() == threads, "fewer places than readers");
        gate.wait();
        let started = Instant::now();
        for reader in readers {
            reader.join().map_err(|_| anyhow::anyhow!("a reader panicked"))??;
        }
        Ok(Took {
            time: started.elapsed(),
            count: count as u64,
            bytes: (count * PAGE_BYTES) as u64,
        })
    })
}

fn each(files: &[PathBuf], mut call: impl FnMut(&Path) -> Result<()>) -> Result<Took> {
    let started = Instant::now();
    for file in files {
        call(file).with_context(|| file.display().to_string())?;
    }
    Ok(Took {
        time: started.elapsed(),
        count: files.len() as u64,
        bytes: 0,
    })
}

fn read_file(file: &Path, buffer: &mut Buffer) -> Result<u64> {
    let opened = File::open(file).with_context(|| format!("open {}", file.display()))?;
    let mut bytes = 0;
    loop {
        let got = opened
            .read_at(buffer.bytes(), bytes)
            .with_context(|| format!("read {}", file.display()))?;
        bytes += got as u64;
        if got < READ_BYTES {
            return Ok(bytes);
        }
    }
}
