//! Which folders of nodes sources may name: those that their CacheRuntime lists, as far as the operator lets it have them. Pure.

use kube::ResourceExt;
use penstock_crds::CacheRuntime;

/// The folders of nodes that the Datasets of a CacheRuntime may read.
#[derive(Clone, Debug)]
pub struct HostPaths {
    runtime: String,
    listed: Vec<String>,
    permitted: Vec<String>,
}

/// A folder in one that is listed. The listed one is what is mounted: whoever may write into it could make its folders lead elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The listed one.
    pub root: String,
    /// The folder in there; "" is all.
    pub below: String,
}

/// Why a folder of nodes may not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotHeld {
    /// It could be another one than it looks like.
    #[error("whose path is not plain; write it without `.`, `..` and empty parts")]
    NotPlain,
    /// By the word of the CacheRuntime.
    #[error(
        "which the CacheRuntime {0} does not list; add it, or a folder above it, to spec.origins.hostPaths of the CacheRuntime"
    )]
    Unlisted(String),
    /// By the word of whoever installed Penstock.
    #[error("which the operator lets no CacheRuntime read; add it, or a folder above it, to hostPaths of the chart")]
    Forbidden,
}

impl HostPaths {
    /// Those of this CacheRuntime, in those that the operator permits.
    pub fn of(runtime: &CacheRuntime, permitted: &[String]) -> Self {
        let origins = runtime.spec.origins.as_ref();
        Self {
            runtime: runtime.name_any(),
            listed: origins.map_or_else(Vec::new, |origins| origins.host_paths.clone()),
            permitted: permitted.to_vec(),
        }
    }

    /// The listed folder in which `folder` lies; the longest of several.
    ///
    /// # Errors
    /// When there is none.
    pub fn holding(&self, folder: &str) -> Result<Held, NotHeld> {
        let folder = folder.trim_end_matches('/');
        let is_plain = |path: &str| {
            let parts = path.strip_prefix('/');
            parts.is_some_and(|parts| parts.split('/').all(|part| !matches!(part, "" | "." | "..")))
        };
        if !is_plain(folder) {
            return Err(NotHeld::NotPlain);
        }
        let listed: Vec<(&str, &str)> = self
            .listed
            .iter()
            .filter(|listed| is_plain(listed))
            .filter_map(|listed| Some((listed.as_str(), below(folder, listed)?)))
            .collect();
        if listed.is_empty() {
            return Err(NotHeld::Unlisted(self.runtime.clone()));
        }
        let is_permitted = |path: &str| self.permitted.iter().any(|permitted| below(path, permitted).is_some());
        let held = listed.into_iter().filter(|(root, _)| is_permitted(root));
        let (root, below) = held.max_by_key(|(root, _)| root.len()).ok_or(NotHeld::Forbidden)?;
        Ok(Held {
            root: root.to_owned(),
            below: below.to_owned(),
        })
    }
}

/// What is left of a path in another one; `None` when it is not there.
fn below<'a>(path: &'a str, root: &str) -> Option<&'a str> {
    match path.strip_prefix(root.trim_end_matches('/'))? {
        "" => Some(""),
        rest => rest.strip_prefix('/'),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_folder_is_read_in_the_longest_one_that_runtime_and_operator_allow() {
        let runtime = json!({
            "apiVersion": "penstock.io/v1alpha1", "kind": "CacheRuntime", "metadata": {"name": "pool"},
            "spec": {"replicas": 1, "tiers": [], "origins": {"hostPaths": ["/mnt/lustre", "/mnt/lustre/b", "/srv/../etc", "/home"]}},
        });
        let runtime: CacheRuntime = serde_json::from_value(runtime).unwrap();
        let paths = HostPaths::of(&runtime, &["/mnt/".into(), "/srv".into()]);
        let held = |root: &str, below: &str| {
            Ok(Held {
                root: root.into(),
                below: below.into(),
            })
        };
        let unlisted = || Err(NotHeld::Unlisted("pool".into()));
        for (folder, expected) in [
            ("/mnt/lustre", held("/mnt/lustre", "")),
            ("/mnt/lustre/", held("/mnt/lustre", "")),
            ("/mnt/lustre/a/x y", held("/mnt/lustre", "a/x y")),
            ("/mnt/lustre/b/c", held("/mnt/lustre/b", "c")),
            ("/mnt/lustre/bc", held("/mnt/lustre", "bc")),
            ("/mnt/lustre2", unlisted()),
            ("/mnt", unlisted()),
            ("/etc", unlisted()),
            ("/srv/../etc", Err(NotHeld::NotPlain)),
            ("/mnt/lustre/../../etc", Err(NotHeld::NotPlain)),
            ("/mnt/lustre//a", Err(NotHeld::NotPlain)),
            ("/", Err(NotHeld::NotPlain)),
            ("mnt/lustre", Err(NotHeld::NotPlain)),
            ("/home/a", Err(NotHeld::Forbidden)),
        ] {
            assert_eq!(paths.holding(folder), expected, "{folder}");
        }
        let nothing = HostPaths::of(&runtime, &[]);
        assert_eq!(nothing.holding("/mnt/lustre"), Err(NotHeld::Forbidden));
    }
}
