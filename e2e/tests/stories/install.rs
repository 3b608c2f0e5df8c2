//! Installing, as the README says.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use penstock_e2e::cluster::{SYSTEM_NAMESPACE, apply, form, helm, kubectl, repository};

/// Addresses of pods, which the nodes of this cluster do not tell (`spec.podCIDRs`): who installs the chart does.
const POD_NETWORK: &str = "10.244.0.0/16";

/// `helm install --wait` ends with every part ready; the namespace carries the Pod Security level that the README names.
pub fn story() -> Result<()> {
    if helm(["list", "-n", SYSTEM_NAMESPACE, "-q"])?.contains("penstock") {
        return Ok(());
    }
    apply(&format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {SYSTEM_NAMESPACE}, labels: {{pod-security.kubernetes.io/enforce: privileged}}}}\n"
    ))?;
    let started = Instant::now();
    let chart = repository().join("charts/penstock");
    let image = std::env::var("PENSTOCK_IMAGE").context("PENSTOCK_IMAGE is set by e2e/stories")?;
    let (repository, tag) = image.rsplit_once(':').context("PENSTOCK_IMAGE has a tag")?;
    helm([
        "install",
        "penstock",
        chart.to_str().context("the repository's path is UTF-8")?,
        "-n",
        SYSTEM_NAMESPACE,
        "--wait",
        "--timeout=2m",
        "--set",
        &format!(
            "image.repository={repository},image.tag={tag},csi.form={},hostPaths={{{}}},clusterNetworks={{{POD_NETWORK}}},\
             operator.notifications.enabled=true",
            form(),
            crate::host_folder::PERMITTED
        ),
    ])
    .inspect_err(|_| penstock_e2e::cluster::dump(SYSTEM_NAMESPACE))?;
    println!("  helm install --wait: {:.1} s", started.elapsed().as_secs_f32());
    let pods = kubectl(["get", "pods", "-n", SYSTEM_NAMESPACE, "--no-headers"])?;
    ensure!(
        pods.lines().count() >= 5 && pods.lines().all(|pod| pod.contains("Running")),
        "not all run:\n{pods}"
    );
    Ok(())
}
