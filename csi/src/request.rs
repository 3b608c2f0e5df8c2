//! What a NodePublish asks for, as types. Everything in a volume context is text of a user, except for the keys that the
//! kubelet adds and overwrites (`csi.storage.k8s.io/…`); a key that is not known here is refused.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use crate::error::Error;
use crate::folders::Folders;
use crate::proto::csi::volume_capability::AccessType;
use crate::proto::csi::volume_capability::access_mode::Mode;
use crate::proto::csi::{NodePublishVolumeRequest, NodeUnpublishVolumeRequest, VolumeCapability};

/// Prefix of the keys that the kubelet adds.
const KUBELET_PREFIX: &str = "csi.storage.k8s.io/";

/// A checked NodePublish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// The volume's id, for log lines.
    pub volume_id: String,
    /// Where it is wanted.
    pub target: PathBuf,
    /// What is wanted.
    pub volume: Volume,
}

/// What a pod can mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Volume {
    /// The newest revision of a Dataset, read-only.
    Dataset {
        /// Namespace of the Dataset.
        namespace: String,
        /// Its name.
        name: String,
        /// Its uid, when a PersistentVolume names it.
        uid: Option<String>,
    },
    /// The folder of a cache node.
    Tier {
        /// Name of the CacheRuntime, in the pod's namespace.
        runtime: String,
        /// Name of its tier.
        tier: String,
        /// The pod.
        pod: Pod,
    },
    /// The folder in which a cache node listens for the mounter.
    NeighbourSocket {
        /// Name of the CacheRuntime, in the pod's namespace.
        runtime: String,
        /// The pod.
        pod: Pod,
    },
    /// The folder with the socket of this container, for the mounter.
    KeeperSocket {
        /// The pod.
        pod: Pod,
    },
}

/// The pod that mounts, as the kubelet describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
    /// Name of its service account.
    pub service_account: String,
}

/// A checked NodeUnpublish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unpublish {
    /// The volume's id, for log lines.
    pub volume_id: String,
    /// Where it is mounted.
    pub target: PathBuf,
}

impl Publish {
    /// Checks a request.
    ///
    /// # Errors
    /// [`Error::Invalid`] with what is wrong.
    pub fn parse(request: NodePublishVolumeRequest, folders: &Folders) -> Result<Self, Error> {
        let NodePublishVolumeRequest {
            volume_id,
            publish_context: _,     // there is no controller that would fill it
            staging_target_path: _, // nothing is staged
            target_path,
            volume_capability,
            readonly: _, // Datasets are always read-only, the folders of our own pods never
            secrets: _,  // none are used
            volume_context,
        } = request;
        let volume_id = present("volume_id", volume_id)?;
        let target = target(target_path, folders)?;
        check_capability(volume_capability)?;
        let volume = Context::new(volume_context)?.volume()?;
        Ok(Self {
            volume_id,
            target,
            volume,
        })
    }
}

impl Unpublish {
    /// Checks a request.
    ///
    /// # Errors
    /// [`Error::Invalid`] with what is wrong.
    pub fn parse(request: NodeUnpublishVolumeRequest, folders: &Folders) -> Result<Self, Error> {
        let NodeUnpublishVolumeRequest { volume_id, target_path } = request;
        Ok(Self {
            volume_id: present("volume_id", volume_id)?,
            target: target(target_path, folders)?,
        })
    }
}

/// The text of a field that must not be empty.
///
/// # Errors
/// [`Error::Invalid`] when it is.
pub fn present(field: &str, value: String) -> Result<String, Error> {
    if value.is_empty() {
        return Err(Error::Invalid(format!("the request has no {field}")));
    }
    Ok(value)
}

fn target(path: String, folders: &Folders) -> Result<PathBuf, Error> {
    let path = PathBuf::from(present("target_path", path)?);
    let pods = folders.pods();
    let plain = path
        .components()
        .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !plain || !path.starts_with(&pods) || path == pods {
        return Err(Error::Invalid(format!(
            "target_path {} is not below {}: the driver mounts for pods of this kubelet only (is --kubelet-root right?)",
            path.display(),
            pods.display()
        )));
    }
    Ok(path)
}

