//! From the sources of a Dataset and the keys of their Secrets to what the client of an origin is made of. The operator tells it
//! cache nodes; `penstock mount` uses it itself. It must not know where Secrets come from.

mod allowed;
mod granted;
mod kerberos;

use std::collections::BTreeMap;

pub use allowed::Allowed;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
pub use granted::{Granted, NotGranted};
pub use kerberos::{realm, with_kdcs};
use penstock_crds::{
    AddressingStyle, AzureSource, ClaimSource, DatasetSource, FolderSource, GcsSource, HdfsSource, HttpSource,
    HuggingFaceSource, Ownership, RepositoryKind, S3Source, Source, SourceLimits, bytes_of,
};
use penstock_protocol::control::cache_node as wire;
use wire::source::Origin;

/// The keys of a Secret, by name.
pub type Keys = BTreeMap<String, Vec<u8>>;

/// Why a source cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// The Secret is not there (yet).
    #[error("the Secret {name} does not exist in this namespace; create it with {needed}")]
    NoSecret {
        /// Its name.
        name: String,
        /// The keys that it needs.
        needed: &'static str,
    },
    /// The Secret lacks a key.
    #[error("the Secret {name} has no key {lacks}; it needs {needed}")]
    NoKey {
        /// Its name.
        name: String,
        /// The key.
        lacks: &'static str,
        /// The keys that it needs.
        needed: &'static str,
    },
    /// Another Dataset, which a machine alone knows nothing of.
    #[error(
        "the Dataset {0} is in a cluster, and files of it can be taken only there; name the sources that it has itself"
    )]
    OtherDataset(String),
    /// The source has no origin; the schema refuses that.
    #[error("the source at {0:?} has no origin")]
    NoOrigin(String),
}

/// Which keys of a Secret a source looks at, and in which words it asks for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Looked {
    /// The keys.
    pub keys: &'static [&'static str],
    /// The words.
    pub needed: &'static str,
    /// Whether they are sent as they are to a server that the source names: then nobody's own are, unless they are asked for by name.
    pub is_sent: bool,
}

/// Which keys of a Secret a source looks at.
pub fn looked_at(source: &Source) -> Looked {
    let is_sent = match source {
        Source { azure: Some(azure), .. } => !azure.endpoint.is_empty(),
        Source {
            hugging_face: Some(hub),
            ..
        } => !hub.endpoint.is_empty(),
        _ => false,
    };
    let looked = |keys, needed| Looked { keys, needed, is_sent };
    if source.uses_workload_identity() {
        // What there is in the environment for it the client of the origin finds by itself.
        return looked(&[], "no keys");
    }
    match source {
        Source { s3: Some(_), .. } => looked(
            &["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"],
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        ),
        Source { gcs: Some(_), .. } => looked(&["credentials.json"], "credentials.json"),
        Source { azure: Some(_), .. } => looked(
            &[
                "AZURE_STORAGE_KEY",
                "AZURE_STORAGE_SAS_TOKEN",
                "AZURE_TENANT_ID",
                "AZURE_CLIENT_ID",
                "AZURE_CLIENT_SECRET",
            ],
            "AZURE_STORAGE_KEY, or AZURE_STORAGE_SAS_TOKEN, or AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET",
        ),
        Source { hdfs: Some(_), .. } => looked(&["principal", "keytab"], "principal and keytab"),
        Source { http: Some(_), .. } => looked(&["username", "password", "token"], "username and password, or token"),
        Source {
            hugging_face: Some(_), ..
        } => looked(&["HF_TOKEN"], "HF_TOKEN"),
        _ => looked(&[], "no keys"),
    }
}

/// What a client of the source is made of. `keys` are those of the Secret that it names, or others that stand in for one; `None`
/// when there are none.
///
/// # Errors
/// When a Secret is named and is not there, or lacks a key.
pub fn wire_source(source: &Source, keys: Option<&Keys>) -> Result<wire::Source, Unusable> {
    let Source {
        path,
        s3,
        gcs,
        azure,
        hdfs,
        http,
        hugging_face,
        dataset,
        folder,
        claim,
        ca_bundle: _,
        include: _,
        exclude: _,
        limits: _,
    } = source;
    let name = source.secret().map(|secret| secret.name.as_str());
    let needed = looked_at(source).needed;
    if let (Some(name), None) = (name, keys) {
        return Err(Unusable::NoSecret {
            name: name.to_owned(),
            needed,
        });
    }
    let secret = keys.map(|keys| Secret {
        name: name.unwrap_or("of the environment"),
        needed,
        keys,
    });
    let origin = if let Some(s3) = s3 {
        Origin::S3(wire_s3(s3, secret.map(Secret::aws).transpose()?))
    } else if let Some(gcs) = gcs {
        Origin::Gcs(wire_gcs(gcs, secret.map(Secret::gcs).transpose()?))
    } else if let Some(azure) = azure {
        Origin::Azure(wire_azure(azure, secret.map(Secret::azure).transpose()?))
    } else if let Some(hdfs) = hdfs {
        Origin::Hdfs(wire_hdfs(hdfs, secret.map(Secret::kerberos).transpose()?))
    } else if let Some(http) = http {
        Origin::Http(wire_http(http, secret.map(Secret::http).transpose()?))
    } else if let Some(hub) = hugging_face {
        Origin::HuggingFace(wire_hugging_face(hub, secret.map(Secret::hugging_face).transpose()?))
    } else if let Some(DatasetSource { name, .. }) = dataset {
        return Err(Unusable::OtherDataset(name.clone()));
    } else if let Some(FolderSource { path, .. }) = folder {
        Origin::Folder(wire::Folder {
            path: path.clone(),
            reader: None,
        })
    } else if let Some(claim) = claim {
        Origin::Claim(wire_claim(claim))
    } else {
        return Err(Unusable::NoOrigin(path.clone()));
    };
    Ok(standing(source, origin))
}

