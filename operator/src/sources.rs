//! From the sources of a spec to what a cache node is told, with the keys of their Secrets.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use penstock_crds::{AddressingStyle, HttpSource, S3Source, Source};
use penstock_protocol::control::cache_node as wire;

use crate::error::Error;

/// Secrets by name; `None` for one that does not exist.
pub type Secrets = BTreeMap<String, Option<Secret>>;

/// Why the sources cannot be told to a cache node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// The Secret is not there (yet).
    #[error(
        "the Secret {0} does not exist in this namespace; create it with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    )]
    NoSecret(String),
    /// The Secret lacks a key.
    #[error("the Secret {0} has no key {1}; it needs AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")]
    NoKey(String, &'static str),
}

/// Every Secret that the sources name.
///
/// # Errors
/// When the API server cannot be asked.
pub async fn secrets(client: &Client, namespace: &str, sources: &[Source]) -> Result<Secrets, Error> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let mut secrets = Secrets::new();
    for reference in sources
        .iter()
        .filter_map(|source| source.s3.as_ref()?.credentials_secret_ref.as_ref())
    {
        if !secrets.contains_key(&reference.name) {
            let secret = api.get_opt(&reference.name).await.map_err(Error::api("get a Secret"))?;
            secrets.insert(reference.name.clone(), secret);
        }
    }
    Ok(secrets)
}

/// What a cache node is told of the sources that can be used, and why the first of the others cannot.
pub fn wire_sources(sources: &[Source], secrets: &Secrets) -> (Vec<wire::Source>, Option<Unusable>) {
    let (mut usable, mut unusable) = (Vec::new(), None);
    for source in sources {
        let Source { path, s3, http } = source;
        let http = http
            .as_ref()
            .map(|http| Ok(wire::source::Origin::Http(wire_http(http))));
        let s3 = s3.as_ref().map(|s3| {
            let credentials = credentials(s3, secrets)?;
            Ok(wire::source::Origin::S3(wire_s3(s3, credentials)))
        });
        match s3.or(http) {
            Some(Ok(origin)) => usable.push(wire::Source {
                path: path.clone(),
                origin: Some(origin),
            }),
            Some(Err(error)) => unusable = unusable.or(Some(error)),
            // The schema has one of them.
            None => {}
        }
    }
    (usable, unusable)
}

fn wire_http(http: &HttpSource) -> wire::Http {
    let HttpSource { url, files } = http.clone();
    wire::Http { url, files }
}

fn wire_s3(s3: &S3Source, credentials: Option<wire::Credentials>) -> wire::S3 {
    let S3Source {
        bucket,
        prefix,
        region,
        endpoint,
        addressing_style,
        credentials_secret_ref: _,
    } = s3.clone();
    let virtual_host_style = addressing_style == AddressingStyle::VirtualHost;
    wire::S3 {
        bucket,
        prefix,
        region,
        endpoint,
        credentials,
        virtual_host_style,
    }
}

fn credentials(s3: &S3Source, secrets: &Secrets) -> Result<Option<wire::Credentials>, Unusable> {
    let Some(reference) = &s3.credentials_secret_ref else {
        return Ok(None);
    };
    let name = &reference.name;
    let secret = secrets
        .get(name)
        .and_then(Option::as_ref)
        .ok_or_else(|| Unusable::NoSecret(name.clone()))?;
    let key = |key: &'static str| {
        let bytes = secret.data.as_ref().and_then(|data| data.get(key));
        bytes
            .and_then(|bytes| String::from_utf8(bytes.0.clone()).ok())
            .map(|text| text.trim().to_owned())
    };
    let needed = |name_of_key: &'static str| key(name_of_key).ok_or_else(|| Unusable::NoKey(name.clone(), name_of_key));
    Ok(Some(wire::Credentials {
        access_key_id: needed("AWS_ACCESS_KEY_ID")?,
        secret_access_key: needed("AWS_SECRET_ACCESS_KEY")?,
        session_token: key("AWS_SESSION_TOKEN").unwrap_or_default(),
    }))
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
        ]))
        .unwrap();
        let there: Secret =
            serde_json::from_value(json!({"data": {"AWS_ACCESS_KEY_ID": "aWQ=", "AWS_SECRET_ACCESS_KEY": "a2V5Cg=="}}))
                .unwrap();
        let secrets = Secrets::from([("missing".into(), None), ("there".into(), Some(there))]);
        let (usable, unusable) = wire_sources(&sources, &secrets);
        let paths: Vec<&str> = usable.iter().map(|source| source.path.as_str()).collect();
        assert_eq!(paths, ["b", "c", "d"]);
        let http = wire::Http {
            url: "http://d/".into(),
            files: vec!["e".into()],
        };
        assert_eq!(usable[2].origin, Some(wire::source::Origin::Http(http)));
        assert_eq!(unusable, Some(Unusable::NoSecret("missing".into())));
        assert_eq!(wire_sources(&sources[1..], &secrets).1, None);
    }
}
