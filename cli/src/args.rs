//! The command line of `penstock`: what a person types, checked once. Does nothing itself.

use std::path::PathBuf;
use std::str::FromStr;

use penstock_mount::forms::Wish;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Datasets from object storage at local-disk speed, without Kubernetes.
///
/// Most commands take the YAML of a Dataset, the same that `kubectl apply` takes. Credentials come from the Secret of
/// the same file that `credentialsSecretRef` names, else from the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY,
/// AZURE_STORAGE_KEY, HF_TOKEN, ...); without either the origin is read anonymously.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Mount a dataset on a folder, read-only, and serve it until Ctrl-C
    #[command(after_help = "Examples:
  sudo penstock mount imagenet.yaml /mnt/imagenet
  sudo penstock mount imagenet.yaml /mnt/imagenet --cache-dir /nvme/cache --cache-size 500Gi

The folder shows the objects as they are now; mount again to see newer ones. The cache folder is kept: the next
mount of the same dataset fetches only what changed. `penstock status DIR` shows how much is cached.")]
    Mount(Mount),
    /// Show where the sources of a dataset stand in its tree, and which of them pods see
    #[command(after_help = "Examples:
  penstock mounts imagenet.yaml
  kubectl get dataset -n vision imagenet -o yaml | penstock mounts -

A file says what is wanted. With the status that `kubectl get` adds it is told of each source whether new pods see it, and which
sources only pods of older revisions still see.")]
    Mounts(Mounts),
    /// Try each source of a dataset: name, connection, credentials, listing, and a range of an object in its version
    #[command(after_help = "Example:
  penstock check imagenet.yaml

Exits with 1 when one of them cannot be used, and says why. It is asked from this machine: cache nodes may stand elsewhere in
the network, and have other credentials.")]
    Check(Which),
    /// List the files of a dataset, without mounting it
    #[command(after_help = "Examples:
  penstock ls imagenet.yaml
  penstock ls -l imagenet.yaml train/n01440764
  penstock ls -R -o json imagenet.yaml | jq -r '.entries[] | select(.bytes > 1e9) | .path'")]
    Ls(Ls),
    /// Show a dataset, or one file of it: size, time, and the object behind it
    #[command(after_help = "Examples:
  penstock stat imagenet.yaml
  penstock stat imagenet.yaml train/n01440764/n01440764_18.JPEG")]
    Stat(Stat),
    /// Write files of a dataset to standard output, without mounting it
    #[command(after_help = "Example:
  penstock cat imagenet.yaml labels.txt | head")]
    Cat(Cat),
    /// Show what a running mount has cached and what it asked of the origin
    #[command(after_help = "Examples:
  penstock status /mnt/imagenet
  penstock status -o json /mnt/imagenet | jq .origin.bytes")]
    Status(Status),
    /// Show what is wrong on a node of a cluster: what is mounted for whom, who holds it, what to do
    #[command(after_help = "Example:
  kubectl exec -n penstock-system penstock-csi-abcde -- /bin/penstock doctor")]
    Doctor(Doctor),
    /// Look into the cache nodes of a cluster: what is cached, how much of it, whether it is right; and evict it
    #[command(after_help = "Examples:
  kubectl exec -n vision pool-0 -- /bin/penstock cache ls
  kubectl exec -n vision pool-0 -- /bin/penstock cache stat imagenet train
  kubectl exec -n vision pool-0 -- /bin/penstock cache verify

A DATASET is NAMESPACE/NAME, or NAME alone where only one is called so. `ls` and `verify` are about the cache node that is
asked, `stat` and `evict` about all of its pool.")]
    Cache(CacheNode),
    /// Show where the parts of a file are cached in a cluster, by which rule, or why they are not
    #[command(after_help = "Examples:
  kubectl exec -n vision pool-0 -- /bin/penstock explain imagenet train/n01440764/n01440764_18.JPEG
  kubectl exec -n vision pool-0 -- /bin/penstock explain -o json imagenet labels.csv | jq -r '.ranges[].state'")]
    Explain(Explain),
}

/// Which dataset: the same for every command.
#[derive(Args, Debug)]
pub struct Which {
    /// YAML file with the Dataset ("-": standard input)
    #[arg(value_name = "DATASET.yaml")]
    pub file: PathBuf,
    /// Name of the Dataset, when the file has more than one
    // A file of many Datasets is what people keep in git; cutting it in pieces would make two truths of it.
    #[arg(long, value_name = "NAME", env = "PENSTOCK_DATASET")]
    pub dataset: Option<String>,
}

