//! Files of a repository of the Hugging Face hub, or of a server that answers as it does.
//!
//! The version of a file is the id of its content: git's of a small one, the SHA-256 of a large one, which git only has a note of.
//! So a file stays what it is from commit to commit until its content changes. A hub gives files at a commit, not by their ids;
//! a read asks at the commits that the revision is known to have stood for, and compares the id in the hub's answer. What none of
//! them has any more is drift: nobody looks through a repository's history for it. A revision that is a commit itself never drifts.
//!
//! Small files come from the hub, large ones from a storage that it leads to, with an address that is signed for an hour. That is
//! remembered, because a hub counts questions: it is of one content, whatever happens to the repository.

mod http;
mod listing;
mod memory;

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt};
use penstock_protocol::control::cache_node as wire;
use penstock_revision::{Listed, ObjectVersion, Version};
use percent_encoding::utf8_percent_encode;
use reqwest::{Response, StatusCode, Url, header};
use wire::hugging_face::Kind;

use self::http::{Answer, At, Client, Trouble};
use self::memory::{Commits, Leads};
use crate::limits::{LISTING_PAGE_BYTES_MAX, WHOLE_FILE_BYTES_MAX};
use crate::transport::{self, Failure, PATH, VALUE, Wrong};
use crate::{Body, Network, Origin, OriginError, Pages};

const HUB: &str = "https://huggingface.co";
const REVISION: &str = "main";

/// What was asked for when something went wrong.
#[derive(Clone, Copy, Debug)]
enum Asked<'a> {
    Revision,
    Listing,
    File(&'a str),
}

/// What of a listing is to be asked for.
enum Next {
    First,
    Page {
        url: Url,
        /// Whether a file has been read.
        is_proven: bool,
    },
    Nothing,
}

/// A folder of a repository at one revision.
pub struct HuggingFaceOrigin {
    /// URL of the hub without a slash at the end.
    hub: String,
    kind: Kind,
    repository: String,
    revision: String,
    /// Of the folder; "" or with a slash at the end.
    folder: String,
    client: Client,
    commits: Commits,
    leads: Leads,
}

/// What a page of a listing says, for whoever tries it with any bytes (`fuzz/`).
///
/// # Errors
/// What the server does wrong.
#[cfg(feature = "test-support")]
pub fn read_listing(json: &[u8], links: &str) -> Result<(Vec<Listed>, Option<String>), String> {
    let next = listing::next(links).map(str::to_owned);
    Ok((listing::page(json)?, next))
}

impl HuggingFaceOrigin {
    /// Makes the client; asks nobody yet.
    ///
    /// # Errors
    /// When the configuration makes no sense.
    pub fn new(config: wire::HuggingFace, network: &Network) -> Result<Self, OriginError> {
        let kind = config.kind();
        let wire::HuggingFace {
            repository,
            kind: _,
            revision,
            path,
            endpoint,
            token,
        } = config;
        // Whoever may have written a password is not quoted.
        let unusable = |text: &str| OriginError::Invalid(format!("the endpoint of the hub {text}"));
        let endpoint = if endpoint.is_empty() { HUB } else { &endpoint };
        let hub = Url::parse(endpoint).map_err(|_| unusable("is no URL; write one like https://host"))?;
        if !hub.username().is_empty() || hub.password().is_some() {
            return Err(unusable("must not have a user or a password in it; take them out"));
        }
        if !matches!(hub.scheme(), "http" | "https") || hub.query().is_some() || hub.fragment().is_some() {
            return Err(unusable(
                "begins with http:// or https:// and has no `?` and no `#`; correct it",
            ));
        }
        let invalid = |text: &str| OriginError::Invalid(format!("{repository:?} on {hub}: {text}"));
        let is_path = |path: &str| path.split('/').all(|part| !matches!(part, "" | "." | ".."));
        if !is_path(&repository) || repository.split('/').count() > 2 {
            return Err(invalid("the name of a repository is `owner/name`; correct it"));
        }
        if !path.is_empty() && !is_path(&path) {
            return Err(invalid(
                "the path of its folder has no slash at an end and no part `.` or `..`; correct it",
            ));
        }
        let token = token.map(|wire::HuggingFaceToken { value }| value);
        if token.as_ref().is_some_and(String::is_empty) {
            return Err(invalid(
                "its token is empty; correct HF_TOKEN in the Secret of the source",
            ));
        }
        let client = Client::new(hub.clone(), token.as_deref(), network).map_err(|text| invalid(&text))?;
        Ok(Self {
            hub: hub.as_str().trim_end_matches('/').to_owned(),
            kind,
            revision: if revision.is_empty() {
                REVISION.to_owned()
            } else {
                revision
            },
            folder: if path.is_empty() { path } else { path + "/" },
            repository,
            client,
            commits: Commits::default(),
            leads: Leads::default(),
        })
    }

