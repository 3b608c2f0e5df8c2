//! What stays: tables, and a world of pods, cache nodes and operators that come and go under a clock of its own.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use penstock_protocol::control::cache_node as wire;
use penstock_protocol::ids::RevisionId;
use proptest::prelude::*;

use super::*;
use crate::builds::Basis;
use crate::dataset::revision::to_commit;
use crate::limits::{REVISION_GRACE, REVISION_STARTING_MAX};
use crate::uses::Uses;

const MINUTE: Duration = Duration::from_secs(60);
/// How long cache nodes report what was told (`USE_VALID` of the cache node).
const TOLD_VALID: Duration = Duration::from_secs(300);
/// How long a pod takes from the choice of its revision until its mounter tells it.
const START: Duration = Duration::from_secs(120);

/// A revision with as many older ones, all of them numbered, the newest with the largest number.
fn revision(older: usize) -> Revision {
    Revision {
        id: older.to_string(),
        older: (0..older).rev().map(|number| number.to_string()).collect(),
        ..Revision::default()
    }
}

/// What stays, as numbers, when one of each `standing` is known and the others are unused.
fn stays(before: &Revision, lost: &[usize], standings: &[(usize, Standing)]) -> Option<Vec<usize>> {
    let lost: Vec<String> = lost.iter().map(ToString::to_string).collect();
    let standing = |id: &str| {
        let known = standings.iter().find(|(number, _)| number.to_string() == id);
        known.map_or(Standing::Unused, |(_, standing)| *standing)
    };
    let stays = older(Some(before), &lost, standing)?;
    Some(stays.iter().map(|id| id.parse().unwrap()).collect())
}

#[test]
fn the_newest_stay_and_of_the_others_those_that_a_pod_may_mount() {
    let newest = |from: usize| (from + 1 - OLDER_REVISIONS_MIN..=from).rev().collect::<Vec<_>>();
    assert_eq!(older(None, &[], |_| Standing::Unused), Some(Vec::new()));
    assert_eq!(stays(&revision(0), &[], &[]), Some(vec![0]));
    assert_eq!(stays(&revision(40), &[], &[]), Some(newest(40)));
    let used = [
        (3, Standing::InUse),
        (5, Standing::Doubtful),
        (7, Standing::Unused),
        (39, Standing::Unused),
    ];
    assert_eq!(
        stays(&revision(40), &[], &used),
        Some([newest(40), vec![5, 3]].concat())
    );
    // What no cache node has is of no use to anybody.
    assert_eq!(
        stays(&revision(40), &[40, 3], &used),
        Some([newest(39), vec![5]].concat())
    );
}

#[test]
fn when_there_are_too_many_the_oldest_doubtful_ones_go_and_never_one_in_use() {
    let all = |standing: fn(usize) -> Standing| (0..=OLDER_REVISIONS_MAX).map(|n| (n, standing(n))).collect::<Vec<_>>();
    let full = revision(OLDER_REVISIONS_MAX);
    assert_eq!(stays(&full, &[], &all(|_| Standing::InUse)), None);
    let doubtful = |number| {
        if number == 1 || number == 9 {
            Standing::Doubtful
        } else {
            Standing::InUse
        }
    };
    let stays_then = stays(&full, &[], &all(doubtful)).unwrap();
    assert_eq!(stays_then.len(), OLDER_REVISIONS_MAX);
    assert!(!stays_then.contains(&1) && stays_then.contains(&9) && stays_then.contains(&0));
    // The newest few stay whatever is known of them.
    let newest = |number| {
        if number > OLDER_REVISIONS_MAX - 9 {
            Standing::Doubtful
        } else {
            Standing::InUse
        }
    };
    assert_eq!(stays(&full, &[], &all(newest)), None);
    assert_eq!(
        stays(&full, &[7], &all(|_| Standing::InUse)).map(|stays| stays.len()),
        Some(OLDER_REVISIONS_MAX)
    );
}

#[test]
fn without_another_commit_all_that_is_unused_goes_once_nothing_is_doubtful() {
    use Standing::{Doubtful, InUse, Unused};
    let before = revision(OLDER_REVISIONS_MIN + 3);
    for (oldest, expected) in [
        ([Unused, Unused, Unused], Some(vec![])),
        ([Unused, InUse, Unused], Some(vec!["1"])),
        ([InUse, InUse, Unused], Some(vec!["2", "1"])),
        ([Doubtful, InUse, Unused], None),
        ([InUse, InUse, InUse], None),
    ] {
        let standing = |id: &str| match id.parse().unwrap() {
            number @ 0..3 => oldest[2 - number],
            // Of the newest it makes no difference.
            _ => Unused,
        };
        let left = without_unused(&before, standing);
        let newest = before.older.iter().take(OLDER_REVISIONS_MIN).map(String::as_str);
        let expected = expected.map(|others| newest.chain(others).collect::<Vec<_>>());
        assert_eq!(
            left.as_ref().map(|left| left.iter().map(String::as_str).collect()),
            expected,
            "{oldest:?}"
        );
    }
    assert_eq!(without_unused(&revision(OLDER_REVISIONS_MIN), |_| Unused), None);
}

