//! A folder of a volume, that of a PersistentVolumeClaim or a folder of nodes, read through a small pod that mounts it (`reader/`).
//!
//! That reader looks at files as at those of a machine (`folder.rs`): a version is inode, length and time, and each read names all of
//! them. How it is asked and what it answers stands in `volume/exchange.rs`, which both sides use. Its address is made by the operator
//! and by nobody else, so no bound on what people may name as an origin concerns it.

pub mod exchange;

use std::collections::VecDeque;
use std::ops::Range;

use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use futures::StreamExt;
use penstock_protocol::control::cache_node as wire;
use penstock_revision::{Listed, ObjectVersion, Version};
use reqwest::header::{self, HeaderName, HeaderValue};
use reqwest::{Method, Request, Response, StatusCode, Url};

use self::exchange::Line;
use crate::limits::{CLAIM_LINE_BYTES_MAX, CLAIM_PAGE_FILES};
use crate::transport::{self, Failure, quoted};
use crate::{Body, Network, Origin, OriginError, Pages};

/// A folder of a volume.
pub struct VolumeOrigin {
    identity: String,
    place: String,
    /// The volume in sentences, for example `the claim data`.
    volume: String,
    /// The folder in it; "" is all.
    path: String,
    reader: String,
    /// What a person does to see why it does not answer, and to have it begin anew.
    described: String,
    deleted: String,
    token: HeaderValue,
    client: transport::Client,
}

/// The pod that mounts a volume, and where its server and that pod are.
struct Reader {
    url: String,
    namespace: String,
    pods: String,
    token: Option<wire::ReaderToken>,
}

impl VolumeOrigin {
    /// A folder of a claim. Makes the client; asks nobody yet.
    ///
    /// # Errors
    /// When the configuration makes no sense, or there is no cluster.
    pub fn of_claim(config: wire::Claim, network: &Network) -> Result<Self, OriginError> {
        let wire::Claim {
            namespace,
            name: claim,
            uid,
            path,
            reader: url,
            pods,
            token,
        } = config;
        let volume = format!("the claim {claim}");
        if url.is_empty() {
            return Err(OriginError::Invalid(format!(
                "{volume} can only be read in a cluster, by a pod that mounts it; name a path where its volume is mounted as `folder`"
            )));
        }
        let folder = if path.is_empty() {
            String::new()
        } else {
            format!("{path}/")
        };
        let names = [
            format!("claim://{namespace}/{claim}@{uid}/{folder}"),
            format!("claim://{namespace}/{claim}/{folder}"),
            volume,
        ];
        let reader = Reader {
            url,
            namespace,
            pods,
            token,
        };
        Self::new(names, path, reader, network)
    }

    /// The folder `path` of nodes. Makes the client; asks nobody yet.
    ///
    /// # Errors
    /// When the configuration makes no sense.
    pub fn of_nodes(path: &str, reader: wire::FolderReader, network: &Network) -> Result<Self, OriginError> {
        let wire::FolderReader {
            namespace,
            url,
            pods,
            token,
        } = reader;
        let names = [
            format!("nodes://{}/", path.trim_matches('/')),
            path.to_owned(),
            format!("the folder {path}"),
        ];
        let reader = Reader {
            url,
            namespace,
            pods,
            token,
        };
        // Whichever pod answers, also one that mounts something else by an older list, it is the same folder.
        Self::new(names, path.trim_matches('/').to_owned(), reader, network)
    }

    fn new(names: [String; 3], path: String, reader: Reader, network: &Network) -> Result<Self, OriginError> {
        let [identity, place, volume] = names;
        let Reader {
            url: reader,
            namespace,
            pods,
            token,
        } = reader;
        let invalid = |text: String| OriginError::Invalid(format!("{volume} {text}"));
        let token = format!("Bearer {}", token.unwrap_or_default().value);
        let mut token = HeaderValue::try_from(token)
            .map_err(|_| invalid("has a reader whose token no header can hold; delete the Secret of it".to_owned()))?;
        token.set_sensitive(true);
        let client = transport::client(network).map_err(invalid)?;
        Ok(Self {
            described: format!("kubectl -n {namespace} describe pods -l {pods}"),
            deleted: format!("kubectl -n {namespace} delete pods -l {pods}"),
            identity,
            place,
            volume,
            path,
            reader,
            token,
            client,
        })
    }

    async fn ask(&self, target: &str, headers: Vec<(HeaderName, HeaderValue)>) -> Result<Response, Failure> {
        let url = Url::parse(&format!("{}{target}", self.reader));
        let url = url.map_err(|error| Failure::Transport(format!("its address is no URL: {error}")))?;
        let mut request = Request::new(Method::GET, url);
        request.headers_mut().extend(headers);
        request.headers_mut().insert(header::AUTHORIZATION, self.token.clone());
        transport::send(&self.client, request).await
    }

