//! The first touch of blocks that are cached on this node: the kernel has nothing, our store has everything in its files
//! and those in the page cache. A bare FUSE loop beside it: the same kernel path, but the bytes come from one plain file.

use anyhow::Result;

use crate::data::{BIG, Data};
use crate::figure::{Figure, Goal, Reference};
use crate::load;
use crate::rounds::Rounds;
use crate::shown::Shown;

/// Different places that one round of random reads touches, at depth 1 and with many jobs.
pub const RANDOM_READS: usize = 4000;
const RANDOM_READS_OF_JOBS: usize = 32_000;
const JOBS: usize = 16;

/// The figures of two mounts of the same tree, forgotten before each round; their names begin with `group`.
///
/// # Errors
/// When a read fails.
pub fn figures(group: &str, ours: &Shown, bare: &Shown, data: &Data, rounds: &Rounds<'_>) -> Result<Vec<Figure>> {
    let near = Goal::RatioAtLeast(0.9);
    let mut figures = Vec::new();
    let mut figure = |name: String, unit, goals, (value, bare)| {
        figures.push(Figure {
            name,
            value,
            unit,
            reference: Some(Reference {
                name: "bare FUSE loop",
                value: bare,
            }),
            goals,
        });
    };
    let big = |shown: &Shown| {
        shown.forget()?;
        Ok::<_, anyhow::Error>(shown.root().join(BIG))
    };
    for (name, streams, goals) in [
        ("sequential", 1, vec![Goal::AtLeast(2.5), near]),
        ("sequential-4-streams", 4, vec![near]),
    ] {
        let read = |shown: &Shown| Ok(load::sequential_parts(&big(shown)?, streams)?.gib_per_second());
        let medians = rounds.run(rounds.short, |_| read(ours), |_| read(bare))?;
        figure(format!("{group}-{name}"), "GiB/s", goals, medians);
    }
    // 120 and 75 us a file.
    for (name, readers, least) in [("small-files", 1, 8_333.0), ("small-files-4-readers", 4, 13_333.0)] {
        let epoch = |shown: &Shown, round| {
            shown.forget()?;
            Ok(load::epoch(&data.small_below(shown.root()), round, readers)?.per_second())
        };
        let medians = rounds.run(rounds.short, |round| epoch(ours, round), |round| epoch(bare, round))?;
        let goals = vec![Goal::AtLeast(least), near];
        figure(format!("{group}-{name}"), "files/s", goals, medians);
    }
    let touch = |shown: &Shown, round, reads| {
        let took = load::random_blocks(&big(shown)?, round, reads, 1)?;
        Ok(took.micros_each())
    };
    let medians = rounds.run(
        rounds.short,
        |round| touch(ours, round, RANDOM_READS),
        |round| touch(bare, round, RANDOM_READS),
    )?;
    figure(format!("{group}-random-4k"), "us", vec![Goal::AtMost(40.0)], medians);
    let jobs = |shown: &Shown, round| {
        let took = load::random_blocks(&big(shown)?, round, RANDOM_READS_OF_JOBS, JOBS)?;
        Ok(took.per_second())
    };
    let medians = rounds.run(rounds.short, |round| jobs(ours, round), |round| jobs(bare, round))?;
    let goals = vec![Goal::AtLeast(60_000.0)];
    figure(format!("{group}-random-4k-16-jobs"), "reads/s", goals, medians);
    Ok(figures)
}
