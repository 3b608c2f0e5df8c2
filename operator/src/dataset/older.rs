//! Which revisions stay beside the one that is committed next. Pure.

use penstock_crds::Revision;

use crate::limits::{OLDER_REVISIONS_MAX, OLDER_REVISIONS_MIN};
use crate::uses::Standing;

/// The older revisions of the one that comes after `before`, the newest first: its own and itself, without those that are `lost`.
/// The newest few stay whether or not they are used, and of the others those that a pod may mount. When they are too many, those go
/// of which that is doubtful, the oldest first; `None` when all of them are in use.
pub(super) fn older(
    before: Option<&Revision>,
    lost: &[String],
    standing: impl Fn(&str) -> Standing,
) -> Option<Vec<String>> {
    let all = before
        .into_iter()
        .flat_map(|before| std::iter::once(&before.id).chain(&before.older));
    let mut kept: Vec<(&String, Standing)> = all
        .filter(|id| !lost.contains(id))
        .enumerate()
        .map(|(place, id)| match place {
            0..OLDER_REVISIONS_MIN => (id, Standing::InUse),
            _ => (id, standing(id)),
        })
        .filter(|(_, standing)| *standing != Standing::Unused)
        .collect();
    while kept.len() > OLDER_REVISIONS_MAX {
        let doubtful = kept.iter().rposition(|(_, standing)| *standing == Standing::Doubtful)?;
        kept.remove(doubtful);
    }
    Some(kept.into_iter().map(|(id, _)| id.clone()).collect())
}

/// The older revisions that stay of a committed one when no other is made, if some go: all of them at once, when nothing is doubtful.
pub(super) fn without_unused(revision: &Revision, standing: impl Fn(&str) -> Standing) -> Option<Vec<String>> {
    let (newest, others) = revision.older.split_at(revision.older.len().min(OLDER_REVISIONS_MIN));
    let others: Vec<(&String, Standing)> = others.iter().map(|id| (id, standing(id))).collect();
    let is_any = |wanted: Standing| others.iter().any(|(_, standing)| *standing == wanted);
    if is_any(Standing::Doubtful) || !is_any(Standing::Unused) {
        return None;
    }
    let in_use = others.iter().filter(|(_, standing)| *standing == Standing::InUse);
    Some(newest.iter().chain(in_use.map(|(id, _)| *id)).cloned().collect())
}

#[cfg(test)]
mod tests;