    /// The URL of something on the hub; `None` when no URL can name it: `.` and `..` vanish from paths, encoded or not.
    fn url(&self, path: &str) -> Option<Url> {
        let text = format!("{}/{path}", self.hub);
        Url::parse(&text).ok().filter(|url| url.as_str() == text)
    }

    /// ... of something that the hub says of the repository.
    fn question(&self, text: &str) -> Result<Url, OriginError> {
        let Self { repository, .. } = self;
        let kind = match self.kind {
            Kind::Dataset => "datasets",
            Kind::Model => "models",
            Kind::Space => "spaces",
        };
        let repository = utf8_percent_encode(repository, PATH);
        let url = self.url(&format!("api/{kind}/{repository}/{text}"));
        url.ok_or_else(|| self.unusable("has a name that no URL can hold"))
    }

    /// ... of a file.
    fn file(&self, commit: &str, key: &str) -> Result<Url, OriginError> {
        let kind = match self.kind {
            Kind::Dataset => "datasets/",
            Kind::Model => "",
            Kind::Space => "spaces/",
        };
        let path = format!("{}{key}", self.folder);
        let (repository, path) = (
            utf8_percent_encode(&self.repository, PATH),
            utf8_percent_encode(&path, PATH),
        );
        let url = self.url(&format!("{kind}{repository}/resolve/{commit}/{path}"));
        url.ok_or_else(|| OriginError::Invalid(format!("no URL can name {key}; rename the file")))
    }

    /// The commit that the revision stands for.
    async fn look_up(&self) -> Result<Arc<str>, OriginError> {
        if listing::is_commit(&self.revision) {
            return Ok(self.revision.as_str().into());
        }
        // Without this a hub says everything that it knows of the repository.
        let revision = utf8_percent_encode(&self.revision, VALUE);
        let url = self.question(&format!("revision/{revision}?expand=sha"))?;
        let response = self.said(url, Asked::Revision).await?;
        let json = self.whole(response, Asked::Revision).await?;
        let commit = listing::commit(&json).map_err(|what| self.unusable(&what))?;
        Ok(commit.into())
    }

    /// What the hub itself answers.
    async fn said(&self, url: Url, asked: Asked<'_>) -> Result<Response, OriginError> {
        let answer = self.client.ask(url, None).await;
        match answer.map_err(|trouble| self.explain(trouble, asked))?.at {
            At::Hub(response) => Ok(response),
            At::Elsewhere(_) => Err(self.unusable("leads to another server for what it says of the repository")),
        }
    }

    async fn whole(&self, response: Response, asked: Asked<'_>) -> Result<Vec<u8>, OriginError> {
        let bytes = transport::body(response, LISTING_PAGE_BYTES_MAX).await;
        let failed = |failure| self.explain(Trouble::of(failure), asked);
        Ok(bytes.map_err(failed)?.into())
    }