/// One Dataset, its pods, the cache nodes and the operator.
struct World {
    now: Instant,
    uses: Uses,
    revision: Revision,
    commits: u64,
    pods: Vec<Pod>,
    /// What cache nodes remember of what mounters told.
    told: HashMap<RevisionId, Instant>,
    linked: bool,
}

struct Pod {
    revision: String,
    tells_from: Instant,
}

impl World {
    /// With one revision and an operator that has just begun.
    fn new() -> Self {
        let mut world = Self {
            now: Instant::now(),
            uses: Uses::default(),
            revision: Revision::default(),
            commits: 0,
            pods: Vec::new(),
            told: HashMap::new(),
            linked: true,
        };
        world.report();
        world.revision = world.next(None, &[]);
        world
    }

    fn next(&mut self, before: Option<&Revision>, older: &[String]) -> Revision {
        self.commits += 1;
        let built = wire::Built {
            revision: std::array::from_fn::<u8, 32, _>(|byte| self.commits.to_be_bytes()[byte % 8]).to_vec(),
            ..wire::Built::default()
        };
        to_commit(before, older, &built, &Basis::default()).unwrap()
    }

    /// Cache nodes report, if somebody is linked to them.
    fn report(&mut self) {
        self.told.retain(|_, at| self.now - *at <= TOLD_VALID);
        if self.linked {
            self.uses.heard(self.now);
            self.uses.reported(self.told.keys().copied(), self.now);
        }
    }

    fn pass(&mut self, minutes: u64) {
        for _ in 0..minutes {
            self.now += MINUTE;
            let told = self.pods.iter().filter(|pod| pod.tells_from <= self.now);
            self.told
                .extend(told.map(|pod| (pod.revision.parse().unwrap(), self.now)));
            self.report();
        }
    }

    /// Whether there was room.
    fn commit(&mut self) -> bool {
        if !self.linked {
            return false;
        }
        self.report();
        let standing = |id: &str| self.uses.standing(&id.parse().unwrap(), self.now);
        let Some(older) = older(Some(&self.revision), &[], standing) else {
            return false;
        };
        self.uses
            .newest([self.revision.id.parse().unwrap()].into_iter(), self.now);
        let before = self.revision.clone();
        self.revision = self.next(Some(&before), &older);
        assert_eq!(self.revision.older.first(), Some(&before.id), "the one before is there");
        true
    }

    /// A pod starts with the newest revision; its mounter is not there at once.
    fn mount(&mut self) -> String {
        self.pods.push(Pod {
            revision: self.revision.id.clone(),
            tells_from: self.now + START,
        });
        self.revision.id.clone()
    }

    /// What is left when it rests.
    fn forgets(&self) -> Option<Vec<String>> {
        without_unused(&self.revision, |id| self.uses.standing(&id.parse().unwrap(), self.now))
    }

    fn serves(&self, revision: &String) -> bool {
        self.revision.id == *revision || self.revision.older.contains(revision)
    }
}

#[test]
fn a_revision_that_a_pod_mounts_outlives_forty_commits_and_a_day() {
    let mut world = World::new();
    let first = world.mount();
    for _ in 0..40 {
        world.pass(30);
        assert!(world.commit());
        assert!(world.serves(&first), "{:?} after its pod began", world.now);
    }
    assert_eq!(
        world.revision.older.len(),
        OLDER_REVISIONS_MIN + 1,
        "and nothing else is kept"
    );
    world.pods.clear();
    let grace = REVISION_GRACE + TOLD_VALID;
    world.pass(grace.as_secs() / 60 - 1);
    assert!(world.commit() && world.serves(&first), "its pod has just ended");
    world.pass(1);
    assert!(
        world.commit() && !world.serves(&first),
        "nobody has used it for the grace"
    );
}

#[test]
fn a_bucket_that_changes_every_few_seconds_takes_nothing_from_a_pod_that_starts() {
    let mut world = World::new();
    world.pass(REVISION_GRACE.as_secs() / 60);
    let started = world.mount();
    // Its mounter is not there yet, and as many come as stay in any case; later one each five seconds.
    let commits = [2 * OLDER_REVISIONS_MIN].into_iter().chain([12; 30]);
    for commits in commits {
        assert!((0..commits).all(|_| world.commit()) && world.serves(&started));
        world.pass(1);
    }
    // Those of the last minutes, and no more.
    let of_starting = 12 * REVISION_STARTING_MAX.as_secs() as usize / 60;
    assert!(
        world.revision.older.len() <= of_starting + 2,
        "{}",
        world.revision.older.len()
    );
}

