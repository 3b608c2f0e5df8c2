//! Everything that a reconcile of a Dataset looks at, in one place.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use penstock_crds::{CacheRuntime, Dataset, Revision, Source};
use penstock_protocol::control::cache_node as wire;
use penstock_protocol::ids::SpaceId;
use penstock_protocol::level;

use crate::announced::{announced, former_sources};
use crate::builds::State;
use crate::cache_runtime::members::Members;
use crate::context::Context;
use crate::dataset::readers::{self, LiveReader};
use crate::dataset::unread::{self, Unreadable};
use crate::dataset::{asked, decide, desired, older};
use crate::error::Error;
use crate::limits::{OLDER_REVISIONS_MIN, REVISION_PATIENCE};
use crate::names::volume;
use crate::notifications::Told;
use crate::others::{self, NotTaken};
use crate::sources::{named, wire_sources};
use crate::terms::Terms;
use crate::unusable::Unusable;
use crate::uses::Standing;
use crate::volumes::{self, Reading, Volume, Volumes};

/// Most seeds that a mount is given.
const SEEDS_MAX: usize = 16;

/// The claim of a Dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// There is none.
    Missing,
    /// Ours, not bound yet.
    Pending,
    /// Ours and bound.
    Bound,
    /// Ours, being deleted.
    Leaving,
    /// Somebody else's.
    Foreign,
}

impl Claim {
    /// Whether ours can be made only when this one is gone.
    pub fn is_in_the_way(self) -> bool {
        matches!(self, Self::Leaving | Self::Foreign)
    }
}

/// What was seen.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The CacheRuntime to use, or why there is none.
    pub runtime: Result<CacheRuntime, String>,
    /// Cache nodes that are linked now.
    pub linked_hosts: Vec<String>,
    /// Those of them that understand what has to be built, the one to ask first.
    pub builders: Vec<String>,
    /// `host:port` where mounts begin to ask.
    pub seeds: Vec<String>,
    /// Whether this process has just begun to lead and cannot say yet who serves.
    pub settling: bool,
    /// What a cache node is asked to list, or why it cannot be: a Secret is missing, a place is not allowed.
    pub sources: Result<Vec<wire::Source>, Unusable>,
    /// Newest revisions of the other Datasets that they name, in their order.
    pub other_revisions: Vec<String>,
    /// Digest of the sources in the spec.
    pub sources_digest: String,
    /// The volumes that sources name, those of older revisions too.
    pub volumes: Volumes,
    /// The readers of volumes that there are.
    pub readers: Vec<LiveReader>,
    /// The build under way.
    pub build: State,
    /// The committed revision.
    pub revision: Option<Revision>,
    /// Ids of the revisions, this one or older, whose package no cache node has.
    pub lost: Vec<String>,
    /// What is known of the use of each revision, this one or older.
    pub uses: BTreeMap<String, Standing>,
    /// How long a cache node that is away may still come back with one of them.
    pub patience_left: Duration,
    /// The claim.
    pub claim: Claim,
    /// Whether the volume is there.
    pub volume_exists: bool,
    /// Whether it is bound to a claim that is gone, so that no other can be bound to it.
    pub volume_is_stale: bool,
    /// Bytes of the space on all cache nodes; `None` when none is linked.
    pub cached_bytes: Option<u64>,
    /// Objects that changed at the origin before they were cached.
    pub drifted: Vec<String>,
    /// Objects that the origin does not give away.
    pub unreadable: Option<Unreadable>,
    /// What cache nodes do not do of how it is to be cached, as sentences.
    pub refusals: Vec<String>,
    /// Whether notifications are taken at all.
    pub takes_notifications: bool,
    /// What notifications named since.
    pub told: Option<Told>,
    /// The number of the newest of them.
    pub told_number: u64,
    /// The refresh that was last acted upon.
    pub handled_refresh: Option<String>,
    /// What the API server refused in this reconcile, as a sentence.
    pub refused: Option<String>,
    /// The version of the object that this is about.
    pub version: Option<String>,
}

