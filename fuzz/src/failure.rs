//! What becomes of an input that failed: it is made shorter and kept.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use penstock_fuzz::Target;

/// Most tries to make an input shorter: some seconds.
const TRIES_MAX: usize = 300;

/// The input in a note; `None` when there was none yet.
pub fn noted(note: &Path) -> io::Result<Option<Vec<u8>>> {
    let bytes = fs::read(note)?;
    let input = bytes
        .split_first_chunk()
        .and_then(|(length, rest)| rest.get(..u32::from_le_bytes(*length) as usize));
    Ok(input.map(<[u8]>::to_vec))
}

/// The input without what it fails without.
pub fn shrunk(target: &Target, mut input: Vec<u8>) -> io::Result<Vec<u8>> {
    let folder = tempfile::tempdir()?;
    let (file, note) = (folder.path().join("input"), folder.path().join("note"));
    let mut tries = 0;
    let mut fails = |input: &[u8]| {
        tries += 1;
        fs::write(&file, input)?;
        let mut again = Command::new(std::env::current_exe()?);
        let again = again.args(["--repeat", target.name]).args([&file, &note]);
        let status = again.stdout(Stdio::null()).stderr(Stdio::null()).status()?;
        Ok::<_, io::Error>(!status.success() && tries < TRIES_MAX)
    };
    let mut run = input.len() / 2;
    while run > 0 {
        let mut at = 0;
        while at < input.len() {
            let mut shorter = input.clone();
            shorter.drain(at..(at + run).min(input.len()));
            if fails(&shorter)? {
                input = shorter;
            } else {
                at += run;
            }
        }
        run /= 2;
    }
    Ok(input)
}

/// Writes it; returns where.
pub fn write(folder: &Path, target: &Target, input: &[u8]) -> io::Result<PathBuf> {
    fs::create_dir_all(folder)?;
    let digest = blake3::hash(input).to_hex();
    let path = folder.join(format!("{}-{}", target.name, &digest[..12]));
    fs::write(&path, input)?;
    Ok(path)
}
