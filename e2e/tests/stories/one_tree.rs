//! One Dataset over several origins: sources come and go while pods read.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use penstock_e2e::cluster::{
    Namespace, apply, condition, exec, get, kubectl, reader_pod, wait_condition, wait_pod_ready,
};
use penstock_e2e::dataset::{self, SUM_LINE, Sums, parse_sums};
use penstock_e2e::manifests::{runtime, secret};
use penstock_e2e::node;
use penstock_e2e::origin::{GcsServer, HOST, HdfsCluster, Nginx, NginxOptions, S3Server};
use penstock_e2e::wait::wait_for;

use crate::first_line::{expect_sums, wait_ready};

const MINUTE: Duration = Duration::from_secs(60);
const PASSWORD: &str = "hush-hush-of-the-web-server";

/// A volume of a claim: on which node it is, its name, and where it lies.
const VOLUME_NODE: &str = "n1";
const VOLUME: &str = "one-tree";
const VOLUME_FOLDER: &str = "/var/lib/claims/one-tree";

/// What each origin holds, as files: the tree is made of them.
struct Origins {
    s3: S3Server,
    hdfs: HdfsCluster,
    web: Nginx,
    gcs: GcsServer,
    volume: Volume,
    /// The whole tree, with the folder of each source.
    files: tempfile::TempDir,
}

impl Origins {
    fn start() -> Result<Self> {
        let login = Some(("reader", PASSWORD));
        let origins = Self {
            s3: S3Server::rclone()?,
            hdfs: HdfsCluster::on(HOST)?,
            web: Nginx::on(
                HOST,
                NginxOptions {
                    login,
                    ..Default::default()
                },
            )?,
            gcs: GcsServer::on(HOST, "labels")?,
            volume: Volume::make()?,
            files: tempfile::tempdir()?,
        };
        origins.fill()?;
        Ok(origins)
    }

    fn fill(&self) -> Result<()> {
        let bucket = self.s3.buckets().join("photos");
        dataset::write(&bucket, 60, 9 << 20)?;
        dataset::put(&bucket, "tmp/part.crc", b"left out by a pattern")?;
        dataset::write(self.files.path(), 60, 9 << 20)?;
        for (number, name) in (0..).zip([
            "year=2025/a b.parquet",
            "year=2025/b.parquet",
            "year=2026/ü %41.parquet",
        ]) {
            let bytes = dataset::content(7000 + number, 300_000 + 1000 * number as usize);
            self.hdfs.put(&format!("/warehouse/{name}"), &bytes)?;
            dataset::put(&self.files.path().join("tables"), name, &bytes)?;
            dataset::put(&self.web.folder().join("pub"), name, &bytes)?;
            dataset::put(&self.files.path().join("models"), name, &bytes)?;
            self.gcs.put("labels", &format!("v1/{name}"), &bytes)?;
        }
        self.put_on_volume("deep/a b.txt", 40_000)?;
        self.put_on_volume("changes.txt", 1000)
    }

    /// Writes the numbers up to `last` to a file of the claim.
    fn put_on_volume(&self, name: &str, last: u32) -> Result<()> {
        let text: String = (1..=last).map(|number| format!("{number}\n")).collect();
        dataset::put(&self.files.path().join("volume"), name, text.as_bytes())?;
        self.volume.put(name, last)
    }

