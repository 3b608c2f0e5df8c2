//! One Dataset over several origins: sources come and go while pods read.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use penstock_e2e::cluster::{
    Namespace, apply, condition, exec, get, kubectl, reader_pod, wait_condition, wait_pod_ready,
};
use penstock_e2e::dataset::{self, SUM_LINE, Sums, parse_sums};
use penstock_e2e::manifests::{runtime, secret};
use penstock_e2e::origin::{GcsServer, HOST, HdfsCluster, Nginx, NginxOptions, S3Server};
use penstock_e2e::wait::wait_for;

use crate::first_line::{expect_sums, wait_ready};

const MINUTE: Duration = Duration::from_secs(60);
const PASSWORD: &str = "hush-hush-of-the-web-server";

/// What each origin holds, as files: the tree is made of them.
struct Origins {
    s3: S3Server,
    hdfs: HdfsCluster,
    web: Nginx,
    gcs: GcsServer,
    /// The whole tree, with the folder of each source.
    files: tempfile::TempDir,
}

impl Origins {
    fn start() -> Result<Self> {
        let login = Some(("reader", PASSWORD));
        let origins = Self {
            s3: S3Server::rclone()?,
            hdfs: HdfsCluster::on(HOST)?,
            web: Nginx::on(HOST, NginxOptions { tls: None, login })?,
            gcs: GcsServer::on(HOST, "labels")?,
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
        Ok(())
    }

    /// A Dataset with S3 at the root, HDFS at `tables`, and one more source.
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

/// S3, HDFS and a web server in one tree; a source is added and another one taken away while pods read, and a file is overwritten.
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
    wait_ready(ns, "tree")?;
    for (pod, node) in [("all", "n1"), ("part", "n2")] {
        apply(&reader_pod(ns, pod, node, Some("tree")))?;
        wait_pod_ready(ns, pod, MINUTE)?;
    }
    let tree = origins.sums()?;
    expect_sums(&parse_sums(&exec(ns, "all", SUM_LINE)?), &tree).context("every source is in the tree")?;
    let owner = exec(ns, "all", "stat -c '%u %g %a' /data/tables/year=2025/b.parquet")?;
    ensure!(owner.trim() == "1000 100 440", "owner and mode are {owner}");

    // Nothing of what is read from here on is cached any more.
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
        "models",
    ])?;
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
        "tables",
    ])?;
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
    nothing_says_the_password(ns)?;
    namespace.finish(MINUTE)
}

/// The old pod gets an error for what it had not read, and the Dataset names the file; a new pod reads the new one.
fn an_overwritten_file_is_never_mixed(ns: &str, origins: &Origins) -> Result<()> {
    let path = "year=2025/b.parquet";
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
        "tables",
    ])?;
    let bytes = dataset::content(8001, 301_000);
    origins.hdfs.put(&format!("/warehouse/{path}"), &bytes)?;
    dataset::put(&origins.files.path().join("tables"), path, &bytes)?;
    // On a node whose page cache does not have it.
    penstock_e2e::node::shell("n2", "echo 1 > /proc/sys/vm/drop_caches")?;
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

fn nothing_says_the_password(ns: &str) -> Result<()> {
    for line in [
        vec!["get", "datasets,cacheruntimes,pods,pv,pvc", "-n", ns, "-o", "yaml"],
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
    ] {
        let mut command = std::process::Command::new(penstock_e2e::cluster::repository().join("e2e/cluster/kubectl"));
        let said = penstock_e2e::cluster::run(command.args(&line))?;
        ensure!(!said.contains(PASSWORD), "kubectl {line:?} says the password");
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
