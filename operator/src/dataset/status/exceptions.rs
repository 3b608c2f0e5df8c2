//! The conditions that are there only while something is so that people should know.

use penstock_crds::{DatasetStatus, Unversioned, condition};

use crate::conditions::{Wanted, names};
use crate::dataset::observe::Observed;

pub(super) fn wanted(before: &DatasetStatus, observed: &Observed) -> impl Iterator<Item = Wanted> {
    let all = [
        drift(before, observed),
        unversioned(observed),
        caching(before, observed),
    ];
    all.into_iter().flatten()
}

fn drift(before: &DatasetStatus, observed: &Observed) -> Option<Wanted> {
    if observed.settling && observed.linked_hosts.is_empty() {
        return Wanted::kept(condition::SOURCE_DRIFTED, &before.conditions);
    }
    let message = format!(
        "changed at the origin before they were cached, reads of them fail: {}; refresh the Dataset and restart the pods that need them",
        names(&observed.drifted)
    );
    let drifted = Wanted::new(condition::SOURCE_DRIFTED, true, "ObjectsChanged", message);
    (!observed.drifted.is_empty()).then_some(drifted)
}

/// What is accepted with `allowUnversioned`, as long as there are such files.
fn unversioned(observed: &Observed) -> Option<Wanted> {
    let unversioned = &observed.revision.as_ref()?.unversioned;
    let text = |unversioned: &Unversioned| {
        let Unversioned { source, files, example } = unversioned;
        format!("{files} of {source}, for example {example}")
    };
    let which: Vec<String> = unversioned.iter().map(text).collect();
    let message = format!(
        "when one of the files of which nothing shows that they change is overwritten with the same length, it may be read as a mixture of \
         old and new bytes, unnoticed, and a refresh does not see it; allowUnversioned accepts this: write new files under new names ({})",
        which.join("; ")
    );
    (!which.is_empty()).then(|| Wanted::new(condition::SOURCE_UNVERSIONED, true, "FilesWithoutVersion", message))
}

fn caching(before: &DatasetStatus, observed: &Observed) -> Option<Wanted> {
    if observed.settling && observed.linked_hosts.is_empty() {
        return Wanted::kept(condition::CACHING_REFUSED, &before.conditions);
    }
    let message = observed.refusals.join("; ");
    let refused = Wanted::new(condition::CACHING_REFUSED, true, "CannotBeDone", message);
    (!observed.refusals.is_empty()).then_some(refused)
}

#[cfg(test)]
mod tests {
    use penstock_crds::Revision;

    use super::*;
    use crate::dataset::decide::tests::settled;

    #[test]
    fn files_without_a_version_are_said_with_their_consequence() {
        let of = |source: &str, files| Unversioned {
            source: source.into(),
            files,
            example: "a.csv".into(),
        };
        let revision = Revision {
            unversioned: vec![of("http://a/", 3), of("http://b/", 1)],
            ..settled().revision.unwrap()
        };
        let observed = Observed {
            revision: Some(revision),
            ..settled()
        };
        let before = DatasetStatus::default();
        let mut said = wanted(&before, &observed);
        let Wanted {
            kind,
            status,
            reason,
            message,
        } = said.next().unwrap();
        assert_eq!(
            (kind, status, &*reason),
            (condition::SOURCE_UNVERSIONED, true, "FilesWithoutVersion")
        );
        assert_eq!(said.next(), None);
        let counts = "(3 of http://a/, for example a.csv; 1 of http://b/, for example a.csv)";
        assert!(
            message.contains(counts) && message.contains("mixture of old and new bytes, unnoticed"),
            "{message}"
        );
    }
}
