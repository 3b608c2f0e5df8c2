//! The server of `penstock cache` and `penstock explain`: translates between the messages and the engine. What a person asks for
//! may read disks for long: it is done where it holds up nobody, a few at a time, and ends when nobody waits for it any more.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use futures::Stream;
use penstock_protocol::control::cache_node as wire;
use penstock_protocol::control::cache_node::explained_range::State;
use penstock_protocol::control::cache_node::inspection_server::Inspection;
use penstock_protocol::ids::RevisionId;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::spawn_blocking;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::engine::{
    Engine, Explained, ExplainedRange, HeldDataset, Hold, Holdings, InspectError, Reason, Stated, TreeEntry, Verified,
    Where,
};
use crate::limits::{DATASETS_LISTED_MAX, ENTRIES_PATIENCE, INSPECTIONS_MAX, VERIFY_INTERVAL};
use crate::rules::{Eviction, Quota, Rule};
use crate::server::control::tier;
use crate::server::node::Node;

/// The service.
pub struct InspectionServer {
    node: Node,
    inspections: Arc<Semaphore>,
    verifies: Arc<Semaphore>,
}

impl InspectionServer {
    /// Of a node.
    pub fn new(node: Node) -> Self {
        Self {
            node,
            inspections: Arc::new(Semaphore::new(INSPECTIONS_MAX)),
            // Two would only take the disks from each other.
            verifies: Arc::new(Semaphore::new(1)),
        }
    }

    /// Does what is asked when it is its turn. The work is told whether somebody waits for it still.
    async fn inspect<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Node, &dyn Fn() -> bool) -> Result<T, InspectError> + Send + 'static,
    ) -> Result<T, Status> {
        let turn = self.inspections.clone().acquire_owned().await.map_err(ended)?;
        // Gone with this future, which goes when the client does.
        let waits = Arc::new(());
        let (node, is_waiting) = (self.node.clone(), Arc::downgrade(&waits));
        let done = spawn_blocking(move || {
            let _turn = turn;
            work(&node, &|| is_waiting.strong_count() > 0)
        })
        .await;
        done.map_err(ended)?.map_err(refused)
    }
}

#[tonic::async_trait]
impl Inspection for InspectionServer {
    type EntriesStream = Pin<Box<dyn Stream<Item = Result<wire::EntriesReply, Status>> + Send>>;
    type VerifyStream = Pin<Box<dyn Stream<Item = Result<wire::VerifyProgress, Status>> + Send>>;

    async fn list(&self, request: Request<wire::ListRequest>) -> Result<Response<wire::ListReply>, Status> {
        let wire::ListRequest {} = request.into_inner();
        let reply = self.inspect(|node, _| Ok(listed(node))).await?;
        Ok(Response::new(reply))
    }

    async fn stat(&self, request: Request<wire::PathRequest>) -> Result<Response<wire::StatReply>, Status> {
        let wire::PathRequest { dataset, path } = request.into_inner();
        let stat = move |node: &Node, goes_on: &dyn Fn() -> bool| {
            let stated = node.engine().stat(&dataset, &path, goes_on)?;
            Ok(stat_reply(node.engine(), stated))
        };
        Ok(Response::new(self.inspect(stat).await?))
    }

