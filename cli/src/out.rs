//! Standard output: a full disk behind it is an error, a reader that has seen enough (`| head`) is none.

use std::io::{self, Write};

use anyhow::{Context, Result};

/// Writes `text` and makes sure that it is out.
///
/// # Errors
/// When it cannot be written.
pub fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .context("write to standard output")
}

/// Whether an error only says that whoever reads our output has ended.
pub fn is_reader_gone(error: &anyhow::Error) -> bool {
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    causes.any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}