fn check_capability(capability: Option<VolumeCapability>) -> Result<(), Error> {
    let invalid = |text: &str| Err(Error::Invalid(text.to_owned()));
    let Some(VolumeCapability {
        access_mode,
        access_type,
    }) = capability
    else {
        return invalid("the request has no volume_capability");
    };
    match access_mode.map(|mode| mode.mode()) {
        None | Some(Mode::Unknown) => return invalid("the volume_capability has no access_mode"),
        Some(_) => {}
    }
    match access_type {
        None => invalid("the volume_capability has no access_type"),
        Some(AccessType::Block(_)) => {
            invalid("a volume of Penstock is a file system: volumeMode Block is not supported")
        }
        Some(AccessType::Mount(mount)) => match mount.mount_flags.iter().find(|flag| *flag != "ro") {
            Some(flag) => Err(Error::Invalid(format!(
                "the mount option {flag:?} is not supported: take it out of mountOptions"
            ))),
            None => Ok(()),
        },
    }
}

/// A volume context, taken apart.
struct Context {
    user: HashMap<String, String>,
    kubelet: HashMap<String, String>,
}

impl Context {
    fn new(context: HashMap<String, String>) -> Result<Self, Error> {
        let (kubelet, user): (HashMap<_, _>, HashMap<_, _>) = context
            .into_iter()
            .partition(|(key, _)| key.starts_with(KUBELET_PREFIX));
        Ok(Self { user, kubelet })
    }

    fn volume(mut self) -> Result<Volume, Error> {
        // Without this key nobody knows whether a user or an administrator wrote the others.
        let volume = match self.kubelet.get("csi.storage.k8s.io/ephemeral").map(String::as_str) {
            Some("true") => self.inline()?,
            Some("false") => self.persistent()?,
            _ => {
                return Err(Error::Invalid(
                    "the kubelet did not say whether this is an inline volume: the CSIDriver csi.penstock.io needs podInfoOnMount: true"
                        .to_owned(),
                ));
            }
        };
        match self.user.keys().min() {
            None => Ok(volume),
            Some(key) => Err(Error::Invalid(format!(
                "the volume attribute {key:?} is not known here: an inline volume has `dataset: NAME`, nothing else"
            ))),
        }
    }

    fn persistent(&mut self) -> Result<Volume, Error> {
        Ok(Volume::Dataset {
            namespace: self.name("namespace")?,
            name: self.name("dataset")?,
            uid: Some(self.name("uid")?),
        })
    }

    fn inline(&mut self) -> Result<Volume, Error> {
        let pod = self.pod()?;
        let known = ["dataset", "cacheRuntime", "keeper"];
        match known.map(|key| self.user.contains_key(key)) {
            [true, false, false] => Ok(Volume::Dataset {
                namespace: pod.namespace,
                name: self.name("dataset")?,
                uid: None,
            }),
            [false, true, false] if self.user.contains_key("neighbour") => {
                let runtime = self.name("cacheRuntime")?;
                self.socket("neighbour")?;
                Ok(Volume::NeighbourSocket { runtime, pod })
            }
            [false, true, false] => Ok(Volume::Tier {
                runtime: self.name("cacheRuntime")?,
                tier: self.name("tier")?,
                pod,
            }),
            [false, false, true] => {
                self.socket("keeper")?;
                Ok(Volume::KeeperSocket { pod })
            }
            _ => Err(Error::Invalid(
                "an inline volume of Penstock names a Dataset of the pod's namespace: volumeAttributes: {dataset: NAME}"
                    .to_owned(),
            )),
        }
    }

    /// Takes an attribute that has one value.
    fn socket(&mut self, key: &str) -> Result<(), Error> {
        match self.user.remove(key).as_deref() {
            Some("socket") => Ok(()),
            _ => Err(Error::Invalid(format!(
                "the volume attribute {key} has one value: socket"
            ))),
        }
    }

    fn pod(&self) -> Result<Pod, Error> {
        let field = |key: &str| {
            let value = self.kubelet.get(&format!("{KUBELET_PREFIX}{key}"));
            checked_name(key, value.cloned().unwrap_or_default())
        };
        Ok(Pod {
            namespace: field("pod.namespace")?,
            name: field("pod.name")?,
            uid: field("pod.uid")?,
            service_account: field("serviceAccount.name")?,
        })
    }

