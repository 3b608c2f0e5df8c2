//! The first contact with an origin: whether it lists, and sends a range of an object in the version that it listed.
//!
//! A server that cannot is better known when a Dataset is made than when a pod reads.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use penstock_revision::{Listed, ObjectVersion, Version};

use crate::limits::CONTACT_OBJECTS_MAX;
use crate::{Origin, OriginError, Pages, http};

/// What an origin showed of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contact {
    /// Objects in the first page of its listing that is not empty.
    pub objects: usize,
    /// Whether there are no more.
    pub is_all: bool,
    /// The object of which a byte was read; `None` when all of these are empty.
    pub read: Option<Listed>,
    /// How long it took to the end of the first page.
    pub listed_after: Duration,
    /// ... and to read.
    pub read_after: Duration,
}

/// Lists a page and reads a byte.
///
/// # Errors
/// The origin's, or that there is nothing.
pub async fn contact(origin: &dyn Origin) -> Result<Contact, OriginError> {
    let started = Instant::now();
    let mut pages = origin.list();
    let mut page = Vec::new();
    while page.is_empty() {
        page = match pages.try_next().await? {
            Some(page) => page,
            None => {
                return Err(OriginError::NotFound(format!(
                    "there is nothing in {}; check the prefix or path and the patterns, or write the first object",
                    origin.place()
                )));
            }
        };
    }
    let listed_after = started.elapsed();
    let read = try_one(origin, &page).await?;
    let read_after = started.elapsed() - listed_after;
    let mut is_all = true;
    // An empty page says nothing.
    while let Some(next) = pages.try_next().await? {
        if !next.is_empty() {
            is_all = false;
            break;
        }
    }
    Ok(Contact {
        objects: page.len(),
        is_all,
        read,
        listed_after,
        read_after,
    })
}

/// What shows that an object is the one that was listed, in words.
pub fn proof(listed: &Listed) -> &'static str {
    http::proof(&listed.version, listed.bytes).unwrap_or(match listed.version {
        Version::None => "without a version",
        Version::ETag(_) | Version::Id(_) => "proven by its version",
        Version::Modified(_) => "proven by its length and the time of its last change",
    })
}

/// The listing of an origin of which a byte of the first objects is read on the way.
pub fn proven(origin: &dyn Origin) -> Pages<'_> {
    let mut is_proven = false;
    let pages = origin.list().and_then(move |page| {
        let was_proven = is_proven;
        is_proven |= page.iter().any(|listed| listed.bytes > 0);
        async move {
            if !was_proven {
                try_one(origin, &page).await?;
            }
            Ok(page)
        }
    });
    pages.boxed()
}

/// Reads a byte of one of the objects, taken from the whole page; of another one when that changed meanwhile, is archived or may not be
/// read.
async fn try_one(origin: &dyn Origin, page: &[Listed]) -> Result<Option<Listed>, OriginError> {
    let objects: Vec<&Listed> = page.iter().filter(|listed| listed.bytes > 0).collect();
    let step = objects.len().div_ceil(CONTACT_OBJECTS_MAX).max(1);
    let mut first = None;
    for listed in objects.into_iter().step_by(step) {
        let object = ObjectVersion {
            source: 0,
            key: listed.key.clone(),
            version: listed.version.clone(),
        };
        let read = async {
            let body = origin.read(&object, listed.bytes, 0..1).await?;
            let longer = || {
                OriginError::Invalid(format!(
                    "{} sends more than it is asked for; it cannot be an origin",
                    origin.place()
                ))
            };
            body.try_fold(0, async |bytes, piece: Bytes| {
                let bytes = bytes + piece.len();
                if bytes > 1 { Err(longer()) } else { Ok(bytes) }
            })
            .await
        };
        match read.await {
            Ok(_) => return Ok(Some(listed.clone())),
            Err(OriginError::Drifted(text)) => tracing::debug!(text, "first contact with another object"),
            // It may be that object's fault, or the source's.
            Err(error @ (OriginError::Denied(_) | OriginError::Invalid(_))) => {
                tracing::warn!(key = listed.key, %error, "first contact with another object");
                first.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    first.map_or(Ok(None), Err)
}