    /// One page of the files, and the address of the next one, if there is one.
    async fn page(&self, url: &Url) -> Result<(Vec<Listed>, Option<Url>), OriginError> {
        let response = self.said(url.clone(), Asked::Listing).await?;
        let links = transport::header(&response, header::LINK).and_then(listing::next);
        let next = links
            .map(|target| url.join(target))
            .transpose()
            .map_err(|_| self.unusable("says that there is more and not where"))?;
        let json = self.whole(response, Asked::Listing).await?;
        let mut files = listing::page(&json).map_err(|what| self.unusable(&what))?;
        for file in &mut files {
            let Some(key) = file.key.strip_prefix(&self.folder) else {
                return Err(self.unusable("lists files that are not in the folder"));
            };
            file.key = key.to_owned();
        }
        match next {
            Some(next) if next == *url => Err(self.unusable("lists the same page again and again")),
            Some(next) if !self.client.is_hub(&next) => {
                Err(self.unusable("leads to another server for the rest of its files"))
            }
            next => Ok((files, next)),
        }
    }

    /// Files may be closed where their names are not: that is better known now than when a pod reads.
    async fn prove(&self, files: &[Listed]) -> Result<bool, OriginError> {
        let Some(file) = files.iter().find(|file| file.bytes > 0) else {
            return Ok(false);
        };
        let object = ObjectVersion {
            source: 0,
            key: file.key.clone(),
            version: file.version.clone(),
        };
        match self.read(&object, file.bytes, 0..1).await {
            Ok(_) => Ok(true),
            // Nothing changes at a commit.
            Err(OriginError::Drifted(_)) => Err(self.unusable("sends files with other ids than it lists")),
            Err(error) => Err(error),
        }
    }

    /// The bytes at a commit; `None` when it has no such file, or another one than was listed.
    async fn at(
        &self,
        commit: &str,
        key: &str,
        tag: &str,
        bytes: u64,
        range: &Range<u64>,
    ) -> Result<Option<Body>, OriginError> {
        let Answer { at, tag: sent } = match self.client.ask(self.file(commit, key)?, Some(range)).await {
            Ok(answer) => answer,
            Err(trouble) if trouble.is_no_such_file() => return Ok(None),
            Err(trouble) => return Err(self.explain(trouble, Asked::File(key))),
        };
        match sent {
            Some(sent) if sent == tag => {}
            Some(_) => return Ok(None),
            None => return Err(Wrong::NoVersion.explain(&self.place(), key)),
        }
        let response = match at {
            At::Hub(response) if is_whole(&response, bytes) => {
                return Ok(Some(part(self.body(response, key), range.clone())));
            }
            At::Hub(response) => response,
            At::Elsewhere(lead) => {
                let response = self.client.fetch(lead.clone(), range).await;
                let response = response.map_err(|trouble| self.explain(trouble, Asked::File(key)))?;
                self.leads.remember(key, tag, lead);
                response
            }
        };
        self.proven(response, key, bytes, range).map(Some)
    }

    /// The body of an answer that is about the version that was asked for.
    fn proven(&self, response: Response, key: &str, bytes: u64, range: &Range<u64>) -> Result<Body, OriginError> {
        let proof = transport::prove_range(&response, bytes, range);
        proof.map_err(|wrong| wrong.explain(&self.place(), key))?;
        Ok(self.body(response, key))
    }

    fn body(&self, response: Response, key: &str) -> Body {
        let broken = OriginError::Unreachable(format!("{} broke off while sending {key}", self.place()));
        transport::pieces(response, broken)
    }

