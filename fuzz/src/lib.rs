//! Everything that reads bytes of others, to be tried with any bytes: by the program beside this, which looks for ways that no input
//! went before, and in `cargo test` with the inputs that were kept of earlier faults (`kept/`).
//!
//! A target holds what must be true of whatever it reads: no panic, bounded time and memory, and that which its reader promises. Where
//! bytes begin with a checksum or a digest, the target writes it, so that the inputs come behind it.
//!
//! It must not know how inputs are found.

mod numbers;
mod targets;

use std::fs;
use std::io;
use std::path::Path;

pub use targets::TARGETS;

/// Something that reads bytes of others.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name, for people and folders.
    pub name: &'static str,
    /// Longest input that is tried.
    pub bytes_max: usize,
    /// Memory in bytes that reading an input may take.
    pub memory_max: usize,
    /// Begins.
    pub begin: fn() -> Trying,
}

/// Reads an input, whatever it is.
pub type Read = Box<dyn FnMut(&[u8])>;

/// A target that has begun.
pub struct Trying {
    /// Inputs to begin with: what our own writers write.
    pub samples: Vec<Vec<u8>>,
    /// Panics at what must not be.
    pub read: Read,
}

/// The inputs that were kept of earlier faults of a target.
///
/// # Errors
/// When they cannot be read.
pub fn kept(target: &str) -> io::Result<Vec<Vec<u8>>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kept").join(target);
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut paths: Vec<_> = fs::read_dir(folder)?
        .map(|file| file.map(|file| file.path()))
        .collect::<Result<_, _>>()?;
    paths.sort_unstable();
    paths.into_iter().map(fs::read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_a_fault_once_and_what_our_writers_write_is_read_as_it_should() {
        for target in TARGETS {
            let Trying { samples, mut read } = (target.begin)();
            for input in [samples, kept(target.name).unwrap(), vec![vec![]]].concat() {
                read(&input);
            }
        }
    }
}