    /// A Dataset with S3 at the root, HDFS at `tables`, a claim at `volume`, and one more source.
    fn dataset(&self, ns: &str, more: &str) -> String {
        let (s3, region, name_node) = (self.s3.address, self.s3.region, self.hdfs.rpc[0]);
        format!(
            "apiVersion: penstock.io/v1alpha1
kind: Dataset
metadata: {{name: tree, namespace: {ns}}}
spec:
  readTimeoutSeconds: 20
  ownership: {{uid: 1000, gid: 100, fileMode: \"0440\"}}
  sources:
  - s3: {{bucket: photos, endpoint: \"http://{s3}\", region: {region}, credentialsSecretRef: {{name: origin}}}}
    exclude: [\"*.crc\"]
  - path: tables
    hdfs: {{nameNodes: [\"{name_node}\"], path: /warehouse}}
  - path: volume
    claim: {{name: volume, path: data, uid: 1000, gid: 100}}
  - {more}
"
        )
    }

    fn models(&self) -> String {
        let url = self.web.url();
        format!("{{path: models, http: {{url: \"{url}pub/\", credentialsSecretRef: {{name: web}}}}}}")
    }

    fn labels(&self) -> String {
        let endpoint = self.gcs.endpoint();
        format!("{{path: labels, gcs: {{bucket: labels, prefix: v1/, endpoint: \"{endpoint}\"}}}}")
    }

    /// Checksums of the whole tree.
    fn sums(&self) -> Result<Sums> {
        dataset::sums(self.files.path())
    }
}

/// A volume that only one node has, and of which only one user may read the files.
struct Volume;

impl Volume {
    fn make() -> Result<Self> {
        node::shell(
            VOLUME_NODE,
            &format!("rm -rf {VOLUME_FOLDER} && mkdir -p {VOLUME_FOLDER}/data"),
        )?;
        Ok(Self)
    }

    fn put(&self, name: &str, last: u32) -> Result<()> {
        let data = format!("{VOLUME_FOLDER}/data");
        let folder = match name.rsplit_once('/') {
            Some((folder, _)) => format!("{data}/{folder}"),
            None => data.clone(),
        };
        node::shell(
            VOLUME_NODE,
            &format!(
                "mkdir -p '{folder}' && seq 1 {last} >'{data}/{name}' && chown -R 1000:100 {data} && chmod -R u=rX,g=,o= {data}"
            ),
        )?;
        Ok(())
    }

    /// The volume and its claim, as an administrator and a user write them.
    fn objects(ns: &str) -> String {
        format!(
            "apiVersion: v1
kind: PersistentVolume
metadata: {{name: {VOLUME}}}
spec:
  capacity: {{storage: 1Gi}}
  accessModes: [ReadWriteMany]
  storageClassName: \"\"
  claimRef: {{namespace: {ns}, name: volume}}
  hostPath: {{path: {VOLUME_FOLDER}}}
  nodeAffinity:
    required:
      nodeSelectorTerms:
      - matchExpressions: [{{key: kubernetes.io/hostname, operator: In, values: [{VOLUME_NODE}]}}]
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: volume, namespace: {ns}}}
spec:
  accessModes: [ReadWriteMany]
  storageClassName: \"\"
  volumeName: {VOLUME}
  resources: {{requests: {{storage: 1Gi}}}}
"
        )
    }
}

/// S3, HDFS, a web server and a claim in one tree; a source is added and another one taken away while pods read, and files are
/// overwritten.
pub fn story() -> Result<()> {
    let namespace = Namespace::create("one-tree")?;
    let ns = &namespace.name;
    let origins = Origins::start()?;
    apply(&secret(ns))?;
    apply(&format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: web, namespace: {ns}}}\nstringData: {{username: reader, password: {PASSWORD}}}\n"
    ))?;
    apply(&runtime(ns, "pool", 2, "1Gi"))?;
    apply(&origins.dataset(ns, &origins.models()))?;
    let (reason, message) = wait_condition("dataset", ns, "tree", ("SourceReachable", "False"), MINUTE)?;
    ensure!(
        reason == "ClaimMissing" && message.contains("the claim volume does not exist"),
        "{reason}: {message}"
    );
    apply(&Volume::objects(ns))?;
    wait_ready(ns, "tree")?;
    a_reader_is_where_its_volume_is(ns)?;
    for (pod, node) in [("all", "n1"), ("part", "n2")] {
        apply(&reader_pod(ns, pod, node, Some("tree")))?;
        wait_pod_ready(ns, pod, MINUTE)?;
    }
    let tree = origins.sums()?;
    expect_sums(&parse_sums(&exec(ns, "all", SUM_LINE)?), &tree).context("every source is in the tree")?;
    let owner = exec(ns, "all", "stat -c '%u %g %a' /data/tables/year=2025/b.parquet")?;
    ensure!(owner.trim() == "1000 100 440", "owner and mode are {owner}");

    // Nothing of what is read from here on is cached any more.
    evict(ns, "models")?;
    evict(ns, "tables")?;
    let before = revision(ns)?;
    apply(&origins.dataset(ns, &origins.labels()))?;
    wait_revision(ns, &before)?;
    apply(&reader_pod(ns, "new", "n1", Some("tree")))?;
    wait_pod_ready(ns, "new", MINUTE)?;
    let moved = moved(&tree, "./models/", "./labels/");
    expect_sums(&parse_sums(&exec(ns, "new", SUM_LINE)?), &moved).context("a new pod sees the new sources")?;
    expect_sums(&parse_sums(&exec(ns, "part", SUM_LINE)?), &tree)
        .context("an old pod reads also what was not cached of a source that is gone")?;

    an_overwritten_file_is_never_mixed(ns, &origins)?;
    nothing_says_a_secret(ns)?;
    namespace.finish(MINUTE)?;
    kubectl(["delete", "pv", VOLUME])?;
    Ok(())
}

/// Nothing of a folder is cached any more.
fn evict(ns: &str, folder: &str) -> Result<()> {
    kubectl([
        "exec",
        "-n",
        ns,
        "pool-0",
        "--",
        "/bin/penstock",
        "cache",
        "evict",
        "tree",
        folder,
    ])
    .map(drop)
}

/// One reader, on the node of the volume, which nothing but its claim made go there.
fn a_reader_is_where_its_volume_is(ns: &str) -> Result<()> {
    let nodes = kubectl([
        "get",
        "pods",
        "-n",
        ns,
        "-l",
        "app.kubernetes.io/component=reader",
        "-o",
        "jsonpath={.items[*].spec.nodeName}",
    ])?;
    ensure!(nodes.trim() == VOLUME_NODE, "readers run on {nodes:?}");
    Ok(())
}

/// The old pod gets an error for what it had not read, and the Dataset names the file; a new pod reads the new one.
fn an_overwritten_file_is_never_mixed(ns: &str, origins: &Origins) -> Result<()> {
    let path = "year=2025/b.parquet";
    evict(ns, "tables")?;
    let bytes = dataset::content(8001, 301_000);
    origins.hdfs.put(&format!("/warehouse/{path}"), &bytes)?;
    dataset::put(&origins.files.path().join("tables"), path, &bytes)?;
    origins.put_on_volume("changes.txt", 2000)?;
    // On a node whose page cache does not have it.
    node::shell("n2", "echo 1 > /proc/sys/vm/drop_caches")?;
    let read = exec(ns, "part", &format!("sha256sum '/data/tables/{path}' 2>&1; true"))?;
    ensure!(
        read.contains("I/O error") || read.contains("Input/output error"),
        "the old pod read {read}"
    );
    wait_condition("dataset", ns, "tree", ("SourceDrifted", "True"), MINUTE)?;
    let tree = get("dataset", ns, "tree")?.context("the dataset")?;
    let (_, _, message) = condition(&tree, "SourceDrifted").context("the condition")?;
    ensure!(message.contains(path), "{message}");
    let before = revision(ns)?;
    kubectl([
        "annotate",
        "dataset",
        "tree",
        "-n",
        ns,
        "--overwrite",
        "penstock.io/refresh=overwritten",
    ])?;
    wait_revision(ns, &before)?;
    apply(&reader_pod(ns, "newest", "n2", Some("tree")))?;
    wait_pod_ready(ns, "newest", MINUTE)?;
    let expected = moved(&origins.sums()?, "./models/", "./labels/");
    expect_sums(&parse_sums(&exec(ns, "newest", SUM_LINE)?), &expected).context("the newest pod reads the new file")
}

fn nothing_says_a_secret(ns: &str) -> Result<()> {
    let template = "go-template={{range .items}}{{.data.token | base64decode}}{{end}}";
    let token = kubectl([
        "get",
        "secrets",
        "-l",
        "app.kubernetes.io/component=reader",
        "-n",
        ns,
        "-o",
        template,
    ])?;
    ensure!(token.trim().len() == 64, "one reader has one token");
    for line in [
        vec![
            "get",
            "datasets,cacheruntimes,pods,deployments,pv,pvc",
            "-n",
            ns,
            "-o",
            "yaml",
        ],
        vec!["get", "events", "-n", ns, "-o", "yaml"],
        vec![
            "logs",
            "-n",
            "penstock-system",
            "-l",
            "app.kubernetes.io/name=penstock",
            "--all-containers",
            "--tail=-1",
        ],
        vec!["logs", "-n", ns, "pool-0", "--tail=-1"],
        vec!["logs", "-n", ns, "pool-1", "--tail=-1"],
        vec![
            "logs",
            "-n",
            ns,
            "-l",
            "app.kubernetes.io/component=reader",
            "--tail=-1",
        ],
    ] {
        let mut command = std::process::Command::new(penstock_e2e::cluster::repository().join("e2e/cluster/kubectl"));
        let said = penstock_e2e::cluster::run(command.args(&line))?;
        ensure!(!said.contains(PASSWORD), "kubectl {line:?} says the password");
        ensure!(
            !said.contains(token.trim()),
            "kubectl {line:?} says the token of a reader"
        );
    }
    Ok(())
}

/// The sums with one folder under another name.
fn moved(sums: &Sums, from: &str, to: &str) -> Sums {
    let other = |path: &String| match path.strip_prefix(from) {
        Some(rest) => format!("{to}{rest}"),
        None => path.clone(),
    };
    sums.iter().map(|(path, sum)| (other(path), sum.clone())).collect()
}

fn revision(ns: &str) -> Result<String> {
    let dataset = get("dataset", ns, "tree")?.context("the dataset")?;
    Ok(dataset["status"]["revision"]["id"].to_string())
}

fn wait_revision(ns: &str, before: &str) -> Result<()> {
    wait_for("a new revision", MINUTE, || {
        let now = revision(ns)?;
        Ok(if now == before {
            let dataset = get("dataset", ns, "tree")?.context("the dataset")?;
            Err(dataset["status"]["conditions"].to_string())
        } else {
            Ok(())
        })
    })
}