    fn explain(&self, failure: Failure) -> OriginError {
        let Self { volume, .. } = self;
        let (status, text, wait) = match failure {
            Failure::Transport(cause) => return self.silent(&cause),
            Failure::NotAllowed(why) => {
                return OriginError::NotAllowed(format!("the reader of {volume} may not be reached: {why}"));
            }
            Failure::Refused { status, text, wait } => (status, text, wait),
        };
        match (status, Line::read(&text)) {
            (_, Some(Line::Fault(fault))) => fault.into(),
            (StatusCode::UNAUTHORIZED, _) => OriginError::Denied(format!(
                "the reader of {volume} does not take the token of the cache nodes; {} lets it begin with that of its Secret",
                self.deleted
            )),
            (StatusCode::SERVICE_UNAVAILABLE, _) => OriginError::Throttled {
                text: format!("the reader of {volume} has more to do than it can; readers wait"),
                wait,
            },
            _ => OriginError::Other(format!(
                "the reader of {volume} answered with an error ({}); it is tried again",
                status.as_u16()
            )),
        }
    }

    fn silent(&self, cause: &str) -> OriginError {
        OriginError::Unreachable(format!(
            "the reader of {} does not answer ({cause}); {} shows why",
            self.volume, self.described
        ))
    }
}

/// A listing that is under way.
struct Listing {
    response: Response,
    /// What has come and is no whole line yet.
    begun: BytesMut,
    files: VecDeque<Listed>,
    is_whole: bool,
}

impl Listing {
    /// The next files. None when all were listed.
    async fn page(&mut self, origin: &VolumeOrigin) -> Result<Option<Vec<Listed>>, OriginError> {
        while self.files.is_empty() && !self.is_whole {
            let piece = self.response.chunk().await;
            let broken = || origin.silent("it broke off while it listed");
            let piece = piece.ok().flatten().ok_or_else(broken)?;
            self.begun.extend_from_slice(&piece);
            self.take_lines(origin)?;
        }
        let page: Vec<Listed> = self.files.drain(..self.files.len().min(CLAIM_PAGE_FILES)).collect();
        Ok((!page.is_empty()).then_some(page))
    }

    fn take_lines(&mut self, origin: &VolumeOrigin) -> Result<(), OriginError> {
        let strange = || {
            OriginError::Other(format!(
                "the reader of {} lists in a way that this cache node does not know, as when it is upgraded; it is tried again",
                origin.volume
            ))
        };
        while let Some(end) = self.begun.iter().position(|byte| *byte == b'\n') {
            let line = self.begun.split_to(end);
            self.begun.advance(1);
            // An empty one says that the reader still walks.
            if line.is_empty() {
                continue;
            }
            match Line::read(&line).ok_or_else(strange)? {
                Line::File(file) => self.files.push_back(file.into()),
                Line::Fault(fault) => return Err(fault.into()),
                Line::End => self.is_whole = true,
            }
        }
        if self.begun.len() > CLAIM_LINE_BYTES_MAX {
            return Err(strange());
        }
        Ok(())
    }
}

#[async_trait]
impl Origin for VolumeOrigin {
    fn identity(&self) -> String {
        self.identity.clone()
    }

    fn place(&self) -> String {
        self.place.clone()
    }

    fn list(&self) -> Pages<'_> {
        let pages = futures::stream::try_unfold(None, move |listing: Option<Listing>| async move {
            let mut listing = match listing {
                Some(listing) => listing,
                None => Listing {
                    response: self
                        .ask(&exchange::listing(&self.path), Vec::new())
                        .await
                        .map_err(|failure| self.explain(failure))?,
                    begun: BytesMut::new(),
                    files: VecDeque::new(),
                    is_whole: false,
                },
            };
            let page = listing.page(self).await?;
            Ok(page.map(|page| (page, Some(listing))))
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
            return Err(transport::drifted(&self.place, key));
        };
        let tag = HeaderValue::try_from(quoted(tag)).map_err(|_| transport::drifted(&self.place, key))?;
        let headers = vec![(header::RANGE, exchange::range(&range)), (header::IF_MATCH, tag)];
        let response = self.ask(&exchange::reading(&self.path, key, bytes), headers).await;
        let response = response.map_err(|failure| self.explain(failure))?;
        transport::prove(&response, version, bytes, &range).map_err(|wrong| wrong.explain(&self.place, key))?;
        let broken = self.silent(&format!("it broke off while sending {key}"));
        Ok(transport::pieces(response, broken))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> wire::Claim {
        wire::Claim {
            namespace: "vision".into(),
            name: "training-data".into(),
            uid: "u-1".into(),
            path: "2024".into(),
            reader: "http://reader:7074".into(),
            pods: "penstock.io/reader=r".into(),
            token: None,
        }
    }

    fn origin(config: wire::Claim) -> Result<VolumeOrigin, OriginError> {
        VolumeOrigin::of_claim(config, &Network::default())
    }

    #[test]
    fn a_claim_that_is_made_anew_is_another_source_and_another_reader_is_not() {
        let identity = |config| origin(config).unwrap().identity();
        let same = identity(config());
        assert_eq!(same, "claim://vision/training-data@u-1/2024/");
        let anew = wire::Claim {
            uid: "u-2".into(),
            ..config()
        };
        assert_ne!(identity(anew), same);
        let elsewhere = wire::Claim {
            reader: "http://other:7074".into(),
            ..config()
        };
        assert_eq!(identity(elsewhere), same);
    }

    #[test]
    fn outside_of_a_cluster_a_folder_is_to_be_named() {
        let alone = wire::Claim {
            reader: String::new(),
            ..config()
        };
        let error = origin(alone).err().unwrap();
        assert!(
            matches!(&error, OriginError::Invalid(text) if text.contains("as `folder`")),
            "{error:?}"
        );
    }
}
