//! Which rule an address falls under. Pure but for the names of packages, which it walks through.

use std::ops::Range;

use penstock_protocol::geometry::round_up_to_block;
use penstock_revision::erofs::reader::Inode;
use penstock_revision::{Package, PackageError, Scratch};

use super::Rule;

/// Runs of addresses, sorted, each with the number of a rule. All others fall under the first, which is for everything.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Classes(Vec<Run>);

/// Addresses of one rule that the same revisions of the space have.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Run {
    addresses: Range<u64>,
    rule: u8,
    /// Numbers of the oldest and the newest of them. What one between does not have is not read in it.
    revisions: (u32, u32),
}

impl Classes {
    /// The same with the files of another revision by [complete](super::Rules::complete) rules, and the bytes of each rule in it. Its
    /// `number` is its place among those that are in here, of which newer ones have higher numbers. The names of many files are in
    /// `scratch` meanwhile.
    ///
    /// # Errors
    /// When the package is damaged, or the disk does not take its names.
    pub(crate) fn with(
        &self,
        rules: &[Rule],
        package: &Package,
        number: u32,
        scratch: &Scratch,
    ) -> Result<(Self, Vec<u64>), PackageError> {
        let mut bytes = vec![0; rules.len()];
        let mut files: Vec<Run> = Vec::new();
        let image = package.unpack(scratch)?;
        image.walk(|path, _, inode: &Inode| {
            let Some(address) = inode.address() else { return };
            let (rule, end) = (rule_of(rules, path), address + round_up_to_block(inode.bytes));
            bytes[rule] += end - address;
            let file = Run {
                addresses: address..end,
                rule: rule as u8,
                revisions: (number, number),
            };
            // Most files lie in the order of their names.
            push(&mut files, file);
        })?;
        drop(image);
        files.sort_unstable_by_key(|file| file.addresses.start);
        Ok((Self(laid_together(&self.0, &files)), bytes))
    }

    /// The same without what revisions alone have that are gone. `numbers` has the new number of each by its old one, or none, and they
    /// rise.
    pub(crate) fn of_those_left(&self, numbers: &[Option<u32>]) -> Self {
        let mut left = Vec::new();
        for run in &self.0 {
            let (oldest, newest) = run.revisions;
            let mut numbers = numbers[oldest as usize..=newest as usize].iter().flatten();
            let Some(oldest) = numbers.next() else { continue };
            let run = Run {
                revisions: (*oldest, *numbers.next_back().unwrap_or(oldest)),
                ..run.clone()
            };
            push(&mut left, run);
        }
        Self(left)
    }

    #[cfg(test)]
    pub(crate) fn of_runs(runs: Vec<(Range<u64>, u8)>) -> Self {
        let run = |(addresses, rule)| Run {
            addresses,
            rule,
            revisions: (0, 0),
        };
        Self(runs.into_iter().map(run).collect())
    }

    /// The number of the rule of an address.
    pub(crate) fn of_address(&self, address: u64) -> usize {
        let next = self.0.partition_point(|run| run.addresses.start <= address);
        let run = next.checked_sub(1).and_then(|at| self.0.get(at));
        run.filter(|run| run.addresses.contains(&address))
            .map_or(0, |run| usize::from(run.rule))
    }
}

/// Two lists of runs as one, each sorted.
fn laid_together(ones: &[Run], others: &[Run]) -> Vec<Run> {
    let (mut ones, mut others) = (ones.iter().peekable(), others.iter().peekable());
    let (mut all, mut at) = (Vec::new(), 0);
    loop {
        while ones.next_if(|run| run.addresses.end <= at).is_some() {}
        while others.next_if(|run| run.addresses.end <= at).is_some() {}
        let next = [ones.peek(), others.peek()].map(Option::<&&Run>::copied);
        let starts = next.iter().flatten().map(|run| run.addresses.start.max(at));
        let Some(start) = starts.min() else { return all };
        // Up to where one of them begins or ends.
        let ends = next.iter().flatten().map(|run| match run.addresses.start > start {
            true => run.addresses.start,
            false => run.addresses.end,
        });
        let end = ends.min().unwrap_or(start);
        let here = next.map(|run| run.filter(|run| run.addresses.start <= start));
        if let Some(run) = both(here) {
            let addresses = start..end;
            push(&mut all, Run { addresses, ..run });
        }
        at = end;
    }
}

/// Of addresses that both have, what the newer says. A file that fell under another rule in a newer revision stays under that as long
/// as one has it.
fn both(runs: [Option<&Run>; 2]) -> Option<Run> {
    match runs {
        [Some(one), Some(other)] => {
            let newer = if one.revisions.1 > other.revisions.1 {
                one
            } else {
                other
            };
            let oldest = one.revisions.0.min(other.revisions.0);
            Some(Run {
                revisions: (oldest, newer.revisions.1),
                ..newer.clone()
            })
        }
        [one, other] => one.or(other).cloned(),
    }
}

fn push(runs: &mut Vec<Run>, next: Run) {
    let follows = |run: &Run| {
        let is_like_it = run.rule == next.rule && run.revisions == next.revisions;
        is_like_it && run.addresses.end == next.addresses.start
    };
    match runs.last_mut().filter(|run| follows(run)) {
        Some(run) => run.addresses.end = next.addresses.end,
        None => runs.push(next),
    }
}

