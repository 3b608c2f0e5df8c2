//! The command line of the image writer.

use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use penstock_image::{Entry, Image, write};

/// Writes an OCI image as a tar that `ctr images import` and registries take. The same files give the same bytes.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// The tar.
    #[arg(long)]
    output: PathBuf,
    /// Full name with tag.
    #[arg(long)]
    name: String,
    /// SOURCE=PATH: a file, executable.
    #[arg(long = "file", value_parser = pair)]
    files: Vec<(String, String)>,
    /// TARGET=PATH: a symbolic link.
    #[arg(long = "link", value_parser = pair)]
    links: Vec<(String, String)>,
    /// What the container runs.
    #[arg(long)]
    entrypoint: Vec<String>,
    /// NAME=VALUE for the environment.
    #[arg(long = "env")]
    environment: Vec<String>,
    /// User id of the process.
    #[arg(long, default_value = "")]
    user: String,
    /// Adds the certificates of the machine's authorities, for TLS to origins.
    #[arg(long)]
    ca_bundle: bool,
    /// Adds /etc/passwd, /etc/group and a /tmp for everybody.
    #[arg(long)]
    users: bool,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (source, path) = text
        .split_once('=')
        .ok_or_else(|| format!("{text:?} is not SOURCE=PATH"))?;
    Ok((source.to_owned(), path.trim_start_matches('/').to_owned()))
}

fn main() -> Result<()> {
    let Args {
        output,
        name,
        files,
        links,
        entrypoint,
        environment,
        user,
        ca_bundle,
        users,
    } = Args::parse();
    let mut entries: Vec<Entry> = files
        .into_iter()
        .map(|(source, path)| Entry::File {
            source: source.into(),
            path,
            mode: 0o755,
        })
        .chain(links.into_iter().map(|(target, path)| Entry::Link { target, path }))
        .collect();
    if ca_bundle {
        let path = "etc/ssl/certs/ca-certificates.crt".to_owned();
        entries.push(Entry::File {
            source: format!("/{path}").into(),
            path,
            mode: 0o644,
        });
    }
    if users {
        let text = |path: &str, text: &str| Entry::Text {
            path: path.into(),
            text: text.into(),
        };
        entries.push(text(
            "etc/passwd",
            "root:x:0:0:root:/:/bin/sh\nnonroot:x:65532:65532:nonroot:/:/bin/sh\n",
        ));
        entries.push(text("etc/group", "root:x:0:\nnonroot:x:65532:\n"));
        entries.push(Entry::Folder {
            path: "tmp".into(),
            mode: 0o1777,
        });
    }
    let file = File::create(&output).with_context(|| format!("write {}", output.display()))?;
    write(
        &Image {
            name,
            entries,
            entrypoint,
            environment,
            user,
        },
        &mut BufWriter::new(file),
    )
}
