//! The YAML file that every command takes: one Dataset, and the Secrets that it names.

use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use penstock_cache_node::builder::options;
use penstock_crds::{Dataset, Source};
use penstock_origin::Environment;
use penstock_protocol::control::cache_node as wire;
use penstock_revision::BuildOptions;
use penstock_sources::{Granted, looked_at, realm, wire_ownership, wire_source, with_kdcs};

use crate::args::Which;
use crate::documents::Document;
use crate::limits::DATASET_FILE_BYTES_MAX;
use crate::{cache_folder, credentials, kerberos, local, rules};

/// A file with one Dataset, or of several the chosen one.
pub struct DatasetFile {
    /// The file's name, for sentences.
    shown: String,
    documents: Vec<Document>,
    chosen: usize,
}

/// A Dataset as this machine uses it.
pub struct LocalDataset {
    /// `namespace/name`, or the name alone.
    pub name: String,
    /// Its sources as a person knows them.
    pub described: String,
    /// Its sources.
    pub sources: Vec<local::Source>,
    /// Owner and permission bits of its files.
    pub ownership: BuildOptions,
    /// How long a read of a mount waits for the origin before it fails.
    pub read_timeout: Duration,
    default_cache_folder: PathBuf,
}

impl DatasetFile {
    /// Reads the file.
    ///
    /// # Errors
    /// When it cannot be read, is no YAML, or has not exactly one Dataset that is meant.
    pub fn read(which: &Which) -> Result<Self> {
        let Which { file, dataset } = which;
        let shown = file.display().to_string();
        let read = || -> std::io::Result<String> {
            let mut text = String::new();
            if file.as_os_str() == "-" {
                std::io::stdin()
                    .take(DATASET_FILE_BYTES_MAX)
                    .read_to_string(&mut text)?;
            } else {
                std::fs::File::open(file)?
                    .take(DATASET_FILE_BYTES_MAX)
                    .read_to_string(&mut text)?;
            }
            Ok(text)
        };
        let text = read().with_context(|| format!("read {shown}"))?;
        Self::parse(&shown, &text, dataset.as_deref()).context(shown)
    }

    fn parse(shown: &str, text: &str, name: Option<&str>) -> Result<Self> {
        let documents = Document::all(text).map_err(anyhow::Error::msg)?;
        let datasets: Vec<_> = (0..documents.len())
            .filter(|at| documents[*at].kind == "Dataset")
            .collect();
        let names = || -> String {
            let names: Vec<_> = datasets.iter().map(|at| documents[*at].name.as_str()).collect();
            names.join(", ")
        };
        let meant: Vec<_> = datasets
            .iter()
            .copied()
            .filter(|at| name.is_none_or(|name| documents[*at].name == name))
            .collect();
        let chosen = match (meant.as_slice(), name) {
            ([one], _) => *one,
            ([], None) => bail!("it has no Dataset: it needs a document with `kind: Dataset`"),
            ([], Some(name)) => bail!("it has no Dataset {name:?}; it has: {}", names()),
            (_, None) => bail!(
                "it has {} Datasets ({}): choose one with --dataset NAME",
                datasets.len(),
                names()
            ),
            (_, Some(name)) => bail!("it has {} Datasets of the name {name:?}", meant.len()),
        };
        let shown = shown.to_owned();
        Ok(Self {
            shown,
            documents,
            chosen,
        })
    }

    /// The Dataset as it is written.
    ///
    /// # Errors
    /// When a field makes no sense.
    pub fn dataset(&self) -> Result<Dataset> {
        rules::dataset(&self.documents[self.chosen])
            .map_err(anyhow::Error::msg)
            .with_context(|| self.shown.clone())
    }

    /// The Dataset with its origins, ready to be listed.
    ///
    /// # Errors
    /// When a field makes no sense or credentials are missing.
    pub fn local(&self) -> Result<LocalDataset> {
        let document = &self.documents[self.chosen];
        let dataset = self.dataset()?;
        let environment = |key: &str| std::env::var(key).ok();
        let identity = Environment::of_process();
        let read_timeout = dataset.spec.read_timeout();
        let mut described = Vec::new();
        let mut sources = Vec::new();
        for source in &dataset.spec.sources {
            let told = self.told(source, environment).with_context(|| self.shown.clone())?;
            let origin = penstock_origin::client(&told, &identity)?;
            described.push(origin.place());
            let path = source.path.clone();
            sources.push(local::Source { path, origin });
        }
        let home = std::env::var_os("HOME").map(PathBuf::from);
        let is_root = rustix::process::geteuid().is_root();
        let Document { namespace, name, .. } = document;
        Ok(LocalDataset {
            name: if namespace.is_empty() {
                name.clone()
            } else {
                format!("{namespace}/{name}")
            },
            described: described.join(", "),
            sources,
            ownership: options(dataset.spec.ownership.as_ref().map(wire_ownership)),
            read_timeout,
            default_cache_folder: cache_folder::default_path(namespace, name, is_root, home.as_deref()),
        })
    }

