//! From the rules of Datasets to how each space is kept on this node.

use std::collections::HashMap;
use std::sync::Arc;

use penstock_protocol::ids::{RevisionId, SpaceId};
use penstock_revision::Package;

use super::Dataset;
use crate::keeping::{Terms, promised_max};
use crate::rules::{Classes, Refusal, Rule, Wish, refuse};
use crate::tiers::Tiers;

/// What was worked out of packages, which takes a while for large ones.
#[derive(Default)]
pub(super) struct KnownClasses(HashMap<SpaceId, Known>);

#[derive(Clone)]
struct Known {
    /// Without any below the root and without pins nothing has to be worked out.
    paths: Option<Vec<String>>,
    revisions: Vec<RevisionId>,
    classes: Arc<Classes>,
}

/// Has the spaces of the Datasets kept as they wish, as one of `nodes` nodes; returns what cannot be done.
pub(super) fn set(known: &mut KnownClasses, tiers: &Tiers, datasets: &[Dataset], nodes: u64) -> Vec<Refusal> {
    let mut before = std::mem::take(&mut known.0);
    let mut wishes = Vec::new();
    let mut spaces = Vec::new();
    for dataset in datasets {
        let rules = dataset.rules.complete();
        let mut bytes = vec![0; rules.len()];
        for (space, packages) in by_space(&dataset.revisions) {
            let of_space = before.remove(&space);
            let classes = of_space
                .filter(|known| known.is_of(&rules, &packages))
                .unwrap_or_else(|| Known::of(&rules, &packages));
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
    let refusals = refuse(&mut wishes, promised_max(tiers.promised_room()), &tiers.names());
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
    refusals
}

impl Known {
    fn of(rules: &[Rule], packages: &[&Package]) -> Self {
        let classes = match paths(rules) {
            None => Ok(Classes::default()),
            Some(_) => Classes::of(rules, packages),
        };
        let damaged = |error: String| {
            let revision = packages.first().map(|package| package.id().to_string());
            tracing::warn!(
                revision,
                error,
                "a package is damaged; the rule for everything counts for all of its Dataset"
            );
            Classes::default()
        };
        Self {
            paths: paths(rules),
            revisions: packages.iter().map(|package| package.id()).collect(),
            classes: Arc::new(classes.unwrap_or_else(damaged)),
        }
    }

    fn is_of(&self, rules: &[Rule], packages: &[&Package]) -> bool {
        let revisions = packages.iter().map(|package| package.id());
        self.paths == paths(rules) && self.revisions.iter().copied().eq(revisions)
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
