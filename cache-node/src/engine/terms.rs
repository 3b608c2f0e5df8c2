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

#[derive(Clone, Default)]
struct Known {
    /// Without any below the root and without pins nothing has to be worked out.
    paths: Option<Vec<String>>,
    /// The newest first; none if they could not be read.
    revisions: Vec<RevisionId>,
    classes: Arc<Classes>,
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
            let classes = Known::of(&rules, &packages, of_space, scratch).unwrap_or_else(|error| {
                tracing::warn!(dataset = dataset.name, %space, %error, "the rule for everything counts for all of a Dataset");
                unread.push(Refusal {
                    dataset: dataset.uid.clone(),
                    message: format!(
                        "its rules for paths are not followed, a cache node cannot read which files they are for: {error}"
                    ),
                });
                Known::default()
            });
            // Of an older space nothing is promised: it is on its way out.
            if packages.first().map(|package| package.id()) == dataset.revisions.first().map(Package::id) {
                for (rule, bytes) in bytes.iter_mut().enumerate() {
                    *bytes = classes.classes.bytes(rule) / nodes;
                }
            }
            spaces.push((space, wishes.len(), classes.classes.clone()));
            known.0.insert(space, classes);
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
    /// Of packages of one space, the newest first. What was known before is gone on with: of many files each package takes a while.
    fn of(
        rules: &[Rule],
        packages: &[&Package],
        before: Option<Self>,
        scratch: &Scratch,
    ) -> Result<Self, PackageError> {
        let (paths, revisions) = (paths(rules), packages.iter().map(|package| package.id()));
        let revisions: Vec<RevisionId> = revisions.collect();
        let before = before.filter(|before| before.paths == paths).unwrap_or_default();
        let newer = newer_than(&before.revisions, &revisions);
        let mut classes = match newer == revisions.len() {
            true => Arc::default(),
            false => before.classes,
        };
        if paths.is_some() {
            for package in packages[..newer].iter().rev() {
                classes = Arc::new(Classes::of(rules, package, &classes, scratch)?);
            }
        }
        Ok(Self {
            paths,
            revisions,
            classes,
        })
    }
}

/// How many of the first of `revisions` are newer than those that are known; all if they do not follow these. Of the known ones the
/// oldest may be gone: nobody reads any more what they alone had, and nothing else will lie there.
fn newer_than(known: &[RevisionId], revisions: &[RevisionId]) -> usize {
    let newer = revisions.iter().position(|revision| known.first() == Some(revision));
    newer
        .filter(|newer| known.starts_with(&revisions[*newer..]))
        .unwrap_or(revisions.len())
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
    use super::*;

    #[test]
    fn only_revisions_that_are_newer_than_what_is_known_are_looked_into() {
        let of =
            |numbers: &[u8]| -> Vec<RevisionId> { numbers.iter().map(|number| RevisionId([*number; 32])).collect() };
        for (known, revisions, newer) in [
            (&[][..], &[2, 1][..], 2),
            (&[2, 1], &[2, 1], 0),
            (&[2, 1], &[3, 2, 1], 1),
            (&[2, 1], &[4, 3, 2], 2),
            (&[2, 1], &[2], 0),
            // One between is new, one is older than what is known, and others.
            (&[3, 1], &[3, 2, 1], 3),
            (&[3, 2], &[3, 2, 1], 3),
            (&[2, 1], &[4, 3], 2),
            (&[2, 1], &[1], 1),
            (&[2, 1], &[], 0),
        ] {
            assert_eq!(newer_than(&of(known), &of(revisions)), newer, "{known:?} {revisions:?}");
        }
    }
}
