//! The conditions that are there only while something is so that people should know.

use penstock_crds::{Dataset, DatasetStatus, REFRESH_ANNOTATION, Unversioned, condition};

use crate::conditions::{Wanted, names};
use crate::dataset::observe::Observed;
use crate::dataset::unread::Unreadable;
use crate::limits::OLDER_REVISIONS_MAX;

pub(super) fn wanted(
    dataset: &Dataset,
    before: &DatasetStatus,
    observed: &Observed,
) -> impl Iterator<Item = Wanted> + use<> {
    let all = [
        drift(before, observed),
        unreadable(before, observed),
        unversioned(observed),
        unheard(dataset, observed),
        caching(before, observed),
        revisions_in_use(observed),
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

fn unreadable(before: &DatasetStatus, observed: &Observed) -> Option<Wanted> {
    if observed.settling && observed.linked_hosts.is_empty() {
        return Wanted::kept(condition::SOURCE_UNREADABLE, &before.conditions);
    }
    let Unreadable { objects, fault } = observed.unreadable.as_ref()?;
    let message = format!(
        "the origin does not give away what it lists, reads of {} fail: {}; of the first of them: {fault}",
        if objects.len() == 1 {
            "1 object".to_owned()
        } else {
            format!("{} objects", objects.len())
        },
        names(objects)
    );
    Some(Wanted::new(
        condition::SOURCE_UNREADABLE,
        true,
        "ObjectsRefused",
        message,
    ))
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

/// Who wants to be told of changes and never is.
fn unheard(dataset: &Dataset, observed: &Observed) -> Option<Wanted> {
    let refresh = dataset.spec.refresh.as_ref()?;
    refresh.notifications.as_ref()?;
    let instead = match refresh.interval_seconds {
        Some(seconds) => format!("the sources are looked at each {seconds} s alone"),
        None => format!("the sources are looked at only when the annotation {REFRESH_ANNOTATION} gets a new value"),
    };
    let message = format!(
        "spec.refresh.notifications has no effect, because nobody listens: who installed Penstock has to set \
         operator.notifications.enabled of its chart; until then {instead}"
    );
    let unheard = Wanted::new(condition::NOTIFICATIONS_UNHEARD, true, "NobodyListens", message);
    (!observed.takes_notifications).then_some(unheard)
}

fn caching(before: &DatasetStatus, observed: &Observed) -> Option<Wanted> {
    if observed.settling && observed.linked_hosts.is_empty() {
        return Wanted::kept(condition::CACHING_REFUSED, &before.conditions);
    }
    let message = observed.refusals.join("; ");
    let refused = Wanted::new(condition::CACHING_REFUSED, true, "CannotBeDone", message);
    (!observed.refusals.is_empty()).then_some(refused)
}

fn revisions_in_use(observed: &Observed) -> Option<Wanted> {
    let message = format!(
        "pods mount {OLDER_REVISIONS_MAX} older revisions or more, and no more are kept, so changes of the sources are not committed: \
         end pods that are no longer needed, or have the sources looked at less often (spec.refresh); an hour after the last pod of a \
         revision has ended there is room for another"
    );
    let no_room = observed.older().is_none();
    no_room.then(|| Wanted::new(condition::REVISIONS_IN_USE, true, "NoRoom", message))
}

#[cfg(test)]
mod tests {
    use penstock_crds::Revision;
    use serde_json::json;

    use super::*;
    use crate::dataset::decide::tests::{dataset, settled};

    #[test]
    fn who_wants_notifications_that_nobody_takes_is_told_what_is_done_instead() {
        let notified = json!({"tokenSecretRef": {"name": "t"}});
        for (refresh, takes_notifications, instead) in [
            (json!({"intervalSeconds": 60}), false, None),
            (json!({"notifications": notified}), true, None),
            (
                json!({"notifications": notified}),
                false,
                Some("only when the annotation penstock.io/refresh gets a new value"),
            ),
            (
                json!({"notifications": notified, "intervalSeconds": 60}),
                false,
                Some("looked at each 60 s alone"),
            ),
        ] {
            let observed = Observed {
                takes_notifications,
                ..settled()
            };
            let dataset = dataset(json!({"refresh": refresh}), None);
            let said: Vec<Wanted> = wanted(&dataset, &DatasetStatus::default(), &observed).collect();
            assert_eq!(said.len(), usize::from(instead.is_some()), "{said:?}");
            for (said, instead) in said.iter().zip(instead) {
                let kind_and_reason = (said.kind, said.status, said.reason.as_str());
                assert_eq!(
                    kind_and_reason,
                    (condition::NOTIFICATIONS_UNHEARD, true, "NobodyListens")
                );
                for words in ["set operator.notifications.enabled of its chart", instead] {
                    assert!(said.message.contains(words), "{}", said.message);
                }
            }
        }
    }

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
        let mut said = wanted(&dataset(json!({}), None), &before, &observed);
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

    #[test]
    fn that_there_is_no_room_for_another_revision_is_said_with_what_to_do() {
        let with = |older: usize| {
            let revision = settled().revision.map(|revision| Revision {
                older: (0..older).map(|number| number.to_string()).collect(),
                ..revision
            });
            Observed { revision, ..settled() }
        };
        let (dataset, before) = (dataset(json!({}), None), DatasetStatus::default());
        assert_eq!(wanted(&dataset, &before, &with(OLDER_REVISIONS_MAX - 1)).next(), None);
        let said = wanted(&dataset, &before, &with(OLDER_REVISIONS_MAX)).next().unwrap();
        assert_eq!(
            (said.kind, said.status, &*said.reason),
            (condition::REVISIONS_IN_USE, true, "NoRoom")
        );
        assert!(
            said.message.contains("end pods that are no longer needed"),
            "{}",
            said.message
        );
    }

    #[test]
    fn what_changed_and_what_is_not_given_away_are_two_things() {
        let observed = Observed {
            drifted: vec!["a (revision 01, at 2026-11-30T01:33:20Z)".into()],
            unreadable: Some(Unreadable {
                objects: vec!["cold (revision 02, at 2026-11-30T01:33:25Z)".into(), "b".into()],
                fault: "cold in s3://b/ is archived; restore it".into(),
            }),
            ..settled()
        };
        let (dataset, before) = (dataset(json!({}), None), DatasetStatus::default());
        let said: Vec<Wanted> = wanted(&dataset, &before, &observed).collect();
        let kinds: Vec<&str> = said.iter().map(|wanted| wanted.kind).collect();
        assert_eq!(kinds, [condition::SOURCE_DRIFTED, condition::SOURCE_UNREADABLE]);
        assert!(
            said[0]
                .message
                .contains("a (revision 01, at 2026-11-30T01:33:20Z); refresh"),
            "{said:?}"
        );
        let expected = "reads of 2 objects fail: cold (revision 02, at 2026-11-30T01:33:25Z), b; of the first of them: cold in s3://b/ is \
                        archived; restore it";
        assert!(said[1].message.ends_with(expected), "{said:?}");
        // A new leader goes on saying it until it knows better.
        let before = DatasetStatus {
            conditions: crate::conditions::merged(&[], said.clone(), None, &crate::context::now()),
            ..DatasetStatus::default()
        };
        let unknown = Observed {
            settling: true,
            linked_hosts: Vec::new(),
            ..settled()
        };
        assert_eq!(wanted(&dataset, &before, &unknown).collect::<Vec<_>>(), said);
        assert_eq!(wanted(&dataset, &before, &settled()).collect::<Vec<_>>(), []);
    }
}