/// The rule with the longest path that the path is, or is below.
fn rule_of(rules: &[Rule], path: &str) -> usize {
    let is_in = |rule: &Rule| {
        let rest = path.strip_prefix(rule.path.as_str());
        rest.is_some_and(|rest| rule.path.is_empty() || rest.is_empty() || rest.starts_with('/'))
    };
    let matching = rules.iter().enumerate().filter(|(_, rule)| is_in(rule));
    matching.max_by_key(|(_, rule)| rule.path.len()).map_or(0, |(at, _)| at)
}

#[cfg(test)]
mod tests {
    use penstock_protocol::ids::SpaceId;
    use penstock_revision::{BuildOptions, Listed, Outcome, SourceListing, Version, build};

    use super::*;

    fn rule(path: &str) -> Rule {
        Rule {
            path: path.into(),
            ..Rule::default()
        }
    }

    #[test]
    fn the_longest_path_counts_and_a_path_is_whole_names() {
        let rules = ["", "a", "a/b", "c d"].map(rule);
        for (path, expected) in [
            ("x", 0),
            ("a", 1),
            ("a/x", 1),
            ("ab", 0),
            ("a/b", 2),
            ("a/b/c/d", 2),
            ("a/bc", 1),
            ("c d/e", 3),
            ("c", 0),
        ] {
            assert_eq!(rule_of(&rules, path), expected, "{path}");
        }
    }

    #[test]
    fn addresses_between_runs_fall_under_the_rule_for_everything() {
        let classes = Classes::of_runs(vec![(10..20, 1), (20..30, 2), (50..60, 1)]);
        let found = [0, 9, 10, 19, 20, 29, 30, 50, 60].map(|address| classes.of_address(address));
        assert_eq!(found, [0, 0, 1, 1, 2, 2, 0, 1, 0]);
    }

    /// At each of these paths of the source's tree an object of a block, in the version that is its number.
    fn package(parent: Option<&Package>, path: &str, objects: &[(&str, u64)]) -> Package {
        let listed = |(key, version): &(&str, u64)| Listed {
            key: (*key).to_owned(),
            bytes: 4096,
            modified_unix_nanos: 0,
            version: Version::ETag(version.to_string()),
        };
        let listing = SourceListing {
            identity: "s3://bucket/".into(),
            path: path.into(),
            objects: objects.iter().map(listed).collect(),
        };
        match build(SpaceId([1; 16]), parent, &[listing], &BuildOptions::default()).unwrap() {
            Outcome::New(package) => package,
            Outcome::Unchanged => panic!("nothing differs"),
        }
    }

    #[test]
    fn files_that_lie_together_are_one_run_and_the_newest_revision_says_under_which_rule() {
        let rules = ["", "a", "b"].map(rule);
        let first = package(None, "", &[("a/1", 1), ("a/2", 1), ("b/1", 1), ("c", 1)]);
        // One file is new, and one is another.
        let second = package(
            Some(&first),
            "",
            &[("a/1", 1), ("a/2", 2), ("a/3", 1), ("b/1", 1), ("c", 1)],
        );
        // The same objects at other paths, under no rule but that for everything, but for one that is gone.
        let third = package(Some(&second), "x", &[("a/1", 1), ("a/3", 1), ("b/1", 1), ("c", 1)]);
        // What older revisions alone have is as they say.
        let expected = vec![
            (0..4096, 0, (1, 3)),
            (4096..8192, 1, (1, 1)),
            (8192..16_384, 0, (1, 3)),
            (16_384..20_480, 1, (2, 2)),
            (20_480..24_576, 0, (2, 3)),
        ];
        let packages = [&first, &second, &third];
        let of = |numbers: &[u32]| {
            numbers.iter().fold(Classes::default(), |classes, number| {
                let package = packages[*number as usize - 1];
                classes.with(&rules, package, *number, &Scratch::memory()).unwrap().0
            })
        };
        // In whichever order they come.
        for order in [[1, 2, 3], [3, 2, 1], [2, 3, 1], [1, 3, 2]] {
            assert_eq!(shown(&of(&order)), expected, "{order:?}");
        }
        let bytes = packages.map(|package| {
            let classes = Classes::default();
            classes.with(&rules, package, 0, &Scratch::memory()).unwrap().1
        });
        assert_eq!(bytes, [[4096, 8192, 4096], [4096, 12_288, 4096], [16_384, 0, 0]]);
        // What one that is gone had alone is gone with it, between others and as the oldest.
        assert_eq!(
            shown(&of(&[1, 2, 3]).of_those_left(&[None, Some(0), None, Some(1)])),
            [
                (0..4096, 0, (0, 1)),
                (4096..8192, 1, (0, 0)),
                (8192..16_384, 0, (0, 1)),
                (20_480..24_576, 0, (1, 1))
            ]
        );
        assert_eq!(
            shown(&of(&[1, 2]).of_those_left(&[None, None, Some(0)])),
            [
                (0..4096, 1, (0, 0)),
                (8192..12_288, 2, (0, 0)),
                (12_288..16_384, 0, (0, 0)),
                (16_384..24_576, 1, (0, 0))
            ]
        );
    }

    fn shown(classes: &Classes) -> Vec<(Range<u64>, u8, (u32, u32))> {
        let runs = classes.0.iter();
        runs.map(|run| (run.addresses.clone(), run.rule, run.revisions))
            .collect()
    }
}
