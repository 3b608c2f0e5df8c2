//! The cluster as a person types at it: `kubectl` and `helm`, and what a failed story prints.

use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::wait::wait_for;

/// Where the chart is installed.
pub const SYSTEM_NAMESPACE: &str = "penstock-system";
/// Image of the pods that read, loaded into the nodes by `e2e/stories`.
pub const BUSYBOX: &str = "registry.k8s.io/e2e-test-images/busybox:1.37.0-1";

/// The repository's root.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Runs a command and returns what it printed.
///
/// # Errors
/// When it fails; the error carries the command and everything that it printed.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {command:?}"))?;
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    ensure!(
        output.status.success(),
        "{command:?} ended with {}:\n{out}\n{err}",
        output.status
    );
    Ok(out.into_owned())
}

/// `kubectl ARGS`, and what it printed.
///
/// # Errors
/// When kubectl fails; with what it said.
pub fn kubectl<const N: usize>(args: [&str; N]) -> Result<String> {
    run(Command::new(repository().join("e2e/cluster/kubectl")).args(args))
}

/// `kubectl penstock ARGS`, and what it printed: the binary of the image under the name of a plugin, and kubectl, are the first on the PATH.
///
/// # Errors
/// When it fails; with what it said.
pub fn kubectl_penstock(args: &[&str]) -> Result<String> {
    let binary = std::env::var("PENSTOCK_BINARY").context("PENSTOCK_BINARY is set by e2e/stories")?;
    let folder = tempfile::tempdir()?;
    let kubectl = repository().canonicalize()?.join("e2e/cluster/kubectl");
    for (name, file) in [("kubectl", kubectl), ("kubectl-penstock", binary.into())] {
        symlink(file, folder.path().join(name))?;
    }
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", folder.path().display());
    run(Command::new(folder.path().join("kubectl"))
        .arg("penstock")
        .args(args)
        .env("PATH", path))
}