    fn explain(&self, trouble: Trouble, asked: Asked<'_>) -> OriginError {
        let place = self.place();
        let (failure, code, elsewhere) = match trouble {
            Trouble::Astray(what) => return self.unusable(what),
            Trouble::Failed {
                failure,
                code,
                elsewhere,
            } => (failure, code, elsewhere),
        };
        let (status, wait) = match (failure, &elsewhere) {
            (Failure::Transport(cause), None) => {
                return OriginError::Unreachable(format!(
                    "{place} cannot be reached ({cause}); check the endpoint, name resolution and the network from the cache nodes"
                ));
            }
            (Failure::Transport(cause), Some(host)) => {
                return OriginError::Unreachable(format!(
                    "{host}, to which {place} leads for its files, cannot be reached ({cause}); let the cache nodes reach it"
                ));
            }
            (Failure::NotAllowed(why), None) => {
                return OriginError::NotAllowed(format!("{place} may not be reached: {why}"));
            }
            (Failure::NotAllowed(why), Some(host)) => {
                return OriginError::NotAllowed(format!(
                    "{host}, to which {place} leads for its files, may not be reached: {why}"
                ));
            }
            (Failure::Refused { status, text: _, wait }, _) => (status.as_u16(), wait),
        };
        let shown = if code.is_empty() {
            status.to_string()
        } else {
            format!("{status} {code}")
        };
        match (status, code.as_str(), asked, &elsewhere) {
            (416, _, Asked::File(key), _) => transport::drifted(&place, key),
            (429 | 503, ..) => {
                let advice = if self.client.has_token() {
                    "read with fewer pods"
                } else {
                    "name a Secret with HF_TOKEN, which may ask more often, or read with fewer pods"
                };
                OriginError::Throttled {
                    text: format!("{place} asks to slow down ({shown}); if it stays so, {advice}"),
                    wait,
                }
            }
            (502 | 504, ..) => OriginError::Unreachable(format!(
                "{place} cannot be reached by the gateway in front of it ({shown}); check the server behind the endpoint"
            )),
            (.., Some(host)) => OriginError::Other(format!(
                "{host}, to which {place} leads for its files, answered with an error ({shown}); the hub is asked again"
            )),
            (404, "RevisionNotFound", ..) => OriginError::NotFound(format!(
                "{place} has no such branch, tag or commit ({shown}); check the revision of the source"
            )),
            (404, "EntryNotFound", ..) => OriginError::NotFound(format!(
                "{place} has no such folder ({shown}); check the path of the source"
            )),
            (404 | 410, ..) => OriginError::NotFound(format!(
                "{place} does not exist ({shown}); check repository, kind, revision and path of the source, and that the account of \
                 its token may read it"
            )),
            (401 | 403, "GatedRepo", ..) => OriginError::Denied(format!(
                "{place} is only for who accepted its terms ({shown}); accept them on the hub, and name a Secret with HF_TOKEN, \
                 a token of that account"
            )),
            // A hub says the same of what is closed and of what does not exist.
            (401 | 403, ..) if !self.client.has_token() => OriginError::Denied(format!(
                "{place} does not exist or is not open to everybody ({shown}); check its name and kind, accept its terms on the hub if \
                 it has some, and name a Secret with HF_TOKEN"
            )),
            (401 | 403, ..) => OriginError::Denied(format!(
                "{place} refuses the token ({shown}); check HF_TOKEN in the Secret of the source, that its account may read the \
                 repository, and that it accepted its terms on the hub"
            )),
            _ => OriginError::Other(format!("{place} answered with an error ({shown}); it is tried again")),
        }
    }

    /// The server does something that makes it unusable.
    fn unusable(&self, what: &str) -> OriginError {
        OriginError::Invalid(format!("{} {what}; it cannot be an origin", self.place()))
    }
}

impl Trouble {
    /// Something of the hub itself.
    fn of(failure: Failure) -> Self {
        Self::Failed {
            failure,
            code: String::new(),
            elsewhere: None,
        }
    }

    /// Whether the hub says that the commit has no such file, or that there is no such commit any more.
    fn is_no_such_file(&self) -> bool {
        let Self::Failed {
            failure: Failure::Refused { status, .. },
            code,
            elsewhere: None,
        } = self
        else {
            return false;
        };
        matches!(status.as_u16(), 404 | 410) && code != "RepoNotFound"
    }

    /// Whether a storage does not want to give what the hub said it has: the address is too old, or is good no more.
    fn is_refusal(&self) -> bool {
        let Self::Failed {
            failure: Failure::Refused { status, .. },
            ..
        } = self
        else {
            return false;
        };
        status.is_client_error() && status.as_u16() != 429
    }
}

