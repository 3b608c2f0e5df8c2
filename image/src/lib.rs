//! Writes an OCI image as a tar, without a container engine: one layer of files, the same bytes for the same input.
//!
//! Source of the format: the OCI image specification v1.1 (image layout, manifest, configuration). Must not know what the
//! files are.

use std::fs;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Time of everything in the image: a constant, so that two builds are equal.
const MODIFIED_UNIX_SECONDS: u64 = 0;

/// What goes into an image.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// Full names with tag, as the container runtime will know it; at least one.
    pub names: Vec<String>,
    /// As OCI calls it; `architecture()` for that of this program.
    pub architecture: String,
    /// Entries of the layer.
    pub entries: Vec<Entry>,
    /// The command; may be empty.
    pub entrypoint: Vec<String>,
    /// `NAME=VALUE`.
    pub environment: Vec<String>,
    /// User id of the process; "" is root.
    pub user: String,
}

/// One file, link or folder; paths have no slash in front.
#[derive(Clone, Debug)]
pub enum Entry {
    /// A copy of a file with these permission bits.
    File {
        /// Where it is now.
        source: PathBuf,
        /// Where it will be.
        path: String,
        /// Permission bits.
        mode: u32,
    },
    /// A file with this content.
    Text {
        /// Where it will be.
        path: String,
        /// Its content.
        text: String,
    },
    /// A symbolic link.
    Link {
        /// What it points at.
        target: String,
        /// Where it will be.
        path: String,
    },
    /// A folder with these permission bits; folders of files are made by themselves.
    Folder {
        /// Where it will be.
        path: String,
        /// Permission bits.
        mode: u32,
    },
}

impl Entry {
    fn path(&self) -> &str {
        match self {
            Self::File { path, .. } | Self::Text { path, .. } | Self::Link { path, .. } | Self::Folder { path, .. } => {
                path
            }
        }
    }
}

/// Writes the image to `out`.
///
/// # Errors
/// When a file cannot be read, two entries have one path, or `out` cannot be written.
pub fn write(image: &Image, out: &mut impl Write) -> Result<()> {
    if image.names.is_empty() || image.names.iter().any(|name| tag(name).is_empty()) {
        bail!(
            "an image needs a name with a tag, such as localhost/penstock:1, not {:?}",
            image.names
        );
    }
    let layer = layer(&image.entries)?;
    let layer_digest = digest(&layer);
    let environment = [vec!["PATH=/bin".to_owned()], image.environment.clone()].concat();
    let configuration = serde_json::to_vec(&json!({
        "architecture": image.architecture,
        "os": "linux",
        "config": {
            "Entrypoint": image.entrypoint,
            "Env": environment,
            "User": image.user,
        },
        "rootfs": {"type": "layers", "diff_ids": [layer_digest]},
    }))?;
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &configuration),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
    }))?;
    // One manifest under each name; the runtime stores its blobs once.
    let named = |name: &String| {
        let mut top = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
        top["platform"] = json!({"architecture": image.architecture, "os": "linux"});
        top["annotations"] = json!({"io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag(name)});
        top
    };
    let manifests: Vec<Value> = image.names.iter().map(named).collect();
    let index = serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": manifests}))?;

    let mut tar = tar::Builder::new(out);
    append(&mut tar, "oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    append(&mut tar, "index.json", 0o644, &index)?;
    for blob in [&layer, &configuration, &manifest] {
        let hex = digest(blob).replace("sha256:", "");
        append(&mut tar, &format!("blobs/sha256/{hex}"), 0o644, blob)?;
    }
    tar.into_inner()?.flush()?;
    Ok(())
}

/// What follows the colon of a name's last part; a colon before it belongs to a registry's port.
fn tag(name: &str) -> &str {
    let last = name.rsplit('/').next().unwrap_or_default();
    last.split_once(':').map_or("", |(_, tag)| tag)
}

/// The architecture that this program was built for, as OCI calls it.
///
/// # Errors
/// When OCI's name of it is not known here.
pub fn architecture() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => bail!("no OCI name is known here for the architecture {other}"),
    }
}

