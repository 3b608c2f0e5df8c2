//! Other Datasets that sources name: whether files of them may be taken, and what cache nodes are told of them.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use kube::{Api, Client, ResourceExt};
use penstock_crds::{Dataset, DatasetSource, Source};
use penstock_protocol::control::cache_node as wire;

use crate::announced::announced;
use crate::error::Error;

/// Datasets by namespace and name; `None` for one that does not exist.
pub type Others = BTreeMap<(String, String), Option<Dataset>>;

/// Why files of another Dataset cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// It does not exist or does not allow it; who may not know of it does not learn which.
    #[error(
        "there is no Dataset {0} whose files this namespace may take; correct the source, or have its owner add the namespace \
         {1} to its spec.allowedNamespaces"
    )]
    NotAllowed(String, String),
    /// There is none of that name in the same namespace.
    #[error("the Dataset {0} does not exist in this namespace; create it, or correct the source")]
    Missing(String),
    /// It would go round, or through several caches.
    #[error("the Dataset {0} takes files of other Datasets itself, or is this one; name those as sources instead")]
    Nested(String),
    /// Nothing was listed yet.
    #[error("the Dataset {0} has no revision yet; look at its conditions")]
    NotBuilt(String),
}

/// Every other Dataset that the sources of one of `namespace` name.
///
/// # Errors
/// When the API server cannot be asked.
pub async fn others(client: &Client, namespace: &str, sources: &[Source]) -> Result<Others, Error> {
    let mut others = Others::new();
    for source in sources.iter().filter_map(|source| source.dataset.as_ref()) {
        let (namespace, name) = source.of_namespace(namespace);
        if let Entry::Vacant(other) = others.entry((namespace.to_owned(), name.to_owned())) {
            let api: Api<Dataset> = Api::namespaced(client.clone(), namespace);
            other.insert(api.get_opt(name).await.map_err(Error::api("get another Dataset"))?);
        }
    }
    Ok(others)
}

/// What a cache node is told of the one that a source of a Dataset in `namespace` names. It is told so also when nothing may be built
/// from it any more ([`nested`]): pods still read what was built, out of objects that are the other's own.
///
/// # Errors
/// When its files cannot be taken.
pub fn told(source: &DatasetSource, namespace: &str, others: &Others) -> Result<wire::OtherDataset, NotTaken> {
    let (of_namespace, name) = source.of_namespace(namespace);
    let full_name = format!("{of_namespace}/{name}");
    let other = others
        .get(&(of_namespace.to_owned(), name.to_owned()))
        .and_then(Option::as_ref);
    let other = match other {
        Some(other) if allows(other, namespace) => other,
        None if of_namespace == namespace => return Err(NotTaken::Missing(name.to_owned())),
        Some(_) | None => return Err(NotTaken::NotAllowed(full_name, namespace.to_owned())),
    };
    let revisions = announced(other);
    if revisions.is_empty() {
        return Err(NotTaken::NotBuilt(full_name));
    }
    let status = other.status.as_ref();
    Ok(wire::OtherDataset {
        uid: other.uid().unwrap_or_default(),
        namespace: of_namespace.to_owned(),
        name: name.to_owned(),
        path: source.path.clone(),
        cache_nodes: status.map(|status| status.cache_nodes.clone()).unwrap_or_default(),
        revisions: revisions.iter().map(|id| id.as_bytes().to_vec()).collect(),
    })
}

/// Why nothing may be built from one of the Datasets that sources of one name, if it takes files of others itself, or is this one. What
/// its newest revision was made of decides, as that is what would be listed; its spec only before there is one.
pub fn nested(dataset: &Dataset, namespace: &str, sources: &[Source], others: &Others) -> Option<NotTaken> {
    let is_nested = |source: &&DatasetSource| {
        let (of_namespace, name) = source.of_namespace(namespace);
        if (of_namespace, name) == (namespace, dataset.name_any().as_str()) {
            return true;
        }
        let other = others.get(&(of_namespace.to_owned(), name.to_owned()));
        // Who may not know of it does not learn what it is made of.
        let other = other.and_then(Option::as_ref).filter(|other| allows(other, namespace));
        other.is_some_and(|other| {
            let revision = other.status.as_ref().and_then(|status| status.revision.as_ref());
            let made_of = revision.map_or(&other.spec.sources, |revision| &revision.sources);
            made_of.iter().any(|source| source.dataset.is_some())
        })
    };
    let nested = sources
        .iter()
        .filter_map(|source| source.dataset.as_ref())
        .find(is_nested)?;
    let (of_namespace, name) = nested.of_namespace(namespace);
    Some(NotTaken::Nested(format!("{of_namespace}/{name}")))
}

