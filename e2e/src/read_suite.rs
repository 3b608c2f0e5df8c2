//! The suite of read-only semantics (`read_suite.py`): what it looks for, and how it is run.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::cluster::{repository, run};
use crate::dataset;

/// Writes what the suite looks for into the folder of a bucket: the sample data, a git repository, a file of tensors.
pub fn write(folder: &Path) -> Result<()> {
    dataset::write(folder, 60, 4 << 20)?;
    dataset::put(folder, "model.safetensors", &tensors()?)?;
    let at = folder.join("repository");
    fs::create_dir_all(&at)?;
    fs::write(at.join("file"), "content")?;
    for arguments in [
        &["init", "-q"][..],
        &["add", "."],
        &[
            "-c",
            "user.name=a",
            "-c",
            "user.email=a@example.com",
            "commit",
            "-q",
            "-m",
            "first",
        ],
        // A bucket has no empty folders, and what is packed has none.
        &["repack", "-q", "-a", "-d"],
    ] {
        run(Command::new("git").arg("-C").arg(&at).args(arguments))?;
    }
    // git wants the folder to be there, if empty; a bucket cannot say that.
    fs::write(at.join(".git/refs/tags/.keep"), "")?;
    Ok(())
}

/// The suite, to be run on a `tree` of this form that shows what is in `folder`.
pub fn command(form: &str, folder: &Path, tree: &Path) -> Command {
    let mut command = Command::new("python3");
    command
        .arg(repository().join("e2e/src/read_suite.py"))
        .arg(form)
        .arg(folder)
        .arg(tree);
    command
}

/// Two tensors of numbers that say where they stand, as <https://github.com/huggingface/safetensors> lays them out.
fn tensors() -> Result<Vec<u8>> {
    const COUNT: usize = 100_000;
    let header = serde_json::json!({
        "a": {"dtype": "F32", "shape": [COUNT], "data_offsets": [0, 4 * COUNT]},
        "b": {"dtype": "F32", "shape": [COUNT], "data_offsets": [4 * COUNT, 8 * COUNT]},
    });
    let header = serde_json::to_vec(&header)?;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(&header);
    for tensor in 0..2 {
        for at in 0..COUNT {
            bytes.extend_from_slice(&((tensor * 1000 + at) as f32).to_le_bytes());
        }
    }
    Ok(bytes)
}
