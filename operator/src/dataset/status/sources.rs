//! What keeps the next revision from being built, and what is said of the sources.

use kube::ResourceExt;
use penstock_crds::{Dataset, DatasetStatus, condition};
use penstock_protocol::control::cache_node::build_failed::Reason;
use penstock_sources::looked_at;

use crate::builds::Failure;
use crate::conditions::Wanted;
use crate::dataset::observe::Observed;
use crate::others::NotTaken;
use crate::unusable::Unusable;

/// What keeps the next revision from being built.
pub(super) struct Trouble {
    /// CamelCase, part of the API.
    pub(super) reason: &'static str,
    /// One sentence for people.
    pub(super) message: String,
    /// Whether a source is at fault, and not the cache nodes.
    pub(super) is_of_a_source: bool,
}

/// What is known to be over as soon as the sources can be told to a cache node again.
const MENDED_BY_LOOKING: [&str; 7] = [
    "NotAllowed",
    "SecretMissing",
    "ClaimMissing",
    "ReaderNotReady",
    "DatasetNotReady",
    "DatasetNotAvailable",
    "NoKerberosRealm",
];

/// What the next revision waits for, when it is due.
pub(super) fn trouble(dataset: &Dataset, observed: &Observed) -> Option<Trouble> {
    if let Err(unusable) = &observed.sources {
        return Some(Trouble {
            reason: unusable_text(unusable),
            message: unusable.to_string(),
            is_of_a_source: true,
        });
    }
    if observed.nodes_are_outdated() {
        let runtime = observed.runtime.as_ref().map(ResourceExt::name_any).unwrap_or_default();
        return Some(Trouble {
            reason: "NodesOutdated",
            message: format!(
                "the cache nodes of the CacheRuntime {runtime} are being upgraded, and none of those that serve understands all that the \
                 sources say yet; this goes on with the first new one (if it lasts: kubectl get pods -l penstock.io/cache-runtime={runtime})"
            ),
            is_of_a_source: false,
        });
    }
    if let Some(failure) = observed.build.failure() {
        let Failure { reason, message, .. } = failure;
        let whose_keys = match reason {
            Some(Reason::Denied) => whose_keys(dataset, failure),
            _ => String::new(),
        };
        return Some(Trouble {
            reason: reason_text(*reason),
            message: format!("{message}{whose_keys}"),
            is_of_a_source: failure.is_of_a_source(),
        });
    }
    None
}

/// `None` while nobody has looked at these sources. What was said of them stays while they are looked at again.
pub(super) fn reachable(
    dataset: &Dataset,
    before: &DatasetStatus,
    observed: &Observed,
    is_due: bool,
) -> Option<Wanted> {
    let trouble = trouble(dataset, observed).filter(|trouble| trouble.is_of_a_source);
    if let Some(Trouble { reason, message, .. }) = trouble {
        return Some(Wanted::new(condition::SOURCE_REACHABLE, false, reason, message));
    }
    if !is_due {
        return Some(Wanted::new(
            condition::SOURCE_REACHABLE,
            true,
            "Listed",
            "every source was listed",
        ));
    }
    let same_sources = before.observed_generation == dataset.metadata.generation
        || observed.revision.is_some() && !observed.sources_changed();
    Wanted::kept(condition::SOURCE_REACHABLE, &before.conditions)
        .filter(|kept| same_sources && !MENDED_BY_LOOKING.contains(&kept.reason.as_str()))
}

fn unusable_text(unusable: &Unusable) -> &'static str {
    match unusable {
        Unusable::Keys(_) => "SecretMissing",
        Unusable::NotAllowed { .. } | Unusable::FolderNotAllowed { .. } | Unusable::NotGranted { .. } => {
            reason_text(Some(Reason::NotAllowed))
        }
        Unusable::NotTaken(NotTaken::NotBuilt(_)) => "DatasetNotReady",
        Unusable::NotTaken(_) => "DatasetNotAvailable",
        Unusable::NoClaim(_) | Unusable::ClaimLeaving(_) => "ClaimMissing",
        Unusable::NoReader(_) => "ReaderNotReady",
        Unusable::ClaimOfDataset(_) => reason_text(Some(Reason::Invalid)),
        Unusable::NoRealm { .. } => "NoKerberosRealm",
    }
}

fn reason_text(reason: Option<Reason>) -> &'static str {
    match reason {
        None | Some(Reason::Other) => "BuildFailed",
        Some(Reason::Unreachable) => "Unreachable",
        Some(Reason::Denied) => "AccessDenied",
        Some(Reason::NotFound) => "NotFound",
        Some(Reason::Empty) => "Empty",
        Some(Reason::ParentLost) => "ParentLost",
        Some(Reason::Invalid) => "InvalidSource",
        Some(Reason::NotAllowed) => "NotAllowed",
    }
}

/// Cache nodes know keys, but not where they come from. Nothing of a source that is read without any.
fn whose_keys(dataset: &Dataset, failure: &Failure) -> String {
    let path = failure.source_path.as_deref();
    let source = path.and_then(|path| dataset.spec.sources.iter().find(|source| source.path == path));
    match source {
        Some(source) if !looked_at(source).keys.is_empty() => match source.secret() {
            Some(secret) => format!("; the keys are those of the Secret {}", secret.name),
            None => "; no Secret is named: set credentialsSecretRef unless the bucket is public".to_owned(),
        },
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use serde_json::json;

    use super::*;
    use crate::builds::State;
    use crate::dataset::decide::tests::{dataset, failed, settled};

    #[test]
    fn who_is_refused_is_told_whose_keys_they_were_if_there_are_any() {
        let dataset = dataset(
            json!({"sources": [
                {"path": "open", "s3": {"bucket": "b"}},
                {"path": "keys", "gcs": {"bucket": "bucket", "credentialsSecretRef": {"name": "mine"}}},
                {"path": "cloud", "s3": {"bucket": "b", "workloadIdentity": true}},
                {"path": "volume", "claim": {"name": "data"}},
                {"path": "nodes", "folder": {"path": "/mnt/data"}},
            ]}),
            None,
        );
        for (path, said) in [
            (
                Some("open"),
                "; no Secret is named: set credentialsSecretRef unless the bucket is public",
            ),
            (Some("keys"), "; the keys are those of the Secret mine"),
            (Some("cloud"), ""),
            (Some("volume"), ""),
            (Some("nodes"), ""),
            // By a cache node that does not say which.
            (None, ""),
        ] {
            let mut build = failed(Reason::Denied, Instant::now());
            if let State::Failed(failure) = &mut build {
                failure.message = "refused".to_owned();
                failure.source_path = path.map(str::to_owned);
            }
            let observed = Observed { build, ..settled() };
            let trouble = trouble(&dataset, &observed).unwrap();
            assert_eq!(trouble.message, format!("refused{said}"), "{path:?}");
            assert!(trouble.is_of_a_source && trouble.reason == "AccessDenied");
        }
    }
}