/// The newest revision of each other Dataset among what cache nodes are told, in the order of the sources.
pub fn newest_revisions(sources: &[wire::Source]) -> Vec<String> {
    let newest = |source: &wire::Source| match &source.origin {
        Some(wire::source::Origin::Dataset(other)) => other.revisions.first().map(|id| hex(id)),
        _ => None,
    };
    sources.iter().filter_map(newest).collect()
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a Dataset lets those of a namespace take its files: its own always may.
pub fn allows(dataset: &Dataset, namespace: &str) -> bool {
    let mut allowed = dataset.spec.allowed_namespaces.iter();
    dataset.namespace().as_deref() == Some(namespace) || allowed.any(|other| other == "*" || other == namespace)
}

/// The sources of a Dataset, and those of revisions that pods may still read.
fn all_sources(dataset: &Dataset) -> impl Iterator<Item = &Source> {
    let revision = dataset.status.as_ref().and_then(|status| status.revision.as_ref());
    let committed = revision.into_iter().flat_map(|revision| &revision.sources);
    let former = revision
        .into_iter()
        .flat_map(|revision| revision.former_sources.iter().map(|former| &former.source));
    dataset.spec.sources.iter().chain(committed).chain(former)
}

/// Whether a Dataset takes files of `other`, or has pods that may still read them.
pub fn takes_of(dataset: &Dataset, other: &Dataset) -> bool {
    let own = dataset.namespace().unwrap_or_default();
    let (namespace, name) = (other.namespace().unwrap_or_default(), other.name_any());
    all_sources(dataset).any(|source| {
        let source = source.dataset.as_ref();
        source.is_some_and(|source| source.of_namespace(&own) == (&namespace, &name))
    })
}

/// Datasets whose spec takes files of one that is to be deleted, and that may; those that are deleted themselves do not count.
pub fn takers<'a>(dataset: &Dataset, all: impl Iterator<Item = &'a Dataset>) -> Vec<String> {
    let takes = |taker: &&Dataset| {
        let own = taker.namespace().unwrap_or_default();
        let (namespace, name) = (dataset.namespace().unwrap_or_default(), dataset.name_any());
        let mut sources = taker.spec.sources.iter().filter_map(|source| source.dataset.as_ref());
        taker.metadata.deletion_timestamp.is_none()
            && allows(dataset, &own)
            && sources.any(|source| source.of_namespace(&own) == (&namespace, &name))
    };
    let full_name = |taker: &Dataset| format!("{}/{}", taker.namespace().unwrap_or_default(), taker.name_any());
    all.filter(takes).map(full_name).collect()
}

#[cfg(test)]
mod tests {
    use penstock_crds::Revision;
    use serde_json::{Value, json};

    use super::*;

    fn dataset(namespace: &str, name: &str, spec: Value, revision: Option<u8>) -> Dataset {
        let mut dataset: Dataset = serde_json::from_value(json!({
            "apiVersion": "penstock.io/v1alpha1", "kind": "Dataset",
            "metadata": {"name": name, "namespace": namespace, "uid": format!("uid-{name}")}, "spec": spec,
        }))
        .unwrap();
        let status = dataset.status.get_or_insert_default();
        status.cache_nodes = vec!["pool-0:7070".into()];
        status.revision = revision.map(|byte| Revision {
            id: format!("{byte:02x}").repeat(32),
            ..Revision::default()
        });
        dataset
    }

    fn source(value: Value) -> DatasetSource {
        serde_json::from_value(value).unwrap()
    }

    fn named(all: &[Dataset]) -> Others {
        let named = |dataset: &Dataset| {
            (
                (dataset.namespace().unwrap(), dataset.name_any()),
                Some(dataset.clone()),
            )
        };
        all.iter().map(named).collect()
    }

    /// A Dataset of namespace a that lets namespace b in, with what its spec names and what its revision was made of.
    fn lender(spec: &Value, committed: Option<&Value>) -> Dataset {
        let mut lender = dataset(
            "a",
            "lender",
            json!({"sources": spec, "allowedNamespaces": ["b"]}),
            None,
        );
        let revision = committed.map(|sources| Revision {
            id: "07".repeat(32),
            sources: serde_json::from_value(sources.clone()).unwrap(),
            ..Revision::default()
        });
        lender.status.get_or_insert_default().revision = revision;
        lender
    }

    #[test]
    fn pods_read_what_was_committed_whatever_the_other_dataset_names_by_now() {
        let (own, other) = (json!([{"s3": {"bucket": "b"}}]), json!([{"dataset": {"name": "x"}}]));
        let source = source(json!({"namespace": "a", "name": "lender"}));
        for (spec, committed) in [(&own, &own), (&other, &own), (&own, &other), (&other, &other)] {
            let told = told(&source, "b", &named(&[lender(spec, Some(committed))])).unwrap();
            assert_eq!(told.revisions, [vec![7; 32]], "{spec} {committed}");
        }
    }