/// What a cache node is told of a source that has this origin.
pub fn standing(source: &Source, origin: Origin) -> wire::Source {
    wire::Source {
        path: source.path.clone(),
        origin: Some(origin),
        authorities: source.ca_bundle.clone(),
        include: source.include.clone(),
        exclude: source.exclude.clone(),
        limits: source.limits.as_ref().map(wire_limits),
    }
}

/// The limits of a source for one that reads it alone.
fn wire_limits(limits: &SourceLimits) -> wire::Limits {
    let SourceLimits {
        requests_per_second,
        bandwidth,
    } = limits;
    // The schema has them in bounds.
    let requests = requests_per_second.map_or(0, |requests| u64::from(requests.unsigned_abs()));
    let bytes = bandwidth.as_deref().and_then(bytes_of);
    wire::Limits {
        requests_per_thousand_seconds: 1000 * requests,
        bytes_per_second: bytes.unwrap_or(0),
    }
}

/// The same source for each of `readers` that read it at the same time.
pub fn part_of(source: wire::Source, readers: u64) -> wire::Source {
    let part = |all: u64| if all == 0 { 0 } else { (all / readers.max(1)).max(1) };
    let limits = source.limits.map(
        |wire::Limits {
             requests_per_thousand_seconds,
             bytes_per_second,
         }| wire::Limits {
            requests_per_thousand_seconds: part(requests_per_thousand_seconds),
            bytes_per_second: part(bytes_per_second),
        },
    );
    wire::Source { limits, ..source }
}

/// What a cache node is told of who owns the files.
pub fn wire_ownership(ownership: &Ownership) -> wire::Ownership {
    let Ownership {
        uid,
        gid,
        file_mode,
        directory_mode,
    } = ownership;
    // The schema has them in bounds and in octal.
    let mode = |text: &str, otherwise| u32::from_str_radix(text, 8).unwrap_or(otherwise);
    wire::Ownership {
        uid: uid.unsigned_abs(),
        gid: gid.unsigned_abs(),
        file_mode: mode(file_mode, 0o444),
        directory_mode: mode(directory_mode, 0o555),
    }
}

#[derive(Clone, Copy)]
struct Secret<'a> {
    name: &'a str,
    needed: &'static str,
    keys: &'a Keys,
}

impl Secret<'_> {
    fn get(self, key: &str) -> String {
        self.keys
            .get(key)
            .and_then(|bytes| str::from_utf8(bytes).ok())
            .map(|text| text.trim().to_owned())
            .unwrap_or_default()
    }

    fn needed(self, key: &'static str) -> Result<String, Unusable> {
        Some(self.get(key))
            .filter(|text| !text.is_empty())
            .ok_or_else(|| Unusable::NoKey {
                name: self.name.to_owned(),
                lacks: key,
                needed: self.needed,
            })
    }

    fn aws(self) -> Result<wire::AwsKeys, Unusable> {
        Ok(wire::AwsKeys {
            access_key_id: self.needed("AWS_ACCESS_KEY_ID")?,
            secret_access_key: self.needed("AWS_SECRET_ACCESS_KEY")?,
            session_token: self.get("AWS_SESSION_TOKEN"),
        })
    }

    fn gcs(self) -> Result<wire::GcsKey, Unusable> {
        Ok(wire::GcsKey {
            json: self.needed("credentials.json")?,
        })
    }

    fn azure(self) -> Result<wire::AzureKey, Unusable> {
        let mut key = wire::AzureKey {
            account_key: self.get("AZURE_STORAGE_KEY"),
            sas_token: self.get("AZURE_STORAGE_SAS_TOKEN"),
            ..Default::default()
        };
        if key.account_key.is_empty() && key.sas_token.is_empty() {
            if !["AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"]
                .iter()
                .any(|key| self.keys.contains_key(*key))
            {
                self.needed("AZURE_STORAGE_KEY")?;
            }
            key.tenant_id = self.needed("AZURE_TENANT_ID")?;
            key.client_id = self.needed("AZURE_CLIENT_ID")?;
            key.client_secret = self.needed("AZURE_CLIENT_SECRET")?;
        }
        Ok(key)
    }

    fn kerberos(self) -> Result<wire::KerberosKey, Unusable> {
        let keytab = self.keys.get("keytab").filter(|keytab| !keytab.is_empty());
        Ok(wire::KerberosKey {
            principal: self.needed("principal")?,
            keytab: match keytab {
                Some(keytab) => BASE64_STANDARD.encode(keytab),
                None => self.needed("keytab")?,
            },
        })
    }

    fn http(self) -> Result<wire::HttpLogin, Unusable> {
        let bearer = self.get("token");
        let (user, password) = if bearer.is_empty() {
            (self.needed("username")?, self.get("password"))
        } else {
            Default::default()
        };
        Ok(wire::HttpLogin { user, password, bearer })
    }

    fn hugging_face(self) -> Result<wire::HuggingFaceToken, Unusable> {
        Ok(wire::HuggingFaceToken {
            value: self.needed("HF_TOKEN")?,
        })
    }
}