/// Whether a hub sends all of a small file though it was asked for a part, which is the reader's to cut then.
fn is_whole(response: &Response, bytes: u64) -> bool {
    response.status() == StatusCode::OK && response.content_length() == Some(bytes) && bytes <= WHOLE_FILE_BYTES_MAX
}

/// A range of a body.
fn part(whole: Body, range: Range<u64>) -> Body {
    let mut at = 0;
    let cut = whole.map_ok(move |mut piece| {
        let (from, upto) = (at, at + piece.len() as u64);
        at = upto;
        let within = |position: u64| position.clamp(from, upto) - from;
        // Not more than the piece has, which is in memory.
        piece.truncate(within(range.end) as usize);
        piece.split_off((within(range.start) as usize).min(piece.len()))
    });
    cut.boxed()
}

#[async_trait]
impl Origin for HuggingFaceOrigin {
    fn identity(&self) -> String {
        // A Dataset may have two revisions of a repository, and each is read by its own client. A revision may have slashes in it.
        let Self {
            hub,
            kind,
            repository,
            revision,
            folder,
            ..
        } = self;
        let revision = utf8_percent_encode(revision, VALUE);
        format!("hf:{kind:?}://{repository}@{revision}/{folder}@{hub}")
    }

    fn place(&self) -> String {
        let Self {
            hub,
            repository,
            revision,
            folder,
            ..
        } = self;
        let kind = match self.kind {
            Kind::Dataset => "datasets/",
            Kind::Model => "",
            Kind::Space => "spaces/",
        };
        let at = if hub == HUB {
            String::new()
        } else {
            format!(" at {hub}")
        };
        format!("hf://{kind}{repository}@{revision}/{folder}{at}")
    }

    fn list(&self) -> Pages<'_> {
        let pages = futures::stream::try_unfold(Next::First, async move |next| {
            let (url, is_proven) = match next {
                Next::First => {
                    let commit = self.look_up().await?;
                    self.commits.remember(&commit);
                    let folder = utf8_percent_encode(self.folder.trim_end_matches('/'), PATH).to_string();
                    let below = if folder.is_empty() {
                        folder
                    } else {
                        format!("/{folder}")
                    };
                    let url = self.question(&format!("tree/{commit}{below}?recursive=true&expand=false"))?;
                    (url, false)
                }
                Next::Page { url, is_proven } => (url, is_proven),
                Next::Nothing => return Ok(None),
            };
            let (files, next) = self.page(&url).await?;
            let is_proven = is_proven || self.prove(&files).await?;
            let next = next.map_or(Next::Nothing, |url| Next::Page { url, is_proven });
            Ok(Some((files, next)))
        });
        pages.boxed()
    }

    async fn read(&self, object: &ObjectVersion, bytes: u64, range: Range<u64>) -> Result<Body, OriginError> {
        let ObjectVersion {
            source: _,
            key,
            version,
        } = object;
        let Version::ETag(tag) = version else {
            return Err(Wrong::NoVersion.explain(&self.place(), key));
        };
        if let Some(lead) = self.leads.get(key, tag) {
            match self.client.fetch(lead, &range).await {
                Ok(response) => match self.proven(response, key, bytes, &range) {
                    Ok(body) => return Ok(body),
                    Err(_) => self.leads.forget(key, tag),
                },
                Err(trouble) if trouble.is_refusal() => self.leads.forget(key, tag),
                Err(trouble) => return Err(self.explain(trouble, Asked::File(key))),
            }
        }
        let known = self.commits.known();
        for commit in &known {
            if let Some(body) = self.at(commit, key, tag, bytes, &range).await? {
                return Ok(body);
            }
        }
        let newest = self.commits.newest(self.look_up()).await?;
        if !known.contains(&newest)
            && let Some(body) = self.at(&newest, key, tag, bytes, &range).await?
        {
            return Ok(body);
        }
        Err(transport::drifted(&self.place(), key))
    }
}
