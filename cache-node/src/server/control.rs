//! The control protocol's server: translates between the operator's messages and the node.

use std::pin::Pin;

use futures::Stream;
use penstock_health::Readiness;
use penstock_protocol::control::cache_node as wire;
use penstock_protocol::control::cache_node::cache_node_server::CacheNode;
use penstock_protocol::ids::RevisionId;
use penstock_protocol::level;
use penstock_revision::{Outcome, Package, Unversioned};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::builder::{BuildFailure, build_revision, options, refresh_below};
use crate::limits::REPORT_INTERVAL;
use crate::report::TierReport;
use crate::rules::Refusal;
use crate::server::node::Node;
use crate::server::reporting::Reporting;
use penstock_origin::OriginError;

/// The service.
pub struct ControlServer {
    /// What it acts upon.
    pub node: Node,
    /// Set after the first configuration.
    pub readiness: Readiness,
}

#[tonic::async_trait]
impl CacheNode for ControlServer {
    type LinkStream = Pin<Box<dyn Stream<Item = Result<wire::NodeReport, Status>> + Send>>;

    async fn link(&self, request: Request<Streaming<wire::NodeConfig>>) -> Result<Response<Self::LinkStream>, Status> {
        let (node, readiness, mut configs) = (self.node.clone(), self.readiness.clone(), request.into_inner());
        let (reports, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut generation = 0;
            let mut reporting = Reporting::default();
            loop {
                // Figures are looked at while the operator has nothing to say.
                match tokio::time::timeout(REPORT_INTERVAL, configs.next()).await {
                    Ok(Some(Ok(config))) => {
                        generation = config.generation;
                        if let Err(error) = node.apply(config).await {
                            tracing::warn!(%error, "a source of the configuration");
                        }
                        readiness.set(true);
                        reporting.configured();
                    }
                    Ok(Some(Err(_)) | None) => return,
                    Err(_) => {}
                }
                let report = report(&node, generation);
                if reporting.is_news(&report) && reports.send(Ok(report)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn build(&self, request: Request<wire::BuildRequest>) -> Result<Response<wire::BuildReply>, Status> {
        let wire::BuildRequest { dataset, parent, dirty } = request.into_inner();
        let dataset = dataset.ok_or_else(|| Status::invalid_argument("no dataset"))?;
        // Only then it knows which addresses are not to be reached.
        if !self.node.is_configured().await {
            return Err(Status::unavailable(
                "this cache node has just begun and was not told its configuration yet; the build is tried again",
            ));
        }
        let outcome = match self.build_dataset(&dataset, &parent, &dirty).await {
            Ok(built) => wire::build_reply::Outcome::Built(built),
            Err(failed) => wire::build_reply::Outcome::Failed(failed),
        };
        Ok(Response::new(wire::BuildReply { outcome: Some(outcome) }))
    }

    async fn keep(&self, request: Request<wire::KeepRequest>) -> Result<Response<wire::KeepReply>, Status> {
        let wire::KeepRequest {
            dataset_uid: _,
            revision,
            from,
        } = request.into_inner();
        let revision =
            RevisionId::try_from(revision.as_slice()).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let package = match self.node.package(&revision).await {
            Some(package) => package,
            None => self
                .node
                .fetch_package(&revision, vec![from])
                .await
                .map_err(Status::unavailable)?,
        };
        self.node
            .keep(&package)
            .await
            .map_err(|error| Status::internal(format!("keep the package: {error}")))?;
        Ok(Response::new(wire::KeepReply {}))
    }
}

impl ControlServer {
    async fn build_dataset(
        &self,
        dataset: &wire::Dataset,
        parent: &[u8],
        dirty: &[wire::Dirty],
    ) -> Result<wire::Built, wire::BuildFailed> {
        let parent = match RevisionId::try_from(parent) {
            Err(_) => None,
            Ok(id) => Some(self.parent(id).await?),
        };
        let sources = self
            .node
            .sources(&dataset.sources)
            .await
            .map_err(|error| failed(&error.into()))?;
        let options = options(dataset.ownership);
        let partial = match parent.as_ref().filter(|_| !dirty.is_empty()) {
            Some(parent) => refresh_below(&sources, parent, dirty, options, self.node.scratch()).await,
            None => Ok(None),
        };
        let partial = partial.map_err(|failure| failed(&failure))?;
        let is_partial = partial.is_some();
        let outcome = match partial {
            Some(outcome) => Ok(outcome),
            None => build_revision(&sources, parent.clone(), options, self.node.scratch()).await,
        };
        if parent.as_ref().is_some_and(Package::has_failed) {
            // The next build finds another copy.
            self.node.engine().package_failed().notify_one();
        }
        let (package, unchanged) = match outcome.map_err(|failure| failed(&failure))? {
            Outcome::New(package) => (package, false),
            Outcome::Unchanged => (parent.ok_or_else(|| other("unchanged without a parent"))?, true),
        };
        self.node
            .keep(&package)
            .await
            .map_err(|error| other(&format!("the cache node cannot keep the package: {error}")))?;
        let summary = package.summary();
        Ok(wire::Built {
            revision: package.id().as_bytes().to_vec(),
            space: package.space().as_bytes().to_vec(),
            files: summary.files,
            bytes: summary.bytes,
            package_bytes: package.bytes(),
            unchanged,
            awkward_keys: summary.awkward.count,
            awkward_examples: summary.awkward.examples.clone(),
            case_twins: summary.awkward.case_twins,
            unversioned: summary.unversioned.iter().map(unversioned).collect(),
            partial: is_partial,
        })
    }

    async fn parent(&self, id: RevisionId) -> Result<Package, wire::BuildFailed> {
        if let Some(package) = self.node.package(&id).await {
            return Ok(package);
        }
        let peers = self
            .node
            .ring()
            .members
            .into_iter()
            .map(|member| member.address)
            .collect();
        self.node
            .fetch_package(&id, peers)
            .await
            .map_err(|error| wire::BuildFailed {
                reason: wire::build_failed::Reason::ParentLost.into(),
                message: format!(
                    "no cache node has revision {id} any more ({error}); the next build begins a new space"
                ),
                source_path: None,
            })
    }
}

fn unversioned(unversioned: &Unversioned) -> wire::Unversioned {
    let Unversioned { source, files, example } = unversioned.clone();
    wire::Unversioned { source, files, example }
}

fn failed(failure: &BuildFailure) -> wire::BuildFailed {
    use wire::build_failed::Reason;
    let (reason, source_path) = match failure {
        BuildFailure::Origin { error, path } => {
            let reason = match error {
                OriginError::Unreachable(_) | OriginError::Throttled { .. } => Reason::Unreachable,
                OriginError::Denied(_) => Reason::Denied,
                OriginError::NotFound(_) => Reason::NotFound,
                OriginError::Invalid(_) => Reason::Invalid,
                OriginError::NotAllowed(_) => Reason::NotAllowed,
                OriginError::Drifted(_) | OriginError::Other(_) => Reason::Other,
            };
            (reason, path.clone())
        }
        BuildFailure::Build(_) => (Reason::Other, None),
        BuildFailure::Empty(_) => (Reason::Empty, None),
    };
    wire::BuildFailed {
        reason: reason.into(),
        message: failure.to_string(),
        source_path,
    }
}

fn other(message: &str) -> wire::BuildFailed {
    wire::BuildFailed {
        reason: wire::build_failed::Reason::Other.into(),
        message: message.to_owned(),
        source_path: None,
    }
}

/// A tier, with what is wrong with it.
pub(super) fn tier(tier: TierReport) -> wire::Tier {
    wire::Tier {
        fault: tier.fault.clone().or(tier.excess()).unwrap_or_default(),
        name: tier.name,
        capacity_bytes: tier.capacity_bytes,
        used_bytes: tier.used_bytes,
    }
}

fn report(node: &Node, generation: u64) -> wire::NodeReport {
    let report = node.engine().report();
    wire::NodeReport {
        config_generation: generation,
        spaces: report
            .spaces
            .into_iter()
            .map(|(space, cached_bytes)| wire::SpaceUsage {
                space: space.as_bytes().to_vec(),
                cached_bytes,
            })
            .collect(),
        tiers: report.tiers.into_iter().map(tier).collect(),
        drifts: report
            .drifts
            .into_iter()
            .map(|drift| wire::Drift {
                dataset_uid: String::new(),
                revision: drift.revision.as_bytes().to_vec(),
                key: drift.key,
                seen_at_unix_seconds: drift.seen_at_unix_seconds,
                fault: drift.fault,
            })
            .collect(),
        refusals: report
            .refusals
            .into_iter()
            .map(|Refusal { dataset, message }| wire::Refusal {
                dataset_uid: dataset,
                message,
            })
            .collect(),
        understands: level::LEVEL,
        revisions_in_use: node.in_use().iter().map(|id| id.as_bytes().to_vec()).collect(),
        missing_packages: node.missing().iter().map(|id| id.as_bytes().to_vec()).collect(),
    }
}
