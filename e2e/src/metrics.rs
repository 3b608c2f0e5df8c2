//! What the product's parts count, by way of the API server.

use anyhow::{Context, Result};

use crate::cluster::{SYSTEM_NAMESPACE, kubectl};

/// The sum of a counter without labels over all mounters.
///
/// # Errors
/// When one does not answer, or does not count it.
pub fn of_mounters(name: &str) -> Result<f64> {
    let label = "app.kubernetes.io/component=mounter";
    let pods = kubectl(["get", "pods", "-n", SYSTEM_NAMESPACE, "-l", label, "-o", "name"])?;
    pods.lines().map(|pod| of_pod(pod, 7082, name)).sum()
}

fn of_pod(pod: &str, port: u16, name: &str) -> Result<f64> {
    let pod = pod.trim_start_matches("pod/");
    let page = format!("/api/v1/namespaces/{SYSTEM_NAMESPACE}/pods/{pod}:{port}/proxy/metrics");
    let text = kubectl(["get", "--raw", &page])?;
    let line = text.lines().find(|line| line.split(' ').next() == Some(name));
    let value = line.and_then(|line| line.rsplit(' ').next());
    value
        .with_context(|| format!("{pod} does not count {name}"))?
        .parse()
        .context("a number")
}
