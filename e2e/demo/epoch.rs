//! One epoch, as a data loader reads: every file once, in a shuffled order, by a few readers, each file's checksum
//! compared.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use penstock_e2e::stop::Stop;

const READERS: usize = 4;
const READ_BYTES: usize = 1 << 20;
const PAGE_BYTES: usize = 4096;

/// The checksum (XXH3, 128 bit) and size of every file, by its path relative to the dataset.
pub struct Sums(BTreeMap<PathBuf, (u128, u64)>);

/// How long it took.
#[derive(Clone, Copy)]
pub struct Epoch {
    /// From the first open to the last byte.
    pub time: Duration,
}

impl Sums {
    /// Of all files below `root`.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn below(root: &Path) -> Result<Self> {
        let mut sums = BTreeMap::new();
        let mut buffer = Buffer::new();
        for path in files(root)? {
            let sum = sum(&root.join(&path), buffer.bytes(), &mut |_| Ok(()))?;
            sums.insert(path, sum);
        }
        Ok(Self(sums))
    }

    /// How many files.
    pub fn files(&self) -> usize {
        self.0.len()
    }

    /// How many bytes in all.
    pub fn bytes(&self) -> u64 {
        self.0.values().map(|(_, bytes)| bytes).sum()
    }
}

/// Reads everything below `root` and compares it with `expected`: names, sizes and contents.
///
/// # Errors
/// When a file differs, is missing or should not be there.
pub fn read(label: &'static str, root: &Path, expected: &Sums, stop: &Stop) -> Result<Epoch> {
    let bar = ProgressBar::new(expected.bytes())
        .with_message(label)
        .with_style(ProgressStyle::with_template(
            "  {msg:<18} {bar:40} {binary_bytes:>11} of {binary_total_bytes}, {elapsed}",
        )?);
    let found = files(root)?;
    ensure!(
        found.iter().eq(expected.0.keys()),
        "{}: {} files instead of {}",
        root.display(),
        found.len(),
        expected.files()
    );
    // In the order of a hash of the name: shuffled, and the same for every epoch.
    let mut order: Vec<_> = expected.0.iter().collect();
    order.sort_by_key(|(path, _)| xxh3_64(path.as_os_str().as_encoded_bytes()));
    let next = AtomicUsize::new(0);
    let started = Instant::now();
    thread::scope(|scope| {
        let reader = || -> Result<()> {
            let mut buffer = Buffer::new();
            while let Some((path, expected)) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                let seen = sum(&root.join(path), buffer.bytes(), &mut |bytes| {
                    bar.inc(bytes);
                    stop.check()
                })?;
                ensure!(seen == **expected, "{} differs from the bucket", path.display());
            }
            Ok(())
        };
        let readers: Vec<_> = (0..READERS).map(|_| scope.spawn(reader)).collect();
        readers.into_iter().try_for_each(|reader| match reader.join() {
            Ok(outcome) => outcome,
            Err(_) => bail!("a reader panicked"),
        })
    })?;
    let time = started.elapsed();
    bar.finish();
    Ok(Epoch { time })
}

/// Page-aligned: reads into a buffer that is not run several times slower on some CPUs.
struct Buffer {
    storage: Vec<u8>,
    start: usize,
}

impl Buffer {
    fn new() -> Self {
        let storage = vec![1; READ_BYTES + PAGE_BYTES];
        let start = storage.as_ptr().align_offset(PAGE_BYTES);
        Self { storage, start }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.storage[self.start..self.start + READ_BYTES]
    }
}

fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let (mut files, mut folders) = (Vec::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                files.push(entry.path().strip_prefix(root)?.to_owned());
            }
        }
    }
    files.sort();
    Ok(files)
}

fn sum(file: &Path, buffer: &mut [u8], moved: &mut dyn FnMut(u64) -> Result<()>) -> Result<(u128, u64)> {
    let mut opened = File::open(file).with_context(|| format!("open {}", file.display()))?;
    let (mut hash, mut bytes) = (Xxh3::new(), 0);
    loop {
        let got = opened
            .read(buffer)
            .with_context(|| format!("read {}", file.display()))?;
        if got == 0 {
            return Ok((hash.digest128(), bytes));
        }
        hash.update(&buffer[..got]);
        bytes += got as u64;
        moved(got as u64)?;
    }
}