    async fn entries(&self, request: Request<wire::EntriesRequest>) -> Result<Response<Self::EntriesStream>, Status> {
        let wire::EntriesRequest {
            dataset,
            path,
            is_recursive,
        } = request.into_inner();
        let turn = self.inspections.clone().acquire_owned().await.map_err(ended)?;
        let (sender, receiver) = mpsc::channel(1);
        let (engine, runtime) = (self.node.engine().clone(), Handle::current());
        spawn_blocking(move || {
            let _turn = turn;
            let tell = |reply| runtime.block_on(sender.send_timeout(reply, ENTRIES_PATIENCE)).is_ok();
            let told = engine.entries(&dataset, &path, is_recursive, |revision, entries| {
                tell(Ok(entries_reply(revision, entries)))
            });
            match told {
                Ok(Some(revision)) => drop(tell(Ok(wire::EntriesReply {
                    is_done: true,
                    ..entries_reply(revision, Vec::new())
                }))),
                // Nobody listens any more.
                Ok(None) => {}
                Err(error) => drop(tell(Err(refused(error)))),
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn explain(&self, request: Request<wire::ExplainRequest>) -> Result<Response<wire::ExplainReply>, Status> {
        let wire::ExplainRequest { dataset, path, offset } = request.into_inner();
        let explain = move |node: &Node, _: &dyn Fn() -> bool| {
            let ring = node.ring();
            let explained = node.engine().explain(&dataset, &path, offset, |space, stripe| {
                let owners = ring.owners(space, stripe);
                owners.first().map(|member| member.name.clone())
            })?;
            Ok(explain_reply(explained))
        };
        Ok(Response::new(self.inspect(explain).await?))
    }

    async fn evict(&self, request: Request<wire::PathRequest>) -> Result<Response<wire::EvictReply>, Status> {
        let wire::PathRequest { dataset, path } = request.into_inner();
        let evict = move |node: &Node, goes_on: &dyn Fn() -> bool| {
            let (revision, bytes, pinned_bytes) = node.engine().evict(&dataset, &path, goes_on)?;
            tracing::info!(dataset, path, bytes, "evicted what a person wanted to be evicted");
            Ok(wire::EvictReply {
                revision: revision.as_bytes().to_vec(),
                bytes,
                pinned_bytes,
            })
        };
        Ok(Response::new(self.inspect(evict).await?))
    }

    async fn verify(&self, request: Request<wire::PathRequest>) -> Result<Response<Self::VerifyStream>, Status> {
        let wire::PathRequest { dataset, path } = request.into_inner();
        let turn = self.verifies.clone().try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(
                "this cache node compares blocks for somebody else already: ask again when that has ended",
            )
        })?;
        let (progress, receiver) = mpsc::channel(1);
        let engine = self.node.engine().clone();
        spawn_blocking(move || verify(&engine, &dataset, &path, &progress, turn));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

/// Tells now and then how far it is, and at the end; ends early when nobody listens.
fn verify(
    engine: &Engine,
    dataset: &str,
    path: &str,
    progress: &mpsc::Sender<Result<wire::VerifyProgress, Status>>,
    _turn: OwnedSemaphorePermit,
) {
    let mut told_at = Instant::now();
    let tell = |verified: &Verified| {
        if told_at.elapsed() < VERIFY_INTERVAL {
            return !progress.is_closed();
        }
        told_at = Instant::now();
        progress.blocking_send(Ok(verify_progress(*verified, false))).is_ok()
    };
    let of = (!dataset.is_empty()).then_some((dataset, path));
    let verified = engine.verify(of, tell);
    let last = verified.map(|verified| verify_progress(verified, true));
    // Who has gone needs no answer.
    let _ = progress.blocking_send(last.map_err(refused));
}

fn listed(node: &Node) -> wire::ListReply {
    let engine = node.engine();
    let Holdings { datasets, other_bytes } = engine.holdings();
    let members = node.ring().members.into_iter();
    let tiers = engine.report().tiers.into_iter();
    wire::ListReply {
        node: Node::name(),
        members: members
            .map(|member| wire::Member {
                name: member.name,
                address: member.address,
                weight: member.weight,
            })
            .collect(),
        tiers: tiers.map(tier).collect(),
        left_out: datasets.len().saturating_sub(DATASETS_LISTED_MAX) as u64,
        datasets: datasets
            .into_iter()
            .take(DATASETS_LISTED_MAX)
            .map(|dataset| held_dataset(engine, dataset))
            .collect(),
        other_bytes,
    }
}

fn held_dataset(engine: &Engine, dataset: HeldDataset) -> wire::HeldDataset {
    let HeldDataset {
        name,
        revision,
        revisions,
        files,
        bytes,
        cached_bytes,
        pinned_bytes,
        quota,
    } = dataset;
    let Quota {
        guaranteed_bytes,
        limit_bytes,
    } = quota;
    wire::HeldDataset {
        name,
        revision: revision.map(|id| id.as_bytes().to_vec()).unwrap_or_default(),
        revisions: revisions as u32,
        files,
        bytes,
        cached: by_tier(engine, cached_bytes),
        pinned_bytes,
        quota: Some(wire::Quota {
            guaranteed_bytes,
            limit_bytes,
        }),
    }
}

fn by_tier(engine: &Engine, bytes: Vec<u64>) -> Vec<wire::TierBytes> {
    let tiers = engine.report().tiers.into_iter().zip(bytes);
    tiers
        .map(|(tier, bytes)| wire::TierBytes { tier: tier.name, bytes })
        .collect()
}

fn stat_reply(engine: &Engine, stated: Stated) -> wire::StatReply {
    let Stated {
        revision,
        is_folder,
        files,
        bytes,
        block_bytes,
        cached_bytes,
    } = stated;
    wire::StatReply {
        revision: revision.as_bytes().to_vec(),
        is_folder,
        files,
        bytes,
        block_bytes,
        cached: by_tier(engine, cached_bytes),
    }
}

fn entries_reply(revision: RevisionId, entries: Vec<TreeEntry>) -> wire::EntriesReply {
    let entry = |entry| {
        let TreeEntry {
            path,
            is_folder,
            bytes,
            modified_unix_nanos,
        } = entry;
        wire::TreeEntry {
            path,
            is_folder,
            bytes,
            modified_unix_nanos,
        }
    };
    wire::EntriesReply {
        revision: revision.as_bytes().to_vec(),
        entries: entries.into_iter().map(entry).collect(),
        is_done: false,
    }
}

fn explain_reply(explained: Explained) -> wire::ExplainReply {
    let Explained {
        revision,
        bytes,
        object,
        has_drifted,
        rule,
        ranges,
        next_offset,
    } = explained;
    let (source, key) = object.unwrap_or_default();
    wire::ExplainReply {
        revision: revision.as_bytes().to_vec(),
        bytes,
        source,
        key,
        has_drifted,
        rule: Some(cache_rule(rule)),
        ranges: ranges.into_iter().map(explained_range).collect(),
        next_offset: next_offset.unwrap_or(0),
    }
}

fn explained_range(range: ExplainedRange) -> wire::ExplainedRange {
    let ExplainedRange {
        offset,
        bytes,
        owner,
        place,
    } = range;
    let state = match &place {
        Where::Cached { hold: Hold::Pinned, .. } => State::Pinned,
        Where::Cached { hold: Hold::Kept, .. } => State::Kept,
        Where::Cached {
            hold: Hold::Passing, ..
        } => State::Passing,
        Where::Coming { is_kept: true } => State::Coming,
        Where::Coming { is_kept: false } => State::ComingBy,
        Where::Missing(Reason::Others) => State::Others,
        Where::Missing(Reason::NoTier) => State::NoTier,
        Where::Missing(Reason::NoSource) => State::NoSource,
        Where::Missing(Reason::Unread) => State::Unread,
        Where::Missing(Reason::Contested) => State::Contested,
    };
    let tier = match place {
        Where::Cached { tier, hold: _ } => tier,
        Where::Coming { .. } | Where::Missing(_) => String::new(),
    };
    wire::ExplainedRange {
        offset,
        bytes,
        owner: owner.unwrap_or_default(),
        state: state.into(),
        tier,
    }
}

fn cache_rule(rule: Rule) -> wire::CacheRule {
    let Rule {
        path,
        pin,
        ttl,
        priority,
        eviction,
        tier,
    } = rule;
    let eviction = match eviction {
        Eviction::Auto => wire::cache_rule::Eviction::Auto,
        Eviction::Lru => wire::cache_rule::Eviction::Lru,
        Eviction::Lfu => wire::cache_rule::Eviction::Lfu,
    };
    wire::CacheRule {
        path,
        pin,
        ttl_seconds: ttl.map_or(0, |ttl| ttl.as_secs()),
        priority,
        eviction: eviction.into(),
        tier: tier.unwrap_or_default(),
    }
}

fn verify_progress(verified: Verified, is_done: bool) -> wire::VerifyProgress {
    let Verified {
        total_bytes,
        compared_bytes,
        damaged_blocks,
        evicted_bytes,
    } = verified;
    wire::VerifyProgress {
        total_bytes,
        compared_bytes,
        damaged_blocks,
        evicted_bytes,
        is_done,
    }
}

fn refused(error: InspectError) -> Status {
    let sentence = error.to_string();
    match error {
        InspectError::UnknownDataset(_) | InspectError::UnknownPath { .. } => Status::not_found(sentence),
        InspectError::NotHere(_) => Status::unavailable(sentence),
        InspectError::Folder(_) => Status::invalid_argument(sentence),
        InspectError::NoRoom { .. } => Status::resource_exhausted(sentence),
        InspectError::DamagedPackage(..) => Status::data_loss(sentence),
    }
}

fn ended(error: impl std::fmt::Display) -> Status {
    Status::internal(format!("the cache node could not look: {error}; its log says more"))
}
