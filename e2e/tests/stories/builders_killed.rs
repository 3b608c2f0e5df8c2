//! Who builds and who commits dies on the way: there is one revision in the end, or none yet, and never two.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use penstock_e2e::cluster::{Namespace, SYSTEM_NAMESPACE, apply, exec, get, kubectl, reader_pod, wait_pod_ready};
use penstock_e2e::counting_proxy::CountingProxy;
use penstock_e2e::dataset::{self, SUM_LINE, parse_sums};
use penstock_e2e::load::Load;
use penstock_e2e::manifests::{dataset as dataset_yaml, runtime, secret};
use penstock_e2e::node::Victim;
use penstock_e2e::origin::{S3Server, free_address};
use penstock_e2e::wait::wait_for;
use rand::Rng;
use serde_json::Value;

use crate::cache_node_killed::kill_cache_node;
use crate::first_line::{expect_sums, wait_ready};

const MINUTE: Duration = Duration::from_secs(60);
/// Longest pause that a killed cache node may cost whoever reads.
const READ_BOUND: Duration = Duration::from_secs(10);
/// Rounds in which the operator dies at about the moment of a commit.
const ROUNDS: u64 = 3;

/// The operator that leads and the cache node that builds are killed in the middle of a listing, and the operator right behind one.
pub fn story() -> Result<()> {
    let namespace = Namespace::create("builders-killed")?;
    let ns = &namespace.name;
    let origin = S3Server::rclone()?;
    let bucket = origin.buckets().join("b");
    dataset::write(&bucket, 100, 8 << 20)?;
    let before = dataset::sums(&bucket)?;
    let proxy = CountingProxy::start(free_address()?, origin.address)?;
    apply(&secret(ns))?;
    apply(&runtime(ns, "pool", 2, "1Gi"))?;
    apply(&dataset_yaml(ns, "d", &proxy.address, origin.region, "b", ""))?;
    wait_ready(ns, "d")?;
    apply(&reader_pod(ns, "old", "n1", Some("d")))?;
    wait_pod_ready(ns, "old", MINUTE)?;
    let load = Load::on_pod(ns, "old", &before, 2)?;
    load.goes_on(MINUTE)?;
    let mut ids = vec![revision(ns)?["id"].clone()];

    dataset::put(&bucket, "later/0", &dataset::content(900, 70_000))?;
    proxy.hold_lists(true);
    refresh(ns, "held")?;
    wait_lister(&proxy)?;
    Leader::now()?.kill()?;
    // The listing of the one before says nothing: what begins now, the new leader has asked for.
    proxy.reset();
    let builder = wait_lister(&proxy)?;
    proxy.reset();
    kill_cache_node(ns, &builder)?;
    wait_lister(&proxy)?;
    ensure!(
        revision(ns)?["id"] == ids[0],
        "something was committed that was not listed"
    );
    proxy.hold_lists(false);
    one_more(ns, &mut ids)?;
    load.check("leader and builder killed in the middle of a build", MINUTE, READ_BOUND)?;

    for round in 1..=ROUNDS {
        dataset::put(
            &bucket,
            &format!("later/{round}"),
            &dataset::content(900 + round, 70_000),
        )?;
        proxy.reset();
        proxy.hold_lists(true);
        refresh(ns, &round.to_string())?;
        wait_lister(&proxy)?;
        let leader = Leader::now()?;
        proxy.hold_lists(false);
        // The moment is what is tried: the rest of a build and the commit take about as long.
        std::thread::sleep(Duration::from_millis(rand::rng().random_range(0..400)));
        leader.kill()?;
        one_more(ns, &mut ids)?;
    }
    load.check("leaders killed between listing and commit", MINUTE, READ_BOUND)?;
    drop(load);
    apply(&reader_pod(ns, "new", "n2", Some("d")))?;
    wait_pod_ready(ns, "new", MINUTE)?;
    let text = exec(ns, "new", SUM_LINE)?;
    expect_sums(&parse_sums(&text), &dataset::sums(&bucket)?).context("the newest revision")?;
    expect_sums(&parse_sums(&exec(ns, "old", SUM_LINE)?), &before).context("the first revision")?;
    namespace.finish(MINUTE)
}

/// Waits for the next revision, which is the child of the last one: none was committed between.
fn one_more(ns: &str, ids: &mut Vec<Value>) -> Result<()> {
    let last = ids.last().context("there is one")?.clone();
    let found = wait_for("the next revision", 2 * MINUTE, || {
        let found = revision(ns)?;
        Ok(if found["id"] == last {
            Err(get("dataset", ns, "d")?.unwrap_or_default()["status"].to_string())
        } else {
            Ok(found)
        })
    })?;
    ensure!(found["parent"] == last, "the parent of {found} is not {last}");
    let expected = Value::Array(ids.iter().rev().cloned().collect());
    ensure!(
        found["older"] == expected,
        "before it were {} instead of {expected}",
        found["older"]
    );
    ids.push(found["id"].clone());
    Ok(())
}

fn revision(ns: &str) -> Result<Value> {
    Ok(get("dataset", ns, "d")?.context("the Dataset")?["status"]["revision"].clone())
}

fn refresh(ns: &str, value: &str) -> Result<()> {
    let annotation = format!("penstock.io/refresh={value}");
    kubectl(["annotate", "dataset", "d", "-n", ns, "--overwrite", &annotation]).map(drop)
}

/// Waits until a cache node asks for a listing: which one.
fn wait_lister(proxy: &CountingProxy) -> Result<String> {
    let address = wait_for("a listing", 2 * MINUTE, || {
        Ok(proxy
            .listers()
            .last()
            .copied()
            .ok_or_else(|| "nobody asked for one".to_owned()))
    })?;
    let pods = kubectl([
        "get",
        "pods",
        "-A",
        "-l",
        "app.kubernetes.io/component=cache-node",
        "-o",
        r#"jsonpath={range .items[*]}{.status.podIP}{" "}{.metadata.name}{"\n"}{end}"#,
    ])?;
    let mut pods = pods.lines().filter_map(|line| line.split_once(' '));
    let found = pods.find(|(ip, _)| *ip == address.to_string());
    let (_, pod) = found.with_context(|| format!("{address} is no cache node"))?;
    Ok(pod.to_owned())
}

/// The operator that leads.
struct Leader {
    pod: String,
    victim: Victim,
}

impl Leader {
    fn now() -> Result<Self> {
        let pod = leader()?;
        let victim = Victim::new(SYSTEM_NAMESPACE, &pod)?;
        Ok(Self { pod, victim })
    }

    /// SIGKILL. Its pod goes too, so that no container waits for a longer and longer time. Another one leads then.
    fn kill(self) -> Result<()> {
        let Self { pod, victim } = self;
        victim.kill("/bin/penstock-operator")?;
        kubectl([
            "delete",
            "pod",
            &pod,
            "-n",
            SYSTEM_NAMESPACE,
            "--grace-period=0",
            "--force",
        ])?;
        wait_for("another leader", MINUTE, || {
            let now = leader()?;
            Ok(if now == pod || now.is_empty() { Err(now) } else { Ok(()) })
        })
    }
}

fn leader() -> Result<String> {
    kubectl([
        "get",
        "lease",
        "penstock-operator",
        "-n",
        SYSTEM_NAMESPACE,
        "-o",
        "jsonpath={.spec.holderIdentity}",
    ])
}
