//! Memory that the kernel has and its hypervisor does not.
//!
//! A virtual machine gives free memory back to its host (free page reporting, `mm/page_reporting.c`), and the first touch of
//! such a page waits until the host has found and cleared another: ten times what copying it takes. Which load meets such pages
//! is chance, so before a round free memory is touched: then rounds differ by what they do.

use std::fs;
use std::hint::black_box;

use anyhow::{Context, Result};

const PAGE_BYTES: usize = 4096;

/// Makes about `bytes` of the free memory quick to touch for the next seconds; at most half of what is available.
///
/// # Errors
/// When the kernel does not say how much memory is available.
pub fn page_in(bytes: usize) -> Result<()> {
    let mut memory = vec![0u8; bytes.min(available()? / 2)];
    for page in memory.chunks_mut(PAGE_BYTES) {
        page[0] = 1;
    }
    black_box(memory);
    Ok(())
}

fn available() -> Result<usize> {
    let info = fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<usize>().ok());
    Ok(kibibytes.context("/proc/meminfo has no MemAvailable")? << 10)
}
