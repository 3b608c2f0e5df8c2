//! Where data is: one origin at one path of the tree.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::source_limits::SourceLimits;

/// One origin, at one path.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.s3), has(self.gcs), has(self.azure), has(self.hdfs), has(self.http), has(self.huggingFace), has(self.dataset), has(self.folder), has(self.claim)].filter(is_set, is_set).size() == 1").message("a source has exactly one origin: set one of s3, gcs, azure, hdfs, http, huggingFace, dataset, folder, claim"))]
#[x_kube(validation = Rule::new("!has(self.dataset) || !has(self.limits) && (!has(self.caBundle) || self.caBundle == '')").message("limits and caBundle mean nothing for files of another Dataset: set them at its own sources"))]
#[x_kube(validation = Rule::new("!has(self.caBundle) || self.caBundle == '' || !has(self.hdfs) && !has(self.folder) && !has(self.claim)").message("caBundle means nothing for hdfs, folder and claim, which are not read over TLS: take it away"))]
#[x_kube(validation = Rule::new("!has(self.caBundle) || self.caBundle == '' || !(has(self.s3) && self.s3.endpoint.startsWith('http://')) && !(has(self.http) && self.http.url.startsWith('http://'))").message("caBundle means nothing for a server that is asked without TLS: name it by https://, or take caBundle away"))]
pub struct Source {
    /// Where the source stands in the tree, for example `raw/2024`. Empty is the root.
    #[serde(default)]
    #[schemars(length(max = 255), regex(pattern = "^([^/\\x00]+(/[^/\\x00]+)*)?$"))]
    #[x_kube(validation = Rule::new("!self.split('/').exists(part, part == '.' || part == '..')").message("path has no parts `.` or `..`"))]
    pub path: String,

    /// A bucket of S3 or of a store that speaks its protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Source>,

    /// A bucket of Google Cloud Storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gcs: Option<GcsSource>,

    /// A container of Azure Blob Storage or Data Lake Storage Gen2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub azure: Option<AzureSource>,

    /// A folder of HDFS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hdfs: Option<HdfsSource>,

    /// A folder of a web server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpSource>,

    /// A repository of the Hugging Face hub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hugging_face: Option<HuggingFaceSource>,

    /// Files of another Dataset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<DatasetSource>,

    /// A folder of the machine, or in a cluster of its nodes, if the CacheRuntime has it among its `hostPaths`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<FolderSource>,

    /// A folder of the volume of a PersistentVolumeClaim of this namespace: NFS, or whatever else a claim can have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<ClaimSource>,

    /// Certificates (PEM) of who may sign those of the origin's servers, beside the public authorities. Not for `hdfs`, `folder`, `claim` and
    /// `dataset`, nor for `http://`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 16_384))]
    pub ca_bundle: String,

    /// Patterns of what is taken, for example `*.parquet` or `raw/**`. Without any: everything. One without a slash is one for names in
    /// any folder, others are matched from the top of the source; `*` stops at slashes, `**` does not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 512)))]
    pub include: Vec<String>,

    /// Patterns of what is left out, for example `_temporary/**`. They win over `include`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 512)))]
    pub exclude: Vec<String>,

    /// How much it is asked for at the most. Without it: as much as it bears.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<SourceLimits>,
}

/// A bucket of S3 or of a store that speaks its protocol.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.workloadIdentity) && self.workloadIdentity && has(self.credentialsSecretRef))").message("workloadIdentity and credentialsSecretRef both say who asks: take one away"))]
pub struct S3Source {
    /// Name of the bucket.
    #[schemars(length(min = 1, max = 255), regex(pattern = "^[A-Za-z0-9][A-Za-z0-9._-]*$"))]
    pub bucket: String,

    /// Only keys that begin with it; it is cut off from the names. Usually ends in `/`.
    #[serde(default)]
    #[schemars(length(max = 1024))]
    #[x_kube(validation = Rule::new("!self.startsWith('/')").message("prefix must not begin with a slash: keys of S3 do not"))]
    pub prefix: String,

    /// Region of the bucket. Empty is us-east-1, which look-alikes of S3 accept.
    #[serde(default)]
    #[schemars(length(max = 64), regex(pattern = "^[A-Za-z0-9-]*$"))]
    pub region: String,

    /// URL of the server. Empty is AWS.
    #[serde(default)]
    #[schemars(length(max = 255), regex(pattern = "^(https?://[^/?#@\\s]+/?)?$"))]
    pub endpoint: String,

    /// How the bucket is addressed: as part of the path, which every server understands, or of the host name.
    #[serde(default)]
    pub addressing_style: AddressingStyle,

    /// Secret of this namespace with the keys AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, for temporary credentials,
    /// AWS_SESSION_TOKEN. Without it requests are not signed, as for a public bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<SecretRef>,

