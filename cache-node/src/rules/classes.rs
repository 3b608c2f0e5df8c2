//! Which rule an address falls under. Pure but for the names of packages, which it walks through.

use std::ops::Range;

use penstock_protocol::geometry::round_up_to_block;
use penstock_revision::erofs::reader::Inode;
use penstock_revision::{Package, PackageError, Scratch};

use super::Rule;
use crate::inflight::uncovered;

/// Runs of addresses, sorted, each with the number of a rule. All others fall under the first, which is for everything.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Classes {
    runs: Vec<Run>,
    /// Bytes of each rule in the newest revision.
    bytes: Vec<u64>,
}

/// Addresses of one rule.
type Run = (Range<u64>, u8);

impl Classes {
    /// Those of the files of a revision by [complete](super::Rules::complete) rules, and of what `older` revisions of its space have
    /// besides. The names of many files are in `scratch` meanwhile.
    ///
    /// # Errors
    /// When the package is damaged, or the disk does not take its names.
    pub(crate) fn of(rules: &[Rule], package: &Package, older: &Self, scratch: &Scratch) -> Result<Self, PackageError> {
        let mut bytes = vec![0; rules.len()];
        let mut runs: Vec<Run> = Vec::new();
        let image = package.unpack(scratch)?;
        image.walk(|path, _, inode: &Inode| {
            let Some(address) = inode.address() else { return };
            let (rule, end) = (rule_of(rules, path), address + round_up_to_block(inode.bytes));
            bytes[rule] += end - address;
            // Most files lie in the order of their names.
            push(&mut runs, (address..end, rule as u8));
        })?;
        drop(image);
        let mut runs = joined(runs);
        // Of an object that several revisions have, what the newest says.
        let others = older.runs.iter().flat_map(|(run, rule)| {
            let first = runs.partition_point(|(newer, _)| newer.end <= run.start);
            let newer = runs[first..].iter().map(|(newer, _)| newer.clone());
            let left = uncovered(run.clone(), newer.take_while(|newer| newer.start < run.end));
            left.into_iter()
                .filter(|left| !left.is_empty())
                .map(|left| (left, *rule))
        });
        let others: Vec<Run> = others.collect();
        runs.retain(|(_, rule)| *rule != 0);
        runs.extend(others);
        Ok(Self {
            runs: joined(runs),
            bytes,
        })
    }

    #[cfg(test)]
    pub(crate) fn of_runs(runs: Vec<Run>) -> Self {
        Self {
            runs,
            bytes: Vec::new(),
        }
    }

    /// The number of the rule of an address.
    pub(crate) fn of_address(&self, address: u64) -> usize {
        let next = self.runs.partition_point(|(run, _)| run.start <= address);
        let run = next.checked_sub(1).and_then(|at| self.runs.get(at));
        run.filter(|(run, _)| run.contains(&address))
            .map_or(0, |(_, rule)| usize::from(*rule))
    }

    /// Bytes of the files of a rule in the newest revision.
    pub(crate) fn bytes(&self, rule: usize) -> u64 {
        self.bytes.get(rule).copied().unwrap_or(0)
    }
}

/// Sorted, and with as few runs as there can be.
fn joined(mut runs: Vec<Run>) -> Vec<Run> {
    runs.sort_unstable_by_key(|(run, _)| run.start);
    let mut joined = Vec::new();
    for run in runs {
        push(&mut joined, run);
    }
    joined
}

fn push(runs: &mut Vec<Run>, (next, rule): Run) {
    match runs.last_mut() {
        Some((run, of)) if run.end == next.start && *of == rule => run.end = next.end,
        _ => runs.push((next, rule)),
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
        let mut classes = Classes::default();
        for (package, runs, bytes) in [
            (&first, vec![(0..8192, 1), (8192..12_288, 2)], [4096, 8192, 4096]),
            (
                &second,
                vec![(0..8192, 1), (8192..12_288, 2), (16_384..24_576, 1)],
                [4096, 12_288, 4096],
            ),
            // What older revisions alone have is as they say.
            (&third, vec![(4096..8192, 1), (16_384..20_480, 1)], [16_384, 0, 0]),
        ] {
            classes = Classes::of(&rules, package, &classes, &Scratch::memory()).unwrap();
            assert_eq!(classes.runs, runs);
            assert_eq!([0, 1, 2].map(|rule| classes.bytes(rule)), bytes);
        }
    }
}
