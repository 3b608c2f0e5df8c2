//! Load on a file system, as a reader makes it: sequential, random, a shuffled epoch of small files, and the calls that
//! read no bytes. Knows paths only: it must not know what is mounted there.
//!
//! Buffers are page-aligned and touched before the clock starts: a read into an unaligned buffer runs several times
//! slower on CPUs with fast short `rep movsb`, and would measure that.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use penstock_buffer::{Buffer, BufferPool};

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
pub fn buffer(bytes: usize) -> Buffer {
    let mut buffer = BufferPool::new(bytes, 0).take();
    buffer.fill(1);
    buffer
}

/// Reads a file once from its first byte to its last, 1 MiB a call.
///
/// # Errors
/// When a read fails or the file is empty.
pub fn sequential(file: &Path) -> Result<Took> {
    sequential_parts(file, 1)
}

/// As [`sequential`], in so many parts of the same length at the same time, each by a reader with a descriptor of its own.
///
/// # Errors
/// When a read fails or the file is too short.
pub fn sequential_parts(file: &Path, parts: usize) -> Result<Took> {
    let length = fs::metadata(file)?.len();
    let part = (length / parts as u64).next_multiple_of(READ_BYTES as u64);
    ensure!(part * (parts as u64 - 1) < length, "{} is too short", file.display());
    let readers = (0..parts as u64).map(|number| (number * part, buffer(READ_BYTES)));
    let (time, bytes) = together(readers.collect(), |(start, mut buffer)| {
        let opened = File::open(file).with_context(|| format!("open {}", file.display()))?;
        let (mut at, end) = (start, (start + part).min(length));
        while at < end {
            let got = opened.read_at(&mut buffer, at)?;
            ensure!(got > 0, "{} became shorter", file.display());
            at += got as u64;
        }
        Ok(at - start)
    })?;
    Ok(Took {
        time,
        count: parts as u64,
        bytes: bytes.into_iter().sum(),
    })
}

/// Opens, reads and closes every file once, in an order shuffled by `seed`, by `threads` readers who each take the next.
///
/// # Errors
/// When a file cannot be opened or read.
pub fn epoch(files: &[PathBuf], seed: u64, threads: usize) -> Result<Took> {
    let mut order: Vec<&PathBuf> = files.iter().collect();
    Random(seed).shuffle(&mut order);
    let next = AtomicUsize::new(0);
    let read = |buffer: &mut Buffer| {
        let mut bytes = 0;
        while let Some(file) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
            bytes += read_file(file, buffer)?;
        }
        Ok(bytes)
    };
    let buffers = (0..threads).map(|_| buffer(READ_BYTES)).collect();
    let (time, bytes) = together(buffers, |mut buffer| read(&mut buffer))?;
    Ok(Took {
        time,
        count: files.len() as u64,
        bytes: bytes.into_iter().sum(),
    })
}

/// `stat` of every file, in order.
///
/// # Errors
/// When one fails.
pub fn stat(files: &[PathBuf]) -> Result<Took> {
    each(files, |file| fs::symlink_metadata(file).map(|_| ()))
}

/// `open` and `close` of every file, in order.
///
/// # Errors
/// When one fails.
pub fn open_close(files: &[PathBuf]) -> Result<Took> {
    each(files, |file| File::open(file).map(|_| ()))
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
    let opened = File::open(file)?;
    // Read-ahead would fetch what nobody asked for: a random reader says so, as databases do.
    rustix::fs::fadvise(&opened, 0, None, rustix::fs::Advice::Random)?;
    let blocks = opened.metadata()?.len() / PAGE_BYTES as u64;
    ensure!(blocks as usize >= count, "{} has only {blocks} blocks", file.display());
    let mut places: Vec<u64> = (0..blocks).collect();
    Random(seed).shuffle(&mut places);
    places.truncate(count);
    let parts = places
        .chunks(count.div_ceil(threads))
        .map(|part| (part, buffer(PAGE_BYTES)));
    let (time, _) = together(parts.collect(), |(part, mut buffer)| {
        for block in part {
            opened.read_exact_at(&mut buffer, block * PAGE_BYTES as u64)?;
        }
        Ok(())
    })?;
    Ok(Took {
        time,
        count: count as u64,
        bytes: (count * PAGE_BYTES) as u64,
    })
}

/// Runs `work` on a thread for each of `items`, all at the same time, and says how long the last one took.
///
/// # Errors
/// The first one's.
pub fn together<I: Send, T: Send>(items: Vec<I>, work: impl Fn(I) -> Result<T> + Sync) -> Result<(Duration, Vec<T>)> {
    let gate = Barrier::new(items.len() + 1);
    thread::scope(|scope| {
        let threads: Vec<_> = items
            .into_iter()
            .map(|item| {
                let (gate, work) = (&gate, &work);
                scope.spawn(move || {
                    gate.wait();
                    work(item)
                })
            })
            .collect();
        // Before the gate opens: behind it this thread may be the last that gets to run.
        let started = Instant::now();
        gate.wait();
        let done = threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow::anyhow!("a reader panicked"))?)
            .collect::<Result<Vec<T>>>()?;
        Ok((started.elapsed(), done))
    })
}

fn each(files: &[PathBuf], mut call: impl FnMut(&Path) -> std::io::Result<()>) -> Result<Took> {
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
            .read_at(buffer, bytes)
            .with_context(|| format!("read {}", file.display()))?;
        bytes += got as u64;
        if got < READ_BYTES {
            return Ok(bytes);
        }
    }
}
