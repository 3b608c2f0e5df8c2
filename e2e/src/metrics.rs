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
    let of_mounter = |pod: &str| of_pod(SYSTEM_NAMESPACE, pod.trim_start_matches("pod/"), 7082, name, &[]);
    pods.lines().map(of_mounter).sum()
}

/// What a pod counts under a name and with these labels, in the order in which it writes them.
///
/// # Errors
/// When it does not answer, or does not count it.
pub fn of_pod(namespace: &str, pod: &str, port: u16, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
    let page = format!("/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy/metrics");
    let text = kubectl(["get", "--raw", &page])?;
    let labels: Vec<String> = labels
        .iter()
        .map(|(name, value)| format!("{name}=\"{value}\""))
        .collect();
    let named = match labels.join(",") {
        none if none.is_empty() => name.to_owned(),
        labels => format!("{name}{{{labels}}}"),
    };
    let line = text.lines().find(|line| line.split(' ').next() == Some(&named));
    let value = line.and_then(|line| line.rsplit(' ').next());
    value
        .with_context(|| format!("{pod} does not count {named}"))?
        .parse()
        .context("a number")
}