    /// Whether requests are signed with the workload identity of the cache nodes, which the CacheRuntime has to grant
    /// (`spec.workloadIdentity`). For `penstock` without Kubernetes it is that of the environment.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub workload_identity: bool,
}

/// How a bucket is addressed.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AddressingStyle {
    /// `https://server/bucket/key`
    #[default]
    Path,
    /// `https://bucket.server/key`
    VirtualHost,
}

/// A bucket of Google Cloud Storage.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.workloadIdentity) && self.workloadIdentity && has(self.credentialsSecretRef))").message("workloadIdentity and credentialsSecretRef both say who asks: take one away"))]
pub struct GcsSource {
    /// Name of the bucket.
    #[schemars(length(min = 3, max = 222), regex(pattern = "^[a-z0-9][a-z0-9._-]*$"))]
    pub bucket: String,

    /// Only objects whose names begin with it; it is cut off from the names. Usually ends in `/`.
    #[serde(default)]
    #[schemars(length(max = 1024))]
    pub prefix: String,

    /// URL of the server. Empty is Google's own.
    #[serde(default)]
    #[schemars(length(max = 255), regex(pattern = "^(https?://[^/?#@\\s]+/?)?$"))]
    pub endpoint: String,

    /// Secret of this namespace with the key `credentials.json`: the key file of a service account, or what
    /// `gcloud auth application-default login` writes. Without it requests are not signed, as for a public bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<SecretRef>,

    /// Whether requests are signed with the workload identity of the cache nodes, which the CacheRuntime has to grant
    /// (`spec.workloadIdentity`). For `penstock` without Kubernetes it is that of the environment.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub workload_identity: bool,
}

/// A container of Azure Blob Storage or Data Lake Storage Gen2.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.workloadIdentity) && self.workloadIdentity && has(self.credentialsSecretRef))").message("workloadIdentity and credentialsSecretRef both say who asks: take one away"))]
pub struct AzureSource {
    /// Name of the storage account.
    #[schemars(length(min = 3, max = 24), regex(pattern = "^[a-z0-9]+$"))]
    pub account: String,

    /// Name of the container.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = "^(\\$root|\\$web|[a-z0-9]([a-z0-9-]*[a-z0-9])?)$")
    )]
    pub container: String,

    /// Only blobs whose names begin with it; it is cut off from the names. Usually ends in `/`.
    #[serde(default)]
    #[schemars(length(max = 1024))]
    pub prefix: String,

    /// URL with which those of containers begin. Empty is `https://ACCOUNT.blob.core.windows.net`.
    #[serde(default)]
    #[schemars(length(max = 255), regex(pattern = "^(https?://[^?#@\\s]+)?$"))]
    pub endpoint: String,

    /// Secret of this namespace with one of: AZURE_STORAGE_KEY (of the account); AZURE_STORAGE_SAS_TOKEN; AZURE_TENANT_ID,
    /// AZURE_CLIENT_ID and AZURE_CLIENT_SECRET (of an application). Without it requests are not signed, as for a public container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<SecretRef>,

    /// Whether requests are signed with the workload identity of the cache nodes, which the CacheRuntime has to grant
    /// (`spec.workloadIdentity`). For `penstock` without Kubernetes it is that of the environment.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub workload_identity: bool,
}

/// A folder of HDFS. A file's version is its length and the time of its last change, which are looked at before and after each read.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.credentialsSecretRef) && has(self.user) && self.user != '')").message("with credentialsSecretRef files are read as the principal of the Secret: take user away"))]
pub struct HdfsSource {
    /// `host:port` of each name node of the name service; with several the active one is found. The port is that of RPC, usually
    /// 8020 or 9000.
    #[schemars(
        length(min = 1, max = 8),
        inner(length(max = 300), regex(pattern = "^[^/?#@\\s:]+:[0-9]{1,5}$"))
    )]
    pub name_nodes: Vec<String>,

    /// Path of the folder.
    #[schemars(length(max = 1024), regex(pattern = "^/"))]
    pub path: String,

    /// As whom files are read where the name nodes believe it (simple authentication). Empty is `hdfs`.
    #[serde(default)]
    #[schemars(length(max = 64), regex(pattern = "^[A-Za-z0-9._-]*$"))]
    pub user: String,

    /// Secret of this namespace with the keys `principal` (`name@REALM`) and `keytab` (the file): files are read as this principal of
    /// Kerberos, whose realm the CacheRuntime has to name (`spec.kerberos`). For `penstock` without Kubernetes krb5.conf does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<SecretRef>,
}

/// A folder of a web server that answers with ranges, and with an ETag or the time of the last change.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.files) || size(self.files) == 0 || !has(self.manifest) || self.manifest == ''").message("files are named one by one or by a manifest, not both: set either files or manifest"))]
pub struct HttpSource {
    /// URL of the folder, for example `https://example.org/pub/data/`. Redirects are not followed.
    #[schemars(length(max = 1024), regex(pattern = "^https?://[^?#@\\s]+$"))]
    pub url: String,

