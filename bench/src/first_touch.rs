//! The first touch of blocks that are cached on this node: the kernel has nothing, our store has everything in its files
//! and those in the page cache. A bare FUSE loop beside it: the same kernel path, but the bytes come from one plain file.

use anyhow::Result;

use crate::data::{BIG, Data};
use crate::figure::{Figure, Goal, Reference};
use crate::load;
use crate::rounds::Rounds;
use crate::shown::Shown;

/// Different places that one round of random reads touches, for each reader.
pub const RANDOM_READS: usize = 4000;

/// Names of the figures, and the goals that differ between a block on this node and one on another.
pub struct Names {
    /// Sequential, 1 stream.
    pub sequential: (&'static str, Vec<Goal>),
    /// Small files, 1 and 4 readers.
    pub small: [(&'static str, Vec<Goal>); 2],
    /// Random 4 KiB at depth 1 and 8.
    pub random: [(&'static str, Vec<Goal>); 2],
}

/// The figures of blocks on this node.
///
/// # Errors
/// When a read fails.
pub fn figures(ours: &Shown, bare: &Shown, data: &Data, rounds: &Rounds<'_>) -> Result<Vec<Figure>> {
    let near = Goal::RatioAtLeast(0.8);
    let names = Names {
        sequential: ("first-touch-sequential", vec![Goal::AtLeast(2.0), near]),
        small: [
            ("first-touch-small-files", vec![near]),
            ("first-touch-small-files-4-readers", vec![near]),
        ],
        random: [
            ("first-touch-random-4k", vec![Goal::AtMost(60.0)]),
            ("first-touch-random-4k-depth-8", vec![]),
        ],
    };
    let reference = Reference {
        name: "bare FUSE loop",
        value: 0.0,
    };
    compare(ours, bare, &reference, data, rounds, names)
}

/// The loads on two mounts of the same tree, forgotten before each.
///
/// # Errors
/// When a read fails.
pub fn compare(
    ours: &Shown,
    theirs: &Shown,
    reference: &Reference,
    data: &Data,
    rounds: &Rounds<'_>,
    names: Names,
) -> Result<Vec<Figure>> {
    let Names {
        sequential,
        small,
        random,
    } = names;
    let mut figures = Vec::new();
    let mut figure = |(name, goals): (&'static str, Vec<Goal>), unit, (value, theirs)| {
        figures.push(Figure {
            name,
            value,
            unit,
            reference: Some(Reference {
                value: theirs,
                ..reference.clone()
            }),
            goals,
        });
    };
    let read = |shown: &Shown| {
        shown.forget()?;
        Ok(load::sequential(&shown.root().join(BIG))?.gib_per_second())
    };
    figure(
        sequential,
        "GiB/s",
        rounds.run(rounds.short, |_| read(ours), |_| read(theirs))?,
    );
    for (names, readers) in small.into_iter().zip([1, 4]) {
        let epoch = |shown: &Shown, round| {
            shown.forget()?;
            Ok(load::epoch(&data.small_below(shown.root()), round, readers)?.per_second())
        };
        let medians = rounds.run(rounds.short, |round| epoch(ours, round), |round| epoch(theirs, round))?;
        figure(names, "files/s", medians);
    }
    for (names, readers) in random.into_iter().zip([1, 8]) {
        let touch = |shown: &Shown, round| {
            shown.forget()?;
            let took = load::random_blocks(&shown.root().join(BIG), round, RANDOM_READS, readers)?;
            Ok(took.micros_each() * readers as f64)
        };
        let medians = rounds.run(rounds.short, |round| touch(ours, round), |round| touch(theirs, round))?;
        figure(names, "us", medians);
    }
    Ok(figures)
}
