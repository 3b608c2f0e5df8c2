//! csi-sanity, the conformance suite of CSI: against the services with a controller in memory (fake and real mounts), and
//! against the product's binary as it is.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use penstock_csi::identity::Identity;
use penstock_csi::node::NodeService;
use penstock_csi::proto::csi::controller_server::ControllerServer;
use penstock_csi::proto::csi::identity_server::IdentityServer;
use penstock_csi::proto::csi::node_server::NodeServer;
use penstock_csi::socket;
use penstock_health::Readiness;
use serde_json::Value;
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Runtime;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use crate::controller::{IdentityWithController, MemoryController, NoController};
use crate::mounter::{Serves, TestMounter, wait_until};
use crate::scene::{Scene, package};

const RELAY_PAUSE: Duration = Duration::from_millis(20);

#[test]
fn with_a_controller_in_memory_every_case_passes_over_fake_mounts() {
    let (scene, _) = Scene::fake();
    passes_with_controller(scene, |_| Serves::InWords);
}

#[test]
fn with_a_controller_in_memory_every_case_passes_over_real_mounts() {
    passes_with_controller(Scene::real(), Serves::Really);
}

#[test]
fn the_product_as_it_is_passes_and_skips_what_is_listed() {
    let scratch = tempfile::Builder::new().prefix("pcsi").tempdir().unwrap();
    let (kubelet, log) = (scratch.path().join("kubelet"), scratch.path().join("log"));
    for folder in ["plugins_registry", "pods"] {
        fs::create_dir_all(kubelet.join(folder)).unwrap();
    }
    let config = scratch.path().join("kubeconfig");
    let nowhere = "{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}], \
                   clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}], users: [{name: u, user: {}}]}";
    fs::write(&config, nowhere).unwrap();
    fs::create_dir(scratch.path().join("private")).unwrap();
    let mut product = Command::new(env!("CARGO_BIN_EXE_penstock-csi"))
        .args([
            "--node-name=node-a",
            "--namespace=penstock-system",
            "--health-listen=127.0.0.1:0",
        ])
        .arg("--kubelet-root")
        .arg(&kubelet)
        .arg("--state-dir")
        .arg(scratch.path().join("state"))
        .arg("--private-dir")
        .arg(scratch.path().join("private"))
        .env("KUBECONFIG", &config)
        .stdout(fs::File::create(&log).unwrap())
        .stderr(Stdio::null())
        .spawn()
        .map(Product)
        .unwrap();
    let endpoint = kubelet.join("plugins/csi.penstock.io/csi.sock");
    wait_until("the socket", || {
        assert!(
            product.0.try_wait().unwrap().is_none(),
            "{}",
            fs::read_to_string(&log).unwrap()
        );
        endpoint.exists()
    });
    let skipped = Skipped::parse(include_str!("sanity_skipped_as_is.txt"));
    let runtime = Runtime::new().unwrap();
    let controller = scratch.path().join("controller.sock");
    let _runtime = runtime.enter();
    let listener = UnixListenerStream::new(socket::listen_at(&controller).unwrap());
    let stub = Server::builder()
        .add_service(IdentityServer::new(Identity {
            ready: Readiness::default(),
        }))
        .add_service(ControllerServer::new(NoController));
    runtime.spawn(stub.serve_with_incoming(listener));
    let report = sanity(
        &runtime,
        &endpoint,
        &kubelet.join("pods"),
        scratch.path(),
        &controller,
        &skipped,
    );

    let product_id = rustix::process::Pid::from_child(&product.0);
    rustix::process::kill_process(product_id, rustix::process::Signal::TERM).unwrap();
    assert!(
        product.0.wait().unwrap().success(),
        "{}",
        fs::read_to_string(&log).unwrap()
    );
    assert!(endpoint.exists(), "the socket stays for the next one");

    let report = report.unwrap();
    assert_eq!(report.failed, BTreeSet::new(), "{}", fs::read_to_string(&log).unwrap());
    assert_eq!(report.skipped, skipped.all);
    assert!(report.passed > 5, "{} passed", report.passed);
}

fn passes_with_controller(scene: Scene, serves: impl FnOnce(tokio::runtime::Handle) -> Serves) {
    let runtime = Runtime::new().unwrap();
    let scene = Arc::new(scene);
    let package = package(1);
    let _mounter = TestMounter::connect(
        &scene.folders.keeper_socket(),
        std::slice::from_ref(&package),
        serves(runtime.handle().clone()),
    );
    wait_until("the mounter", || scene.keeper.has_mounter());
    let (endpoint, ready) = (scene.folders.csi_socket(), Readiness::default());
    ready.set(true);
    let serving = {
        let (scene, endpoint) = (scene.clone(), endpoint.clone());
        runtime.spawn(async move {
            let listener = socket::listen_at(&endpoint).unwrap();
            let server = Server::builder()
                .add_service(IdentityServer::new(IdentityWithController(Identity { ready })))
                .add_service(NodeServer::new(NodeService(scene.node.clone())))
                .add_service(ControllerServer::new(MemoryController::new(scene, package)));
            server
                .serve_with_incoming(UnixListenerStream::new(listener))
                .await
                .unwrap();
        })
    };
    wait_until("the socket", || endpoint.exists());
    let scratch = tempfile::tempdir().unwrap();
    let skipped = Skipped::parse(include_str!("sanity_skipped_with_controller.txt"));
    let report = sanity(
        &runtime,
        &endpoint,
        &scene.folders.pods(),
        scratch.path(),
        &endpoint,
        &skipped,
    );
    serving.abort();

    let report = report.unwrap();
    assert_eq!(report.failed, BTreeSet::new());
    assert_eq!(report.skipped, skipped.all);
    assert_eq!(scene.mounted(), Vec::<String>::new(), "nothing is left mounted");
}

