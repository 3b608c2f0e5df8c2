//! What is done next when there are many older revisions.

use super::*;
use crate::limits::{OLDER_REVISIONS_MAX, OLDER_REVISIONS_MIN};
use crate::uses::Standing;

#[test]
fn while_pods_mount_all_revisions_that_are_kept_nothing_is_built_or_committed() {
    let hourly = dataset(json!({"refresh": {"intervalSeconds": 3600}}), None);
    let with = |older: usize| {
        let revision = settled().revision.map(|revision| Revision {
            older: (0..older).map(|number| number.to_string()).collect(),
            ..revision
        });
        Observed { revision, ..settled() }
    };
    let (full, roomy) = (with(OLDER_REVISIONS_MAX), with(OLDER_REVISIONS_MAX - 1));
    assert!(matches!(next(&hourly, &roomy, at(9999)), Next::Build { .. }));
    assert_eq!(next(&hourly, &full, at(9999)), Next::Wait(BLOCKED_LOOK_INTERVAL));
    assert_eq!(
        next(&dataset(json!({}), None), &full, at(9999)),
        Next::Wait(REVISION_STARTING_MAX),
        "nobody wants one"
    );
    let built = |unchanged, observed: &Observed| {
        let done = Done {
            built: wire::Built {
                unchanged,
                ..wire::Built::default()
            },
            basis: Basis {
                sources_digest: "same".into(),
                committed: observed.revision.as_ref().map(|revision| revision.id.clone()),
                ..Basis::default()
            },
        };
        Observed {
            build: State::Built(Box::new(done)),
            ..observed.clone()
        }
    };
    // What was built meanwhile is built again when there is room: until then no cache node keeps its package.
    assert!(is_moot(&hourly, &built(false, &full), at(9999)));
    assert!(!is_moot(&hourly, &built(true, &full), at(9999)), "that changes nothing");
    assert!(!is_moot(&hourly, &built(false, &roomy), at(9999)));
    assert!(matches!(next(&hourly, &built(true, &full), at(9999)), Next::Commit(_)));
    // One of them is unused.
    let freed = Observed {
        uses: [("200".to_owned(), Standing::Unused)].into(),
        ..full
    };
    assert!(matches!(next(&hourly, &freed, at(9999)), Next::Build { .. }));
}

#[test]
fn a_dataset_at_rest_forgets_revisions_of_which_nobody_has_any_use() {
    let plain = dataset(json!({}), None);
    let with = |standing| {
        let revision = settled().revision.map(|revision| Revision {
            older: (0..=OLDER_REVISIONS_MIN).map(|number| number.to_string()).collect(),
            ..revision
        });
        Observed {
            revision,
            uses: [(OLDER_REVISIONS_MIN.to_string(), standing)].into(),
            ..settled()
        }
    };
    let left = (0..OLDER_REVISIONS_MIN).map(|number| number.to_string()).collect();
    assert_eq!(next(&plain, &with(Standing::Unused), at(9999)), Next::Forget(left));
    // Nobody tells when an hour has passed.
    for standing in [Standing::InUse, Standing::Doubtful] {
        assert_eq!(
            next(&plain, &with(standing), at(9999)),
            Next::Wait(REVISION_STARTING_MAX)
        );
    }
    // What is to be built or committed comes first, and takes them away too.
    let asked = dataset(json!({}), Some("now"));
    assert!(matches!(
        next(&asked, &with(Standing::Unused), at(9999)),
        Next::Build { .. }
    ));
}
