//! From the rules of Datasets to how each space is kept on this node.

use std::collections::HashMap;
use std::sync::Arc;

use penstock_protocol::ids::{RevisionId, SpaceId};
use penstock_revision::{Package, PackageError, Scratch};

use super::Dataset;
use crate::keeping::{Terms, promised_max};
use crate::rules::{Classes, Refusal, Rule, Wish, refuse};
use crate::tiers::Tiers;

/// What was worked out of packages, which takes a while for large ones.
#[derive(Default)]
pub(super) struct KnownClasses(HashMap<SpaceId, Known>);

#[derive(Default)]
struct Known {
    /// Without any below the root and without pins nothing has to be worked out.
    paths: Option<Vec<String>>,
    /// Those that were looked into, the oldest first.
    revisions: Vec<Looked>,
    classes: Arc<Classes>,
}

/// A revision whose files are in the classes.
struct Looked {
    id: RevisionId,
    /// What the classes call it.
    number: u32,
    /// Of each rule.
    bytes: Vec<u64>,
}

/// Has the spaces of the Datasets kept as they wish, as one of `nodes` nodes; returns what cannot be done.
pub(super) fn set(
    known: &mut KnownClasses,
    tiers: &Tiers,
    datasets: &[Dataset],
    nodes: u64,
    scratch: &Scratch,
) -> Vec<Refusal> {
    let mut before = std::mem::take(&mut known.0);
    let mut wishes = Vec::new();
    let mut unread = Vec::new();
    let mut spaces = Vec::new();
    for dataset in datasets {
        let rules = dataset.rules.complete();
        let mut bytes = vec![0; rules.len()];
        for (space, packages) in by_space(&dataset.revisions) {
            let of_space = before.remove(&space);
            let (of_space, failed) = Known::of(&rules, &packages, of_space, scratch);
            if let Some(error) = &failed {
                tracing::warn!(dataset = dataset.name, %space, %error, "the rule for everything counts for all of a Dataset");
                unread.push(Refusal {
                    dataset: dataset.uid.clone(),
                    message: format!(
                        "its rules for paths are not followed, a cache node cannot read which files they are for: {error}"
                    ),
                });
            }
            let newest = of_space.revisions.last().filter(|_| failed.is_none());
            // Of an older space nothing is promised: it is on its way out.
            if packages.first().map(|package| package.id()) == dataset.revisions.first().map(Package::id) {
                for (bytes, of_newest) in bytes.iter_mut().zip(newest.iter().flat_map(|newest| &newest.bytes)) {
                    *bytes = of_newest / nodes;
                }
            }
            let classes = newest.map(|_| of_space.classes.clone());
            spaces.push((space, wishes.len(), classes.unwrap_or_default()));
            known.0.insert(space, of_space);
        }
        wishes.push(Wish {
            dataset: dataset.uid.clone(),
            quota: dataset.rules.quota.of_node(nodes),
            rules,
            bytes,
        });
    }
    let mut refusals = refuse(&mut wishes, promised_max(tiers.promised_room()), &tiers.names());
    for (space, wish, classes) in spaces {
        let Wish {
            dataset, quota, rules, ..
        } = &wishes[wish];
        let terms = Terms {
            dataset: dataset.clone(),
            quota: *quota,
            rules: rules.clone(),
            classes,
        };
        tiers.set_terms(&space, terms);
    }
    refusals.extend(unread);
    refusals
}