#[test]
fn a_new_operator_drops_nothing_for_an_hour_of_which_it_has_not_heard() {
    let mut world = World::new();
    let first = world.mount();
    world.pass(3);
    (0..40).for_each(|_| assert!(world.commit()));
    // Its mounter is cut off, and the one that remembered it is gone.
    world.pods.clear();
    world.told.clear();
    world.uses = Uses::default();
    world.pass(59);
    assert!(world.commit() && world.serves(&first));
    world.pass(1);
    assert!(world.commit() && world.serves(&first), "it has heard for 59 minutes");
    world.pass(1);
    assert!(world.commit() && !world.serves(&first));
}

#[test]
fn when_pods_mount_as_many_as_there_may_be_nothing_is_committed_until_one_goes() {
    let mut world = World::new();
    for _ in 0..OLDER_REVISIONS_MAX {
        world.mount();
        world.pass(4);
        assert!(world.commit());
    }
    let all = world.revision.older.clone();
    assert_eq!(all.len(), OLDER_REVISIONS_MAX);
    world.mount();
    world.pass(4);
    assert!(!world.commit(), "one that is mounted would go");
    assert_eq!(world.revision.older, all);
    let gone = world.pods.remove(100).revision;
    world.pass((REVISION_GRACE + TOLD_VALID).as_secs() / 60);
    assert!(world.commit() && !world.serves(&gone));
    assert!(world.pods.iter().all(|pod| world.serves(&pod.revision)));
}

/// What happens in a world.
#[derive(Clone, Debug)]
enum Event {
    Commit(usize),
    Pass(u64),
    Mount,
    Unmount(prop::sample::Index),
    /// The mounter of a pod says nothing for some minutes.
    Silence(prop::sample::Index, u64),
    OperatorRestarts,
    CacheNodesRestart,
    /// No cache node is linked for some minutes.
    Away(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (1..40usize).prop_map(Event::Commit),
        4 => (1..90u64).prop_map(Event::Pass),
        3 => Just(Event::Mount),
        2 => any::<prop::sample::Index>().prop_map(Event::Unmount),
        1 => (any::<prop::sample::Index>(), 1..50u64).prop_map(|(pod, minutes)| Event::Silence(pod, minutes)),
        1 => Just(Event::OperatorRestarts),
        1 => Just(Event::CacheNodesRestart),
        1 => (1..200u64).prop_map(Event::Away),
    ]
}

impl World {
    fn happen(&mut self, event: Event) {
        match event {
            Event::Commit(times) => (0..times).for_each(|_| {
                self.commit();
            }),
            Event::Pass(minutes) => self.pass(minutes),
            Event::Mount => drop(self.mount()),
            Event::Unmount(which) if !self.pods.is_empty() => drop(self.pods.remove(which.index(self.pods.len()))),
            // One that has told before; it is away for less than the grace, from which what it told last has to be taken.
            Event::Silence(which, minutes) if !self.pods.is_empty() => {
                let pod = which.index(self.pods.len());
                if self.pods[pod].tells_from + MINUTE <= self.now {
                    self.pods[pod].tells_from = self.now + MINUTE * minutes as u32;
                    self.pass(minutes);
                    self.pass(1);
                }
            }
            Event::Unmount(_) | Event::Silence(..) => {}
            Event::OperatorRestarts => {
                self.uses = Uses::default();
                self.report();
            }
            Event::CacheNodesRestart => {
                self.told.clear();
                self.uses.silent();
                self.report();
            }
            Event::Away(minutes) => {
                self.linked = false;
                self.uses.silent();
                self.pass(minutes);
                self.linked = true;
                self.report();
            }
        }
    }
}

proptest! {
    #[test]
    fn whatever_happens_what_is_mounted_is_kept_and_what_is_not_goes(
        events in prop::collection::vec(event(), 1..60)
    ) {
        let mut world = World::new();
        for event in events {
            world.happen(event.clone());
            if let Some(left) = world.forgets() {
                world.revision.older = left;
            }
            for pod in &world.pods {
                prop_assert!(world.serves(&pod.revision), "after {event:?}");
            }
            prop_assert!(world.revision.older.len() <= OLDER_REVISIONS_MAX);
            prop_assert!(!world.revision.older.contains(&world.revision.id));
        }
        world.pods.clear();
        let mounted = world.revision.older.len() > OLDER_REVISIONS_MIN;
        world.pass((REVISION_GRACE + TOLD_VALID).as_secs() / 60 + 1);
        prop_assert_eq!(world.forgets().map(|left| left.len()), mounted.then_some(OLDER_REVISIONS_MIN));
        prop_assert!(world.commit(), "there is room again");
        prop_assert!(world.revision.older.len() <= OLDER_REVISIONS_MIN);
    }
}
