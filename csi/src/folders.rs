//! Where everything lies on the node.
//!
//! ```text
//! <kubelet root>/                                 Bidirectional: mounts made below it are seen by the whole node
//!   plugins_registry/csi.penstock.io-reg.sock     registration
//!   plugins/csi.penstock.io/
//!     csi.sock                                    CSI
//!     keeper/socket                               the mounter connects here; its folder is bound into the mounter's pod
//!     keeper/neighbours/<pod>.<runtime>.<ns>/     a cache node listens here; bound into its pod
//!     revisions/<revision>/<connection>/          mounted revisions; <connection> is the number of the FUSE connection below
//!   pods/<uid>/volumes/…/mount                    targets: binds of the above
//! <state folder>/                                 on ext4, xfs or btrfs; 0700
//!   lock                                          held by the csi container that works on this node
//!   probe-<random>/                               while it is tried how the kernel mounts images
//!   revisions/<revision>/image                    EROFS images
//!   tiers/<CacheRuntime uid>/<tier>/<pod>/        folders of cache nodes
//! <private folder>/spaces/<revision>/<n>/         FUSE mounts, seen by this container only
//! ```

use std::path::{Path, PathBuf};

use penstock_protocol::ids::RevisionId;

use crate::DRIVER;

/// The roots of everything.
#[derive(Clone, Debug)]
pub struct Folders {
    /// The kubelet's folder.
    pub kubelet: PathBuf,
    /// What outlives the container.
    pub state: PathBuf,
    /// What does not.
    pub private: PathBuf,
}

impl Folders {
    /// The driver's own folder below the kubelet's.
    pub fn plugin(&self) -> PathBuf {
        self.kubelet.join("plugins").join(DRIVER)
    }

    /// Where the kubelet calls.
    pub fn csi_socket(&self) -> PathBuf {
        self.plugin().join("csi.sock")
    }

    /// Where the kubelet finds the driver.
    pub fn registration_socket(&self) -> PathBuf {
        self.kubelet.join("plugins_registry").join(format!("{DRIVER}-reg.sock"))
    }

    /// The folder that the mounter's pod gets.
    pub fn keeper(&self) -> PathBuf {
        self.plugin().join("keeper")
    }

    /// Where the mounter connects.
    pub fn keeper_socket(&self) -> PathBuf {
        self.keeper().join("socket")
    }

    /// Where cache nodes listen for the mounter.
    pub fn neighbours(&self) -> PathBuf {
        self.keeper().join("neighbours")
    }

    /// Where revisions are mounted.
    pub fn revisions(&self) -> PathBuf {
        self.plugin().join("revisions")
    }

    /// Where a revision is mounted over the FUSE connection of that number.
    pub fn revision(&self, revision: &RevisionId, connection: u32) -> PathBuf {
        self.revisions().join(revision.to_string()).join(connection.to_string())
    }

    /// Revision and connection of a path that [`Folders::revision`] made.
    pub fn revision_of(&self, path: &Path) -> Option<(RevisionId, u32)> {
        let mut names = path.strip_prefix(self.revisions()).ok()?.iter();
        let revision = names.next()?.to_str()?.parse().ok()?;
        let connection = names.next()?.to_str()?.parse().ok()?;
        names.next().is_none().then_some((revision, connection))
    }

    /// Held by whoever works on this node.
    pub fn lock(&self) -> PathBuf {
        self.state.join("lock")
    }

    /// Where images are.
    pub fn images(&self) -> PathBuf {
        self.state.join("revisions")
    }

    /// Where the folders of cache nodes are.
    pub fn tiers(&self) -> PathBuf {
        self.state.join("tiers")
    }

    /// Where FUSE connections are mounted.
    pub fn spaces(&self) -> PathBuf {
        self.private.join("spaces")
    }

    /// Where the kubelet wants volumes.
    pub fn pods(&self) -> PathBuf {
        self.kubelet.join("pods")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_a_revision_names_it() {
        let folders = Folders {
            kubelet: "/k".into(),
            state: "/s".into(),
            private: "/p".into(),
        };
        let revision = RevisionId([7; 32]);
        let path = folders.revision(&revision, 42);
        assert_eq!(folders.revision_of(&path), Some((revision, 42)));
        for other in [path.join("more"), folders.revisions(), folders.pods()] {
            assert_eq!(folders.revision_of(&other), None);
        }
    }
}
