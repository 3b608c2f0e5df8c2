//! What the kernel answers by itself: everything read before, so no process of ours is on the way. ext4 beside it.

use std::path::Path;

use anyhow::Result;

use crate::data::{BIG, Data, WIDE};
use crate::figure::{Figure, Goal, Reference};
use crate::load;
use crate::rounds::Rounds;

/// The figures of `ours`, a mount of the data, beside `ext4`, the data itself. Their names begin with `prefix`.
///
/// # Errors
/// When a read fails.
pub fn figures(prefix: &str, ours: &Path, ext4: &Path, data: &Data, rounds: &Rounds<'_>) -> Result<Vec<Figure>> {
    let (our_files, their_files) = (data.small_below(ours), data.small_below(ext4));
    // Everything is read once before: that is what warm means.
    for (root, files) in [(ours, &our_files), (ext4, &their_files)] {
        load::sequential(&root.join(BIG))?;
        load::epoch(files, 0, 2)?;
        load::readdir(&root.join(WIDE))?;
    }
    let mut figures = Vec::new();
    let mut figure = |name: &str, unit, goal, (value, reference)| {
        figures.push(Figure {
            name: format!("{prefix}-{name}"),
            value,
            unit,
            reference: Some(Reference {
                name: "ext4",
                value: reference,
            }),
            goals: vec![goal],
        });
    };
    let read = |root: &Path| Ok(load::sequential(&root.join(BIG))?.gib_per_second());
    let medians = rounds.run(rounds.short, |_| read(ours), |_| read(ext4))?;
    figure("sequential", "GiB/s", Goal::RatioAtLeast(0.95), medians);
    for (name, readers) in [("small-files", 1), ("small-files-4-readers", 4)] {
        let medians = rounds.run(
            rounds.short,
            |round| Ok(load::epoch(&our_files, round + 1, readers)?.per_second()),
            |round| Ok(load::epoch(&their_files, round + 1, readers)?.per_second()),
        )?;
        figure(name, "files/s", Goal::RatioAtLeast(0.9), medians);
    }
    let medians = rounds.run(
        rounds.short,
        |_| Ok(load::stat(&our_files)?.micros_each()),
        |_| Ok(load::stat(&their_files)?.micros_each()),
    )?;
    figure("stat", "us", Goal::RatioAtMost(1.1), medians);
    let medians = rounds.run(
        rounds.short,
        |_| Ok(load::open_close(&our_files)?.micros_each()),
        |_| Ok(load::open_close(&their_files)?.micros_each()),
    )?;
    figure("open-close", "us", Goal::RatioAtMost(1.1), medians);
    let list = |root: &Path| Ok(load::readdir(&root.join(WIDE))?.micros_each());
    let medians = rounds.run(rounds.short * 3, |_| list(ours), |_| list(ext4))?;
    figure("readdir", "us/entry", Goal::RatioAtMost(1.1), medians);
    Ok(figures)
}
