//! The packages of other Datasets that a node looked into. It must not know how they are asked for.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use penstock_origin::OriginError;
use penstock_protocol::ids::RevisionId;
use penstock_revision::{Package, Scratch};

use crate::limits::OTHER_PACKAGES_MAX;

/// Packages of other Datasets, whichever client looks into them; clones share them. One that is on its way arrives for all who
/// wait, and also when they have given up.
#[derive(Clone)]
pub struct OtherPackages(Arc<Shelf>);

struct Shelf {
    packages: Mutex<Vec<(RevisionId, Getting)>>,
    scratch: Scratch,
}

/// What has arrived and can be read still.
fn usable(getting: &Getting) -> Option<&Package> {
    let package = getting.peek()?.as_ref().ok()?;
    (!package.has_failed()).then_some(package)
}

type Getting = Shared<BoxFuture<'static, Result<Package, OriginError>>>;

impl Default for OtherPackages {
    fn default() -> Self {
        Self::new(Scratch::memory())
    }
}

impl OtherPackages {
    /// None yet. They are in files in `scratch`, and so are their names while they are looked at.
    pub fn new(scratch: Scratch) -> Self {
        Self(Arc::new(Shelf {
            packages: Mutex::default(),
            scratch,
        }))
    }

    /// Where what does not fit in memory is.
    pub(super) fn scratch(&self) -> &Scratch {
        &self.0.scratch
    }

    /// Those of these revisions that have arrived, the one that was used last at first.
    pub(super) fn held(&self, revisions: &[RevisionId]) -> Vec<Package> {
        let packages = self.lock();
        let arrived = packages.iter().rev().filter_map(|(revision, getting)| {
            let package = usable(getting)?;
            revisions.contains(revision).then(|| package.clone())
        });
        arrived.collect()
    }

    /// The package of a revision, from here or by `download`. Of more than [`OTHER_PACKAGES_MAX`] the one that was not used for
    /// the longest time goes.
    pub(super) async fn get(
        &self,
        revision: RevisionId,
        download: impl Future<Output = Result<Package, OriginError>> + Send + 'static,
    ) -> Result<Package, OriginError> {
        let getting = {
            let mut packages = self.lock();
            packages
                .retain(|(other, getting)| *other != revision || getting.peek().is_none() || usable(getting).is_some());
            let found = packages.iter().position(|(other, _)| *other == revision);
            let getting = match found {
                Some(at) => packages.remove(at).1,
                None => {
                    let task = tokio::spawn(download);
                    let ended = |error| OriginError::Other(format!("the download of a package ended early: {error}"));
                    async move { task.await.unwrap_or_else(|error| Err(ended(error))) }
                        .boxed()
                        .shared()
                }
            };
            packages.push((revision, getting.clone()));
            if packages.len() > OTHER_PACKAGES_MAX {
                drop(packages.remove(0));
            }
            getting
        };
        let got = getting.await;
        if got.is_err() {
            let mut packages = self.lock();
            packages.retain(|(other, getting)| *other != revision || !matches!(getting.peek(), Some(Err(_))));
        }
        got
    }

    /// Notes that somebody reads through it.
    pub(super) fn used(&self, revision: &RevisionId) {
        let mut packages = self.lock();
        if let Some(at) = packages.iter().position(|(other, _)| other == revision) {
            let used = packages.remove(at);
            packages.push(used);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(RevisionId, Getting)>> {
        self.0.packages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