impl Observed {
    /// Whether the committed revision is of other sources than the spec names now.
    pub fn sources_changed(&self) -> bool {
        let revision = self.revision.as_ref();
        revision.is_some_and(|revision| revision.sources_digest != self.sources_digest)
    }

    /// Whether another Dataset that it takes files of has a newer revision than the committed one shows.
    pub fn others_moved(&self) -> bool {
        let revision = self.revision.as_ref();
        self.sources.is_ok() && revision.is_some_and(|revision| revision.other_revisions != self.other_revisions)
    }

    /// When the newest look at all sources began that went well.
    pub fn looked_at(&self) -> Option<&Time> {
        self.revision.as_ref()?.observed_at.as_ref()
    }

    /// Whether the CacheRuntime does not allow one of the sources, or does not grant what it needs.
    pub fn is_not_allowed(&self) -> bool {
        matches!(
            self.sources,
            Err(Unusable::NotAllowed { .. } | Unusable::FolderNotAllowed { .. } | Unusable::NotGranted { .. })
        )
    }

    /// Whether what was begun must not be committed: somebody has forbidden a source since.
    pub fn is_forbidden(&self) -> bool {
        let not_taken = matches!(self.sources, Err(Unusable::NotTaken(NotTaken::NotAllowed(..))));
        self.is_not_allowed() || not_taken
    }

    /// Revisions that nobody will come back with: a cache node deletes what is not announced any more.
    pub fn given_up(&self) -> &[String] {
        if self.patience_left.is_zero() { &self.lost } else { &[] }
    }

    /// Whether there are cache nodes, and all of them ignore something of what the sources say.
    pub fn nodes_are_outdated(&self) -> bool {
        self.sources.is_ok() && !self.linked_hosts.is_empty() && self.builders.is_empty()
    }

    /// The revisions that stay beside the next one; `None` while there is no room for one more.
    pub fn older(&self) -> Option<Vec<String>> {
        older::older(self.revision.as_ref(), self.given_up(), |id| self.standing(id))
    }

    /// The older revisions that stay of the committed one, if it has some of which nobody has any use.
    pub fn without_unused(&self) -> Option<Vec<String>> {
        older::without_unused(self.revision.as_ref()?, |id| self.standing(id))
    }

    /// Whether some of its older revisions are there only for their pods.
    pub fn has_revisions_of_pods(&self) -> bool {
        let revision = self.revision.as_ref();
        revision.is_some_and(|revision| revision.older.len() > OLDER_REVISIONS_MIN)
    }

    fn standing(&self, id: &str) -> Standing {
        // That of which nothing is known has to be taken to be in use.
        self.uses.get(id).copied().unwrap_or(Standing::InUse)
    }

    /// Whether no cache node has the committed revision.
    pub fn revision_is_lost(&self) -> bool {
        let revision = self.revision.as_ref();
        revision.is_some_and(|revision| self.lost.contains(&revision.id))
    }
}

