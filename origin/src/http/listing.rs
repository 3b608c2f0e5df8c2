//! Which files there are, and what the server says of each. It must not know how they are read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::{FutureExt, Stream, StreamExt, TryFutureExt, TryStreamExt};
use penstock_revision::Listed;
use reqwest::{Method, Response, header};
use sha2::{Digest, Sha256};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::evidence::{self, Evidence, Said};
use super::manifest::Manifest;
use super::{Shared, is_gone, links};
use crate::limits::{
    HTTP_DEPTH_MAX, HTTP_PAGE_FILES, HTTP_QUESTIONS_MAX, JUST_CHANGED_MAX, JUST_CHANGED_PAUSE, LISTING_PAGE_BYTES_MAX,
    MANIFESTS_AT_ONCE,
};
use crate::sum::Sum;
use crate::transport::{self, Failure, unquoted};
use crate::{OriginError, Pages};

/// Turns of manifests, of all Datasets together: it is the memory of the process that they share.
static MANIFESTS: Semaphore = Semaphore::const_new(MANIFESTS_AT_ONCE);

/// The files of a manifest.
struct Promised {
    files: BTreeMap<String, Sum>,
    seen: Seen,
    turn: Option<SemaphorePermit<'static>>,
}

/// A manifest as it was read.
#[derive(PartialEq, Eq)]
struct Seen {
    bytes: u64,
    sha256: [u8; 32],
}

/// What was found out of a server in a listing.
#[derive(Default)]
struct Habits {
    /// There was a file of which the last change is always the present.
    times_are_present: AtomicBool,
    /// ... while its tag stayed the same, so that tags are made of something else.
    tags_are_better: AtomicBool,
}

