//! The data of the bench, below one folder: a big file, a tree of small files and one wide folder. The same bytes every
//! time.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::random::Random;

/// How much data.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Length of the big file.
    pub big_bytes: u64,
    /// Files of 60 to 160 KB (110 KB in the mean), 200 a folder.
    pub small_files: usize,
    /// Entries of the wide folder, 10 bytes each.
    pub wide_entries: usize,
}

/// Where the data lies, relative to the folder that holds it: the same below a mount of it.
pub struct Data {
    /// The folder that was written.
    pub folder: PathBuf,
    small: Vec<String>,
}

/// Path of the big file.
pub const BIG: &str = "big.bin";
/// Path of the wide folder.
pub const WIDE: &str = "wide";

const SMALL_PER_FOLDER: usize = 200;

impl Data {
    /// Writes the data below `folder`.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn write(folder: &Path, sizes: Sizes) -> Result<Self> {
        let mut random = Random(1);
        fs::create_dir_all(folder)?;
        let mut big = File::create(folder.join(BIG))?;
        let mut chunk = vec![0; 1 << 20];
        for _ in 0..sizes.big_bytes.div_ceil(1 << 20) {
            random.fill(&mut chunk);
            big.write_all(&chunk)?;
        }
        let mut small = Vec::with_capacity(sizes.small_files);
        for i in 0..sizes.small_files {
            let path = format!("small/d{:04}/f{i:06}.bin", i / SMALL_PER_FOLDER);
            let bytes = 60_000 + (random.next() % 100_001) as usize;
            random.fill(&mut chunk[..bytes]);
            write(&folder.join(&path), &chunk[..bytes])?;
            small.push(path);
        }
        for i in 0..sizes.wide_entries {
            write(&folder.join(WIDE).join(format!("entry-{i:06}")), b"0123456789")?;
        }
        Ok(Self {
            folder: folder.to_owned(),
            small,
        })
    }

    /// The small files as they are found below `root`.
    pub fn small_below(&self, root: &Path) -> Vec<PathBuf> {
        self.small.iter().map(|path| root.join(path)).collect()
    }

    /// Paths of the small files, relative to the folder.
    pub fn small(&self) -> &[String] {
        &self.small
    }
}

fn write(file: &Path, bytes: &[u8]) -> Result<()> {
    let folder = file.parent().context("a file has a folder")?;
    fs::create_dir_all(folder)?;
    fs::write(file, bytes).with_context(|| format!("write {}", file.display()))
}