/// Looks at everything.
///
/// # Errors
/// When the API server cannot be asked.
pub(super) async fn observe(dataset: &Dataset, namespace: &str, context: &Context) -> Result<Observed, Error> {
    let runtimes: Api<CacheRuntime> = Api::namespaced(context.client.clone(), namespace);
    let runtimes = runtimes
        .list(&ListParams::default())
        .await
        .map_err(Error::api("list CacheRuntimes"))?
        .items;
    let status = dataset.status.clone().unwrap_or_default();
    let runtime = decide::choose_runtime(dataset.spec.runtime.as_deref(), status.runtime.as_deref(), runtimes);
    let key = (
        namespace.to_owned(),
        runtime.as_ref().map(ResourceExt::name_any).unwrap_or_default(),
    );
    let pool = context.links.pool(&key);
    let members = runtime
        .as_ref()
        .ok()
        .map(|runtime| Members::of(runtime, &context.facts.cluster_domain));

    let spec_sources = &dataset.spec.sources;
    let terms = runtime
        .as_ref()
        .ok()
        .map(|runtime| Terms::of(runtime, &context.facts.host_paths));
    let mut all_sources: Vec<_> = spec_sources.iter().chain(&former_sources(dataset)).cloned().collect();
    // Nothing is made for what is not allowed.
    all_sources.retain(|source| terms.as_ref().is_none_or(|terms| terms.allows(source)));
    let named = named(dataset, namespace, &all_sources, context).await?;
    let readers = readers::look(dataset, namespace, context).await?;
    let (sources, unusable) = wire_sources(spec_sources, &named, terms.as_ref());
    let nested = others::nested(dataset, namespace, spec_sources, &named.others);
    let unusable = nested.map(Unusable::from).or(unusable);
    let unusable = match unusable {
        None => readers::trouble(dataset, namespace, &named.volumes, &readers, context).await?,
        unusable => unusable,
    };
    let unusable = match unusable {
        Some(Unusable::NoReader(_)) if runtime.is_err() => Some(Unusable::NoReader(
            "the readers of volumes are made when there is a CacheRuntime that they let in".to_owned(),
        )),
        unusable => unusable,
    };
    let uid = dataset.uid().unwrap_or_default();
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(context.client.clone(), namespace);
    let claim = claims
        .get_opt(&dataset.name_any())
        .await
        .map_err(Error::api("get the claim"))?;
    let persistent: Api<PersistentVolume> = Api::all(context.client.clone());
    let volume = persistent
        .get_opt(&volume(&uid))
        .await
        .map_err(Error::api("get the volume"))?;
    let space = status
        .revision
        .as_ref()
        .and_then(|revision| revision.space.parse::<SpaceId>().ok());
    let cached = |report: &wire::NodeReport| {
        let of_space = report
            .spaces
            .iter()
            .filter(|usage| space.is_some_and(|space| usage.space == space.as_bytes()));
        of_space.map(|usage| usage.cached_bytes).sum::<u64>()
    };
    let revisions = announced(dataset);
    let ids: Vec<Vec<u8>> = revisions.iter().map(|id| id.as_bytes().to_vec()).collect();
    let standings = context.links.standings(&key, &revisions, Instant::now());
    let reports = &pool.reports;
    let refresh = dataset.spec.refresh.as_ref();
    let (told, told_number) = match refresh.and_then(|refresh| refresh.notifications.as_ref()) {
        Some(_) => context.notifications.told(&uid),
        None => {
            context.notifications.forget(&uid);
            (None, 0)
        }
    };
    let linked_hosts = build_order(&uid, reports.keys().cloned().collect());
    Ok(Observed {
        builders: pool.understanding(&linked_hosts, level::needed(&asked(dataset, sources.clone()))),
        linked_hosts,
        settling: pool.settling,
        seeds: members.map(|members| members.seeds(SEEDS_MAX)).unwrap_or_default(),
        other_revisions: others::newest_revisions(&sources),
        sources: unusable.map_or(Ok(sources), Err),
        sources_digest: desired::sources_digest(&dataset.spec, &claim_uids(spec_sources, &named.volumes)),
        volumes: named.volumes,
        readers,
        build: context.builds.state(&uid),
        claim: claim_state(claim.as_ref(), &uid),
        volume_exists: volume.is_some(),
        volume_is_stale: volume.as_ref().is_some_and(|volume| is_stale(volume, claim.as_ref())),
        cached_bytes: (!reports.is_empty()).then(|| reports.values().map(cached).sum()),
        drifted: unread::changed(reports.values(), &ids),
        unreadable: unread::unreadable(reports.values(), &ids),
        refusals: refusals(reports.values(), &dataset.uid().unwrap_or_default()),
        takes_notifications: context.facts.takes_notifications,
        told,
        told_number,
        handled_refresh: status.last_handled_refresh,
        lost: revisions
            .iter()
            .filter(|id| pool.misses(id.as_bytes()))
            .map(ToString::to_string)
            .collect(),
        uses: revisions.iter().map(ToString::to_string).zip(standings).collect(),
        patience_left: pool
            .away
            .map_or(Duration::ZERO, |away| REVISION_PATIENCE.saturating_sub(away)),
        revision: status.revision,
        refused: None,
        version: dataset.resource_version(),
        runtime,
    })
}

