//! Builds revisions: lists the sources, or what may have changed of them, then writes the package. What is listed is gathered as it
//! comes and never in memory as a whole.

mod scope;

use std::sync::Arc;

use futures::future::try_join_all;
use futures::{StreamExt, TryStreamExt};
use penstock_protocol::control::cache_node as wire;
use penstock_protocol::ids::SpaceId;
use penstock_revision::{BuildError, BuildOptions, Gathering, Listed, Outcome, Package, Scratch, SourceNumber};
use tokio::sync::mpsc;
use tokio::task::{JoinError, spawn_blocking};

use self::scope::Scope;
use crate::limits::{LISTED_BELOW_AT_ONCE, LISTED_PAGES_MAX};
use penstock_origin::{Origin, OriginError, Pages, proven};

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
    #[error("{error}")]
    Origin {
        /// What it says.
        error: OriginError,
        /// Where the source stands in the tree, once that is known.
        path: Option<String>,
    },
    /// A source holds nothing, which is a mistake far more often than a wish.
    #[error("{0}")]
    Empty(String),
    /// The revision cannot be written.
    #[error("{0}")]
    Build(#[from] penstock_revision::BuildError),
}

impl From<OriginError> for BuildFailure {
    fn from(error: OriginError) -> Self {
        Self::Origin { error, path: None }
    }
}

impl BuildFailure {
    /// The same, of the source that stands at `path`.
    fn of(self, path: &str) -> Self {
        match self {
            Self::Origin { error, path: _ } => Self::Origin {
                error,
                path: Some(path.to_owned()),
            },
            other => other,
        }
    }
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
    let pages_of_all = &pages;
    let listings = sources
        .iter()
        .zip(numbers)
        .map(|(Source { path, origin }, number)| async move {
            let is_known = known.contains(&origin.identity());
            let listed = list(&**origin, is_known, number, pages_of_all).await;
            listed.map_err(|failure| failure.of(path))
        });
    let listings = try_join_all(listings).await;
    // Nothing more comes.
    drop(pages);
    listings?;
    let gathering = gathered.await.map_err(panicked)??;
    finish(gathering, parent, options).await
}

/// The same, when no objects have changed since `parent` but those that are `dirty`: only these are listed. `parent` is of the same
/// sources at the same paths. `None` when it cannot be done so, and all has to be listed.
///
/// # Errors
/// See [`BuildFailure`]; each text says what to do.
pub async fn refresh_below(
    sources: &[Source],
    parent: &Package,
    dirty: &[wire::Dirty],
    options: BuildOptions,
    scratch: Scratch,
) -> Result<Option<Outcome>, BuildFailure> {
    let Some(mut scopes) = scope::scopes(sources, dirty) else {
        return Ok(None);
    };
    let mut gathering = Gathering::new(scratch);
    let numbers = sources
        .iter()
        .map(|Source { path, origin }| gathering.begin_source(origin.identity(), path));
    let numbers = numbers.collect::<Result<Vec<_>, _>>()?;
    // Sorting, decompressing and walking through an image take a second for a million objects.
    let carried = {
        let (parent, numbers) = (parent.clone(), numbers.clone());
        move || {
            let is_whole = gathering.carry(&parent, |source, key| {
                let number = numbers.iter().position(|number| *number == source);
                let scope = number.and_then(|number| scopes.get_mut(number));
                scope.is_none_or(|scope| scope.carries(key))
            })?;
            Ok::<_, BuildError>(is_whole.then_some((gathering, scopes)))
        }
    };
    let Some((mut gathering, mut scopes)) = spawn_blocking(carried).await.map_err(panicked)?? else {
        return Ok(None);
    };
    for (at, Source { path, origin }) in sources.iter().enumerate() {
        let (number, mut scope) = (numbers[at], std::mem::take(&mut scopes[at]));
        let of_source = |failure: BuildFailure| failure.of(path);
        let starts = scope.dirty().to_vec();
        let added = add_below(&**origin, &starts, number, gathering, scope).await;
        (gathering, scope) = added.map_err(of_source)?;
        // Whether a folder that has nothing in it any more is there is said by its marker alone.
        let starts = scope.emptied();
        let added = add_below(&**origin, &starts, number, gathering, scope).await;
        (gathering, scope) = added.map_err(of_source)?;
        if scope.is_empty() {
            return Err(empty(&**origin));
        }
    }
    finish(gathering, Some(parent.clone()), options).await.map(Some)
}

/// Lists the objects whose keys begin so, as far as they have not been listed yet.
async fn add_below(
    origin: &dyn Origin,
    starts: &[String],
    number: SourceNumber,
    mut gathering: Gathering,
    mut scope: Scope,
) -> Result<(Gathering, Scope), BuildFailure> {
    let listings = starts.iter().map(|start| listing(origin, start));
    let listings = listings.collect::<Result<Vec<_>, _>>()?;
    let mut pages = futures::stream::iter(listings).flatten_unordered(LISTED_BELOW_AT_ONCE);
    let are_dirty = starts.iter().all(|start| scope.is_dirty(start));
    while let Some(mut page) = pages.try_next().await? {
        let add = move || {
            page.retain(|listed| are_dirty || !scope.is_dirty(&listed.key));
            for listed in &page {
                scope.has_listed(&listed.key, gathering.is_plain(number, listed));
            }
            gathering.add(number, &page)?;
            Ok::<_, BuildError>((gathering, scope))
        };
        (gathering, scope) = spawn_blocking(add).await.map_err(panicked)??;
    }
    Ok((gathering, scope))
}

fn listing<'a>(origin: &'a dyn Origin, start: &str) -> Result<Pages<'a>, BuildFailure> {
    if start.is_empty() {
        return Ok(origin.list());
    }
    let unable = || OriginError::Other(format!("{} cannot be listed in part", origin.place()));
    Ok(origin.list_below(start).ok_or_else(unable)?)
}

async fn finish(gathering: Gathering, parent: Option<Package>, options: BuildOptions) -> Result<Outcome, BuildFailure> {
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
        return Err(empty(origin));
    }
    Ok(())
}

fn empty(origin: &dyn Origin) -> BuildFailure {
    BuildFailure::Empty(format!(
        "there is nothing in {}; check the prefix or path and the patterns, or write the first object",
        origin.place()
    ))
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
