//! What cache nodes serve of a Dataset beside what its spec names: its revisions, and sources that older ones need. Pure.

use penstock_crds::{Dataset, Source};
use penstock_protocol::ids::RevisionId;

/// Ids of the revisions that cache nodes serve, the newest first.
pub fn announced(dataset: &Dataset) -> Vec<RevisionId> {
    let revision = dataset.status.as_ref().and_then(|status| status.revision.as_ref());
    let ids = revision
        .into_iter()
        .flat_map(|revision| std::iter::once(&revision.id).chain(&revision.older));
    ids.filter_map(|id| id.parse().ok()).collect()
}

/// Sources that pods may still read and that the spec does not have: those of older revisions, and of the newest one as long as the
/// one after it is not built.
pub fn former_sources(dataset: &Dataset) -> Vec<Source> {
    let Some(revision) = dataset.status.as_ref().and_then(|status| status.revision.as_ref()) else {
        return Vec::new();
    };
    let former = revision.former_sources.iter().map(|former| &former.source);
    let spec: Vec<Source> = dataset.spec.sources.iter().map(Source::origin_only).collect();
    let gone = revision
        .sources
        .iter()
        .chain(former)
        .filter(|source| !spec.contains(source));
    gone.cloned().collect()
}

#[cfg(test)]
mod tests {
    use penstock_crds::{FormerSource, Revision};
    use serde_json::json;

    use super::*;

    fn sources(buckets: &[&str]) -> Vec<Source> {
        let source = |bucket: &&str| serde_json::from_value(json!({"s3": {"bucket": bucket}})).unwrap();
        buckets.iter().map(source).collect()
    }

    #[test]
    fn what_the_spec_has_no_more_is_told_also_before_the_next_revision() {
        let dataset = json!({
            "apiVersion": "penstock.io/v1alpha1", "kind": "Dataset", "metadata": {"name": "d"},
            "spec": {"sources": [{"path": "elsewhere", "s3": {"bucket": "b"}, "include": ["*.x"]}]},
        });
        let mut dataset: Dataset = serde_json::from_value(dataset).unwrap();
        assert!(former_sources(&dataset).is_empty());
        let revision = Revision {
            sources: sources(&["a", "b"]),
            former_sources: vec![FormerSource {
                revision: "01".repeat(32),
                source: sources(&["c"]).remove(0),
            }],
            ..Revision::default()
        };
        dataset.status.get_or_insert_default().revision = Some(revision);
        assert_eq!(former_sources(&dataset), sources(&["a", "c"]));
    }
}
