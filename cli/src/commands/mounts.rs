//! `penstock mounts`.

use anyhow::Result;
use penstock_crds::{Dataset, Revision, Source};
use penstock_origin::Environment;
use penstock_sources::wire_source;
use serde::Serialize;

use crate::args::{Mounts, Output};
use crate::dataset_file::DatasetFile;
use crate::{out, text};

/// A source, and where it stands.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Mounted {
    path: String,
    origin: String,
    include: Vec<String>,
    exclude: Vec<String>,
    state: State,
}

/// What pods see of a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum State {
    /// The file has no status, as one that was not applied.
    Unknown,
    /// It is in the newest revision.
    Mounted,
    /// It is in the spec, and in no revision yet.
    NotYet,
    /// Only pods that mount this revision or an older one see it.
    OldPods(String),
}

/// Prints where each source of a Dataset stands.
///
/// # Errors
/// When the file has no Dataset.
pub fn run(arguments: &Mounts) -> Result<()> {
    let Mounts { which, output } = arguments;
    print(&DatasetFile::read(which)?.dataset()?, *output)
}

/// The same of a Dataset, wherever it is from.
///
/// # Errors
/// When it cannot be written.
pub fn print(dataset: &Dataset, output: Output) -> Result<()> {
    let mounted = mounted(dataset);
    if output == Output::Json {
        return out::print(&format!("{}\n", serde_json::to_string(&mounted)?));
    }
    let rows: Vec<[String; 4]> = mounted.iter().map(row).collect();
    out::print(&text::table(["PATH", "ORIGIN", "STATE", "PATTERNS"], &rows))
}

fn row(mounted: &Mounted) -> [String; 4] {
    let Mounted {
        path,
        origin,
        include,
        exclude,
        state,
    } = mounted;
    let patterns = include.iter().cloned();
    let patterns: Vec<String> = patterns.chain(exclude.iter().map(|text| format!("!{text}"))).collect();
    let state = match state {
        State::Unknown => "-".to_owned(),
        State::Mounted => "mounted".to_owned(),
        State::NotYet => "not yet".to_owned(),
        State::OldPods(revision) => format!("pods until revision {revision:.12}"),
    };
    [format!("/{path}"), origin.clone(), state, patterns.join(" ")].map(|cell| text::name(&cell))
}

fn mounted(dataset: &Dataset) -> Vec<Mounted> {
    let revision = dataset.status.as_ref().and_then(|status| status.revision.as_ref());
    let of_spec = dataset.spec.sources.iter().map(|source| {
        let state = match revision {
            None if dataset.status.is_none() => State::Unknown,
            Some(revision) if revision.sources.contains(&source.origin_only()) => State::Mounted,
            _ => State::NotYet,
        };
        mounted_as(dataset, source, state)
    });
    of_spec
        .chain(revision.into_iter().flat_map(|revision| gone(dataset, revision)))
        .collect()
}

/// What older pods still read and the spec does not name.
fn gone(dataset: &Dataset, revision: &Revision) -> Vec<Mounted> {
    let last = revision.sources.iter().map(|source| (source, &revision.id));
    let former = revision.former_sources.iter();
    let all = last.chain(former.map(|former| (&former.source, &former.revision)));
    let named: Vec<Source> = dataset.spec.sources.iter().map(Source::origin_only).collect();
    let gone = all.filter(|(source, _)| !named.contains(source));
    gone.map(|(source, id)| mounted_as(dataset, source, State::OldPods(id.clone())))
        .collect()
}

fn mounted_as(dataset: &Dataset, source: &Source, state: State) -> Mounted {
    Mounted {
        path: source.path.clone(),
        origin: origin(dataset, source),
        include: source.include.clone(),
        exclude: source.exclude.clone(),
        state,
    }
}

/// It as people know it; without keys, which are not asked for anything here.
fn origin(dataset: &Dataset, source: &Source) -> String {
    let own = dataset.metadata.namespace.as_deref().unwrap_or_default();
    if let Some(other) = &source.dataset {
        let (namespace, name) = other.of_namespace(own);
        return format!("dataset://{namespace}/{name}/{}", other.path);
    }
    if let Some(claim) = &source.claim {
        return format!("claim://{own}/{}/{}", claim.name, claim.path);
    }
    let told = wire_source(&source.without_secret(), None).map_err(|error| error.to_string());
    let client = told
        .and_then(|told| penstock_origin::client(&told, &Environment::default()).map_err(|error| error.to_string()));
    client.map_or_else(|error| error, |origin| origin.place())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_source_is_shown_with_where_it_stands_and_who_sees_it() {
        let spec = json!({"sources": [
            {"s3": {"bucket": "photos", "prefix": "train/", "credentialsSecretRef": {"name": "keys"}}, "exclude": ["*.crc"]},
            {"path": "new", "http": {"url": "https://h/pub/", "files": ["a"]}},
            {"path": "other", "dataset": {"name": "d", "namespace": "n"}},
            {"path": "near", "dataset": {"name": "e", "path": "x"}},
            {"path": "nfs", "claim": {"name": "data", "path": "2024"}},
        ]});
        let mut dataset: Dataset = serde_json::from_value(json!({
            "apiVersion": "penstock.io/v1alpha1", "kind": "Dataset", "metadata": {"name": "d", "namespace": "own"},
            "spec": spec,
        }))
        .unwrap();
        let shown =
            |dataset: &Dataset| -> Vec<String> { mounted(dataset).iter().map(|one| row(one).join("|")).collect() };
        assert_eq!(
            shown(&dataset),
            [
                "/|s3://photos/train/|-|!*.crc",
                "/new|https://h/pub/|-|",
                "/other|dataset://n/d/|-|",
                "/near|dataset://own/e/x|-|",
                "/nfs|claim://own/data/2024|-|",
            ]
        );
        let old: Source = serde_json::from_value(json!({"gcs": {"bucket": "old"}})).unwrap();
        let status = dataset.status.get_or_insert_default();
        status.revision = Some(Revision {
            id: "ab".repeat(32),
            sources: vec![dataset.spec.sources[0].origin_only(), old],
            ..Revision::default()
        });
        assert_eq!(
            shown(&dataset),
            [
                "/|s3://photos/train/|mounted|!*.crc",
                "/new|https://h/pub/|not yet|",
                "/other|dataset://n/d/|not yet|",
                "/near|dataset://own/e/x|not yet|",
                "/nfs|claim://own/data/2024|not yet|",
                "/|gs://old/|pods until revision abababababab|",
            ]
        );
    }
}