fn wire_s3(s3: &S3Source, keys: Option<wire::AwsKeys>) -> wire::S3 {
    let S3Source {
        bucket,
        prefix,
        region,
        endpoint,
        addressing_style,
        credentials_secret_ref: _,
        workload_identity,
    } = s3.clone();
    let virtual_host_style = addressing_style == AddressingStyle::VirtualHost;
    wire::S3 {
        bucket,
        prefix,
        region,
        endpoint,
        keys,
        virtual_host_style,
        workload_identity,
    }
}

fn wire_gcs(gcs: &GcsSource, key: Option<wire::GcsKey>) -> wire::Gcs {
    let GcsSource {
        bucket,
        prefix,
        endpoint,
        credentials_secret_ref: _,
        workload_identity,
    } = gcs.clone();
    wire::Gcs {
        bucket,
        prefix,
        endpoint,
        key,
        workload_identity,
    }
}

fn wire_azure(azure: &AzureSource, key: Option<wire::AzureKey>) -> wire::Azure {
    let AzureSource {
        account,
        container,
        prefix,
        endpoint,
        credentials_secret_ref: _,
        workload_identity,
    } = azure.clone();
    wire::Azure {
        account,
        container,
        prefix,
        endpoint,
        key,
        workload_identity,
    }
}

/// Without what the owner of who reads says: where tickets are.
fn wire_hdfs(hdfs: &HdfsSource, key: Option<wire::KerberosKey>) -> wire::Hdfs {
    let HdfsSource {
        name_nodes,
        path,
        user,
        credentials_secret_ref: _,
    } = hdfs.clone();
    wire::Hdfs {
        name_nodes,
        path,
        user,
        key,
        kdcs: Vec::new(),
    }
}

fn wire_http(http: &HttpSource, login: Option<wire::HttpLogin>) -> wire::Http {
    let HttpSource {
        url,
        files,
        manifest,
        allow_unversioned,
        credentials_secret_ref: _,
    } = http.clone();
    wire::Http {
        url,
        files,
        login,
        manifest,
        unversioned: allow_unversioned,
    }
}

/// Without what only a cluster knows: the claim itself, and who reads it.
fn wire_claim(claim: &ClaimSource) -> wire::Claim {
    let ClaimSource {
        name,
        path,
        uid: _,
        gid: _,
        supplemental_groups: _,
    } = claim.clone();
    wire::Claim {
        name,
        path,
        ..Default::default()
    }
}

