//! `kubectl penstock`: what a Dataset of a cluster is, asked by who has no more than kubectl and its rights. The same binary under
//! the name by which kubectl finds plugins.

mod kubectl;
mod status;

use std::ffi::OsStr;
use std::path::Path;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use penstock_crds::Dataset;

use self::kubectl::Kubectl;
use crate::args::Output;
use crate::commands::mounts;

/// What the file has to be called, or a link to it, on the PATH of who calls kubectl.
pub const NAME: &str = "kubectl-penstock";

/// Whether the binary was called as a plugin: by the first of its arguments.
pub fn is_called(program: &OsStr) -> bool {
    Path::new(program).file_stem() == Some(OsStr::new(NAME))
}

/// Datasets of a cluster: where their sources stand, what pods see, and how they are.
///
/// Everything is asked by kubectl, with your rights: to get Datasets, and for `ls` and `explain` to list pods and to make
/// pods/exec in the namespace of the Dataset, because a cache node of its pool is asked within its pod.
#[derive(Debug, Parser)]
#[command(
    name = "kubectl penstock",
    bin_name = "kubectl penstock",
    version,
    max_term_width = 100
)]
pub struct PluginArguments {
    /// What to do.
    #[command(subcommand)]
    pub command: PluginCommand,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum PluginCommand {
    /// Show where the sources of a dataset stand in its tree, and which of them pods see
    #[command(after_help = "Example:
  kubectl penstock mounts imagenet -n vision")]
    Mounts(Shown),
    /// List the files of a dataset as new pods see them: those of its revision, not what the sources have by now
    #[command(after_help = "Examples:
  kubectl penstock ls imagenet -n vision
  kubectl penstock ls -l imagenet train/n01440764
  kubectl penstock ls -R -o json imagenet | jq -r '.entries[] | select(.bytes > 1e9) | .path'")]
    Ls(Ls),
    /// Show how a dataset is: whether it is ready, what its revision has, how much is cached, what is wrong
    #[command(after_help = "Example:
  kubectl penstock status imagenet -n vision")]
    Status(Shown),
    /// Show where the parts of a file are cached, by which rule, or why they are not
    #[command(after_help = "Example:
  kubectl penstock explain imagenet train/n01440764/n01440764_18.JPEG -n vision")]
    Explain(Explain),
}

/// Which Dataset of which cluster: the same for every command.
#[derive(Args, Debug)]
pub struct Which {
    /// A Dataset
    pub dataset: String,
    /// Its namespace [default: that of kubectl]
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// Context of the kubeconfig
    // kubectl hands a plugin only what stands behind its name.
    #[arg(long, value_name = "CONTEXT")]
    pub context: Option<String>,
    /// The kubeconfig
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<String>,
}

/// Arguments of the commands that show one thing of a Dataset.
#[derive(Args, Debug)]
pub struct Shown {
    /// Which Dataset.
    #[command(flatten)]
    pub which: Which,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Arguments of `kubectl penstock ls`.
#[derive(Args, Debug)]
pub struct Ls {
    /// Which Dataset, and how it is shown.
    #[command(flatten)]
    pub shown: Shown,
    /// A file or folder of it [default: its root]
    #[arg(value_name = "PATH", default_value = "", hide_default_value = true)]
    pub path: String,
    /// With size and time
    #[arg(short = 'l')]
    pub long: bool,
    /// With everything below
    #[arg(short = 'R')]
    pub recursive: bool,
}

/// Arguments of `kubectl penstock explain`.
#[derive(Args, Debug)]
pub struct Explain {
    /// Which Dataset, and how it is shown.
    #[command(flatten)]
    pub shown: Shown,
    /// A file of it
    #[arg(value_name = "PATH")]
    pub path: String,
}

/// Does what is asked, and prints.
///
/// # Errors
/// What kubectl says when it refuses, or why there is no answer.
pub fn run(command: &PluginCommand) -> Result<()> {
    match command {
        PluginCommand::Mounts(Shown { which, output }) => mounts::print(&found(which)?.1, *output),
        PluginCommand::Status(Shown { which, output }) => status::print(&found(which)?.1, *output),
        PluginCommand::Ls(Ls {
            shown: Shown { which, output },
            path,
            long,
            recursive,
        }) => {
            let flags = [("-l", *long), ("-R", *recursive)]
                .into_iter()
                .filter(|(_, is_set)| *is_set);
            let mut asked = vec!["cache", "files"];
            asked.extend(flags.map(|(flag, _)| flag));
            ask(which, &asked, *output, path)
        }
        PluginCommand::Explain(Explain {
            shown: Shown { which, output },
            path,
        }) => ask(which, &["explain"], *output, path),
    }
}

/// Has a cache node of its pool answer, which prints.
fn ask(which: &Which, command: &[&str], output: Output, path: &str) -> Result<()> {
    let (kubectl, dataset) = found(which)?;
    let namespace = dataset
        .metadata
        .namespace
        .as_deref()
        .context("the Dataset has no namespace")?;
    let name = format!("{namespace}/{}", which.dataset);
    let runtime = dataset.status.as_ref().and_then(|status| status.runtime.as_deref());
    let runtime = runtime.with_context(|| {
        format!("Dataset {name} has no CacheRuntime yet: `kubectl penstock status` says what it waits for")
    })?;
    let pod = kubectl.cache_node(namespace, runtime)?;
    let mut asked = command.to_vec();
    if output == Output::Json {
        asked.extend(["-o", "json"]);
    }
    // What follows are no flags, whatever a file is called.
    asked.extend(["--", &name, path]);
    kubectl.show(namespace, &pod, &asked)
}

fn found(which: &Which) -> Result<(Kubectl, Dataset)> {
    let kubectl = Kubectl::of(which);
    let dataset = kubectl.dataset(&which.dataset, which.namespace.as_deref())?;
    Ok((kubectl, dataset))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_every_command_has_an_example() {
        let mut all = PluginArguments::command();
        all.clone().debug_assert();
        for command in all.get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("kubectl penstock"), "{}", command.get_name());
        }
        let usage = all.render_usage().to_string();
        assert!(usage.contains("kubectl penstock <COMMAND>"), "{usage}");
    }

    #[test]
    fn the_name_of_the_link_makes_it_a_plugin() {
        for (program, expected) in [
            ("/usr/local/bin/kubectl-penstock", true),
            ("kubectl-penstock", true),
            ("/usr/local/bin/penstock", false),
            ("/opt/kubectl-penstock/penstock", false),
        ] {
            assert_eq!(is_called(OsStr::new(program)), expected, "{program}");
        }
    }
}
