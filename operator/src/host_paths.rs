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

/// Where a folder of nodes is that may be read. All that is below `mounted` may be a link that somebody else made, so it is opened by the
/// reader, who lets none lead out: of `mounted` up to `listed`, and of `listed` behind that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// What is mounted: what the operator permits.
    pub mounted: String,
    /// What the CacheRuntime lists, in `mounted` or it.
    pub listed: String,
    /// The folder, in `listed` or it.
    pub folder: String,
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

    /// Where `folder` is; the longest of several that are listed or permitted.
    ///
    /// # Errors
    /// When it may not be read.
    pub fn holding(&self, folder: &str) -> Result<Held, NotHeld> {
        let folder = folder.trim_end_matches('/');
        if !is_plain(folder) {
            return Err(NotHeld::NotPlain);
        }
        let holds = |path: &str, holder: &str| is_plain(holder) && below(path, holder).is_some();
        let longest = |path: &str, holders: &[String]| {
            let holders = holders.iter().map(|holder| holder.trim_end_matches('/'));
            let longest = holders
                .filter(|holder| holds(path, holder))
                .max_by_key(|holder| holder.len());
            longest.map(str::to_owned)
        };
        let listed = longest(folder, &self.listed).ok_or_else(|| NotHeld::Unlisted(self.runtime.clone()))?;
        let mounted = longest(&listed, &self.permitted).ok_or(NotHeld::Forbidden)?;
        Ok(Held {
            mounted,
            listed,
            folder: folder.to_owned(),
        })
    }
}

impl Held {
    /// What is listed, from what is mounted on; "" is all.
    pub fn listed_below(&self) -> &str {
        below(&self.listed, &self.mounted).unwrap_or_default()
    }
}

/// Whether it is the path that it looks like.
fn is_plain(path: &str) -> bool {
    let parts = path.strip_prefix('/');
    parts.is_some_and(|parts| parts.split('/').all(|part| !matches!(part, "" | "." | "..")))
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
        let held = |mounted: &str, listed: &str, folder: &str| {
            Ok(Held {
                mounted: mounted.into(),
                listed: listed.into(),
                folder: folder.into(),
            })
        };
        let unlisted = || Err(NotHeld::Unlisted("pool".into()));
        for (folder, expected) in [
            ("/mnt/lustre", held("/mnt", "/mnt/lustre", "/mnt/lustre")),
            ("/mnt/lustre/", held("/mnt", "/mnt/lustre", "/mnt/lustre")),
            ("/mnt/lustre/a/x y", held("/mnt", "/mnt/lustre", "/mnt/lustre/a/x y")),
            ("/mnt/lustre/b/c", held("/mnt", "/mnt/lustre/b", "/mnt/lustre/b/c")),
            ("/mnt/lustre/bc", held("/mnt", "/mnt/lustre", "/mnt/lustre/bc")),
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
        let held = paths.holding("/mnt/lustre/b/c").unwrap();
        assert_eq!(held.listed_below(), "lustre/b");
        assert_eq!(nothing.holding("/mnt/lustre"), Err(NotHeld::Forbidden));
    }
}