impl Shared {
    /// All files, as the server describes them.
    pub(super) fn pages(&self) -> Pages<'_> {
        if !self.manifest.is_empty() {
            let pages = async { Ok(self.pages_of_manifest(self.promised().await?)) };
            return pages.try_flatten_stream().boxed();
        }
        let keys = async {
            if self.files.is_empty() {
                self.found().await
            } else {
                Ok(self.files.clone())
            }
        };
        let keys = keys.map_ok(|keys| futures::stream::iter(keys).map(|key| Ok((key, None))));
        self.pages_of(keys.try_flatten_stream()).boxed()
    }

    fn pages_of_manifest(&self, promised: Promised) -> impl Stream<Item = Result<Vec<Listed>, OriginError>> {
        let Promised { files, seen, turn } = promised;
        let keys = files.into_iter().map(|(key, sum)| Ok((key, Some(sum))));
        // What was written between would be half of the old files and half of the new ones.
        let is_same = async move {
            // All files are listed; nothing of it is held any more.
            drop(turn);
            let changed = || {
                OriginError::Other(format!(
                    "{}{} changed while its files were looked at; they are looked at again",
                    self.folder, self.manifest
                ))
            };
            let mut left = seen.bytes;
            let again = self.see_manifest(|piece| {
                left = left.checked_sub(piece.len() as u64).ok_or_else(changed)?;
                Ok(())
            });
            if again.await? == seen {
                Ok(Vec::new())
            } else {
                Err(changed())
            }
        };
        self.pages_of(futures::stream::iter(keys)).chain(is_same.into_stream())
    }

    fn pages_of(
        &self,
        keys: impl Stream<Item = Result<(String, Option<Sum>), OriginError>>,
    ) -> impl Stream<Item = Result<Vec<Listed>, OriginError>> {
        let habits = Arc::new(Habits::default());
        let described = keys
            .map_ok(move |(key, sum)| self.described(key, sum, habits.clone()))
            .try_buffered(HTTP_QUESTIONS_MAX)
            .try_filter_map(async |described| Ok(described));
        described.try_chunks(HTTP_PAGE_FILES).map_err(|error| error.1)
    }

    /// The files that the manifest names, but itself: it cannot have its own checksum.
    async fn promised(&self) -> Result<Promised, OriginError> {
        // Never closed.
        let turn = MANIFESTS.acquire().await.ok();
        let url = self.url(&self.manifest)?;
        let wrong = |what: String| OriginError::Invalid(format!("{url} {what}"));
        let mut manifest = Manifest::default();
        let seen = self.see_manifest(|piece| manifest.read(piece).map_err(wrong)).await?;
        let mut files = manifest.end().map_err(wrong)?;
        files.remove(&self.manifest);
        if files.is_empty() {
            return Err(wrong("names no files; write it as `sha256sum` does".to_owned()));
        }
        Ok(Promised { files, seen, turn })
    }

    /// Reads the manifest piece by piece, and holds none.
    async fn see_manifest(&self, mut read: impl FnMut(&[u8]) -> Result<(), OriginError>) -> Result<Seen, OriginError> {
        let explain = |failure| self.explain(failure, &self.manifest, false);
        let asked = self.ask(Method::GET, self.url(&self.manifest)?, Vec::new());
        let mut response = asked.await.map_err(explain)?;
        let (mut bytes, mut digest) = (0, Sha256::new());
        while let Some(piece) = response
            .chunk()
            .await
            .map_err(|error| explain(transport::broken(&error)))?
        {
            bytes += piece.len() as u64;
            digest.update(&piece);
            read(&piece)?;
        }
        let sha256 = digest.finalize().into();
        Ok(Seen { bytes, sha256 })
    }

    /// The files that the pages of the folder and of its folders link to.
    async fn found(&self) -> Result<Vec<String>, OriginError> {
        let (mut files, mut folders) = (Vec::new(), vec![String::new()]);
        for _ in 0..HTTP_DEPTH_MAX {
            if folders.is_empty() {
                return Ok(files);
            }
            let pages = folders.drain(..).map(|folder| self.page(folder));
            let pages: Vec<_> = futures::stream::iter(pages)
                .buffered(HTTP_QUESTIONS_MAX)
                .try_collect()
                .await?;
            for key in pages.into_iter().flatten() {
                let into = if key.ends_with('/') { &mut folders } else { &mut files };
                into.push(key);
            }
        }
        Err(OriginError::Invalid(format!(
            "{} has folders within folders, more than {HTTP_DEPTH_MAX} deep, as when one leads back to one above it; name the files of the \
             source one by one, or a folder below",
            self.folder
        )))
    }

    /// What the page of a folder links to, relative to the whole.
    async fn page(&self, folder: String) -> Result<Vec<String>, OriginError> {
        let url = self.url(&folder)?;
        let explain = |failure| self.explain(failure, &folder, false);
        let response = match self.ask(Method::GET, url.clone(), Vec::new()).await {
            Ok(response) => response,
            Err(Failure::Refused { status, .. }) if is_gone(status) && !folder.is_empty() => {
                tracing::warn!(%url, "a page leads to a folder that is not there");
                return Ok(Vec::new());
            }
            Err(failure) => return Err(explain(failure)),
        };
        let kind = transport::header(&response, header::CONTENT_TYPE).unwrap_or_default();
        if !kind.starts_with("text/html") {
            return Err(OriginError::Invalid(format!(
                "{url} is no page with links ({kind}); name the files of the source one by one"
            )));
        }
        let html = transport::body(response, LISTING_PAGE_BYTES_MAX)
            .await
            .map_err(explain)?;
        let links::Links { names, awkward } = links::links(&url, &html);
        if awkward > 0 {
            tracing::warn!(%url, awkward, "links of a page that no file can be named after are left out");
        }
        Ok(names.into_iter().map(|name| format!("{folder}{name}")).collect())
    }

    /// A file as the server describes it; `None` when a page leads to one that is not there. Where last changes are always the present
    /// one that is allowed by name is not asked for again, nor one with a tag where tags are better than that.
    async fn described(
        &self,
        key: String,
        sum: Option<Sum>,
        habits: Arc<Habits>,
    ) -> Result<Option<Listed>, OriginError> {
        let is_named = !(self.files.is_empty() && self.manifest.is_empty());
        let unusable =
            |what: &str| OriginError::Invalid(format!("{} {what} {key}; it cannot be an origin", self.folder));
        let is_allowed = self.unversioned.is_match(&key);
        let (mut said, mut asked, mut before) = (Said::Nothing, 0, None);
        let (bytes, modified) = loop {
            let response = match self.ask(Method::HEAD, self.url(&key)?, Vec::new()).await {
                Ok(response) => response,
                Err(Failure::Refused { status, .. }) if is_gone(status) && !is_named => return Ok(None),
                Err(failure) => return Err(self.explain(failure, &key, false)),
            };
            let bytes = length(&response).ok_or_else(|| unusable("does not say the length of"))?;
            let modified = transport::last_modified(&response);
            let is_proven = sum.is_some() && evidence::is_compared(bytes);
            asked += 1;
            // A copy in a cache may be of what a program makes, and reads would fail when it ends: where no version is needed, better none.
            let age_nanos = if is_allowed { 0 } else { age_nanos(&response) };
            let is_final = |modified| is_proven || !is_present(&response, age_nanos, modified);
            let may_be_asked_again = asked < JUST_CHANGED_MAX;
            let is_asked_again =
                may_be_asked_again && !(is_allowed && habits.times_are_present.load(Ordering::Relaxed));
            match (tag(&response), modified) {
                // A tag may be made of the time of the last change in seconds, and of the length (nginx).
                (Some(tag), Some(modified))
                    if !is_proven
                        && may_be_asked_again
                        && is_present(&response, self::age_nanos(&response), modified) =>
                {
                    let is_better = before
                        .is_some_and(|(tag_before, modified_before)| tag_before == tag && modified_before != modified);
                    if is_better {
                        habits.tags_are_better.store(true, Ordering::Relaxed);
                    }
                    if !habits.tags_are_better.load(Ordering::Relaxed) {
                        before = Some((tag, modified));
                        tokio::time::sleep(JUST_CHANGED_PAUSE).await;
                        continue;
                    }
                    said = Said::Tag(tag);
                }
                (Some(tag), _) => said = Said::Tag(tag),
                (None, Some(modified)) if is_final(modified) => said = Said::Modified(modified),
                (None, Some(_)) if is_asked_again => {
                    tokio::time::sleep(JUST_CHANGED_PAUSE).await;
                    continue;
                }
                (None, Some(_)) => habits.times_are_present.store(true, Ordering::Relaxed),
                (None, None) => {}
            }
            // What is always the present would be another time in each revision.
            let modified = modified.filter(|_| said != Said::Nothing);
            break (bytes, modified.unwrap_or(0));
        };
        let evidence = Evidence { said, sum };
        if !evidence.shows_changes(bytes) && !is_allowed {
            return Err(self.unproven(&key, evidence.sum.is_some(), asked > 1));
        }
        Ok(Some(Listed {
            bytes,
            modified_unix_nanos: modified,
            version: evidence.version(bytes),
            key,
        }))
    }

    /// Why a file is not taken of which nothing shows that it changes.
    fn unproven(&self, key: &str, has_sum: bool, is_always_new: bool) -> OriginError {
        let folder = &self.folder;
        let lacks = if is_always_new {
            "gives no strong ETag and always the present as the time of the last change of"
        } else {
            "gives neither a strong ETag nor the time of the last change of"
        };
        let but = if has_sum {
            ", which is too large to be compared with its checksum"
        } else {
            ""
        };
        OriginError::Invalid(format!(
            "{folder} {lacks} {key}{but}: nothing would show that it changed; have the server give one of them, or allow it by name in \
             allowUnversioned of the source"
        ))
    }
}