/// Where blocks are kept on this machine.
#[derive(Args, Debug)]
pub struct Cache {
    /// Folder of the cache [default: /var/cache/penstock/NAMESPACE.NAME, for other users than root below ~/.cache]
    #[arg(long, value_name = "FOLDER", env = "PENSTOCK_CACHE_DIR")]
    pub cache_dir: Option<PathBuf>,
    /// Most bytes that the cache keeps, like 500Gi or 20G; what does not fit is read through
    #[arg(long, value_name = "SIZE", env = "PENSTOCK_CACHE_SIZE", default_value = "100Gi")]
    pub cache_size: Size,
}

/// Arguments of `penstock mount`.
#[derive(Args, Debug)]
pub struct Mount {
    /// Which dataset.
    #[command(flatten)]
    pub which: Which,
    /// An empty folder
    #[arg(value_name = "DIR")]
    pub target: PathBuf,
    /// Where blocks are kept.
    #[command(flatten)]
    pub cache: Cache,
    /// How the kernel is given the files: auto, file, loop (these two need root) or fuse [default: the best that works]
    #[arg(long, value_name = "FORM", env = "PENSTOCK_FORM", default_value_t = Wish::Auto, hide_default_value = true)]
    pub form: Wish,
    /// How the line that says "ready" is written
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Arguments of `penstock mounts`.
#[derive(Args, Debug)]
pub struct Mounts {
    /// Which dataset.
    #[command(flatten)]
    pub which: Which,
    /// Form of the list
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Arguments of `penstock ls`.
#[derive(Args, Debug)]
pub struct Ls {
    /// Which dataset.
    #[command(flatten)]
    pub which: Which,
    /// A file or folder of the dataset [default: its root]
    #[arg(value_name = "PATH", default_value = "", hide_default_value = true)]
    pub path: String,
    /// With size and time
    #[arg(short = 'l')]
    pub long: bool,
    /// With everything below
    #[arg(short = 'R')]
    pub recursive: bool,
    /// Form of the list
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Arguments of `penstock stat`.
#[derive(Args, Debug)]
pub struct Stat {
    /// Which dataset.
    #[command(flatten)]
    pub which: Which,
    /// A file or folder of the dataset [default: the dataset itself]
    #[arg(value_name = "PATH", default_value = "", hide_default_value = true)]
    pub path: String,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Arguments of `penstock cat`.
#[derive(Args, Debug)]
pub struct Cat {
    /// Which dataset.
    #[command(flatten)]
    pub which: Which,
    /// Files of the dataset
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<String>,
    /// Where blocks are kept.
    #[command(flatten)]
    pub cache: Cache,
}

/// Arguments of `penstock doctor`.
#[derive(Args, Debug)]
pub struct Doctor {
    /// Where the csi container of the node answers
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7081")]
    pub address: String,
}

/// Arguments of `penstock cache`.
#[derive(Args, Debug)]
pub struct CacheNode {
    /// What to do.
    #[command(subcommand)]
    pub command: CacheCommand,
}

/// What to do with what is cached.
#[derive(Debug, Subcommand)]
pub enum CacheCommand {
    /// List what a cache node holds: its tiers, and of which datasets
    #[command(after_help = "Examples:
  kubectl exec -n vision pool-0 -- /bin/penstock cache ls
  kubectl exec -n vision pool-0 -- /bin/penstock cache ls -o json | jq '.tiers[] | select(.fault)'")]
    Ls(CacheLs),
    /// Show how much of a dataset, a folder or a file is cached, and on which cache nodes
    #[command(after_help = "Examples:
  kubectl exec -n vision pool-0 -- /bin/penstock cache stat imagenet
  kubectl exec -n vision pool-0 -- /bin/penstock cache stat imagenet train/n01440764")]
    Stat(CacheStat),
    /// List the files of a dataset as pods see them: those of its newest revision, not what the sources have by now
    #[command(after_help = "Examples:
  kubectl exec -n vision pool-0 -- /bin/penstock cache files imagenet
  kubectl exec -n vision pool-0 -- /bin/penstock cache files -l -R imagenet train")]
    Files(CacheFiles),
    /// Evict a dataset, a folder or a file from all cache nodes; nothing is deleted at the source
    #[command(after_help = "Examples:
  kubectl exec -n vision pool-0 -- /bin/penstock cache evict imagenet scratch
  kubectl exec -n vision pool-0 -- /bin/penstock cache evict vision/imagenet /

Pods may read on: what they read is fetched again, and cached again. That goes for what is pinned too. What is on its way
at this moment arrives all the same.")]
    Evict(CacheEvict),
    /// Compare what a cache node holds with its checksums; what is damaged goes, and is fetched again when it is read
    #[command(after_help = "Examples:
  kubectl exec -n vision pool-0 -- /bin/penstock cache verify
  kubectl exec -n vision pool-0 -- /bin/penstock cache verify imagenet train

Each cache node does so once a day by itself, slowly. This reads its disks as fast as one reader can, until it is
through or ended.")]
    Verify(CacheVerify),
}

/// Which cache node, and how its answer is shown: the same for every command that asks one.
#[derive(Args, Debug)]
pub struct Asked {
    /// Where a cache node of the pool answers
    // Another one than that of the pod is asked through a forwarded port, and by the tests.
    #[arg(
        long,
        value_name = "HOST:PORT",
        env = "PENSTOCK_CACHE_NODE",
        default_value = "127.0.0.1:7073"
    )]
    pub address: String,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Arguments of `penstock cache ls`.
#[derive(Args, Debug)]
pub struct CacheLs {
    /// Which cache node.
    #[command(flatten)]
    pub asked: Asked,
}

/// Arguments of `penstock cache stat`.
#[derive(Args, Debug)]
pub struct CacheStat {
    /// Which cache node.
    #[command(flatten)]
    pub asked: Asked,
    /// A dataset of the cluster
    pub dataset: String,
    /// A file or folder of it [default: all of it]
    #[arg(value_name = "PATH", default_value = "", hide_default_value = true)]
    pub path: String,
}

/// Arguments of `penstock cache files`.
#[derive(Args, Debug)]
pub struct CacheFiles {
    /// Which cache node.
    #[command(flatten)]
    pub asked: Asked,
    /// A dataset of the cluster
    pub dataset: String,
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

/// Arguments of `penstock cache evict`.
#[derive(Args, Debug)]
pub struct CacheEvict {
    /// Which cache node.
    #[command(flatten)]
    pub asked: Asked,
    /// A dataset of the cluster
    pub dataset: String,
    /// A file or folder of it; / is all of it
    #[arg(value_name = "PATH")]
    pub path: String,
}

/// Arguments of `penstock cache verify`.
#[derive(Args, Debug)]
pub struct CacheVerify {
    /// Which cache node.
    #[command(flatten)]
    pub asked: Asked,
    /// A dataset of the cluster [default: all that is cached]
    pub dataset: Option<String>,
    /// A file or folder of it [default: all of it]
    #[arg(value_name = "PATH", default_value = "", hide_default_value = true)]
    pub path: String,
}

/// Arguments of `penstock explain`.
#[derive(Args, Debug)]
pub struct Explain {
    /// Which cache node.
    #[command(flatten)]
    pub asked: Asked,
    /// A dataset of the cluster
    pub dataset: String,
    /// A file of it
    #[arg(value_name = "PATH")]
    pub path: String,
}

/// Arguments of `penstock status`.
#[derive(Args, Debug)]
pub struct Status {
    /// Where the dataset is mounted
    #[arg(value_name = "DIR")]
    pub target: PathBuf,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// For a person or for a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For a person
    #[default]
    Text,
    /// One JSON document
    Json,
}

/// A number of bytes, written like the quantities of Kubernetes: `500Gi`, `20G`, `4096`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || format!("{text:?} is no size: write a number and Ki, Mi, Gi, Ti, k, M, G or T, like 500Gi");
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit: u64 = match &text[digits.len()..] {
            "" => 1,
            "k" => 1000,
            "M" => 1000 * 1000,
            "G" => 1000 * 1000 * 1000,
            "T" => 1000 * 1000 * 1000 * 1000,
            "Ki" => 1 << 10,
            "Mi" => 1 << 20,
            "Gi" => 1 << 30,
            "Ti" => 1 << 40,
            _ => return Err(refused()),
        };
        let count: u64 = digits.parse().map_err(|_| refused())?;
        match count.checked_mul(unit) {
            Some(0) | None => Err(refused()),
            Some(bytes) => Ok(Self(bytes)),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_size_is_written_as_in_kubernetes() {
        for (text, bytes) in [("4096", 4096), ("20G", 20_000_000_000), ("1Ki", 1024), ("3Ti", 3 << 40)] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for text in ["", "Gi", "1.5Gi", "-1", "5gb", "0", "99999999999Ti", "1 Gi"] {
            let refused = text.parse::<Size>();
            assert!(
                refused.as_ref().is_err_and(|said| said.contains("like 500Gi")),
                "{text}: {refused:?}"
            );
        }
    }

    #[test]
    fn every_command_has_an_example() {
        let all = Arguments::command();
        let below = all.get_subcommands().flat_map(clap::Command::get_subcommands);
        for command in all.get_subcommands().chain(below) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example"), "{}", command.get_name());
        }
    }
}