/// The product's process; a test that fails does not leave it behind.
struct Product(Child);

impl Drop for Product {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Report {
    passed: usize,
    failed: BTreeSet<String>,
    skipped: BTreeSet<String>,
}

/// Runs the suite against `endpoint`; controller calls go to `controller`.
fn sanity(
    runtime: &Runtime,
    endpoint: &Path,
    pods: &Path,
    scratch: &Path,
    controller: &Path,
    skipped: &Skipped,
) -> anyhow::Result<Report> {
    let report = scratch.join("report.json");
    let output = Command::new(tool()?)
        .arg(format!("--csi.endpoint={}", relay(runtime, endpoint)?))
        .arg(format!("--csi.controllerendpoint={}", relay(runtime, controller)?))
        .arg(format!("--csi.mountdir={}", pods.join("mount").display()))
        .arg(format!("--csi.stagingdir={}", scratch.join("staging").display()))
        .arg(format!("--ginkgo.json-report={}", report.display()))
        .arg("--ginkgo.no-color")
        .args((!skipped.by_us.is_empty()).then(|| format!("--ginkgo.skip={}", skipped.by_us)))
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let text = fs::read(&report).map_err(|error| anyhow::anyhow!("csi-sanity wrote no report: {error}\n{said}"))?;
    let suites: Value = serde_json::from_slice(&text)?;
    let mut result = Report {
        passed: 0,
        failed: BTreeSet::new(),
        skipped: BTreeSet::new(),
    };
    for spec in suites[0]["SpecReports"].as_array().into_iter().flatten() {
        let name = name(spec);
        match spec["State"].as_str() {
            Some("passed") => result.passed += 1,
            Some("skipped" | "pending") => drop(result.skipped.insert(name)),
            _ => {
                let why: String = spec["Failure"]["Message"]
                    .as_str()
                    .unwrap_or_default()
                    .chars()
                    .take(300)
                    .collect();
                result.failed.insert(format!("{name}: {why}"));
            }
        }
    }
    eprintln!("csi-sanity: {} passed, {} skipped", result.passed, result.skipped.len());
    Ok(result)
}

/// The address of a relay to `endpoint`.
fn relay(runtime: &Runtime, endpoint: &Path) -> anyhow::Result<String> {
    let _runtime = runtime.enter();
    let relay = endpoint.with_extension("relay");
    runtime.spawn(relay_slowly(socket::listen_at(&relay)?, endpoint.to_owned()));
    Ok(format!("unix://{}", relay.display()))
}

/// Hands connections on to `endpoint` a moment after they were made. csi-sanity looks at the state of a new connection
/// twice, and waits a minute in vain, then fails, when it becomes ready between the two looks.
async fn relay_slowly(listener: UnixListener, endpoint: PathBuf) {
    while let Ok((mut near, _)) = listener.accept().await {
        let endpoint = endpoint.clone();
        tokio::spawn(async move {
            tokio::time::sleep(RELAY_PAUSE).await;
            let mut far = UnixStream::connect(endpoint).await?;
            tokio::io::copy_bidirectional(&mut near, &mut far).await
        });
    }
}

fn name(spec: &Value) -> String {
    let containers = spec["ContainerHierarchyTexts"].as_array().into_iter().flatten();
    let texts = containers.chain([&spec["LeafNodeText"]]).filter_map(Value::as_str);
    texts.collect::<Vec<_>>().join(" / ")
}

/// Cases that are skipped, from a file of names under comments that say why.
struct Skipped {
    all: BTreeSet<String>,
    /// Those that csi-sanity does not skip by itself, as a pattern: they have a `!` before their name.
    by_us: String,
}

impl Skipped {
    fn parse(text: &str) -> Self {
        let lines = || text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let by_us: Vec<_> = lines()
            .filter_map(|line| line.strip_prefix("! "))
            .map(pattern)
            .collect();
        Self {
            all: lines().map(|line| line.trim_start_matches("! ").to_owned()).collect(),
            by_us: by_us.join("|"),
        }
    }
}

/// ginkgo compares the texts of a case, joined by spaces, with a regular expression.
fn pattern(name: &str) -> String {
    let text = name.replace(" / ", " ");
    let escaped: Vec<String> = text
        .chars()
        .map(|c| match c {
            ' ' | 'A'..='Z' | 'a'..='z' => c.to_string(),
            _ => format!("[{c}]"),
        })
        .collect();
    // An opening bracket within brackets stands for itself, a closing one must be the first.
    format!("{}$", escaped.concat())
}

fn tool() -> anyhow::Result<PathBuf> {
    let get = Path::new(env!("CARGO_MANIFEST_DIR")).join("../e2e/tools/get");
    let output = Command::new(get).arg("csi-sanity").stderr(Stdio::inherit()).output()?;
    anyhow::ensure!(output.status.success(), "e2e/tools/get csi-sanity failed");
    Ok(String::from_utf8(output.stdout)?.trim().into())
}