    #[test]
    fn nothing_is_built_from_a_revision_that_has_files_of_others() {
        let (own, other) = (json!([{"s3": {"bucket": "b"}}]), json!([{"dataset": {"name": "x"}}]));
        let sources: Vec<Source> =
            serde_json::from_value(json!([{"s3": {"bucket": "c"}}, {"dataset": {"namespace": "a", "name": "lender"}}]))
                .unwrap();
        let refused = Some(NotTaken::Nested("a/lender".into()));
        let taker = |namespace: &str, name: &str| dataset(namespace, name, json!({"sources": []}), None);
        for (spec, committed, expected) in [
            (&own, Some(&own), None),
            // The edit may be refused, and what is committed is as it was.
            (&other, Some(&own), None),
            (&own, Some(&other), refused.clone()),
            (&other, Some(&other), refused.clone()),
            // Two that name each other.
            (&other, None, refused.clone()),
            (&own, None, None),
        ] {
            let others = named(&[lender(spec, committed)]);
            let nested = |taker: Dataset| nested(&taker, &taker.namespace().unwrap(), &sources, &others);
            assert_eq!(nested(taker("b", "taker")), expected, "{spec} {committed:?}");
            assert_eq!(nested(taker("a", "lender")), refused, "itself");
            assert_eq!(nested(taker("c", "taker")), None, "who is not let in does not learn it");
        }
    }

    #[test]
    fn files_are_taken_of_what_exists_and_allows_it() {
        let s3 = json!([{"s3": {"bucket": "b"}}]);
        let all = [
            dataset("a", "own", json!({"sources": s3}), Some(1)),
            dataset(
                "a",
                "open",
                json!({"sources": s3, "allowedNamespaces": ["c", "b"]}),
                Some(2),
            ),
            dataset("a", "all", json!({"sources": s3, "allowedNamespaces": ["*"]}), Some(3)),
            dataset("a", "new", json!({"sources": s3, "allowedNamespaces": ["*"]}), None),
            dataset("b", "mine", json!({"sources": s3}), Some(4)),
        ];
        let others = named(&all);
        let refused = |namespace: &str, name: &str| {
            let source = source(json!({"namespace": namespace, "name": name}));
            told(&source, "b", &others).err()
        };
        for (namespace, name) in [("a", "open"), ("a", "all"), ("b", "mine"), ("", "mine")] {
            assert_eq!(refused(namespace, name), None, "{namespace}/{name}");
        }
        let not_allowed = |name: &str| Some(NotTaken::NotAllowed(name.into(), "b".into()));
        assert_eq!(refused("a", "own"), not_allowed("a/own"));
        assert_eq!(
            refused("a", "nothing"),
            not_allowed("a/nothing"),
            "nobody learns what there is"
        );
        assert_eq!(refused("", "nothing"), Some(NotTaken::Missing("nothing".into())));
        assert_eq!(refused("a", "new"), Some(NotTaken::NotBuilt("a/new".into())));
        let told = told(
            &source(json!({"namespace": "a", "name": "open", "path": "x"})),
            "b",
            &others,
        )
        .unwrap();
        assert_eq!((told.uid.as_str(), told.path.as_str()), ("uid-open", "x"));
        assert_eq!(told.cache_nodes, ["pool-0:7070"]);
        let wire = wire::Source {
            origin: Some(wire::source::Origin::Dataset(told)),
            ..wire::Source::default()
        };
        assert_eq!(newest_revisions(&[wire::Source::default(), wire]), ["02".repeat(32)]);
    }

    #[test]
    fn a_deletion_waits_for_those_that_take_its_files_and_may() {
        let other = dataset("a", "d", json!({"sources": [], "allowedNamespaces": ["b"]}), None);
        let taker = |namespace: &str, source: Value| {
            dataset(namespace, "taker", json!({"sources": [{"dataset": source}]}), None)
        };
        let (same, allowed, forbidden) = (
            taker("a", json!({"name": "d"})),
            taker("b", json!({"name": "d", "namespace": "a"})),
            taker("c", json!({"name": "d", "namespace": "a"})),
        );
        let of_its_own = taker("b", json!({"name": "d"}));
        let mut leaving = allowed.clone();
        leaving.metadata.deletion_timestamp = Some(crate::context::now());
        let all = [&same, &allowed, &forbidden, &of_its_own, &leaving];
        assert_eq!(takers(&other, all.into_iter()), ["a/taker", "b/taker"]);
        assert!(takes_of(&forbidden, &other) && !takes_of(&of_its_own, &other));
    }

    #[test]
    fn pods_of_an_older_revision_still_read_what_the_spec_does_not_name_any_more() {
        let other = dataset("a", "d", json!({"sources": []}), None);
        let mut taker = dataset("a", "taker", json!({"sources": [{"s3": {"bucket": "b"}}]}), Some(1));
        assert!(!takes_of(&taker, &other));
        let revision = taker.status.as_mut().unwrap().revision.as_mut().unwrap();
        revision.sources = serde_json::from_value(json!([{"dataset": {"name": "d"}}])).unwrap();
        assert!(takes_of(&taker, &other));
    }
}
