//! Builds revisions: lists the sources, then writes the package.

use std::sync::Arc;

use futures::TryStreamExt;
use futures::future::try_join_all;
use penstock_protocol::control::cache_node as wire;
use penstock_protocol::ids::SpaceId;
use penstock_revision::{BuildOptions, Outcome, Package, SourceListing, build};

use penstock_origin::{Origin, OriginError, proven};

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

/// Who owns the files: root, if it is not said.
pub fn options(ownership: Option<wire::Ownership>) -> BuildOptions {
    ownership.map_or_else(BuildOptions::default, |ownership| {
        let wire::Ownership {
            uid,
            gid,
            file_mode,
            directory_mode,
        } = ownership;
        // Permission bits are nine.
        BuildOptions {
            uid,
            gid,
            file_mode: (file_mode & 0o777) as u16,
            directory_mode: (directory_mode & 0o777) as u16,
        }
    })
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
    let known = parent.as_ref().map_or(&[][..], Package::sources);
    let listings = try_join_all(sources.iter().map(|source| async {
        let Source { path, origin } = source;
        let pages = if known.contains(&origin.identity()) {
            origin.list()
        } else {
            proven(&**origin)
        };
        let objects = pages.try_concat().await?;
        if objects.is_empty() {
            return Err(BuildFailure::Empty(format!(
                "there is nothing in {}; check the prefix or path and the patterns, or write the first object",
                origin.place()
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
