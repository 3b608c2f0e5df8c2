//! Who may read with the workload identity of cache nodes, and where: what a CacheRuntime grants. Pure.
//!
//! What says who asks goes to the server that a source names, to those of GCS and Azure as a token that opens all that the identity may
//! read. So the author of a Dataset must not choose that server: it is the cloud's own, known by the public authorities, or one that
//! the owner of the CacheRuntime lists.

use penstock_crds::{AzureSource, GcsSource, S3Source, Source, WorkloadIdentity};

use crate::Allowed;

/// Names that only the cloud gives. AWS's have no place here: a Dataset names the region instead, and machines of AWS's customers have
/// names that look like them.
const GCS: [&str; 1] = ["https://storage.googleapis.com"];
const AZURE: [&str; 3] = [
    "https://*.blob.core.windows.net",
    "https://*.blob.core.usgovcloudapi.net",
    "https://*.blob.core.chinacloudapi.cn",
];

/// What a CacheRuntime grants of the workload identity of its cache nodes.
#[derive(Clone, Debug)]
pub struct Granted {
    datasets: Datasets,
    listed: Vec<String>,
}

#[derive(Clone, Debug)]
enum Datasets {
    All,
    Named(Vec<String>),
}

/// Why a source may not be read with the workload identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotGranted {
    /// The Dataset is not named.
    #[error("it is not granted to this Dataset; add {0} to spec.workloadIdentity.datasets of the CacheRuntime")]
    Dataset(String),
    /// Its endpoint is somebody's whom nobody vouches for.
    #[error(
        "{0} is not the cloud's own server; take `endpoint` away, or have the CacheRuntime list it in spec.workloadIdentity.endpoints"
    )]
    Endpoint(String),
    /// It brings authorities, who could pass anybody off as the cloud.
    #[error(
        "with a caBundle it would say itself who is the cloud; take `caBundle` away, or name an endpoint that the CacheRuntime lists in \
         spec.workloadIdentity.endpoints"
    )]
    Authorities,
}

impl Granted {
    /// What a CacheRuntime grants that has this in its spec.
    pub fn of(identity: Option<&WorkloadIdentity>) -> Self {
        let named = identity.map_or(&[][..], |identity| &identity.datasets);
        let datasets = if named.iter().any(|name| name == "*") {
            Datasets::All
        } else {
            Datasets::Named(named.to_vec())
        };
        let listed = identity.map_or_else(Vec::new, |identity| identity.endpoints.clone());
        Self { datasets, listed }
    }

    /// What everybody grants himself: his own identity, at the clouds' own endpoints.
    pub fn to_oneself() -> Self {
        Self {
            datasets: Datasets::All,
            listed: Vec::new(),
        }
    }

    /// Why the source of this Dataset may not be read; `None` if it may, or needs no grant.
    pub fn refused(&self, dataset: &str, source: &Source) -> Option<NotGranted> {
        if !source.uses_workload_identity() {
            return None;
        }
        if let Datasets::Named(names) = &self.datasets
            && !names.iter().any(|name| name == dataset)
        {
            return Some(NotGranted::Dataset(dataset.to_owned()));
        }
        let Server { endpoint, label, own } = server(source);
        if is_among(&self.listed, source, endpoint) {
            return None;
        }
        // Who has no schema before it might lead elsewhere with the rest of a URL.
        let is_label = |label: &str| label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        let wrong = match endpoint {
            "" => Some(label).filter(|label| !is_label(label)),
            _ => Some(endpoint).filter(|endpoint| !is_among(own, source, endpoint)),
        };
        match wrong {
            Some(wrong) => Some(NotGranted::Endpoint(wrong.to_owned())),
            None => (!source.ca_bundle.is_empty()).then_some(NotGranted::Authorities),
        }
    }
}

/// Which server a source names.
struct Server<'a> {
    /// "" for the usual one.
    endpoint: &'a str,
    /// The part of the usual one's name that the source says.
    label: &'a str,
    /// Other names of the cloud's own.
    own: &'static [&'static str],
}

fn server(source: &Source) -> Server<'_> {
    let Source { s3, gcs, azure, .. } = source;
    match (s3, gcs, azure) {
        (Some(S3Source { endpoint, region, .. }), ..) => Server {
            endpoint,
            label: region,
            own: &[],
        },
        (_, Some(GcsSource { endpoint, .. }), _) => Server {
            endpoint,
            label: "",
            own: &GCS,
        },
        (.., Some(AzureSource { endpoint, account, .. })) => Server {
            endpoint,
            label: account,
            own: &AZURE,
        },
        _ => Server {
            endpoint: "",
            label: "",
            own: &[],
        },
    }
}

