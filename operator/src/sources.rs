//! What sources name in the cluster, Secrets and other Datasets, and what cache nodes are told of the sources.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use penstock_crds::{FolderSource, Source};
use penstock_protocol::control::cache_node as wire;
use penstock_sources::{Keys, standing, wire_source};

use crate::error::Error;
use crate::others::{self, NotTaken, Others};

/// Secrets by name; `None` for one that does not exist.
pub type Secrets = BTreeMap<String, Option<Keys>>;

/// What sources of one namespace name.
#[derive(Clone, Debug, Default)]
pub struct Named {
    /// The namespace.
    pub namespace: String,
    /// The Secrets.
    pub secrets: Secrets,
    /// The other Datasets.
    pub others: Others,
}

/// Why the sources cannot be told to a cache node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// A Secret or one of its keys is missing.
    #[error("{0}")]
    Keys(#[from] penstock_sources::Unusable),
    /// Another Dataset whose files cannot be taken.
    #[error("{0}")]
    NotTaken(#[from] NotTaken),
    /// A source that cache nodes do not have.
    #[error("the folder {0} is one of a single machine, which cache nodes do not read; use `penstock mount` for it")]
    Folder(String),
}

/// Everything that the sources of a Dataset in `namespace` name.
///
/// # Errors
/// When the API server cannot be asked.
pub async fn named(client: &Client, namespace: &str, sources: &[Source]) -> Result<Named, Error> {
    Ok(Named {
        namespace: namespace.to_owned(),
        secrets: secrets(client, namespace, sources).await?,
        others: others::others(client, namespace, sources).await?,
    })
}

async fn secrets(client: &Client, namespace: &str, sources: &[Source]) -> Result<Secrets, Error> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let mut secrets = Secrets::new();
    for reference in sources.iter().filter_map(Source::secret) {
        if !secrets.contains_key(&reference.name) {
            let secret = api.get_opt(&reference.name).await.map_err(Error::api("get a Secret"))?;
            secrets.insert(reference.name.clone(), secret.map(keys));
        }
    }
    Ok(secrets)
}

/// What a cache node is told of the sources that can be used, and why the first of the others cannot.
pub fn wire_sources(sources: &[Source], named: &Named) -> (Vec<wire::Source>, Option<Unusable>) {
    let (mut usable, mut unusable) = (Vec::new(), None);
    for source in sources {
        match told(source, named) {
            Ok(source) => usable.push(source),
            Err(error) => unusable = unusable.or(Some(error)),
        }
    }
    (usable, unusable)
}

fn told(source: &Source, named: &Named) -> Result<wire::Source, Unusable> {
    let Named {
        namespace,
        secrets,
        others,
    } = named;
    if let Some(other) = &source.dataset {
        let other = others::told(other, namespace, others)?;
        return Ok(standing(source, wire::source::Origin::Dataset(other)));
    }
    if let Some(FolderSource { path }) = &source.folder {
        return Err(Unusable::Folder(path.clone()));
    }
    let keys = source.secret().and_then(|secret| secrets.get(&secret.name)?.as_ref());
    Ok(wire_source(source, keys)?)
}

fn keys(secret: Secret) -> Keys {
    let data = secret.data.unwrap_or_default().into_iter();
    data.filter_map(|(key, bytes)| Some((key, String::from_utf8(bytes.0).ok()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_missing_secret_takes_only_its_own_source_away() {
        let sources: Vec<Source> = serde_json::from_value(json!([
            {"path": "a", "s3": {"bucket": "a", "credentialsSecretRef": {"name": "missing"}}},
            {"path": "b", "s3": {"bucket": "b", "credentialsSecretRef": {"name": "there"}}},
            {"path": "c", "s3": {"bucket": "c"}},
            {"path": "d", "http": {"url": "http://d/", "files": ["e"]}},
            {"path": "e", "folder": {"path": "/etc"}},
        ]))
        .unwrap();
        let there: Secret =
            serde_json::from_value(json!({"data": {"AWS_ACCESS_KEY_ID": "aWQ=", "AWS_SECRET_ACCESS_KEY": "a2V5Cg=="}}))
                .unwrap();
        let named = Named {
            secrets: Secrets::from([("missing".into(), None), ("there".into(), Some(keys(there)))]),
            ..Named::default()
        };
        let (usable, unusable) = wire_sources(&sources, &named);
        let paths: Vec<&str> = usable.iter().map(|source| source.path.as_str()).collect();
        assert_eq!(paths, ["b", "c", "d"]);
        let http = wire::Http {
            url: "http://d/".into(),
            files: vec!["e".into()],
            login: None,
        };
        assert_eq!(usable[2].origin, Some(wire::source::Origin::Http(http)));
        let said = unusable.unwrap().to_string();
        assert!(said.starts_with("the Secret missing does not exist"), "{said}");
        assert_eq!(wire_sources(&sources[1..4], &named).1, None);
        assert_eq!(
            wire_sources(&sources[4..], &named),
            (vec![], Some(Unusable::Folder("/etc".into())))
        );
    }
}