fn layer(entries: &[Entry]) -> Result<Vec<u8>> {
    let mut entries: Vec<&Entry> = entries.iter().collect();
    entries.sort_by_key(|entry| entry.path().to_owned());
    let mut tar = tar::Builder::new(Vec::new());
    let mut before = "";
    for entry in entries {
        let path = entry.path();
        if path == before || path.is_empty() || path.starts_with('/') {
            bail!("two entries at {path:?}, or a path that begins with a slash");
        }
        before = path;
        match entry {
            Entry::File { source, path, mode } => {
                let mut content = Vec::new();
                fs::File::open(source)
                    .and_then(|mut file| file.read_to_end(&mut content))
                    .with_context(|| format!("read {}", source.display()))?;
                append(&mut tar, path, *mode, &content)?;
            }
            Entry::Text { path, text } => append(&mut tar, path, 0o644, text.as_bytes())?,
            Entry::Link { target, path } => {
                let mut header = header(0o777, 0);
                header.set_entry_type(tar::EntryType::Symlink);
                tar.append_link(&mut header, path, target)?;
            }
            Entry::Folder { path, mode } => {
                let mut header = header(*mode, 0);
                header.set_entry_type(tar::EntryType::Directory);
                tar.append_data(&mut header, format!("{path}/"), io::empty())?;
            }
        }
    }
    Ok(tar.into_inner()?)
}

fn append(tar: &mut tar::Builder<impl Write>, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
    tar.append_data(&mut header(mode, content.len() as u64), path, content)
}

fn header(mode: u32, bytes: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_size(bytes);
    header.set_mtime(MODIFIED_UNIX_SECONDS);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(bytes), "size": bytes.len()})
}

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn image() -> Image {
        let text = |path: &str| Entry::Text {
            path: path.into(),
            text: path.into(),
        };
        let link = Entry::Link {
            target: "busybox".into(),
            path: "bin/sh".into(),
        };
        let folder = Entry::Folder {
            path: "tmp".into(),
            mode: 0o1777,
        };
        Image {
            names: vec!["localhost:5000/x:1".into(), "localhost/y:2".into()],
            architecture: "arm64".into(),
            entries: vec![text("etc/b"), link, text("etc/a"), folder],
            ..Image::default()
        }
    }

    fn written(image: &Image) -> Vec<u8> {
        let mut out = Vec::new();
        write(image, &mut out).unwrap();
        out
    }

    #[test]
    fn the_same_entries_in_any_order_give_the_same_bytes() {
        let mut reversed = image();
        reversed.entries.reverse();
        assert_eq!(written(&image()), written(&reversed));
    }

    #[test]
    fn every_digest_names_a_blob_with_that_digest() {
        let bytes = written(&image());
        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(bytes.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().to_str().unwrap().to_owned();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            files.insert(path, content);
        }
        let blob = |descriptor: &Value| {
            let named = descriptor["digest"].as_str().unwrap();
            let content = &files[&format!("blobs/sha256/{}", named.replace("sha256:", ""))];
            assert_eq!(
                (digest(content).as_str(), descriptor["size"].as_u64()),
                (named, Some(content.len() as u64))
            );
            content.clone()
        };
        let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
        assert_eq!(index["manifests"][0]["digest"], index["manifests"][1]["digest"]);
        assert_eq!(
            index["manifests"][1]["annotations"]["io.containerd.image.name"],
            "localhost/y:2"
        );
        assert_eq!(index["manifests"][0]["platform"]["architecture"], "arm64");
        let manifest: Value = serde_json::from_slice(&blob(&index["manifests"][0])).unwrap();
        let configuration: Value = serde_json::from_slice(&blob(&manifest["config"])).unwrap();
        let layer = blob(&manifest["layers"][0]);
        assert_eq!(configuration["rootfs"]["diff_ids"][0], digest(&layer));
    }

    #[test]
    fn a_name_without_a_tag_is_refused() {
        let mut untagged = image();
        untagged.names = vec!["localhost:5000/x".into()];
        assert!(write(&untagged, &mut Vec::new()).is_err());
    }

    #[test]
    fn two_entries_at_one_path_are_refused() {
        let mut twice = image();
        twice.entries.push(twice.entries[0].clone());
        assert!(write(&twice, &mut Vec::new()).is_err());
    }
}
