//! The volumes that sources name, claims and folders of nodes, and the readers through which cache nodes read them: who they are, and
//! what is there of them.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Secret};
use kube::{Api, Client, Resource, ResourceExt};
use penstock_crds::{ClaimSource, Dataset, FolderSource, Source};

use crate::error::Error;
use crate::names;

/// Key of the token in the Secret of a reader.
pub const TOKEN_KEY: &str = "token";

/// What one reader mounts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Volume {
    /// The volume of the claim of this name.
    Claim(String),
    /// What holds this folder of the nodes.
    Folder(String),
}

impl fmt::Display for Volume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Claim(name) => write!(f, "the claim {name}"),
            Self::Folder(path) => write!(f, "the folder {path}"),
        }
    }
}

/// Which volume is read as whom. Sources of a Dataset that differ in the path in a claim only share a reader.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reading {
    /// What is read.
    pub volume: Volume,
    /// User.
    pub uid: i32,
    /// Group.
    pub gid: i32,
    /// More groups.
    pub groups: Vec<i32>,
}

impl Reading {
    /// That of a source; `None` for one that is read without a reader.
    pub fn of(source: &Source) -> Option<Self> {
        let (volume, uid, gid, groups) = match source {
            Source {
                claim:
                    Some(ClaimSource {
                        name,
                        path: _,
                        uid,
                        gid,
                        supplemental_groups,
                    }),
                ..
            } => (Volume::Claim(name.clone()), uid, gid, supplemental_groups),
            Source {
                folder:
                    Some(FolderSource {
                        path,
                        uid,
                        gid,
                        supplemental_groups,
                    }),
                ..
            } => (Volume::Folder(path.clone()), uid, gid, supplemental_groups),
            _ => return None,
        };
        Some(Self {
            volume,
            uid: *uid,
            gid: *gid,
            groups: groups.clone(),
        })
    }

    /// Name of its reader.
    pub fn reader(&self, dataset: &Dataset) -> String {
        let Self {
            volume,
            uid,
            gid,
            groups,
        } = self;
        let dataset_uid = dataset.uid().unwrap_or_default();
        // No claim has a slash in its name.
        let (Volume::Claim(volume) | Volume::Folder(volume)) = volume;
        let what = format!("{dataset_uid} {volume} {uid} {gid} {groups:?}");
        names::reader(&dataset.name_any(), &what)
    }
}

/// What is there of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing.
    Missing,
    /// It is being deleted, which ends when nobody mounts it any more.
    Leaving,
    /// That of a Dataset, which is read in another way.
    OfDataset,
    /// The claim, with its UID.
    There(String),
    /// A folder of nodes, which nobody has looked at.
    OfNodes,
}

/// What is there of a volume and of what opens its reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Name of the reader.
    pub reader: String,
    /// URL of the reader.
    pub url: String,
    /// Namespace of all of it.
    pub namespace: String,
    /// The volume.
    pub state: State,
    /// The Secret with the token, once it was made.
    pub secret: Option<TokenSecret>,
}

/// The Secret of a reader.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenSecret {
    /// Its UID: another one means another token.
    pub uid: String,
    /// The token. Not in any text.
    pub token: String,
    /// UIDs of who owns it.
    pub owners: Vec<String>,
}

impl fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { uid, token: _, owners } = self;
        write!(f, "TokenSecret({uid}, hidden, of {owners:?})")
    }
}

/// What is there, by who reads what.
pub type Volumes = BTreeMap<Reading, Known>;

/// Looks at the volumes that the sources name.
///
/// # Errors
/// When the API server cannot be asked.
pub async fn look(
    client: &Client,
    dataset: &Dataset,
    namespace: &str,
    cluster_domain: &str,
    sources: &[Source],
) -> Result<Volumes, Error> {
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let mut known = Volumes::new();
    for reading in sources.iter().filter_map(Reading::of) {
        if known.contains_key(&reading) {
            continue;
        }
        let reader = reading.reader(dataset);
        let state = match &reading.volume {
            Volume::Claim(name) => {
                let claim = claims.get_opt(name).await;
                state(claim.map_err(Error::api("get the claim of a source"))?.as_ref())
            }
            Volume::Folder(_) => State::OfNodes,
        };
        let secret = secrets.get_opt(&reader).await;
        let secret = secret.map_err(Error::api("get the Secret of a reader"))?;
        let found = Known {
            url: names::reader_url(&reader, namespace, cluster_domain),
            namespace: namespace.to_owned(),
            state,
            secret: secret.map(token),
            reader,
        };
        known.insert(reading, found);
    }
    Ok(known)
}

