//! kubectl, as a process of our own: it knows the cluster, who asks and what they may. Must not know what is asked for.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use penstock_crds::Dataset;
use serde_json::Value;

use super::Which;

/// Whoever reads what is shown has ended.
const SIGPIPE: i32 = 13;

/// How it is called.
pub struct Kubectl {
    /// The program, and what it is told each time.
    called: Vec<String>,
}

impl Kubectl {
    /// For a cluster that is named, or that of kubectl.
    pub fn of(which: &Which) -> Self {
        let Which {
            dataset: _,
            namespace: _,
            context,
            kubeconfig,
        } = which;
        let mut called = vec!["kubectl".to_owned()];
        called.extend(context.iter().map(|context| format!("--context={context}")));
        called.extend(kubeconfig.iter().map(|file| format!("--kubeconfig={file}")));
        Self { called }
    }

    /// A Dataset; with its namespace, also where kubectl chose that.
    ///
    /// # Errors
    /// What kubectl says.
    pub fn dataset(&self, name: &str, namespace: Option<&str>) -> Result<Dataset> {
        // With its group: other products have Datasets too.
        let mut asked = vec!["get", "datasets.penstock.io", name, "-o", "json"];
        asked.extend(namespace.into_iter().flat_map(|namespace| ["-n", namespace]));
        let said = self.said(&asked)?;
        serde_json::from_str(&said)
            .with_context(|| format!("Dataset {name} is not of the version that this plugin knows"))
    }

    /// A cache node of a CacheRuntime that is ready: the name of its pod.
    ///
    /// # Errors
    /// When there is none, or what kubectl says.
    pub fn cache_node(&self, namespace: &str, runtime: &str) -> Result<String> {
        // As the operator labels them (`operator/src/names.rs`).
        let label = format!("app.kubernetes.io/component=cache-node,penstock.io/cache-runtime={runtime}");
        let said = self.said(&["get", "pods", "-n", namespace, "-l", &label, "-o", "json"])?;
        let pods: Value = serde_json::from_str(&said).context("pods, as kubectl writes them")?;
        let pods = pods["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        let Some(ready) = pods.iter().find(|pod| is_ready(pod)) else {
            bail!(
                "none of the {} cache nodes of CacheRuntime {namespace}/{runtime} is ready: see \
                 `kubectl describe pods -n {namespace} -l {label}`",
                pods.len()
            );
        };
        let name = ready["metadata"]["name"].as_str().context("a pod has a name")?;
        Ok(name.to_owned())
    }

    /// Runs our binary within the pod of a cache node; what it prints goes where ours would.
    ///
    /// # Errors
    /// When it fails; it has said why.
    pub fn show(&self, namespace: &str, pod: &str, asked: &[&str]) -> Result<()> {
        let within = ["exec", "-n", namespace, pod, "--", "/bin/penstock"];
        let status = self.command().args(within).args(asked).status();
        let status = status.with_context(|| self.missing())?;
        if status.success() || status.signal() == Some(SIGPIPE) {
            return Ok(());
        }
        bail!("cache node {namespace}/{pod} gave no answer: the lines above say why");
    }