fn wire_hugging_face(hub: &HuggingFaceSource, token: Option<wire::HuggingFaceToken>) -> wire::HuggingFace {
    let HuggingFaceSource {
        repository,
        kind,
        revision,
        path,
        endpoint,
        credentials_secret_ref: _,
    } = hub.clone();
    let kind = match kind {
        RepositoryKind::Dataset => wire::hugging_face::Kind::Dataset,
        RepositoryKind::Model => wire::hugging_face::Kind::Model,
        RepositoryKind::Space => wire::hugging_face::Kind::Space,
    };
    wire::HuggingFace {
        repository,
        kind: kind.into(),
        revision,
        path,
        endpoint,
        token,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_kind_says_which_keys_its_secret_lacks() {
        for (origin, keys, lacks) in [
            (
                json!({"s3": {"bucket": "b"}}),
                json!({"AWS_ACCESS_KEY_ID": "id"}),
                "AWS_SECRET_ACCESS_KEY",
            ),
            (
                json!({"gcs": {"bucket": "bucket"}}),
                json!({"key.json": "{}"}),
                "credentials.json",
            ),
            (
                json!({"azure": {"account": "acc", "container": "c"}}),
                json!({}),
                "AZURE_STORAGE_KEY",
            ),
            (
                json!({"azure": {"account": "acc", "container": "c"}}),
                json!({"AZURE_TENANT_ID": "t", "AZURE_CLIENT_ID": "c"}),
                "AZURE_CLIENT_SECRET",
            ),
            (
                json!({"hdfs": {"nameNodes": ["nn:8020"], "path": "/"}}),
                json!({"principal": "reader@A.ORG"}),
                "keytab",
            ),
            (
                json!({"hdfs": {"nameNodes": ["nn:8020"], "path": "/"}}),
                json!({"keytab": "k"}),
                "principal",
            ),
            (
                json!({"http": {"url": "http://h/"}}),
                json!({"password": "p"}),
                "username",
            ),
            (
                json!({"huggingFace": {"repository": "a/b"}}),
                json!({"HF_TOKEN": " \n"}),
                "HF_TOKEN",
            ),
        ] {
            let (kind, fields) = origin.as_object().unwrap().iter().next().unwrap();
            let mut fields = fields.clone();
            fields["credentialsSecretRef"] = json!({"name": "keys"});
            let source: Source = serde_json::from_value(json!({kind: fields})).unwrap();
            let keys: BTreeMap<String, String> = serde_json::from_value(keys).unwrap();
            let keys: Keys = keys.into_iter().map(|(key, text)| (key, text.into_bytes())).collect();
            let unusable = wire_source(&source, Some(&keys)).unwrap_err();
            let Unusable::NoKey {
                name,
                lacks: said,
                needed,
            } = unusable
            else {
                panic!("{unusable:?}")
            };
            assert_eq!((name.as_str(), said), ("keys", lacks));
            assert!(needed.contains(lacks), "{needed}");
            assert!(looked_at(&source).keys.contains(&lacks));
            assert!(matches!(wire_source(&source, None), Err(Unusable::NoSecret { .. })));
        }
    }

    #[test]
    fn each_reader_has_its_part_of_a_limit_and_never_none() {
        let told = |limits| {
            let source = serde_json::from_value(json!({"s3": {"bucket": "b"}, "limits": limits})).unwrap();
            wire_source(&source, None).unwrap()
        };
        for (limits, readers, requests, bytes) in [
            (
                json!({"requestsPerSecond": 100, "bandwidth": "200Mi"}),
                1,
                100_000,
                200 << 20,
            ),
            (
                json!({"requestsPerSecond": 100, "bandwidth": "200Mi"}),
                10,
                10_000,
                20 << 20,
            ),
            (json!({"requestsPerSecond": 1}), 8, 125, 0),
            (json!({"requestsPerSecond": 1, "bandwidth": "1"}), 2000, 1, 1),
            (json!({"bandwidth": "10M"}), 0, 0, 10_000_000),
        ] {
            let expected = wire::Limits {
                requests_per_thousand_seconds: requests,
                bytes_per_second: bytes,
            };
            assert_eq!(part_of(told(limits), readers).limits, Some(expected), "{readers}");
        }
        assert_eq!(part_of(told(json!(null)), 3).limits, None);
    }

    #[test]
    fn no_key_stands_in_a_text_of_what_is_told() {
        let secret = "hush-hush";
        for (origin, keys) in [
            (
                json!({"s3": {"bucket": "b"}}),
                vec!["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"],
            ),
            (json!({"gcs": {"bucket": "bucket"}}), vec!["credentials.json"]),
            (
                json!({"azure": {"account": "acc", "container": "c"}}),
                vec!["AZURE_STORAGE_KEY", "AZURE_STORAGE_SAS_TOKEN"],
            ),
            (
                json!({"azure": {"account": "acc", "container": "c"}}),
                vec!["AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"],
            ),
            (
                json!({"hdfs": {"nameNodes": ["nn:8020"], "path": "/"}}),
                vec!["principal", "keytab"],
            ),
            (json!({"http": {"url": "http://h/"}}), vec!["username", "password"]),
            (json!({"http": {"url": "http://h/"}}), vec!["token"]),
            (json!({"huggingFace": {"repository": "a/b"}}), vec!["HF_TOKEN"]),
        ] {
            let source: Source = serde_json::from_value(origin.clone()).unwrap();
            let keys = keys
                .into_iter()
                .map(|key| (key.to_owned(), secret.as_bytes().to_vec()))
                .collect();
            let told = wire_source(&source, Some(&keys)).unwrap();
            let text = format!("{told:?}");
            let encoded = BASE64_STANDARD.encode(secret);
            assert!(!text.contains(secret) && !text.contains(&encoded), "{origin}: {text}");
        }
    }
}