    /// Paths of files in it, for example `train/0001.tar`. Without any, and without a manifest: all to which the page at the URL
    /// links, and the pages of the folders that it links to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4096), inner(length(min = 1, max = 1024)))]
    pub files: Vec<String>,

    /// Path of a list of files in it with their checksums, as `sha256sum`, `sha512sum`, `sha1sum` or `md5sum` write it, for example
    /// `SHA256SUMS`. The files of the source are those that it names, by paths below the URL. It is read at each refresh.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub manifest: String,

    /// Patterns of files that are taken though the server says nothing that shows when they change, as in `include`. Such a file is
    /// known by its length alone: one that is overwritten with the same length may be read as a mixture of old and new bytes, unnoticed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 512)))]
    pub allow_unversioned: Vec<String>,

    /// Secret of this namespace with the keys `username` and `password`, or `token`. Without it the server is asked without
    /// credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<SecretRef>,
}

/// Files of a repository of the Hugging Face hub, or of a server that answers as it does. Their version is the id of their content.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct HuggingFaceSource {
    /// Name of the repository, for example `allenai/c4`.
    #[schemars(length(max = 192), regex(pattern = "^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)?$"))]
    pub repository: String,

    /// What kind of repository it is.
    #[serde(default)]
    pub kind: RepositoryKind,

    /// Branch, tag or commit. Empty is `main`. What a branch or a tag stands for is looked up at each refresh.
    #[serde(default)]
    #[schemars(length(max = 255), regex(pattern = "^[A-Za-z0-9._/-]*$"))]
    pub revision: String,

    /// Path of a folder in the repository. Empty is all of it.
    #[serde(default)]
    #[schemars(length(max = 1024), regex(pattern = "^([^/\\x00]+(/[^/\\x00]+)*)?$"))]
    pub path: String,

    /// URL of the server. Empty is `https://huggingface.co`.
    #[serde(default)]
    #[schemars(length(max = 255), regex(pattern = "^(https?://[^/?#@\\s]+/?)?$"))]
    pub endpoint: String,

    /// Secret of this namespace with the key HF_TOKEN, for repositories that are not public.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<SecretRef>,
}

/// What a repository of the hub holds.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RepositoryKind {
    /// A dataset.
    #[default]
    Dataset,
    /// A model.
    Model,
    /// A space.
    Space,
}

/// Files of another Dataset, as its newest revision has them. Their bytes come out of its cache nodes and are not cached a second
/// time; a new revision of it is followed at once. It must not take files of Datasets itself.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct DatasetSource {
    /// Its name.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,

    /// Its namespace. Empty is the same one; another one has to be allowed by that Dataset's `allowedNamespaces`.
    #[serde(default)]
    #[schemars(length(max = 63), regex(pattern = "^([a-z0-9]([-a-z0-9]*[a-z0-9])?)?$"))]
    pub namespace: String,

    /// Path of a folder in its tree. Empty is all of it.
    #[serde(default)]
    #[schemars(length(max = 1024), regex(pattern = "^([^/\\x00]+(/[^/\\x00]+)*)?$"))]
    pub path: String,
}

impl DatasetSource {
    /// Namespace and name, for a Dataset of `namespace` that takes from it.
    pub fn of_namespace<'a>(&'a self, namespace: &'a str) -> (&'a str, &'a str) {
        let own = self.namespace.is_empty();
        (if own { namespace } else { &self.namespace }, &self.name)
    }
}

/// A folder of the machine, of any file system that is mounted there (NFS too). In a cluster it is one of the nodes on which cache nodes
/// run, all of which have the same one; a pod mounts it, for reading only, and serves its files to the cache nodes. A file's version is
/// its inode, length and time of the last change.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct FolderSource {
    /// Its path.
    #[schemars(length(max = 4096), regex(pattern = "^/"))]
    pub path: String,

    /// As which user its files are read in a cluster; the one who owns them, if not everybody may read them.
    #[serde(default = "reader_id")]
    #[schemars(range(min = 0, max = 2_147_483_647))]
    #[x_kube(validation = Rule::new("self > 0").message("files of nodes are not read as root: name a user who may read them"))]
    pub uid: i32,

    /// As which group.
    #[serde(default = "reader_id")]
    #[schemars(range(min = 0, max = 2_147_483_647))]
    #[x_kube(validation = Rule::new("self > 0").message("files of nodes are not read as the group of root: name another one"))]
    pub gid: i32,

    /// Groups that the user belongs to besides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(range(min = 1, max = 2_147_483_647)))]
    pub supplemental_groups: Vec<i32>,
}