    fn name(&mut self, key: &str) -> Result<String, Error> {
        checked_name(key, self.user.remove(key).unwrap_or_default())
    }
}

/// Names become parts of paths and of requests to the API server, so they are held to what Kubernetes allows as a name.
fn checked_name(key: &str, value: String) -> Result<String, Error> {
    let fine = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'.';
    let edges = |c: Option<&u8>| c.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = value.as_bytes();
    if bytes.len() <= 253 && edges(bytes.first()) && edges(bytes.last()) && bytes.iter().all(|c| fine(*c)) {
        return Ok(value);
    }
    Err(Error::Invalid(if value.is_empty() {
        format!("the volume attribute {key:?} is missing")
    } else {
        format!("the volume attribute {key:?} is no name of Kubernetes: {value:?}")
    }))
}

/// The folder that NodeGetVolumeStats asks about.
///
/// # Errors
/// [`Error::Invalid`] when it is empty.
pub fn volume_path(path: String) -> Result<PathBuf, Error> {
    Ok(Path::new(&present("volume_path", path)?).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(ephemeral: &str, attributes: &[(&str, &str)]) -> Result<Volume, Error> {
        let kubelet = [
            ("ephemeral", ephemeral),
            ("pod.namespace", "vision"),
            ("pod.name", "train-0"),
            ("pod.uid", "a-b"),
            ("serviceAccount.name", "default"),
        ];
        let kubelet = kubelet.map(|(key, value)| (format!("{KUBELET_PREFIX}{key}"), value.to_owned()));
        let user = attributes
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Context::new(kubelet.into_iter().chain(user).collect())?.volume()
    }

    #[test]
    fn an_inline_volume_names_a_dataset_of_the_pods_own_namespace() {
        let Volume::Dataset { namespace, name, uid } = parse("true", &[("dataset", "imagenet")]).unwrap() else {
            panic!("another kind")
        };
        assert_eq!((&*namespace, &*name, uid), ("vision", "imagenet", None));
    }

    #[test]
    fn a_persistent_volume_names_namespace_and_uid_too() {
        let attributes = [("dataset", "imagenet"), ("namespace", "other"), ("uid", "1-2")];
        let Volume::Dataset { namespace, uid, .. } = parse("false", &attributes).unwrap() else {
            panic!("another kind")
        };
        assert_eq!((&*namespace, uid.as_deref()), ("other", Some("1-2")));
    }

    #[test]
    fn what_is_not_on_the_list_is_refused_with_a_sentence() {
        for (ephemeral, attributes, part) in [
            (
                "true",
                &[("dataset", "a"), ("namespace", "b")][..],
                "\"namespace\" is not known",
            ),
            ("true", &[], "names a Dataset"),
            ("true", &[("dataset", "a"), ("keeper", "socket")], "names a Dataset"),
            ("true", &[("dataset", "../a")], "no name of Kubernetes"),
            ("true", &[("dataset", "")], "missing"),
            ("true", &[("cacheRuntime", "a")], "\"tier\" is missing"),
            ("true", &[("keeper", "door")], "one value"),
            ("true", &[("cacheRuntime", "a"), ("neighbour", "")], "one value"),
            (
                "true",
                &[("cacheRuntime", "a"), ("neighbour", "socket"), ("tier", "b")],
                "\"tier\" is not known",
            ),
            ("false", &[("dataset", "a"), ("namespace", "b")], "\"uid\" is missing"),
            ("false", &[("keeper", "socket")], "missing"),
            ("", &[("dataset", "a")], "podInfoOnMount"),
        ] {
            let sentence = parse(ephemeral, attributes).unwrap_err().to_string();
            assert!(sentence.contains(part), "{attributes:?}: {sentence}");
        }
    }

    #[test]
    fn a_target_lies_below_the_pods_of_this_kubelet() {
        let folders = Folders {
            kubelet: "/k".into(),
            state: "/s".into(),
            private: "/p".into(),
        };
        assert!(target("/k/pods/u/volumes/v/mount".into(), &folders).is_ok());
        for path in ["", "/k/pods", "/k/podsx/a", "/k/pods/../../etc", "k/pods/a", "/etc"] {
            assert!(target(path.into(), &folders).is_err(), "{path}");
        }
    }
}
