//! Why a source cannot be told to a cache node, in sentences that say what to do.

use penstock_sources::NotGranted;

use crate::host_paths::NotHeld;
use crate::others::NotTaken;

/// Why the sources cannot be told to a cache node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// A Secret or one of its keys is missing.
    #[error("{0}")]
    Keys(#[from] penstock_sources::Unusable),
    /// Another Dataset whose files cannot be taken.
    #[error("{0}")]
    NotTaken(#[from] NotTaken),
    /// A claim that is not there.
    #[error("the claim {0} does not exist in this namespace; create it")]
    NoClaim(String),
    /// A claim that goes when nobody mounts it any more.
    #[error("the claim {0} is being deleted; create it again, or take the source away")]
    ClaimLeaving(String),
    /// The claim of a Dataset.
    #[error("the claim {0} is that of a Dataset; name the Dataset itself (`dataset`), or a claim of storage")]
    ClaimOfDataset(String),
    /// The pod that reads a volume does not run.
    #[error("{0}")]
    NoReader(String),
    /// A source that the CacheRuntime does not allow.
    #[error("{}", not_allowed(path, place, runtime))]
    NotAllowed {
        /// Where it stands in the tree.
        path: String,
        /// What it names.
        place: String,
        /// Whose CacheRuntime.
        runtime: String,
    },
    /// A folder of nodes that may not be read.
    #[error("{} reads the folder {folder} of the nodes, {why}", which(path))]
    FolderNotAllowed {
        /// Where it stands in the tree.
        path: String,
        /// The folder.
        folder: String,
        /// Who does not let it.
        why: NotHeld,
    },
    /// A source whose tickets nobody knows where to get.
    #[error(
        "{} is read as a principal of the Kerberos realm {realm}, of which the CacheRuntime {runtime} names no KDC; add {realm} and its \
         KDCs to spec.kerberos.realms of the CacheRuntime, or correct `principal` of the Secret",
        which(path)
    )]
    NoRealm {
        /// Where it stands in the tree.
        path: String,
        /// Whose cache nodes.
        runtime: String,
        /// The realm.
        realm: String,
    },
    /// A source that may not be read with the cache nodes' identity.
    #[error(
        "{} may not be read with the workload identity of the CacheRuntime {runtime}: {why}",
        which(path)
    )]
    NotGranted {
        /// Where it stands in the tree.
        path: String,
        /// Whose identity.
        runtime: String,
        /// Why, and what to do.
        why: NotGranted,
    },
}

fn which(path: &str) -> String {
    if path.is_empty() {
        "the source".to_owned()
    } else {
        format!("the source at {path}")
    }
}

fn not_allowed(path: &str, place: &str, runtime: &str) -> String {
    let which = which(path);
    format!(
        "{which} reads {place}, which the CacheRuntime {runtime} does not allow; add {place}/** to spec.origins.allowed of the \
         CacheRuntime, or name a place that is there"
    )
}
