//! From what has changed in a store to what of the sources of a Dataset that is: pure.

use penstock_crds::{Dataset, Source};
use penstock_notifications::{Change, Place};

use super::marks::Mark;

/// What has to be listed of the sources of a Dataset; nothing of what it has not.
pub fn marks(dataset: &Dataset, changes: &[Change]) -> Vec<Mark> {
    let of_source = |source: &Source| {
        changes
            .iter()
            .filter_map(|change| mark(source, change))
            .collect::<Vec<_>>()
    };
    dataset.spec.sources.iter().flat_map(of_source).collect()
}

fn mark(source: &Source, Change { place, start }: &Change) -> Option<Mark> {
    let prefix = prefix_in(source, place)?;
    let start = match start.strip_prefix(prefix) {
        Some(below) => below,
        // A folder above the source.
        None if prefix.starts_with(start.as_str()) => "",
        None => return None,
    };
    Some(Mark::Keys {
        path: source.path.clone(),
        start: start.to_owned(),
    })
}

/// The prefix of a source that is in this place.
fn prefix_in<'a>(source: &'a Source, place: &Place) -> Option<&'a str> {
    let is_named = |name: &str| match place {
        Place::Any(wanted) => wanted.as_deref().is_none_or(|wanted| wanted == name),
        Place::S3(_) | Place::Gcs(_) | Place::Azure { .. } => false,
    };
    if let Some(s3) = &source.s3 {
        let is_it = *place == Place::S3(s3.bucket.clone()) || is_named(&s3.bucket);
        return is_it.then_some(s3.prefix.as_str());
    }
    if let Some(gcs) = &source.gcs {
        let is_it = *place == Place::Gcs(gcs.bucket.clone()) || is_named(&gcs.bucket);
        return is_it.then_some(gcs.prefix.as_str());
    }
    let azure = source.azure.as_ref()?;
    let is_it = match place {
        Place::Azure { account, container } => {
            *container == azure.container && account.as_ref().is_none_or(|account| *account == azure.account)
        }
        _ => is_named(&azure.container),
    };
    is_it.then_some(azure.prefix.as_str())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_change_is_of_the_sources_that_have_it_below_their_prefix() {
        let dataset = json!({
            "apiVersion": "penstock.io/v1alpha1", "kind": "Dataset", "metadata": {"name": "d"},
            "spec": {"sources": [
                {"path": "all", "s3": {"bucket": "b"}},
                {"path": "raw", "s3": {"bucket": "b", "prefix": "raw/2024/"}},
                {"path": "g", "gcs": {"bucket": "bbb", "prefix": "p/"}},
                {"path": "z", "azure": {"account": "acc", "container": "b"}},
                {"path": "web", "http": {"url": "https://h/b/"}},
            ]},
        });
        let dataset: Dataset = serde_json::from_value(dataset).unwrap();
        let azure = |account: Option<&str>| Place::Azure {
            account: account.map(str::to_owned),
            container: "b".into(),
        };
        let all = |key: &'static str| [("all", key), ("z", key)];
        for (place, start, expected) in [
            (
                Place::S3("b".into()),
                "raw/2024/x",
                vec![("all", "raw/2024/x"), ("raw", "x")],
            ),
            (Place::S3("b".into()), "raw/2025/x", vec![("all", "raw/2025/x")]),
            (Place::S3("b".into()), "raw/", vec![("all", "raw/"), ("raw", "")]),
            (Place::S3("other".into()), "raw/2024/x", vec![]),
            (Place::Gcs("b".into()), "p/x", vec![]),
            (Place::Gcs("bbb".into()), "p/x", vec![("g", "x")]),
            (Place::Gcs("bbb".into()), "q/x", vec![]),
            (azure(Some("acc")), "x", vec![("z", "x")]),
            (azure(None), "x", vec![("z", "x")]),
            (azure(Some("acc2")), "x", vec![]),
            (Place::Any(None), "k", all("k").to_vec()),
            (
                Place::Any(None),
                "",
                vec![("all", ""), ("raw", ""), ("g", ""), ("z", "")],
            ),
            (Place::Any(Some("bbb".into())), "p/x", vec![("g", "x")]),
        ] {
            let change = Change {
                place,
                start: start.to_owned(),
            };
            let found = marks(&dataset, std::slice::from_ref(&change));
            let expected = expected.into_iter().map(|(path, start)| Mark::Keys {
                path: path.to_owned(),
                start: start.to_owned(),
            });
            assert_eq!(found, expected.collect::<Vec<_>>(), "{change:?}");
        }
    }
}
