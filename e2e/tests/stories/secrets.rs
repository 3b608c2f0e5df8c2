//! That nobody says a secret: what other stories end with.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use penstock_e2e::cluster::{SYSTEM_NAMESPACE, kubectl, repository, run};
use penstock_e2e::node;
use serde_json::Value;

/// What stands in Secrets and is none.
const NO_SECRETS: [&str; 2] = ["AWS_ACCESS_KEY_ID", "username"];

/// What is in the Secrets of a namespace, and `more` that was, stands in no other object of this one or ours, in no event, no log of a
/// container, and no argument of a process of a pod. There are so many at least.
pub fn are_said_nowhere(ns: &str, more: &[&str], at_least: usize) -> Result<()> {
    let mut secrets = of_namespace(ns)?;
    secrets.extend(
        more.iter()
            .map(|secret| ("what was there before".to_owned(), (*secret).into())),
    );
    ensure!(
        secrets.len() >= at_least,
        "{at_least} secrets are looked for, there are {:?}",
        secrets.iter().map(|(name, _)| name).collect::<Vec<_>>()
    );
    for (place, text) in everything(ns)? {
        for (name, secret) in &secrets {
            let written = BASE64_STANDARD.encode(secret);
            ensure!(
                !text.contains(secret.as_str()) && !text.contains(&written),
                "{place} of {ns} say the secret {name}"
            );
        }
    }
    println!("  {} secrets are said nowhere", secrets.len());
    Ok(())
}

/// The secrets of a namespace with their names.
fn of_namespace(ns: &str) -> Result<Vec<(String, String)>> {
    let all: Value = serde_json::from_str(&kubectl(["get", "secrets", "-n", ns, "-o", "json"])?)?;
    let mut secrets = Vec::new();
    for secret in all["items"].as_array().context("a list")? {
        let name = secret["metadata"]["name"].as_str().context("a name")?;
        for (key, value) in secret["data"].as_object().into_iter().flatten() {
            if !NO_SECRETS.contains(&key.as_str()) {
                let value = BASE64_STANDARD.decode(value.as_str().context("a value")?)?;
                let value = String::from_utf8(value).with_context(|| format!("{name}: {key}"))?;
                ensure!(value.len() >= 8, "{name}: {key} is too short to be looked for");
                secrets.push((format!("{key} of {name}"), value));
            }
        }
    }
    Ok(secrets)
}

/// All places where something could be said, and what stands there.
fn everything(ns: &str) -> Result<Vec<(String, String)>> {
    let mut all = Vec::new();
    let mut objects = String::new();
    for namespace in [ns, SYSTEM_NAMESPACE] {
        objects += &objects_of(&["--namespaced=true"], &["-n", namespace])?;
        let pods = kubectl(["get", "pods", "-n", namespace, "-o", "name"])?;
        for pod in pods.lines() {
            let logs = ["logs", "-n", namespace, pod, "--all-containers", "--tail=-1"];
            let now = said(&logs)?;
            // Most were never started again.
            let before = said(&[&logs[..], &["--previous"]].concat()).unwrap_or_default();
            all.push((format!("logs of {pod}"), now + &before));
        }
    }
    objects += &objects_of(&["--namespaced=false"], &[])?;
    let arguments = node::NODES.iter().map(|name| node::arguments_of_pods(name));
    let arguments: String = arguments.collect::<Result<_>>()?;
    // Otherwise nothing would be found in the wrong place.
    for (text, part) in [
        (&arguments, "/bin/penstock-cache-node"),
        (&objects, "kind: Dataset"),
        (&objects, "kind: Event"),
    ] {
        ensure!(text.contains(part), "{part} is not where secrets are looked for");
    }
    ensure!(
        all.iter()
            .any(|(place, text)| place.contains("pool-0") && !text.is_empty()),
        "there is no log of a cache node"
    );
    all.push(("arguments of processes".to_owned(), arguments));
    all.push(("objects".to_owned(), objects));
    Ok(all)
}

/// All objects but Secrets, events and status too.
fn objects_of(kinds: &[&str], place: &[&str]) -> Result<String> {
    let kinds = said(&[&["api-resources", "--verbs=list", "-o", "name"], kinds].concat())?;
    let kinds: Vec<&str> = kinds.lines().filter(|kind| *kind != "secrets").collect();
    said(&[&["get", &kinds.join(","), "-o", "yaml", "--show-managed-fields"], place].concat())
}

fn said(arguments: &[&str]) -> Result<String> {
    run(Command::new(repository().join("e2e/cluster/kubectl")).args(arguments))
}