    fn said(&self, asked: &[&str]) -> Result<String> {
        let output = self.command().args(asked).output().with_context(|| self.missing())?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("kubectl {}: {}", asked.join(" "), said.trim());
        }
        String::from_utf8(output.stdout).context("what kubectl prints is text")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.called[0]);
        command.args(&self.called[1..]).stdin(Stdio::null());
        command
    }

    fn missing(&self) -> String {
        format!("{} cannot be started: it has to be on the PATH", self.called[0])
    }
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().map(Vec::as_slice);
    let mut conditions = conditions.unwrap_or_default().iter();
    let is_leaving = !pod["metadata"]["deletionTimestamp"].is_null();
    !is_leaving && conditions.any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A kubectl that is a shell script.
    struct Fake {
        kubectl: Kubectl,
        folder: tempfile::TempDir,
    }

    impl Fake {
        fn that(does: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let script = folder.path().join("kubectl");
            let asked = folder.path().join("asked").display().to_string();
            std::fs::write(&script, format!("echo \"$@\" >>'{asked}'\n{does}\n")).unwrap();
            // By its shell: a file that was written a moment ago may not be run while another test starts a process.
            let called = vec!["sh".to_owned(), script.display().to_string(), "--context=c".to_owned()];
            Self {
                kubectl: Kubectl { called },
                folder,
            }
        }

        fn asked(&self) -> String {
            std::fs::read_to_string(self.folder.path().join("asked")).unwrap()
        }
    }

    fn said<T>(outcome: Result<T>) -> String {
        outcome.err().map(|error| format!("{error:#}")).unwrap_or_default()
    }

    #[test]
    fn a_dataset_is_asked_for_by_its_group_and_in_the_namespace_that_is_named() {
        let dataset = json!({
            "apiVersion": "penstock.io/v1alpha1", "kind": "Dataset", "metadata": {"name": "d", "namespace": "chosen"},
            "spec": {"sources": [{"s3": {"bucket": "b"}}]}, "status": {"runtime": "pool"},
        });
        let fake = Fake::that(&format!("echo '{dataset}'"));
        let found = fake.kubectl.dataset("d", None).unwrap();
        assert_eq!(found.metadata.namespace.as_deref(), Some("chosen"));
        fake.kubectl.dataset("d", Some("n")).unwrap();
        assert_eq!(
            fake.asked(),
            "--context=c get datasets.penstock.io d -o json\n--context=c get datasets.penstock.io d -o json -n n\n"
        );
        let fake = Fake::that("echo 'Error from server (NotFound): no such thing' >&2; exit 1");
        let error = said(fake.kubectl.dataset("d", Some("n")));
        assert_eq!(
            error,
            "kubectl get datasets.penstock.io d -o json -n n: Error from server (NotFound): no such thing"
        );
        let kubectl = Kubectl {
            called: vec!["/no/such/kubectl".into()],
        };
        assert!(said(kubectl.dataset("d", None)).contains("has to be on the PATH"));
    }

    #[test]
    fn a_cache_node_that_is_ready_and_stays_is_asked() {
        let pod = |name: &str, ready: &str, leaves: Value| {
            json!({
                "metadata": {"name": name, "deletionTimestamp": leaves},
                "status": {"conditions": [{"type": "Initialized", "status": "True"}, {"type": "Ready", "status": ready}]},
            })
        };
        let pods = [
            pod("pool-0", "False", Value::Null),
            pod("pool-1", "True", json!("2026-11-27T00:00:00Z")),
            pod("pool-2", "True", Value::Null),
        ];
        let fake = Fake::that(&format!("echo '{}'", json!({"items": pods})));
        assert_eq!(fake.kubectl.cache_node("n", "pool").unwrap(), "pool-2");
        let label = "-l app.kubernetes.io/component=cache-node,penstock.io/cache-runtime=pool";
        assert!(fake.asked().contains(label), "{}", fake.asked());
        let fake = Fake::that(&format!("echo '{}'", json!({"items": pods[..2]})));
        let error = said(fake.kubectl.cache_node("n", "pool"));
        assert!(
            error.contains("none of the 2 cache nodes of CacheRuntime n/pool is ready: see `kubectl describe"),
            "{error}"
        );
    }

    #[test]
    fn what_a_cache_node_says_is_shown_and_a_reader_that_has_enough_is_no_error() {
        let fake = Fake::that("exit 0");
        fake.kubectl
            .show("n", "pool-0", &["cache", "files", "--", "n/d", "-a b"])
            .unwrap();
        assert_eq!(
            fake.asked(),
            "--context=c exec -n n pool-0 -- /bin/penstock cache files -- n/d -a b\n"
        );
        Fake::that("kill -PIPE $$").kubectl.show("n", "pool-0", &[]).unwrap();
        let error = said(Fake::that("exit 1").kubectl.show("n", "pool-0", &[]));
        assert!(error.contains("cache node n/pool-0 gave no answer"), "{error}");
    }
}