/// Whether a source with this endpoint reads at a place that one of the patterns has.
fn is_among(patterns: &[impl AsRef<str>], source: &Source, endpoint: &str) -> bool {
    let patterns: Vec<String> = patterns.iter().map(|pattern| pattern.as_ref().to_owned()).collect();
    // None at all would allow every place, and without an endpoint a place is no URL.
    !endpoint.is_empty() && !patterns.is_empty() && Allowed::of(&patterns).refused(source).is_none()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn granted(identity: Value) -> Granted {
        let identity: Option<WorkloadIdentity> = serde_json::from_value(identity).unwrap();
        Granted::of(identity.as_ref())
    }

    fn s3(more: Value) -> Value {
        with(json!({"bucket": "photos"}), "s3", more)
    }

    fn with(mut origin: Value, kind: &str, more: Value) -> Value {
        origin["workloadIdentity"] = true.into();
        origin
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        json!({kind: origin})
    }

    fn refused(granted: &Granted, source: Value) -> Option<NotGranted> {
        granted.refused("photos", &serde_json::from_value(source).unwrap())
    }

    #[test]
    fn a_dataset_reads_with_the_identity_when_it_is_named() {
        let not_named = || Some(NotGranted::Dataset("photos".into()));
        for (identity, expected) in [
            (json!(null), not_named()),
            (json!({}), not_named()),
            (json!({"datasets": ["other", "photo", "photos2"]}), not_named()),
            (json!({"datasets": ["other", "photos"]}), None),
            (json!({"datasets": ["*"]}), None),
        ] {
            assert_eq!(
                refused(&granted(identity.clone()), s3(json!({}))),
                expected,
                "{identity}"
            );
            // Nothing is asked of who does not use it.
            let plain = json!({"s3": {"bucket": "photos", "endpoint": "https://h"}, "caBundle": "pem"});
            assert_eq!(refused(&granted(identity.clone()), plain), None, "{identity}");
        }
        assert_eq!(refused(&Granted::to_oneself(), s3(json!({}))), None);
    }

    #[test]
    fn what_says_who_asks_goes_to_the_clouds_own_servers_alone() {
        let gcs = |endpoint: &str| with(json!({"bucket": "models"}), "gcs", json!({"endpoint": endpoint}));
        let azure = |endpoint: &str| {
            let container = json!({"account": "acc", "container": "c"});
            with(container, "azure", json!({"endpoint": endpoint}))
        };
        let s3 = |endpoint: &str| s3(json!({"endpoint": endpoint}));
        for (source, is_granted) in [
            (s3(""), true),
            (gcs(""), true),
            (azure(""), true),
            (gcs("https://storage.googleapis.com"), true),
            (gcs("https://Storage.GoogleAPIs.com:443/"), true),
            (azure("https://acc.blob.core.windows.net"), true),
            (azure("https://acc.blob.core.usgovcloudapi.net/"), true),
            (azure("https://acc.blob.core.chinacloudapi.cn"), true),
            // In clear.
            (gcs("http://storage.googleapis.com"), false),
            (azure("http://acc.blob.core.windows.net"), false),
            (gcs("https://storage.googleapis.com:8443"), false),
            (gcs("https://storage.googleapis.com.evil.org"), false),
            (gcs("https://storage.googleapis.com."), false),
            (gcs("https://evil.org/storage.googleapis.com"), false),
            (gcs("https://evil.org\\.storage.googleapis.com"), false),
            (gcs("https://acc.blob.core.windows.net"), false),
            (azure("https://evil.org"), false),
            (azure("https://evil.org/acc.blob.core.windows.net"), false),
            (azure("https://blob.core.windows.net.evil.org"), false),
            (azure("https://evilblob.core.windows.net"), false),
            (azure("https://storage.googleapis.com"), false),
            // The name of a load balancer that anybody can have.
            (s3("https://s3-1.eu-west-1.elb.amazonaws.com"), false),
            (s3("https://s3.eu-west-1.amazonaws.com"), false),
            (s3("https://minio.example.org"), false),
        ] {
            let why = refused(&Granted::to_oneself(), source.clone());
            assert_eq!(why.is_none(), is_granted, "{source}: {why:?}");
            assert!(is_granted || matches!(why, Some(NotGranted::Endpoint(_))), "{source}");
        }
        // What a schema refuses, if there is one.
        for source in [
            json!({"s3": {"bucket": "b", "region": "x.evil.org/", "workloadIdentity": true}}),
            json!({"azure": {"account": "evil.org/", "container": "c", "workloadIdentity": true}}),
        ] {
            let why = refused(&Granted::to_oneself(), source);
            assert!(matches!(why, Some(NotGranted::Endpoint(_))), "{why:?}");
        }
    }

    #[test]
    fn the_owner_of_the_cache_runtime_vouches_for_others() {
        let listing = |endpoints: Value| granted(json!({"datasets": ["photos"], "endpoints": endpoints}));
        let at = |endpoint: &str| s3(json!({"endpoint": endpoint}));
        for (pattern, endpoint, is_granted) in [
            (
                "https://minio.example.org:9000",
                "https://MinIO.example.org:9000/",
                true,
            ),
            ("https://minio.example.org:9000", "https://minio.example.org", false),
            ("https://minio.example.org:9000", "http://minio.example.org:9000", false),
            ("https://minio.example.org/photos/**", "https://minio.example.org", true),
            ("https://minio.example.org/other/**", "https://minio.example.org", false),
            ("https://*.example.org", "https://evil.org/x.example.org", false),
            ("http://minio:9000", "http://minio:9000", true),
        ] {
            let why = refused(&listing(json!([pattern])), at(endpoint));
            assert_eq!(why.is_none(), is_granted, "{pattern} and {endpoint}: {why:?}");
        }
        assert_eq!(refused(&listing(json!(["https://minio.example.org"])), at("")), None);
    }

    #[test]
    fn authorities_of_a_dataset_do_not_say_who_is_the_cloud() {
        let with_authorities = |endpoint: &str| {
            let mut source = s3(json!({"endpoint": endpoint}));
            source["caBundle"] = "pem".into();
            source
        };
        assert_eq!(
            refused(&Granted::to_oneself(), with_authorities("")),
            Some(NotGranted::Authorities)
        );
        let listed = granted(json!({"datasets": ["*"], "endpoints": ["https://minio.example.org"]}));
        assert_eq!(refused(&listed, with_authorities("https://minio.example.org")), None);
        assert_eq!(refused(&listed, with_authorities("")), Some(NotGranted::Authorities));
    }
}
