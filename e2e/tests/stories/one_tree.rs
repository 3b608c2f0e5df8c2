//! One Dataset over several origins: sources come and go while pods read.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use penstock_e2e::cluster::{
    Namespace, apply, condition, exec, get, kubectl, kubectl_penstock, reader_pod, wait_condition, wait_pod_ready,
};
use penstock_e2e::dataset::{self, SUM_LINE, Sums, parse_sums};
use penstock_e2e::load::Load;
use penstock_e2e::manifests::{runtime, secret};
use penstock_e2e::node;
use penstock_e2e::origin::{GcsServer, HOST, HdfsCluster, Nginx, NginxOptions, S3Server};
use penstock_e2e::wait::wait_for;

use crate::first_line::{expect_sums, wait_ready};
use crate::secrets;

const MINUTE: Duration = Duration::from_secs(60);
const PASSWORD: &str = "hush-hush-of-the-web-server";

/// A volume of a claim: on which node it is, its name, and where it lies.
const VOLUME_NODE: &str = "n1";
const VOLUME: &str = "one-tree";
const VOLUME_FOLDER: &str = "/var/lib/claims/one-tree";

/// Longest pause of a read while sources come and go: they are cold, and HDFS takes its time.
const EDIT_BOUND: Duration = Duration::from_secs(20);

/// Files of which the time is known: path in the tree, and seconds since 1970.
const BUCKET_FILE: (&str, u64) = ("big.bin", 1_700_000_000);
const WEB_FILE: (&str, u64) = ("models/year=2025/b.parquet", 1_600_000_000);
const VOLUME_FILE: (&str, u64) = ("volume/deep/a b.txt", 1_500_000_000);

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
        self.put_on_volume("changes.txt", 1000)?;
        set_time(&bucket.join("big.bin"), BUCKET_FILE.1)?;
        set_time(&self.web.folder().join("pub/year=2025/b.parquet"), WEB_FILE.1)?;
        let at = VOLUME_FILE.1;
        node::shell(
            VOLUME_NODE,
            &format!("touch -d @{at} '{VOLUME_FOLDER}/data/deep/a b.txt'"),
        )
        .map(drop)
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

/// When a file changed last.
fn set_time(file: &Path, seconds: u64) -> Result<()> {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    Ok(File::options().write(true).open(file)?.set_modified(time)?)
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
    for (path, seconds) in [BUCKET_FILE, WEB_FILE, VOLUME_FILE] {
        let time = exec(ns, "all", &format!("stat -c %Y '/data/{path}'"))?;
        ensure!(
            time.trim() == seconds.to_string(),
            "{path} is of {time}, at its origin of {seconds}"
        );
    }
    the_plugin_shows_what_pods_see(ns, &origins, &tree)?;

    // Nothing of what is read from here on is cached any more.
    evict(ns, "models")?;
    evict(ns, "tables")?;
    let before = revision(ns)?;
    // Not of the source that goes: what it brings into the cache would be read from there later.
    let stay = tree
        .clone()
        .into_iter()
        .filter(|(path, _)| !path.starts_with("./models/"));
    let load = Load::on_pod(ns, "all", &stay.collect(), 2)?;
    load.goes_on(MINUTE)?;
    apply(&origins.dataset(ns, &origins.labels()))?;
    wait_revision(ns, &before)?;
    apply(&reader_pod(ns, "new", "n1", Some("tree")))?;
    wait_pod_ready(ns, "new", MINUTE)?;
    load.check("a source added and one removed", MINUTE, EDIT_BOUND)?;
    drop(load);
    let moved = moved(&tree, "./models/", "./labels/");
    expect_sums(&parse_sums(&exec(ns, "new", SUM_LINE)?), &moved).context("a new pod sees the new sources")?;
    expect_sums(&parse_sums(&exec(ns, "part", SUM_LINE)?), &tree)
        .context("an old pod reads also what was not cached of a source that is gone")?;

    an_overwritten_file_is_never_mixed(ns, &origins)?;
    // The key of the bucket, the password of the web server, and the token between cache nodes and the reader.
    secrets::are_said_nowhere(ns, &[], 3)?;
    namespace.finish(MINUTE)?;
    kubectl(["delete", "pv", VOLUME])?;
    Ok(())
}

