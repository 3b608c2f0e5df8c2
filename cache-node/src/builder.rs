//! Builds revisions: lists the sources, then writes the package. What is listed is gathered as it comes and never in memory as a
//! whole.

use std::sync::Arc;

use futures::TryStreamExt;
use futures::future::try_join_all;
use penstock_protocol::control::cache_node as wire;
use penstock_protocol::ids::SpaceId;
use penstock_revision::{BuildError, BuildOptions, Gathering, Listed, Outcome, Package, Scratch, SourceNumber};
use tokio::sync::mpsc;
use tokio::task::{JoinError, spawn_blocking};

use crate::limits::LISTED_PAGES_MAX;
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

/// The revision of `sources` now, going on with the addresses of `parent`. What does not fit in memory goes to `scratch`.
///
/// # Errors
/// See [`BuildFailure`]; each text says what to do.
pub async fn build_revision(
    sources: &[Source],
    parent: Option<Package>,
    options: BuildOptions,
    scratch: Scratch,
) -> Result<Outcome, BuildFailure> {
    let mut gathering = Gathering::new(scratch);
    let numbers = sources
        .iter()
        .map(|Source { path, origin }| gathering.begin_source(origin.identity(), path));
    let numbers = numbers.collect::<Result<Vec<_>, _>>()?;
    let (pages, listed) = mpsc::channel(LISTED_PAGES_MAX);
    let gathered = spawn_blocking(move || gather(gathering, listed));
    let known = parent.as_ref().map_or(&[][..], Package::sources);
    let listings = sources.iter().zip(numbers).map(|(Source { path: _, origin }, number)| {
        let is_known = known.contains(&origin.identity());
        list(&**origin, is_known, number, &pages)
    });
    let listings = try_join_all(listings).await;
    // Nothing more comes.
    drop(pages);
    listings?;
    let gathering = gathered.await.map_err(panicked)??;
    let space = SpaceId(rand::random());
    let built = spawn_blocking(move || gathering.build(space, parent.as_ref(), &options));
    Ok(built.await.map_err(panicked)??)
}

fn panicked(error: JoinError) -> BuildFailure {
    OriginError::Other(format!("building the revision failed: {error}")).into()
}

/// Lists a source; one that is not known yet is also read from.
async fn list(
    origin: &dyn Origin,
    is_known: bool,
    number: SourceNumber,
    pages: &mpsc::Sender<(SourceNumber, Vec<Listed>)>,
) -> Result<(), BuildFailure> {
    let mut listing = if is_known { origin.list() } else { proven(origin) };
    let mut is_empty = true;
    while let Some(page) = listing.try_next().await? {
        is_empty &= page.is_empty();
        if pages.send((number, page)).await.is_err() {
            // Whoever gathers has failed and says why.
            return Ok(());
        }
    }
    if is_empty {
        return Err(BuildFailure::Empty(format!(
            "there is nothing in {}; check the prefix or path and the patterns, or write the first object",
            origin.place()
        )));
    }
    Ok(())
}

/// On a thread of its own: sorting what is full takes some hundred milliseconds.
fn gather(
    mut gathering: Gathering,
    mut listed: mpsc::Receiver<(SourceNumber, Vec<Listed>)>,
) -> Result<Gathering, BuildError> {
    while let Some((source, page)) = listed.blocking_recv() {
        gathering.add(source, &page)?;
    }
    Ok(gathering)
}