/// A folder of the volume of a PersistentVolumeClaim. A pod of the Dataset's own mounts the claim, for reading only, and serves its
/// files to the cache nodes. A file's version is its inode, length and time of the last change.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ClaimSource {
    /// Name of the claim.
    #[schemars(length(min = 1, max = 253), regex(pattern = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub name: String,

    /// Path of a folder in its volume, for example `2024/raw`. Empty is all of it.
    #[serde(default)]
    #[schemars(length(max = 1024), regex(pattern = "^([^/\\x00]+(/[^/\\x00]+)*)?$"))]
    #[x_kube(validation = Rule::new("!self.split('/').exists(part, part == '.' || part == '..')").message("path has no parts `.` or `..`"))]
    pub path: String,

    /// As which user its files are read; the one who owns them, if not everybody may read them.
    #[serde(default = "reader_id")]
    #[schemars(range(min = 0, max = 2_147_483_647))]
    #[x_kube(validation = Rule::new("self > 0").message("files of a claim are not read as root: name a user who may read them"))]
    pub uid: i32,

    /// As which group.
    #[serde(default = "reader_id")]
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub gid: i32,

    /// Groups that the user belongs to besides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(range(min = 0, max = 2_147_483_647)))]
    pub supplemental_groups: Vec<i32>,
}

/// Who owns nothing.
fn reader_id() -> i32 {
    65532
}

/// A Secret of the same namespace.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct SecretRef {
    /// Its name.
    #[schemars(length(min = 1, max = 253), regex(pattern = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub name: String,
}

impl Source {
    /// It without what only a listing needs: place in the tree, patterns, lists of files.
    pub fn origin_only(&self) -> Self {
        let mut source = Self {
            path: String::new(),
            include: Vec::new(),
            exclude: Vec::new(),
            ..self.clone()
        };
        if let Some(http) = &mut source.http {
            http.files.clear();
            http.manifest.clear();
            http.allow_unversioned.clear();
        }
        source
    }

    /// It as it would be read by anybody.
    pub fn without_secret(&self) -> Self {
        let mut source = self.clone();
        let Self {
            path: _,
            s3,
            gcs,
            azure,
            hdfs,
            http,
            hugging_face,
            dataset: _,
            folder: _,
            claim: _,
            ca_bundle: _,
            include: _,
            exclude: _,
            limits: _,
        } = &mut source;
        let secrets = [
            s3.as_mut().map(|s3| &mut s3.credentials_secret_ref),
            gcs.as_mut().map(|gcs| &mut gcs.credentials_secret_ref),
            azure.as_mut().map(|azure| &mut azure.credentials_secret_ref),
            hdfs.as_mut().map(|hdfs| &mut hdfs.credentials_secret_ref),
            http.as_mut().map(|http| &mut http.credentials_secret_ref),
            hugging_face.as_mut().map(|hub| &mut hub.credentials_secret_ref),
        ];
        secrets.into_iter().flatten().for_each(|secret| *secret = None);
        let identities = [
            s3.as_mut().map(|s3| &mut s3.workload_identity),
            gcs.as_mut().map(|gcs| &mut gcs.workload_identity),
            azure.as_mut().map(|azure| &mut azure.workload_identity),
        ];
        identities.into_iter().flatten().for_each(|is_used| *is_used = false);
        source
    }

    /// Whether it is read with the workload identity of who reads it.
    pub fn uses_workload_identity(&self) -> bool {
        let s3 = self.s3.as_ref().is_some_and(|s3| s3.workload_identity);
        let gcs = self.gcs.as_ref().is_some_and(|gcs| gcs.workload_identity);
        let azure = self.azure.as_ref().is_some_and(|azure| azure.workload_identity);
        s3 || gcs || azure
    }

    /// The Secret that it names.
    pub fn secret(&self) -> Option<&SecretRef> {
        let Self {
            path: _,
            s3,
            gcs,
            azure,
            hdfs,
            http,
            hugging_face,
            dataset: _,
            folder: _,
            claim: _,
            ca_bundle: _,
            include: _,
            exclude: _,
            limits: _,
        } = self;
        let s3 = s3.as_ref().and_then(|s3| s3.credentials_secret_ref.as_ref());
        let gcs = gcs.as_ref().and_then(|gcs| gcs.credentials_secret_ref.as_ref());
        let azure = azure.as_ref().and_then(|azure| azure.credentials_secret_ref.as_ref());
        let hdfs = hdfs.as_ref().and_then(|hdfs| hdfs.credentials_secret_ref.as_ref());
        let http = http.as_ref().and_then(|http| http.credentials_secret_ref.as_ref());
        let hub = hugging_face
            .as_ref()
            .and_then(|hub| hub.credentials_secret_ref.as_ref());
        s3.or(gcs).or(azure).or(hdfs).or(http).or(hub)
    }
}
