//! What a user wants to read, and where it stands.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::caching::Caching;
use crate::source::{SecretRef, Source};

/// A read-only tree of files made of the objects of one or more sources. A PersistentVolumeClaim of the same name appears
/// beside it.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[kube(
    group = "penstock.io",
    version = "v1alpha1",
    kind = "Dataset",
    plural = "datasets",
    shortname = "pds",
    category = "penstock",
    namespaced,
    status = "DatasetStatus",
    derive = "PartialEq",
    validation = Rule::new("self.metadata.name.matches('^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$')").message("the name has at most 63 lower-case letters, digits and dashes, and neither begins nor ends with a dash: it is a label of the volume"),
    validation = Rule::new("!self.spec.sources.exists(source, has(source.claim) && source.claim.name == self.metadata.name)").message("a source cannot be the claim that has the Dataset's own name, because that is the claim of the Dataset: give the Dataset another name"),
    validation = Rule::new("!has(self.spec.refresh) || !has(self.spec.refresh.immutable) || !self.spec.refresh.immutable || !self.spec.sources.exists(source, has(source.dataset))").message("what is immutable cannot have another Dataset as a source: that one serves its older revisions for a while only"),
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Files","type":"integer","jsonPath":".status.revision.files"}"#,
    printcolumn = r#"{"name":"Size","type":"string","jsonPath":".status.size"}"#,
    printcolumn = r#"{"name":"Cached","type":"string","jsonPath":".status.cached"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","priority":1,"jsonPath":".status.conditions[?(@.type==\"Ready\")].reason"}"#,
    printcolumn = r#"{"name":"Revision","type":"string","priority":1,"jsonPath":".status.revision.id"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct DatasetSpec {
    /// The CacheRuntime of this namespace that caches the data. Without it: the only one of the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub runtime: Option<String>,

    /// Where the objects are. Each stands at its own path of the tree.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["path".into()]))]
    pub sources: Vec<Source>,

    /// Owner and permission bits of all files and folders. Without it: of root, and everybody may read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ownership: Option<Ownership>,

    /// When the sources are looked at again. Without it: only when the annotation `penstock.io/refresh` changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh: Option<Refresh>,

    /// Other namespaces whose Datasets may have this one as a source; `*` is all of them. Who takes a namespace away takes the files
    /// away from its pods, too, as far as they were not read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        inner(length(max = 63), regex(pattern = "^([*]|[a-z0-9]([-a-z0-9]*[a-z0-9])?)$"))
    )]
    pub allowed_namespaces: Vec<String>,

    /// How it is cached. Without it: as well as the CacheRuntime can, shared fairly with other Datasets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<Caching>,

    /// Seconds that a read in a pod waits for cache nodes, the origin, or a part of Penstock that is away, before it fails
    /// with an I/O error. Pods that start later on a node share the patience of those that mount the same revision there.
    #[serde(default = "read_timeout_seconds")]
    #[schemars(range(min = 1, max = 86_400))]
    pub read_timeout_seconds: i32,
}

impl DatasetSpec {
    /// How long a read waits before it fails.
    pub fn read_timeout(&self) -> Duration {
        // The schema has it positive.
        Duration::from_secs(u64::try_from(self.read_timeout_seconds).unwrap_or(1).max(1))
    }
}

/// Jobs cost more than patience.
fn read_timeout_seconds() -> i32 {
    300
}

/// Owner and permission bits of all files and folders; origins have none that mean something here.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Ownership {
    /// Number of the user.
    #[serde(default)]
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub uid: i32,
    /// Number of the group.
    #[serde(default)]
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub gid: i32,
    /// Permission bits of files in octal. Volumes are read-only, so bits for writing mean nothing.
    #[serde(default = "file_mode")]
    #[schemars(length(max = 4), regex(pattern = "^0?[0-7]{3}$"))]
    pub file_mode: String,
    /// Permission bits of folders in octal.
    #[serde(default = "directory_mode")]
    #[schemars(length(max = 4), regex(pattern = "^0?[0-7]{3}$"))]
    pub directory_mode: String,
}

fn file_mode() -> String {
    "0444".to_owned()
}

fn directory_mode() -> String {
    "0555".to_owned()
}

/// When the sources are looked at again: one of these, or an interval beside notifications, which bounds what lost ones cost.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.immutable) && self.immutable ? !has(self.intervalSeconds) && !has(self.notifications) : has(self.intervalSeconds) || has(self.notifications)").message("refresh has an interval, notifications or both, or it is immutable: set intervalSeconds, notifications, or immutable alone; leave refresh out to look at the sources on request only"))]
pub struct Refresh {
    /// Seconds from the beginning of one look at all sources to that of the next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 31_536_000))]
    pub interval_seconds: Option<i32>,

