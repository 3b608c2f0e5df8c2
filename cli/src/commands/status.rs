//! `penstock status`.

use std::path::Path;

use anyhow::{Context, Result, bail};
use penstock_mount::{erofs, fuse, table};

use crate::args::{self, Output};
use crate::cache_folder::status_socket_of;
use crate::served::source_of;
use crate::status::{self, Status};
use crate::{out, text};

/// Prints the state of the mount at a folder.
///
/// # Errors
/// When nothing of ours is mounted there, or nobody serves it.
pub fn run(arguments: args::Status) -> Result<()> {
    let args::Status { target, output } = arguments;
    let shown = target.display();
    let target = std::path::absolute(&target)?;
    // Not by asking the file system, which may have nobody who serves it.
    let target = target.canonicalize().unwrap_or(target);
    let mount = table::read()?
        .into_iter()
        .rev()
        .find(|mount| mount.target == target && [erofs::TYPE, fuse::TYPE].contains(&mount.file_system.as_str()));
    let image = mount.as_ref().map(source_of);
    let Some(folder) = image.as_deref().and_then(Path::parent) else {
        bail!("no dataset is mounted on {shown}: mount one with `penstock mount DATASET.yaml {shown}`");
    };
    let status = status::ask(&status_socket_of(folder)).with_context(|| {
        format!(
            "the process that served {shown} does not answer: if it is gone, `umount {shown}` and mount again, the cache \
             is kept"
        )
    })?;
    match output {
        Output::Json => out::print(&format!("{}\n", serde_json::to_string(&status)?)),
        Output::Text => out::print(&text_of(&status)),
    }
}

fn text_of(status: &Status) -> String {
    let Status {
        dataset,
        mount,
        revision,
        pid,
        cache_folder,
        files,
        directories,
        bytes,
        cached,
        origin,
        awkward_keys,
        faults,
    } = status;
    let share = if *bytes == 0 {
        100.0
    } else {
        (cached.bytes as f64 / *bytes as f64 * 100.0).min(100.0)
    };
    let mut lines = vec![
        ("dataset", format!("{dataset}, revision {:.12}", revision)),
        ("mounted on", format!("{} by process {pid}", mount.display())),
        (
            "files",
            format!(
                "{} in {} folders, {}",
                text::count(*files),
                text::count(*directories),
                text::bytes(*bytes)
            ),
        ),
        (
            "cached",
            format!(
                "{} ({share:.0} %) in {}, which keeps up to {}",
                text::bytes(cached.bytes),
                cache_folder.display(),
                text::bytes(cached.capacity_bytes)
            ),
        ),
        (
            "origin",
            format!(
                "{} in {} requests since it was mounted",
                text::bytes(origin.bytes),
                text::count(origin.requests)
            ),
        ),
        (
            "reads",
            format!(
                "{} from the cache, {} waited for the origin (what the kernel has cached is not counted)",
                text::bytes(cached.hit_bytes),
                text::bytes(cached.miss_bytes)
            ),
        ),
    ];
    if *awkward_keys > 0 {
        let keys = text::count(*awkward_keys);
        lines.push((
            "awkward",
            format!("{keys} keys were given other names: see `penstock ls`"),
        ));
    }
    lines.extend(faults.iter().map(|fault| ("fault", fault.clone())));
    lines
        .iter()
        .map(|(name, value)| format!("{name:>12}  {value}\n"))
        .collect()
}