/// Bytes of a file.
pub(super) fn length(response: &Response) -> Option<u64> {
    transport::header(response, header::CONTENT_LENGTH)?.parse().ok()
}

/// A strong ETag without its quotes.
pub(super) fn tag(response: &Response) -> Option<String> {
    let tag = transport::header(response, header::ETAG).filter(|tag| !tag.starts_with("W/"));
    tag.map(|tag| unquoted(tag).to_owned())
}

/// Whether a time of a last change is the present second, in which it may change again without that it shows (RFC 9110, 8.8.2.2).
///
/// An answer out of a cache repeats its Date until the copy ends, and says its age. What changed after it within its second is hidden by
/// the cache, but to wait for the end of the copy would not show it either: the cache asks the server then whether the file changed since
/// that second, hears no, and keeps the copy with a later Date. Reads go through the same cache.
fn is_present(response: &Response, age_nanos: i64, modified_unix_nanos: i64) -> bool {
    let made = transport::time(response, header::DATE);
    made.map(|made| made.saturating_add(age_nanos)) == Some(modified_unix_nanos)
}

/// How long an answer has been in caches (RFC 9111, 5.1).
fn age_nanos(response: &Response) -> i64 {
    let seconds = transport::header(response, header::AGE).and_then(|age| age.trim().parse::<u32>().ok());
    i64::from(seconds.unwrap_or(0)) * 1_000_000_000
}
