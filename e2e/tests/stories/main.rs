//! The stories that a user would tell, in the order in which they happen to one cluster: installing, living, leaving.
//!
//! `e2e/stories [NAME ...]` runs them (all, or those whose name contains one of the words).

mod bad_input;
mod builders_killed;
mod cache_node_killed;
mod first_line;
mod garage;
mod host_folder;
mod install;
mod leaving;
mod mishaps;
mod not_allowed;
mod notified;
mod one_tree;
mod other_dataset;
mod read_suite;
mod replaced;
mod rotated;
mod secrets;
mod shared_cache;
mod small_cache;
mod ways_to_mount;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

type Story = (&'static str, fn() -> anyhow::Result<()>);

const STORIES: &[Story] = &[
    ("helm installs the chart and everything is ready", install::story),
    (
        "a dataset in S3 is read in pods of two nodes and refreshed",
        first_line::story,
    ),
    ("a dataset in Garage is read byte for byte", garage::story),
    (
        "one tree over S3, HDFS, a web server and GCS, whose sources come and go",
        one_tree::story,
    ),
    (
        "a Dataset has the files of another namespace's Dataset, which are cached once",
        other_dataset::story,
    ),
    (
        "a folder of the nodes is read where chart and CacheRuntime allow it",
        host_folder::story,
    ),
    (
        "a Dataset cannot reach what its CacheRuntime does not allow",
        not_allowed::story,
    ),
    ("a Secret is rotated under cache nodes that run", rotated::story),
    (
        "a store says what has changed, and only that is looked at",
        notified::story,
    ),
    (
        "pods get a dataset in every way that Kubernetes has",
        ways_to_mount::story,
    ),
    (
        "readers notice nothing when a cache node is killed",
        cache_node_killed::story,
    ),
    (
        "operator and builder are killed in the middle of a build, and there is one revision",
        builders_killed::story,
    ),
    (
        "workers are killed at random moments under pods that read",
        replaced::workers,
    ),
    (
        "containers and pods of a node are made anew under pods that read",
        replaced::pods,
    ),
    ("helm upgrades and rolls back under pods that read", replaced::upgrade),
    (
        "processes hang and parts of Kubernetes restart under pods that read",
        mishaps::hangs_and_restarts,
    ),
    (
        "pods end in seconds though nobody answers their reads",
        mishaps::deletion_with_everything_dead,
    ),
    (
        "a pod comes back with its volume after a power failure",
        mishaps::reboot,
    ),
    (
        "wrong credentials heal when the Secret is mended",
        bad_input::wrong_credentials,
    ),
    ("a missing bucket is named and heals", bad_input::missing_bucket),
    (
        "an unreachable endpoint is named and heals",
        bad_input::unreachable_endpoint,
    ),
    ("an empty prefix is named and heals", bad_input::empty_prefix),
    (
        "a Secret, a CacheRuntime and a pod may come in any order",
        bad_input::any_order,
    ),
    (
        "what the API server cannot accept it refuses with a sentence",
        bad_input::refused_specs,
    ),
    (
        "a claim of the same name that is not ours is left alone",
        bad_input::foreign_claim,
    ),
    ("what a quota forbids is named and heals", bad_input::refused_by_quota),
    (
        "a cache smaller than its data gives every byte, and each epoch what fits",
        small_cache::story,
    ),
    (
        "two Datasets share tiers smaller than their data: each gets what it was promised, whatever changes or dies",
        shared_cache::story,
    ),
    (
        "an object deleted under a running pod fails alone",
        bad_input::object_deleted,
    ),
    (
        "deletion in the wrong order says what it waits for",
        leaving::wrong_order,
    ),
    (
        "helm uninstall is stopped while datasets live, and ends when they are gone",
        leaving::uninstall,
    ),
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let wanted = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word.as_str()));
    let (mut passed, mut failed) = (0, Vec::new());
    for (name, story) in STORIES
        .iter()
        .filter(|(name, _)| wanted(name) || name.starts_with("helm installs"))
    {
        eprintln!("story: {name}");
        let started = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(story));
        let seconds = started.elapsed().as_secs_f32();
        match outcome {
            Ok(Ok(())) => {
                println!("story {name} ... ok ({seconds:.1} s)");
                passed += 1;
            }
            Ok(Err(error)) => {
                println!("story {name} ... FAILED ({seconds:.1} s)\n{error:?}");
                failed.push(*name);
            }
            Err(_) => {
                println!("story {name} ... FAILED ({seconds:.1} s), see the panic above");
                failed.push(*name);
            }
        }
    }
    println!("stories: {passed} passed, {} failed", failed.len());
    for name in &failed {
        println!("  failed: {name}");
    }
    if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