/// UIDs of the claims that the sources name, in their order; of one that is not there it is "".
fn claim_uids<'a>(sources: &[Source], volumes: &'a Volumes) -> Vec<&'a str> {
    let uid = |reading: Reading| match volumes.get(&reading).map(|known| &known.state) {
        Some(volumes::State::There(uid)) => uid.as_str(),
        _ => "",
    };
    let readings = sources.iter().filter_map(Reading::of);
    readings
        .filter(|reading| matches!(reading.volume, Volume::Claim(_)))
        .map(uid)
        .collect()
}

/// Another node is asked first for each Dataset, so that builds spread.
fn build_order(uid: &str, mut hosts: Vec<String>) -> Vec<String> {
    if !hosts.is_empty() {
        let first = uid.bytes().map(usize::from).sum::<usize>() % hosts.len();
        hosts.rotate_left(first);
    }
    hosts
}

/// All nodes say the same, as far as they are told the same.
fn refusals<'a>(reports: impl Iterator<Item = &'a wire::NodeReport>, uid: &str) -> Vec<String> {
    let refusals = reports.flat_map(|report| &report.refusals);
    let mut sentences: Vec<String> = refusals
        .filter(|refusal| refusal.dataset_uid == uid)
        .map(|refusal| refusal.message.clone())
        .collect();
    sentences.sort_unstable();
    sentences.dedup();
    sentences
}

fn claim_state(claim: Option<&PersistentVolumeClaim>, uid: &str) -> Claim {
    match claim {
        None => Claim::Missing,
        Some(claim) if !is_ours(claim, uid) => Claim::Foreign,
        Some(claim) if claim.metadata.deletion_timestamp.is_some() => Claim::Leaving,
        Some(claim) if claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound") => {
            Claim::Bound
        }
        Some(_) => Claim::Pending,
    }
}

/// Whether a volume is bound to another claim than the one that is there. The claim may have been made before Kubernetes
/// noticed that the one before is gone, so the phase of the volume says nothing.
fn is_stale(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> bool {
    let bound_to = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.claim_ref.as_ref()?.uid.clone());
    bound_to.is_some() && bound_to != claim.and_then(ResourceExt::uid)
}

/// Whether a claim belongs to the Dataset with this UID.
pub(super) fn is_ours(claim: &PersistentVolumeClaim, uid: &str) -> bool {
    claim.owner_references().iter().any(|owner| owner.uid == uid)
}

/// Names of the pods that mount a claim and have not ended.
pub(super) async fn pods_using(client: &Client, namespace: &str, claim: &str) -> Result<Vec<String>, Error> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let unfinished = ListParams::default().fields("status.phase!=Succeeded,status.phase!=Failed");
    let pods = pods.list(&unfinished).await.map_err(Error::api("list pods"))?;
    let mounts = |pod: &Pod| {
        let volumes = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.volumes.as_ref())
            .into_iter()
            .flatten();
        volumes
            .filter_map(|volume| volume.persistent_volume_claim.as_ref())
            .any(|source| source.claim_name == claim)
    };
    Ok(pods
        .items
        .iter()
        .filter(|pod| mounts(pod))
        .map(ResourceExt::name_any)
        .collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_volume_of_a_claim_that_is_gone_is_freed_whether_or_not_a_new_claim_is_there() {
        let volume = |uid: Option<&str>| -> PersistentVolume {
            serde_json::from_value(json!({"spec": {"claimRef": {"name": "d", "uid": uid}}})).unwrap()
        };
        let claim: PersistentVolumeClaim = serde_json::from_value(json!({"metadata": {"uid": "new"}})).unwrap();
        for (bound_to, claim, stale) in [
            (None, None, false),
            (None, Some(&claim), false),
            (Some("new"), Some(&claim), false),
            (Some("old"), Some(&claim), true),
            (Some("old"), None, true),
        ] {
            assert_eq!(is_stale(&volume(bound_to), claim), stale, "{bound_to:?} {claim:?}");
        }
    }
}
