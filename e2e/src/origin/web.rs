//! Files behind a web server: rclone, whose files have no ETag.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::{Running, free_address_on, listening, tool};

/// A running web server with the files of a folder, which its pages link to; ended when dropped. It says when files changed, and
/// gives them no ETag.
pub struct WebServer {
    /// Where it listens.
    pub address: SocketAddr,
    _process: Running,
    folder: tempfile::TempDir,
}

impl WebServer {
    /// rclone `serve http`, on any address of this machine.
    ///
    /// # Errors
    /// When it does not start.
    pub fn rclone_on(ip: IpAddr) -> Result<Self> {
        let (folder, address) = (tempfile::tempdir()?, free_address_on(ip)?);
        let child = Command::new(tool("rclone")?)
            .args(["serve", "http", "--addr", &address.to_string()])
            .args([
                "--dir-cache-time",
                "0s",
                "--vfs-cache-mode",
                "off",
                "--config",
                "/dev/null",
            ])
            .arg(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("start rclone serve http")?;
        let server = Self {
            address,
            _process: Running(child),
            folder,
        };
        listening(address)?;
        Ok(server)
    }

    /// Its files, which may be written to.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}