fn state(claim: Option<&PersistentVolumeClaim>) -> State {
    let Some(claim) = claim else {
        return State::Missing;
    };
    let is_of_dataset = claim
        .owner_references()
        .iter()
        .any(|owner| owner.kind == Dataset::kind(&()));
    if claim.metadata.deletion_timestamp.is_some() {
        State::Leaving
    } else if is_of_dataset {
        State::OfDataset
    } else {
        State::There(claim.uid().unwrap_or_default())
    }
}

fn token(secret: Secret) -> TokenSecret {
    let owners = secret
        .owner_references()
        .iter()
        .map(|owner| owner.uid.clone())
        .collect();
    let uid = secret.uid().unwrap_or_default();
    let token = secret
        .data
        .and_then(|mut data| data.remove(TOKEN_KEY))
        .unwrap_or_default();
    TokenSecret {
        uid,
        token: String::from_utf8(token.0).unwrap_or_default(),
        owners,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::{Value, json};

    use super::*;

    pub(crate) fn reading(claim: &str, uid: i32) -> Reading {
        Reading {
            volume: Volume::Claim(claim.into()),
            uid,
            gid: 100,
            groups: Vec::new(),
        }
    }

    pub(crate) fn known(state: State, token: Option<&str>) -> Known {
        Known {
            reader: "reader-d-1".into(),
            url: "http://reader-d-1:7074".into(),
            namespace: "vision".into(),
            state,
            secret: token.map(|token| TokenSecret {
                uid: "s".into(),
                token: token.into(),
                owners: vec!["u".into()],
            }),
        }
    }

    fn dataset(name: &str, uid: &str) -> Dataset {
        let dataset = json!({
            "apiVersion": "penstock.io/v1alpha1", "kind": "Dataset", "metadata": {"name": name, "uid": uid}, "spec": {"sources": []}
        });
        serde_json::from_value(dataset).unwrap()
    }

    #[test]
    fn each_dataset_claim_and_user_has_a_reader_of_its_own_with_a_name_that_services_may_have() {
        let long = "0".repeat(63);
        let ends_in_a_dash = format!("{}-{}", "d".repeat(39), "d".repeat(10));
        let mut names: Vec<String> = Vec::new();
        for (name, uid) in [
            ("d", "1"),
            ("d", "2"),
            (&long, "3"),
            (&format!("{}1", &long[1..]), "4"),
            (&ends_in_a_dash, "5"),
        ] {
            for reading in [reading("a", 1), reading("b", 1), reading("a", 2)] {
                names.push(reading.reader(&dataset(name, uid)));
            }
        }
        for name in &names {
            assert!(name.len() <= 63 && name.starts_with("reader-"), "{name}");
            assert!(
                name.bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'),
                "{name}"
            );
        }
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all, "{names:?}");
        let again = reading("a", 1).reader(&dataset("d", "1"));
        assert!(names.contains(&again), "the same each time");
    }

    #[test]
    fn a_claim_is_there_only_if_it_stays_and_is_not_that_of_a_dataset() {
        let claim = |metadata: Value| -> PersistentVolumeClaim {
            serde_json::from_value(json!({"metadata": metadata})).unwrap()
        };
        let owned = json!({"uid": "c", "ownerReferences": [{"apiVersion": "penstock.io/v1alpha1", "kind": "Dataset", "name": "d", "uid": "u"}]});
        let leaving = json!({"uid": "c", "deletionTimestamp": "2026-11-27T10:00:00Z"});
        for (found, expected) in [
            (None, State::Missing),
            (Some(json!({"uid": "c"})), State::There("c".into())),
            (Some(owned), State::OfDataset),
            (Some(leaving), State::Leaving),
        ] {
            assert_eq!(state(found.map(claim).as_ref()), expected);
        }
    }
}