impl Known {
    /// Of packages of one space, the newest first, and why one could not be read. What was known before is gone on with, also of the
    /// others when one cannot be read: of many files each package takes a while.
    fn of(
        rules: &[Rule],
        packages: &[&Package],
        before: Option<Self>,
        scratch: &Scratch,
    ) -> (Self, Option<PackageError>) {
        let paths = paths(rules);
        if paths.is_none() {
            return (Self::default(), None);
        }
        let before = before.filter(|before| before.paths == paths).unwrap_or_default();
        let oldest_first = packages.iter().rev();
        let revisions: Vec<RevisionId> = oldest_first.clone().map(|package| package.id()).collect();
        let mut known = Self {
            paths,
            ..before.of_those_left(&revisions)
        };
        let mut failed = None;
        for (number, package) in (0..).zip(oldest_first) {
            let id = package.id();
            if known.revisions.iter().any(|looked| looked.id == id) {
                continue;
            }
            match known.classes.with(rules, package, number, scratch) {
                Ok((classes, bytes)) => {
                    known.classes = Arc::new(classes);
                    known.revisions.push(Looked { id, number, bytes });
                }
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        known.revisions.sort_unstable_by_key(|looked| looked.number);
        (known, failed)
    }

    /// What is known of those of these revisions, the oldest first, with their places as numbers. Revisions go from among others: the
    /// operator keeps those that pods mount.
    fn of_those_left(self, revisions: &[RevisionId]) -> Self {
        let numbers_before = self.revisions.last().map_or(0, |newest| newest.number as usize + 1);
        let mut numbers = vec![None; numbers_before];
        let mut left = Vec::new();
        for looked in self.revisions {
            let place = revisions.iter().position(|id| *id == looked.id);
            let Some(number) = place.and_then(|place| u32::try_from(place).ok()) else {
                continue;
            };
            numbers[looked.number as usize] = Some(number);
            left.push(Looked { number, ..looked });
        }
        if !left.is_sorted_by_key(|looked| looked.number) {
            return Self::default();
        }
        let is_same = (0..).zip(&numbers).all(|(before, now)| *now == Some(before));
        Self {
            paths: self.paths,
            classes: match is_same {
                true => self.classes,
                false => Arc::new(self.classes.of_those_left(&numbers)),
            },
            revisions: left,
        }
    }
}

fn paths(rules: &[Rule]) -> Option<Vec<String>> {
    let is_plain = rules.iter().all(|rule| rule.path.is_empty() && !rule.pin);
    (!is_plain).then(|| rules.iter().map(|rule| rule.path.clone()).collect())
}

/// The revisions of each space, as they come.
fn by_space(revisions: &[Package]) -> Vec<(SpaceId, Vec<&Package>)> {
    let mut spaces: Vec<(SpaceId, Vec<&Package>)> = Vec::new();
    for package in revisions {
        match spaces.iter_mut().find(|(space, _)| *space == package.space()) {
            Some((_, of_space)) => of_space.push(package),
            None => spaces.push((package.space(), vec![package])),
        }
    }
    spaces
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use penstock_revision::{BuildOptions, Listed, Outcome, SourceListing, Version, build};

    use super::*;

    const FILES: usize = 4;

    fn rules(path: &str) -> Vec<Rule> {
        let rule = |path: &str| Rule {
            path: path.into(),
            ..Rule::default()
        };
        vec![rule(""), rule(path)]
    }

    /// Revisions of a space, the oldest first, each with one file more than the one before and another version of the first; each in
    /// a file.
    fn revisions(count: usize) -> Vec<(Package, File)> {
        let mut revisions: Vec<(Package, File)> = Vec::new();
        for number in 0..count {
            let listed = |file: usize| Listed {
                key: format!("a/{file}"),
                bytes: 4096,
                modified_unix_nanos: 0,
                version: Version::ETag(if file == 0 { number } else { 0 }.to_string()),
            };
            let listing = SourceListing {
                identity: "s3://bucket/".into(),
                path: String::new(),
                objects: (0..FILES + number).map(listed).collect(),
            };
            let parent = revisions.last().map(|(package, _)| package);
            let outcome = build(SpaceId([1; 16]), parent, &[listing], &BuildOptions::default());
            let Outcome::New(package) = outcome.unwrap() else {
                panic!("one file is new")
            };
            let mut file = tempfile::tempfile().unwrap();
            package.copy_to(&mut file).unwrap();
            let in_file = Package::in_file(file.try_clone().unwrap(), &package.id()).unwrap();
            revisions.push((in_file, file));
        }
        revisions
    }

    /// Makes it an error to look into a revision.
    fn rot((package, file): &(Package, File)) {
        file.write_all_at(&vec![0; package.bytes() as usize], 0).unwrap();
    }

    #[test]
    fn of_a_new_revision_only_that_one_is_looked_into() {
        let scratch = Scratch::memory();
        for (before, after) in [
            (&[2, 1][..], &[2, 1][..]),
            (&[2, 1], &[3, 2, 1]),
            (&[2, 1], &[3, 2]),
            // From among others, and the newest.
            (&[4, 3, 2, 1], &[5, 4, 1]),
            (&[4, 3, 2, 1], &[5, 3, 1]),
            (&[4, 3, 2, 1], &[3, 1]),
            // A package that is found later.
            (&[4, 1], &[4, 3, 1]),
            (&[4, 3], &[4, 3, 1]),
            (&[1], &[4, 1]),
            (&[2, 1], &[4, 3]),
            (&[2, 1], &[]),
        ] {
            let revisions = revisions(6);
            let packages = |numbers: &[usize]| -> Vec<&Package> {
                let numbers = numbers.iter();
                numbers.map(|number| &revisions[*number].0).collect()
            };
            let (known, failed) = Known::of(&rules("a"), &packages(before), None, &scratch);
            assert!(failed.is_none());
            let (expected, failed) = Known::of(&rules("a"), &packages(after), None, &scratch);
            assert!(failed.is_none());
            before.iter().for_each(|number| rot(&revisions[*number]));
            let (known, failed) = Known::of(&rules("a"), &packages(after), Some(known), &scratch);
            assert!(failed.is_none(), "{before:?} {after:?}: {failed:?}");
            assert_eq!(known.classes, expected.classes, "{before:?} {after:?}");
            let bytes = |known: &Known| known.revisions.last().map(|looked| looked.bytes.clone());
            assert_eq!(bytes(&known), bytes(&expected), "{before:?} {after:?}");
        }
    }

    #[test]
    fn all_are_looked_into_for_other_paths_and_what_one_cannot_give_is_not_asked_of_others_again() {
        let (scratch, revisions) = (Scratch::memory(), revisions(3));
        let packages: Vec<&Package> = revisions.iter().rev().map(|(package, _)| package).collect();
        rot(&revisions[2]);
        let (known, failed) = Known::of(&rules("a"), &packages, None, &scratch);
        assert!(failed.is_some());
        revisions[..2].iter().for_each(rot);
        let (known, failed) = Known::of(&rules("a"), &packages[1..], Some(known), &scratch);
        assert!(failed.is_none(), "{failed:?}");
        assert_eq!(known.revisions.len(), 2);
        let (_, failed) = Known::of(&rules("b"), &packages[1..], Some(known), &scratch);
        assert!(failed.is_some());
    }
}
