//! The same dataset in Garage, a real object store, filled through its S3 API.

use std::time::Duration;

use anyhow::{Context, Result};
use penstock_e2e::cluster::{Namespace, apply, exec, reader_pod, wait_pod_ready};
use penstock_e2e::dataset::{self, SUM_LINE, parse_sums};
use penstock_e2e::manifests::{dataset as dataset_yaml, runtime, secret};
use penstock_e2e::origin::S3Server;

use crate::first_line::{expect_sums, wait_ready};

/// A pod reads every byte as it was uploaded.
pub fn story() -> Result<()> {
    let namespace = Namespace::create("garage")?;
    let ns = &namespace.name;
    let local = tempfile::tempdir()?;
    dataset::write(local.path(), 300, 24 << 20)?;
    let origin = S3Server::garage("things")?;
    origin.upload(local.path(), "things")?;

    apply(&secret(ns))?;
    apply(&runtime(ns, "pool", 2, "1Gi"))?;
    apply(&dataset_yaml(
        ns,
        "things",
        &origin.address,
        origin.region,
        "things",
        "",
    ))?;
    wait_ready(ns, "things")?;
    apply(&reader_pod(ns, "reader", "n2", Some("things")))?;
    wait_pod_ready(ns, "reader", Duration::from_secs(60))?;
    let sums = parse_sums(&exec(ns, "reader", SUM_LINE)?);
    expect_sums(&sums, &dataset::sums(local.path())?).context("what the pod reads is what was uploaded")?;
    namespace.delete_at_once(Duration::from_secs(60))
}