/// `kubectl apply -f -` of a YAML text.
///
/// # Errors
/// When the API server refuses it; with its sentence.
pub fn apply(yaml: &str) -> Result<()> {
    let mut child = Command::new(repository().join("e2e/cluster/kubectl"))
        .args(["apply", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start kubectl apply")?;
    child
        .stdin
        .take()
        .context("stdin of kubectl")?
        .write_all(yaml.as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("kubectl apply: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// An object as JSON; `None` when it is not there.
///
/// # Errors
/// When the API server cannot be asked.
pub fn get(kind: &str, namespace: &str, name: &str) -> Result<Option<Value>> {
    let text = kubectl(["get", kind, name, "-n", namespace, "--ignore-not-found", "-o", "json"])?;
    if text.trim().is_empty() {
        Ok(None)
    } else {
        Ok(Some(serde_json::from_str(&text)?))
    }
}

/// A condition of an object: `(status, reason, message)`.
pub fn condition(object: &Value, kind: &str) -> Option<(String, String, String)> {
    let condition = object["status"]["conditions"]
        .as_array()?
        .iter()
        .find(|c| c["type"] == kind)?;
    let text = |key: &str| condition[key].as_str().unwrap_or_default().to_owned();
    Some((text("status"), text("reason"), text("message")))
}

/// Waits until a condition of an object has a status, and returns its reason and message.
///
/// # Errors
/// After `deadline`, with the conditions as they stand.
pub fn wait_condition(
    kind: &str,
    namespace: &str,
    name: &str,
    (condition_type, status): (&str, &str),
    deadline: Duration,
) -> Result<(String, String)> {
    wait_for(
        &format!("{kind} {namespace}/{name} to be {condition_type}={status}"),
        deadline,
        || {
            let Some(object) = get(kind, namespace, name)? else {
                return Ok(Err("it does not exist".into()));
            };
            Ok(match condition(&object, condition_type) {
                Some((is, reason, message)) if is == status => Ok((reason, message)),
                _ => Err(object["status"]["conditions"].to_string()),
            })
        },
    )
}

/// Waits until an object is gone and returns how long that took.
///
/// # Errors
/// After `deadline`, with the object's finalizers and conditions.
pub fn wait_gone(kind: &str, namespace: &str, name: &str, deadline: Duration) -> Result<Duration> {
    let started = Instant::now();
    wait_for(&format!("{kind} {namespace}/{name} to be gone"), deadline, || {
        Ok(match get(kind, namespace, name)? {
            None => Ok(()),
            Some(object) => Err(format!(
                "{} {}",
                object["metadata"]["finalizers"], object["status"]["conditions"]
            )),
        })
    })?;
    Ok(started.elapsed())
}

/// Waits until a pod is Running and ready, and returns how long that took.
///
/// # Errors
/// After `deadline`, with the pod's status and events.
pub fn wait_pod_ready(namespace: &str, name: &str, deadline: Duration) -> Result<Duration> {
    let started = Instant::now();
    wait_condition("pod", namespace, name, ("Ready", "True"), deadline).or_else(|error| {
        let events = kubectl(["events", "-n", namespace, "--for", &format!("pod/{name}")]).unwrap_or_default();
        bail!("{error}\n{events}")
    })?;
    Ok(started.elapsed())
}

/// Runs a shell line in a pod.
///
/// # Errors
/// When the line fails; with what it printed.
pub fn exec(namespace: &str, pod: &str, line: &str) -> Result<String> {
    kubectl(["exec", "-n", namespace, pod, "--", "/bin/sh", "-c", line])
}

/// Runs a program in a pod that has no shell; returns its output.
///
/// # Errors
/// When it fails.
pub fn in_pod(namespace: &str, pod: &str, program: &[&str]) -> Result<String> {
    let command = ["exec", "-n", namespace, pod, "--"];
    run(Command::new(repository().join("e2e/cluster/kubectl"))
        .args(command)
        .args(program))
}

/// A pod that mounts a claim at `/data` and waits to be asked; `claim` `None` mounts an emptyDir instead.
pub fn reader_pod(namespace: &str, name: &str, node: &str, claim: Option<&str>) -> String {
    let volume = match claim {
        Some(claim) => format!("persistentVolumeClaim: {{claimName: {claim}}}"),
        None => "emptyDir: {}".to_owned(),
    };
    format!(
        r#"apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}, labels: {{app: {name}}}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 0
  securityContext: {{runAsUser: 1000, runAsNonRoot: true}}
  containers:
  - name: c
    image: {BUSYBOX}
    command: [/bin/sh, -c, "while true; do sleep 3600; done"]
    volumeMounts: [{{name: data, mountPath: /data}}]
  volumes: [{{name: data, {volume}}}]
"#
    )
}

/// A namespace of a story's own. When the story panics or fails it prints what a person needs to understand it; then
/// the namespace goes.
pub struct Namespace {
    /// Its name.
    pub name: String,
    finished: bool,
}

impl Namespace {
    /// Makes it, and meets the `restricted` Pod Security level unless the story reads as another user.
    ///
    /// # Errors
    /// When the API server refuses.
    pub fn create(name: &str) -> Result<Self> {
        apply(&format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{pod-security.kubernetes.io/warn: restricted}}}}\n"
        ))?;
        Ok(Self {
            name: name.to_owned(),
            finished: false,
        })
    }

    /// The story ended well: what it made is deleted, then the namespace, in `deadline`.
    ///
    /// # Errors
    /// When something keeps it.
    pub fn finish(self, deadline: Duration) -> Result<()> {
        // A namespace that still has pods is looked at again only after the longest of their grace periods.
        let what = "--timeout=60s pods,datasets,cacheruntimes --all";
        let mut delete = vec!["delete", "-n", &self.name];
        delete.extend(what.split(' '));
        run(Command::new(repository().join("e2e/cluster/kubectl")).args(delete))?;
        wait_for_pods_gone(&self.name, deadline)?;
        self.delete_at_once(deadline)
    }

    /// The story ended well: the namespace is deleted with everything in it, as people do, in `deadline`.
    ///
    /// # Errors
    /// When something keeps it.
    pub fn delete_at_once(mut self, deadline: Duration) -> Result<()> {
        kubectl(["delete", "namespace", &self.name, "--wait=false"])?;
        wait_gone("namespace", "", &self.name, deadline)?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if !self.finished {
            dump(&self.name);
        }
    }
}

/// Prints objects, events and logs of a namespace and of Penstock's own.
pub fn dump(namespace: &str) {
    for namespace in [namespace, SYSTEM_NAMESPACE] {
        for line in [
            format!("get pods,pvc,datasets,cacheruntimes,statefulsets -o wide -n {namespace}"),
            format!("get datasets,cacheruntimes -o yaml -n {namespace}"),
            format!("events -n {namespace}"),
        ] {
            eprintln!("---- kubectl {line}\n{}", text_of(&line));
        }
        for pod in text_of(&format!("get pods -n {namespace} -o name")).lines() {
            eprintln!(
                "---- logs {pod}\n{}",
                text_of(&format!("logs -n {namespace} {pod} --all-containers --tail=60"))
            );
        }
    }
}

fn text_of(line: &str) -> String {
    let mut command = Command::new(repository().join("e2e/cluster/kubectl"));
    run(command.args(line.split_whitespace())).unwrap_or_else(|error| error.to_string())
}

/// `helm ARGS`, and what it printed.
///
/// # Errors
/// When helm fails; with what it said.
pub fn helm<'a>(args: impl IntoIterator<Item = &'a str>) -> Result<String> {
    run(Command::new(repository().join("e2e/cluster/helm")).args(args))
}

/// The form of volumes that the stories are told in: `PENSTOCK_FORM`, or what the kernel of these tests has.
pub fn form() -> String {
    std::env::var("PENSTOCK_FORM").unwrap_or_else(|_| "file".to_owned())
}

/// Waits until a namespace has no pod.
///
/// # Errors
/// After `deadline`, with the pods that are left.
pub fn wait_for_pods_gone(namespace: &str, deadline: Duration) -> Result<()> {
    wait_for(&format!("the pods of {namespace} to be gone"), deadline, || {
        let pods = kubectl(["get", "pods", "-n", namespace, "-o", "name"])?;
        Ok(if pods.trim().is_empty() { Ok(()) } else { Err(pods) })
    })
}
