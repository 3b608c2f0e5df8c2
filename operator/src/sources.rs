//! What sources name in the cluster (Secrets, volumes, other Datasets), and what cache nodes are told of the sources.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, ResourceExt};
use penstock_crds::{Dataset, Source};
use penstock_protocol::control::cache_node as wire;
use penstock_sources::{Keys, part_of, realm, standing, wire_source, with_kdcs};

use crate::context::Context;
use crate::error::Error;
use crate::names::READER_LABEL;
use crate::others::{self, Others};
use crate::terms::Terms;
use crate::unusable::Unusable;
use crate::volumes::{self, Known, Reading, State, TokenSecret, Volume, Volumes};

/// Secrets by name; `None` for one that does not exist.
pub type Secrets = BTreeMap<String, Option<Keys>>;

/// What is there of what the sources of a Dataset name.
#[derive(Clone, Default)]
pub struct Named {
    /// The Dataset's namespace.
    pub namespace: String,
    /// Its name.
    pub dataset: String,
    /// Secrets with keys of origins.
    pub secrets: Secrets,
    /// Volumes.
    pub volumes: Volumes,
    /// The other Datasets.
    pub others: Others,
}

/// Looks at all that these sources of a Dataset name.
///
/// # Errors
/// When the API server cannot be asked.
pub async fn named(dataset: &Dataset, namespace: &str, sources: &[Source], context: &Context) -> Result<Named, Error> {
    let (client, domain) = (&context.client, &context.facts.cluster_domain);
    Ok(Named {
        namespace: namespace.to_owned(),
        dataset: dataset.name_any(),
        secrets: secrets(client, namespace, sources).await?,
        volumes: volumes::look(client, dataset, namespace, domain, sources).await?,
        others: others::others(client, namespace, sources).await?,
    })
}

/// Every Secret that the sources name.
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

/// What a cache node is told of the sources that can be used on these terms, if there are any, and why the first of the others cannot.
pub fn wire_sources(sources: &[Source], named: &Named, terms: Option<&Terms>) -> (Vec<wire::Source>, Option<Unusable>) {
    let (mut usable, mut unusable) = (Vec::new(), None);
    for source in sources {
        match told(source, named, terms) {
            Ok(source) => usable.push(source),
            Err(error) => unusable = unusable.or(Some(error)),
        }
    }
    (usable, unusable)
}

fn told(source: &Source, named: &Named, terms: Option<&Terms>) -> Result<wire::Source, Unusable> {
    if let Some(other) = &source.dataset {
        let other = others::told(other, &named.namespace, &named.others)?;
        return Ok(standing(source, wire::source::Origin::Dataset(other)));
    }
    if let Some(terms) = terms {
        terms.check(source, &named.dataset)?;
    }
    let keys = source
        .secret()
        .and_then(|secret| named.secrets.get(&secret.name)?.as_ref());
    let mut told = wire_source(source, keys)?;
    if let (Some(terms), Some(realm)) = (terms, realm(&told)) {
        let realms = terms.realms_with(source, realm)?;
        told = with_kdcs(told, realms);
    }
    if let Some(reading) = Reading::of(source) {
        complete(&mut told, source, &reading, named, terms)?;
    }
    Ok(part_of(told, terms.map_or(1, Terms::cache_nodes)))
}

/// With what the cluster knows of the volume and its reader.
fn complete(
    told: &mut wire::Source,
    source: &Source,
    reading: &Reading,
    named: &Named,
    terms: Option<&Terms>,
) -> Result<(), Unusable> {
    let volume = &reading.volume;
    let being_made = || Unusable::NoReader(format!("the reader of {volume} is being made"));
    let known = named.volumes.get(reading);
    if let Volume::Claim(name) = volume {
        let name = name.clone();
        match known.map(|known| &known.state) {
            None | Some(State::Missing) => return Err(Unusable::NoClaim(name)),
            Some(State::Leaving) => return Err(Unusable::ClaimLeaving(name)),
            Some(State::OfDataset) => return Err(Unusable::ClaimOfDataset(name)),
            Some(State::There(_) | State::OfNodes) => {}
        }
    }
    let Known {
        reader,
        url,
        namespace,
        state,
        secret,
    } = known.ok_or_else(being_made)?;
    let TokenSecret { token, .. } = secret.as_ref().ok_or_else(being_made)?;
    let (namespace, url) = (namespace.clone(), url.clone());
    let pods = format!("{READER_LABEL}={reader}");
    let token = Some(wire::ReaderToken { value: token.clone() });
    match &mut told.origin {
        Some(wire::source::Origin::Claim(wanted)) => {
            if let State::There(uid) = state {
                wanted.uid.clone_from(uid);
            }
            wanted.namespace = namespace;
            wanted.reader = url;
            wanted.pods = pods;
            wanted.token = token;
        }
        Some(wire::source::Origin::Folder(wanted)) => {
            wanted.path = terms.ok_or_else(being_made)?.held(source, &wanted.path)?.folder;
            wanted.reader = Some(wire::FolderReader {
                namespace,
                url,
                pods,
                token,
            });
        }
        _ => {}
    }
    Ok(())
}

