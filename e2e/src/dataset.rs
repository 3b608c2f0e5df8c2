//! Sample data on the local disk, deterministic by a seed, with the checksum of each file.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Path of a file (relative to the dataset, `./` in front as `find` prints it) and its SHA-256 in hexadecimal.
pub type Sums = BTreeMap<String, String>;

/// `bytes` bytes that depend on `seed` alone and cannot be compressed.
pub fn content(seed: u64, bytes: usize) -> Vec<u8> {
    let mut out: Vec<u8> = (0..bytes.div_ceil(8) as u64)
        .flat_map(|i| xxh3_64_with_seed(&i.to_le_bytes(), seed).to_le_bytes())
        .collect();
    out.truncate(bytes);
    out
}

/// Writes `files` small files (10 B to 300 KB) in nested folders, names that people really have, and one file of
/// `big_bytes`, below `folder`.
///
/// # Errors
/// When the disk refuses.
pub fn write(folder: &Path, files: usize, big_bytes: usize) -> Result<()> {
    for i in 0..files {
        let bytes = 10 + (xxh3_64_with_seed(&[], i as u64) % if i % 10 == 0 { 300_000 } else { 20_000 }) as usize;
        put(
            folder,
            &format!("train/class-{:03}/part-{}/img_{i:06}.jpg", i % 20, i % 3),
            &content(i as u64, bytes),
        )?;
    }
    let long = "n".repeat(250);
    for (i, name) in [
        "with space.txt",
        "quote's \"and\" more.txt",
        "größe-数据-🎉.bin",
        "a+b&c=d%20e.txt",
        "-dash",
        "empty",
        &long,
    ]
    .iter()
    .enumerate()
    {
        let bytes = if *name == "empty" { 0 } else { 1000 + i };
        put(
            folder,
            &format!("odd names/{name}"),
            &content(1_000_000 + i as u64, bytes),
        )?;
    }
    put(folder, "big.bin", &content(77, big_bytes))
}

/// Writes one file with its folders.
///
/// # Errors
/// When the disk refuses.
pub fn put(folder: &Path, path: &str, bytes: &[u8]) -> Result<()> {
    let file = folder.join(path);
    fs::create_dir_all(file.parent().context("a file has a folder")?)?;
    fs::write(&file, bytes).with_context(|| format!("write {}", file.display()))
}

/// The checksums of every file below `folder`.
///
/// # Errors
/// When one cannot be read.
pub fn sums(folder: &Path) -> Result<Sums> {
    let mut sums = Sums::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        for entry in fs::read_dir(&at)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let relative = path.strip_prefix(folder)?.to_str().context("names are UTF-8")?;
                sums.insert(format!("./{relative}"), hex(&Sha256::digest(fs::read(&path)?)));
            }
        }
    }
    Ok(sums)
}

/// The checksums that `sha256sum` printed, one `sum  ./path` a line.
pub fn parse_sums(text: &str) -> Sums {
    text.lines()
        .filter_map(|line| line.split_once("  "))
        .map(|(sum, path)| (path.to_owned(), sum.to_owned()))
        .collect()
}

/// The shell line that prints the checksums of everything below `/data`.
pub const SUM_LINE: &str = "cd /data && find . -type f -print0 | xargs -0 -n 500 sha256sum";

/// Total length of the files below `folder`.
///
/// # Errors
/// When one cannot be looked at.
pub fn total_bytes(folder: &Path) -> Result<u64> {
    let mut total = 0;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        total += if path.is_dir() {
            total_bytes(&path)?
        } else {
            fs::metadata(&path)?.len()
        };
    }
    Ok(total)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