/// kubectl shows where the sources stand, what the committed revision has whatever the origins have by now, and how the Dataset is.
fn the_plugin_shows_what_pods_see(ns: &str, origins: &Origins, tree: &Sums) -> Result<()> {
    let bucket = origins.s3.buckets().join("photos");
    dataset::put(&bucket, "tmp/not listed yet", b"new")?;
    let files = |arguments: &[&str]| -> Result<Vec<String>> {
        let shown = kubectl_penstock(&[&["ls", "tree", "-n", ns], arguments].concat())?;
        Ok(shown
            .lines()
            .filter(|line| !line.ends_with('/'))
            .map(|line| format!("./{line}"))
            .collect())
    };
    let (mut found, mut expected) = (files(&["-R"])?, tree.keys().cloned().collect::<Vec<_>>());
    found.sort_unstable();
    expected.sort_unstable();
    ensure!(
        found == expected,
        "kubectl penstock ls -R shows {found:?} instead of {expected:?}"
    );
    let folder = files(&["volume/deep", "-l"])?.join(" ");
    ensure!(
        folder.contains("2017-07-14T02:40:00Z  a b.txt"),
        "kubectl penstock ls -l shows {folder}"
    );
    let refused = kubectl_penstock(&["ls", "tree", "nowhere", "-n", ns]);
    let said = refused.err().context("there is no such folder")?.to_string();
    ensure!(said.contains("has no \"nowhere\"; it has "), "{said}");
    std::fs::remove_file(bucket.join("tmp/not listed yet"))?;

    let mounts = kubectl_penstock(&["mounts", "tree", "-n", ns])?;
    let row = |path: &str| {
        mounts
            .lines()
            .find(|line| line.starts_with(&format!("{path} ")))
            .unwrap_or_default()
    };
    for (path, origin) in [
        ("/", "photos"),
        ("/tables", "hdfs://"),
        ("/volume", "claim://"),
        ("/models", "http://"),
    ] {
        let row = row(path);
        ensure!(
            row.contains(origin) && row.contains(" mounted"),
            "kubectl penstock mounts shows\n{mounts}"
        );
    }
    let status = kubectl_penstock(&["status", "tree", "-n", ns])?;
    for said in [
        format!("{ns}/tree").as_str(),
        tree.len().to_string().as_str(),
        "SourceReachable",
        "Ready ",
    ] {
        ensure!(status.contains(said), "kubectl penstock status shows\n{status}");
    }
    let explained = kubectl_penstock(&["explain", "tree", "big.bin", "-n", ns])?;
    ensure!(explained.contains("cached"), "{explained}");
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
    let (path, on_volume) = ("year=2025/b.parquet", "changes.txt");
    evict(ns, "tables")?;
    evict(ns, "volume")?;
    let bytes = dataset::content(8001, 301_000);
    origins.hdfs.put(&format!("/warehouse/{path}"), &bytes)?;
    dataset::put(&origins.files.path().join("tables"), path, &bytes)?;
    origins.put_on_volume(on_volume, 2000)?;
    // On a node whose page cache does not have it.
    node::shell("n2", "echo 1 > /proc/sys/vm/drop_caches")?;
    for file in [format!("tables/{path}"), format!("volume/{on_volume}")] {
        let read = exec(ns, "part", &format!("sha256sum '/data/{file}' 2>&1; true"))?;
        ensure!(
            read.contains("I/O error") || read.contains("Input/output error"),
            "the old pod read {read}"
        );
    }
    let message = wait_for("both files to be named", MINUTE, || {
        let tree = get("dataset", ns, "tree")?.context("the dataset")?;
        let (status, _, message) = condition(&tree, "SourceDrifted").unwrap_or_default();
        let is_named = status == "True" && message.contains(path) && message.contains(on_volume);
        Ok(if is_named { Ok(message) } else { Err(message) })
    })?;
    println!("  told: {message}");
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
