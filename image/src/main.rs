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
    /// Full name with tag; several are names of one image.
    #[arg(long = "name", required = true)]
    names: Vec<String>,
    /// As OCI calls it, when the files are not for this machine's.
    #[arg(long)]
    architecture: Option<String>,
    /// SOURCE=PATH[:MODE]: a file, executable (755) unless an octal mode is given.
    #[arg(long = "file", value_parser = file)]
    files: Vec<(String, String, u32)>,
    /// PATH[:MODE]: a folder, 755 unless an octal mode is given.
    #[arg(long = "dir", value_parser = path_and_mode)]
    folders: Vec<(String, u32)>,
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

fn file(text: &str) -> Result<(String, String, u32), String> {
    let (source, path) = pair(text)?;
    let (path, mode) = path_and_mode(&path)?;
    Ok((source, path, mode))
}

fn path_and_mode(text: &str) -> Result<(String, u32), String> {
    let (path, mode) = match text.rsplit_once(':') {
        Some((path, mode)) => {
            let mode = u32::from_str_radix(mode, 8).ok().filter(|mode| *mode <= 0o7777);
            (
                path,
                mode.ok_or_else(|| format!("what follows the colon of {text:?} is no octal mode"))?,
            )
        }
        None => (text, 0o755),
    };
    Ok((path.trim_matches('/').to_owned(), mode))
}

fn main() -> Result<()> {
    let Args {
        output,
        names,
        architecture,
        files,
        folders,
        links,
        entrypoint,
        environment,
        user,
        ca_bundle,
        users,
    } = Args::parse();
    let mut entries: Vec<Entry> = files
        .into_iter()
        .map(|(source, path, mode)| Entry::File {
            source: source.into(),
            path,
            mode,
        })
        .chain(folders.into_iter().map(|(path, mode)| Entry::Folder { path, mode }))
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
    let architecture = match architecture {
        Some(name) => name,
        None => penstock_image::architecture()?.to_owned(),
    };
    let file = File::create(&output).with_context(|| format!("write {}", output.display()))?;
    write(
        &Image {
            names,
            architecture,
            entries,
            entrypoint,
            environment,
            user,
        },
        &mut BufWriter::new(file),
    )
}