    fn told(&self, source: &Source, environment: impl Fn(&str) -> Option<String>) -> Result<wire::Source> {
        if let Some(why) = Granted::to_oneself().refused("", source) {
            bail!(
                "the source at {:?} may not be read with the identity of who runs this: {why}",
                source.path
            );
        }
        let secret = source.secret().map(|secret| secret.name.as_str());
        let keys = credentials::resolve(secret, looked_at(source), &self.documents, &environment)?;
        let told = wire_source(source, keys.as_ref())?;
        if realm(&told).is_none() {
            return Ok(told);
        }
        let realms = kerberos::realms(environment("KRB5_CONFIG").as_deref());
        Ok(with_kdcs(told, &realms))
    }
}

impl LocalDataset {
    /// The folder of its cache: the one that was asked for, or its own.
    pub fn cache_folder(&self, asked: Option<PathBuf>) -> PathBuf {
        asked.unwrap_or_else(|| self.default_cache_folder.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "kind: Secret
metadata: {name: aws}
---
apiVersion: penstock.io/v1alpha1
kind: Dataset
metadata: {name: a, namespace: vision}
spec: {sources: [{s3: {bucket: one}}, {path: b, s3: {bucket: two, prefix: x/}}]}
---
apiVersion: penstock.io/v1alpha1
kind: Dataset
metadata: {name: b}
spec: {sources: [{s3: {bucket: three}}]}
";

    #[test]
    fn the_dataset_that_is_meant_is_chosen() {
        let dataset = DatasetFile::parse("x.yaml", TWO, Some("a")).unwrap().local().unwrap();
        assert_eq!(dataset.name, "vision/a");
        assert_eq!(dataset.described, "s3://one/, s3://two/x/");
        assert_eq!(dataset.sources.len(), 2);
        assert!(dataset.cache_folder(None).ends_with("vision.a"));
        assert_eq!(dataset.cache_folder(Some("/x".into())), PathBuf::from("/x"));
    }

    #[test]
    fn a_file_that_does_not_say_which_is_refused() {
        for (text, name, sentence) in [
            (TWO, None, "it has 2 Datasets (a, b): choose one with --dataset NAME"),
            (TWO, Some("c"), "it has no Dataset \"c\"; it has: a, b"),
            (
                "kind: Pod",
                None,
                "it has no Dataset: it needs a document with `kind: Dataset`",
            ),
            ("", None, "it has no Dataset"),
        ] {
            let error = DatasetFile::parse("x.yaml", text, name)
                .err()
                .map(|error| error.to_string());
            assert!(error.as_ref().is_some_and(|said| said.contains(sentence)), "{error:?}");
        }
    }

    #[test]
    fn the_identity_of_who_runs_it_is_for_the_clouds_own_servers() {
        let local = |more: &str| {
            let text = format!(
                "apiVersion: penstock.io/v1alpha1\nkind: Dataset\nmetadata: {{name: a}}\nspec: {{sources: [{{gcs: {{bucket: models, \
                 workloadIdentity: true{more}}}}}]}}\n"
            );
            let local = DatasetFile::parse("x.yaml", &text, None).unwrap().local();
            local
                .map(|dataset| dataset.described)
                .map_err(|error| format!("{error:#}"))
        };
        assert_eq!(local("").as_deref(), Ok("gs://models/"));
        let said = local(", endpoint: \"https://storage.example.org\"").unwrap_err();
        assert!(
            said.contains("https://storage.example.org is not the cloud's own server"),
            "{said}"
        );
        let said = local(", credentialsSecretRef: {name: google}").unwrap_err();
        assert!(said.contains("workloadIdentity and credentialsSecretRef"), "{said}");
    }

    #[test]
    fn a_claim_is_not_read_here_and_a_folder_is_named_instead() {
        let text = "apiVersion: penstock.io/v1alpha1\nkind: Dataset\nmetadata: {name: a}\nspec: {sources: [{claim: {name: data}}]}\n";
        let local = DatasetFile::parse("x.yaml", text, None).unwrap().local();
        let said = local.err().map(|error| format!("{error:#}")).unwrap_or_default();
        assert!(
            said.contains("the claim data can only be read in a cluster") && said.contains("as `folder`"),
            "{said}"
        );
    }
}