    /// Never: what was listed first stays, until `spec.sources` is changed or no cache node has the revision any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub immutable: Option<bool>,

    /// When somebody tells the operator which objects have changed; then only these are listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notifications: Option<Notifications>,
}

impl Refresh {
    /// Whether nothing is ever looked at again.
    pub fn is_immutable(&self) -> bool {
        self.immutable == Some(true)
    }
}

/// Who may tell the operator that objects have changed.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Notifications {
    /// Secret of this namespace with the key `token`, of 16 characters at least: who sends it with a notification is believed.
    pub token_secret_ref: SecretRef,
}

/// Where a Dataset stands.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct DatasetStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Ready, Reconciling, Stalled, SourceReachable, RuntimeReady, SourceDrifted, SourceUnreadable, SourceUnversioned,
    /// NotificationsUnheard, CachingRefused, RevisionsInUse, DeletionBlocked.
    #[serde(default)]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,

    /// What a new pod sees. Written only by the field manager `penstock-commit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Revision>,

    /// The CacheRuntime that is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub runtime: Option<String>,

    /// `host:port` of cache nodes; mounts begin by asking one of them.
    #[serde(default)]
    #[schemars(length(max = 16), inner(length(max = 300)))]
    pub cache_nodes: Vec<String>,

    /// Total length of the files, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub size: Option<String>,

    /// Bytes of the Dataset's space on the cache nodes, dead ones included. Changes only when it moved by a percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_bytes: Option<i64>,

    /// Share of the files that is cached, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8))]
    pub cached: Option<String>,

    /// The last value of the annotation `penstock.io/refresh` that was acted upon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub last_handled_refresh: Option<String>,
}

/// One consistent picture of all sources.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Revision {
    /// BLAKE3 digest of its package, hexadecimal.
    #[schemars(length(max = 64))]
    pub id: String,
    /// The space that its addresses belong to, hexadecimal.
    #[schemars(length(max = 32))]
    pub space: String,
    /// The revision before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub parent: Option<String>,
    /// Older revisions that pods may still mount, the newest first. Cache nodes keep them.
    #[serde(default)]
    #[schemars(length(max = 256), inner(length(max = 64)))]
    pub older: Vec<String>,
    /// Number of files.
    pub files: i64,
    /// Total length of the files.
    pub bytes: i64,
    /// Keys that no file system can hold as they are; `penstock ls` shows what became of them.
    #[serde(default)]
    pub awkward_keys: i64,
    /// Names that differ only in case from another one of their folder: files that a machine that folds case cannot have beside each
    /// other.
    #[serde(default)]
    pub case_twins: i64,
    /// Some of both: what was done with which.
    #[serde(default)]
    #[schemars(length(max = 8), inner(length(max = 512)))]
    pub awkward_examples: Vec<String>,
    /// Files of which nothing shows that they change, by source: those that `allowUnversioned` let in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub unversioned: Vec<Unversioned>,
    /// The sources that it was built from, without lists of files and patterns.
    #[serde(default)]
    #[schemars(schema_with = "all_as_in_the_spec")]
    pub sources: Vec<Source>,
    /// Those of older revisions that are not among these any more. Pods that mount such a revision still read them.
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub former_sources: Vec<FormerSource>,
    /// Revisions of other Datasets whose files it shows, in the order of the sources.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 64)))]
    pub other_revisions: Vec<String>,
    /// Digest of the sources in the spec that it was built from.
    #[schemars(length(max = 64))]
    pub sources_digest: String,
    /// When it was built.
    pub created_at: String,
    /// When the newest look at all sources began that made it or found it right: all that they had then is in it. A look at a part,
    /// which notifications ask for, does not move it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_at: Option<Time>,
}

/// Files of a source of which nothing shows that they change.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Unversioned {
    /// The source.
    #[schemars(length(max = 1100))]
    pub source: String,
    /// How many.
    pub files: i64,
    /// One of them.
    #[schemars(length(max = 512))]
    pub example: String,
}

/// A source that older revisions need.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct FormerSource {
    /// The newest revision that has it.
    #[schemars(length(max = 64))]
    pub revision: String,
    /// The source.
    #[schemars(schema_with = "as_in_the_spec")]
    pub source: Source,
}

fn all_as_in_the_spec(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "array", "maxItems": 16, "items": as_in_the_spec(generator)})
}

/// What was judged by the rules of the spec once is not judged again.
fn as_in_the_spec(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}