fn keys(secret: Secret) -> Keys {
    let data = secret.data.unwrap_or_default().into_iter();
    data.map(|(key, bytes)| (key, bytes.0)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::volumes::tests::{known, reading};

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
        let named = Named {
            secrets: Secrets::from([("missing".into(), None), ("there".into(), Some(keys(there)))]),
            ..Named::default()
        };
        let (usable, unusable) = wire_sources(&sources, &named, None);
        let paths: Vec<&str> = usable.iter().map(|source| source.path.as_str()).collect();
        assert_eq!(paths, ["b", "c", "d"]);
        let http = wire::Http {
            url: "http://d/".into(),
            files: vec!["e".into()],
            ..Default::default()
        };
        assert_eq!(usable[2].origin, Some(wire::source::Origin::Http(http)));
        let said = unusable.unwrap().to_string();
        assert!(said.starts_with("the Secret missing does not exist"), "{said}");
        assert_eq!(wire_sources(&sources[1..4], &named, None).1, None);
    }

    #[test]
    fn a_claim_is_told_with_its_uid_and_its_reader_or_it_is_said_what_lacks() {
        let source = json!([{"path": "a", "claim": {"name": "data", "path": "2024", "uid": 1000, "gid": 100}}]);
        let sources: Vec<Source> = serde_json::from_value(source).unwrap();
        let with = |state, token| Named {
            volumes: Volumes::from([(reading("data", 1000), known(state, token))]),
            ..Named::default()
        };
        let (usable, unusable) = wire_sources(&sources, &with(State::There("c-1".into()), Some("hush")), None);
        assert_eq!(unusable, None);
        let expected = wire::Claim {
            namespace: "vision".into(),
            name: "data".into(),
            uid: "c-1".into(),
            path: "2024".into(),
            reader: "http://reader-d-1:7074".into(),
            pods: "penstock.io/reader=reader-d-1".into(),
            token: Some(wire::ReaderToken { value: "hush".into() }),
        };
        assert!(!format!("{expected:?}").contains("hush"), "{expected:?}");
        assert_eq!(usable[0].origin, Some(wire::source::Origin::Claim(expected)));
        let there = || State::There("c-1".into());
        for (named, said) in [
            (
                with(State::Missing, Some("hush")),
                "does not exist in this namespace; create it",
            ),
            (with(State::Leaving, Some("hush")), "is being deleted"),
            (with(State::OfDataset, Some("hush")), "is that of a Dataset"),
            (with(there(), None), "is being made"),
            (Named::default(), "does not exist"),
        ] {
            let (usable, unusable) = wire_sources(&sources, &named, None);
            let unusable = unusable.unwrap().to_string();
            assert!(
                usable.is_empty() && unusable.contains("claim data") && unusable.contains(said),
                "{unusable}"
            );
        }
    }

    #[test]
    fn a_source_that_the_runtime_does_not_allow_is_not_told_and_its_sentence_says_where_to_add_it() {
        let terms = |origins| {
            let runtime = json!({
                "apiVersion": "penstock.io/v1alpha1", "kind": "CacheRuntime", "metadata": {"name": "pool"},
                "spec": {"replicas": 1, "tiers": [], "origins": origins},
            });
            Terms::of(&serde_json::from_value(runtime).unwrap(), &[])
        };
        let sources: Vec<Source> = serde_json::from_value(json!([
            {"path": "raw", "s3": {"bucket": "secret", "prefix": "a/"}},
            {"s3": {"bucket": "team-a"}},
        ]))
        .unwrap();
        let paths = |terms: &Terms| {
            let (usable, unusable) = wire_sources(&sources, &Named::default(), Some(terms));
            let paths: Vec<_> = usable.into_iter().map(|source| source.path).collect();
            (paths.join(","), unusable.map(|unusable| unusable.to_string()))
        };
        let all = ("raw,".to_owned(), None);
        assert_eq!(paths(&terms(json!(null))), all);
        assert_eq!(paths(&terms(json!({}))), all);
        let (told, said) = paths(&terms(json!({"allowed": ["s3://team-*/**"]})));
        assert_eq!(told, "");
        let said = said.unwrap();
        for words in [
            "the source at raw reads s3://secret/a,",
            "CacheRuntime pool",
            "add s3://secret/a/** to spec.origins.allowed",
        ] {
            assert!(said.contains(words), "{said}");
        }
        // What it says to add is enough.
        assert_eq!(
            paths(&terms(json!({"allowed": ["s3://team-*/**", "s3://secret/a/**"]}))),
            all
        );
    }

    #[test]
    fn a_principal_is_told_with_the_kdcs_of_the_runtime_and_never_without() {
        let terms = |kerberos| {
            let runtime = json!({
                "apiVersion": "penstock.io/v1alpha1", "kind": "CacheRuntime", "metadata": {"name": "pool"},
                "spec": {"replicas": 1, "tiers": [], "kerberos": kerberos},
            });
            Terms::of(&serde_json::from_value(runtime).unwrap(), &[])
        };
        let hdfs = |name| json!({"nameNodes": ["nn:8020"], "path": "/", "credentialsSecretRef": {"name": name}});
        let sources: Vec<Source> = serde_json::from_value(json!([{"path": "raw", "hdfs": hdfs("reader")}])).unwrap();
        // A keytab is no text.
        let reader: Secret =
            serde_json::from_value(json!({"data": {"principal": "cmVhZGVyQEEuT1JHCg==", "keytab": "BQL/"}})).unwrap();
        let named = Named {
            secrets: Secrets::from([("reader".into(), Some(keys(reader)))]),
            ..Named::default()
        };
        let realms = json!({"realms": [
            {"name": "B.ORG", "kdcs": ["kdc.b.org"]},
            {"name": "A.ORG", "kdcs": ["kdc1.a.org:750", "kdc2.a.org"]},
        ]});
        let (told, unusable) = wire_sources(&sources, &named, Some(&terms(realms)));
        assert_eq!(unusable, None);
        let expected = wire::Hdfs {
            name_nodes: vec!["nn:8020".into()],
            path: "/".into(),
            user: String::new(),
            key: Some(wire::KerberosKey {
                principal: "reader@A.ORG".into(),
                keytab: "BQL/".into(),
            }),
            kdcs: vec![
                "B.ORG/kdc.b.org".into(),
                "A.ORG/kdc1.a.org:750".into(),
                "A.ORG/kdc2.a.org".into(),
            ],
        };
        assert_eq!(told[0].origin, Some(wire::source::Origin::Hdfs(expected)));
        for kerberos in [
            json!(null),
            json!({"realms": [{"name": "B.ORG", "kdcs": ["kdc.b.org"]}]}),
        ] {
            let (told, unusable) = wire_sources(&sources, &named, Some(&terms(kerberos)));
            let said = unusable.unwrap().to_string();
            assert!(
                told.is_empty()
                    && said.contains("the source at raw")
                    && said.contains("add A.ORG and its KDCs to spec.kerberos.realms"),
                "{said}"
            );
        }
    }

    #[test]
    fn a_folder_of_nodes_is_told_with_its_reader_where_runtime_and_operator_allow_it() {
        let sources: Vec<Source> =
            serde_json::from_value(json!([{"path": "raw", "folder": {"path": "/mnt/lustre/2024/raw/", "uid": 1000}}]))
                .unwrap();
        let reading = Reading::of(&sources[0]).unwrap();
        assert_eq!((reading.uid, reading.gid), (1000, 65532));
        let named = |token| Named {
            volumes: Volumes::from([(reading.clone(), known(State::OfNodes, token))]),
            ..Named::default()
        };
        let terms = |listed: &[&str], permitted: &[&str]| {
            let runtime = json!({
                "apiVersion": "penstock.io/v1alpha1", "kind": "CacheRuntime", "metadata": {"name": "pool"},
                "spec": {"replicas": 1, "tiers": [], "origins": {"hostPaths": listed, "allowed": ["s3://photos/**"]}},
            });
            let permitted: Vec<String> = permitted.iter().map(|path| (*path).to_owned()).collect();
            Terms::of(&serde_json::from_value(runtime).unwrap(), &permitted)
        };
        let allowed = terms(&["/mnt/lustre"], &["/mnt"]);
        let (told, unusable) = wire_sources(&sources, &named(Some("hush")), Some(&allowed));
        assert_eq!(unusable, None);
        let expected = wire::Folder {
            path: "/mnt/lustre/2024/raw".into(),
            reader: Some(wire::FolderReader {
                namespace: "vision".into(),
                url: "http://reader-d-1:7074".into(),
                pods: "penstock.io/reader=reader-d-1".into(),
                token: Some(wire::ReaderToken { value: "hush".into() }),
            }),
        };
        assert!(!format!("{expected:?}").contains("hush"), "{expected:?}");
        assert_eq!(told[0].origin, Some(wire::source::Origin::Folder(expected)));
        for (terms, token, said) in [
            (
                Some(&allowed),
                None,
                "the reader of the folder /mnt/lustre/2024/raw/ is being made",
            ),
            (None, Some("hush"), "is being made"),
            (
                Some(&terms(&[], &["/mnt"])),
                Some("hush"),
                "the source at raw reads the folder /mnt/lustre/2024/raw/ of the nodes, which the CacheRuntime pool does not list",
            ),
            (
                Some(&terms(&["/mnt/lustre"], &[])),
                Some("hush"),
                "hostPaths of the chart",
            ),
        ] {
            let (told, unusable) = wire_sources(&sources, &named(token), terms);
            let unusable = unusable.unwrap().to_string();
            assert!(told.is_empty() && unusable.contains(said), "{unusable}");
        }
    }

    #[test]
    fn a_source_is_told_with_the_identity_of_the_pool_only_where_that_is_granted() {
        let terms = |identity| {
            let runtime = json!({
                "apiVersion": "penstock.io/v1alpha1", "kind": "CacheRuntime", "metadata": {"name": "pool"},
                "spec": {"replicas": 1, "tiers": [], "workloadIdentity": identity},
            });
            Terms::of(&serde_json::from_value(runtime).unwrap(), &[])
        };
        let sources: Vec<Source> = serde_json::from_value(json!([
            {"path": "raw", "s3": {"bucket": "b", "workloadIdentity": true}},
            {"path": "g", "gcs": {"bucket": "bucket", "endpoint": "https://h:1", "workloadIdentity": true}},
            {"path": "open", "s3": {"bucket": "b"}},
        ]))
        .unwrap();
        let named = Named {
            dataset: "photos".into(),
            ..Named::default()
        };
        for (identity, told, sentence) in [
            (
                json!(null),
                "open",
                "the source at raw may not be read with the workload identity of the CacheRuntime pool: it is not granted to this \
                 Dataset; add photos to spec.workloadIdentity.datasets of the CacheRuntime",
            ),
            (
                json!({"datasets": ["others"]}),
                "open",
                "add photos to spec.workloadIdentity.datasets",
            ),
            (
                json!({"datasets": ["photos"]}),
                "raw,open",
                "the source at g may not be read with the workload identity of the CacheRuntime pool: https://h:1 is not the",
            ),
            (
                json!({"datasets": ["*"], "endpoints": ["https://h:1"]}),
                "raw,g,open",
                "",
            ),
        ] {
            let (usable, unusable) = wire_sources(&sources, &named, Some(&terms(identity.clone())));
            let paths: Vec<_> = usable.iter().map(|source| source.path.as_str()).collect();
            assert_eq!(paths.join(","), told, "{identity}");
            let said = unusable.map(|unusable| unusable.to_string()).unwrap_or_default();
            assert!(
                said.contains(sentence) && said.is_empty() == sentence.is_empty(),
                "{identity}: {said}"
            );
            for source in usable {
                let asks_as_itself = match source.origin {
                    Some(wire::source::Origin::S3(s3)) => s3.workload_identity,
                    Some(wire::source::Origin::Gcs(gcs)) => gcs.workload_identity,
                    other => panic!("{other:?}"),
                };
                assert_eq!(asks_as_itself, source.path != "open");
            }
        }
    }

    #[test]
    fn each_cache_node_is_told_its_part_of_a_limit() {
        let runtime = json!({
            "apiVersion": "penstock.io/v1alpha1", "kind": "CacheRuntime", "metadata": {"name": "pool"},
            "spec": {"replicas": 4, "tiers": []},
        });
        let terms = Terms::of(&serde_json::from_value(runtime).unwrap(), &[]);
        let source = json!([{"s3": {"bucket": "b"}, "limits": {"requestsPerSecond": 10, "bandwidth": "1Gi"}}]);
        let sources: Vec<Source> = serde_json::from_value(source).unwrap();
        let (told, unusable) = wire_sources(&sources, &Named::default(), Some(&terms));
        assert_eq!(unusable, None);
        let expected = wire::Limits {
            requests_per_thousand_seconds: 2500,
            bytes_per_second: 256 << 20,
        };
        assert_eq!(told[0].limits, Some(expected));
    }
}
