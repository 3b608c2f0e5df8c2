//! Builds revisions: lists the sources, then writes the package.

use std::sync::Arc;

use futures::future::try_join_all;
use penstock_protocol::ids::SpaceId;
use penstock_revision::{BuildOptions, Outcome, Package, SourceListing, build};

use crate::origin::{Origin, OriginError};

/// A source and where it stands in the tree.
#[derive(Clone)]
pub struct Source {
    /// Path in the tree; "" is the root.
    pub path: String,
    /// The origin.
    pub origin: Arc<dyn Origin>,
}

/// Why no revision could be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildFailure {
    /// A source could not be listed.
    #[error("{0}")]
    Origin(#[from] OriginError),
    /// A source holds nothing, which is a mistake far more often than a wish.
    #[error("{0}")]
    Empty(String),
    /// The revision cannot be written.
    #[error("{0}")]
    Build(#[from] penstock_revision::BuildError),
}

/// The revision of `sources` now, going on with the addresses of `parent`.
///
/// # Errors
/// See [`BuildFailure`]; each text says what to do.
pub async fn build_revision(
    sources: &[Source],
    parent: Option<Package>,
    options: BuildOptions,
) -> Result<Outcome, BuildFailure> {
    let listings = try_join_all(sources.iter().map(|source| async {
        let Source { path, origin } = source;
        let objects = origin.list().await?;
        if objects.is_empty() {
            return Err(BuildFailure::Empty(format!(
                "there is nothing in {}; check the prefix, or write the first object",
                origin.identity().split('@').next().unwrap_or_default()
            )));
        }
        Ok(SourceListing {
            identity: origin.identity(),
            path: path.clone(),
            objects,
        })
    }))
    .await?;
    let space = SpaceId(rand::random());
    let built = tokio::task::spawn_blocking(move || build(space, parent.as_ref(), &listings, &options));
    match built.await {
        Ok(outcome) => Ok(outcome?),
        Err(panicked) => Err(OriginError::Other(format!("building the revision failed: {panicked}")).into()),
    }
}
