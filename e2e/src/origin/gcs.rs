//! Google Cloud Storage, as fake-gcs-server does it: its JSON API over HTTP, in memory, without asking who it is.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::ask::{ask, escaped};
use super::{Running, free_address_on, listening, tool};

/// A running server of the JSON API; ended when dropped.
///
/// What the real service does and this does not: it ignores credentials, `fields`, and conditions of reads
/// (`ifGenerationMatch`, `If-Match`, `If-None-Match`); a page without `maxResults` has all objects, `nextPageToken` is the name
/// of the next object, and with `delimiter` each page has all prefixes.
pub struct GcsServer {
    /// Where it listens.
    pub address: SocketAddr,
    _process: Running,
}

impl GcsServer {
    /// On any address of this machine, with one empty bucket.
    ///
    /// # Errors
    /// When it does not start.
    pub fn on(ip: IpAddr, bucket: &str) -> Result<Self> {
        let address = free_address_on(ip)?;
        let child = Command::new(tool("fake-gcs-server")?)
            .args(["-backend", "memory", "-scheme", "http"])
            .args(["-host", &ip.to_string(), "-port", &address.port().to_string()])
            // The links in its answers lead to itself.
            .args(["-public-host", &address.to_string()])
            .args(["-external-url", &format!("http://{address}")])
            .args(["-log-level", "error"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C is for whoever started it, who ends it when its readers are gone.
            .process_group(0)
            .spawn()
            .context("start fake-gcs-server")?;
        let server = Self {
            address,
            _process: Running(child),
        };
        listening(address)?;
        server.make_bucket(bucket)?;
        Ok(server)
    }

    /// Where clients begin.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Makes one more empty bucket.
    ///
    /// # Errors
    /// When the server refuses, for example because there is one of that name.
    pub fn make_bucket(&self, bucket: &str) -> Result<()> {
        self.make(&serde_json::json!({ "name": bucket }))
    }

    /// Makes one more empty bucket, which keeps what is overwritten or deleted.
    ///
    /// # Errors
    /// As of others.
    pub fn make_versioned_bucket(&self, bucket: &str) -> Result<()> {
        self.make(&serde_json::json!({ "name": bucket, "versioning": { "enabled": true } }))
    }

    fn make(&self, bucket: &serde_json::Value) -> Result<()> {
        let body = bucket.to_string();
        self.ask("POST", "/storage/v1/b?project=tests", body.as_bytes())
            .map(drop)
    }

    /// Makes an object, or overwrites it, and gives its generation.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn put(&self, bucket: &str, key: &str, bytes: &[u8]) -> Result<i64> {
        let target = format!("/upload/storage/v1/b/{bucket}/o?uploadType=media&name={}", escaped(key));
        let made: serde_json::Value = serde_json::from_slice(&self.ask("POST", &target, bytes)?)?;
        let generation = made["generation"].as_str().context("a generation")?;
        generation.parse().context("a generation")
    }

    /// Deletes an object.
    ///
    /// # Errors
    /// When the server refuses, for example because there is none.
    pub fn delete(&self, bucket: &str, key: &str) -> Result<()> {
        let target = format!("/storage/v1/b/{bucket}/o/{}", escaped(key));
        self.ask("DELETE", &target, &[]).map(drop)
    }

    fn ask(&self, method: &str, target: &str, body: &[u8]) -> Result<Vec<u8>> {
        // Else it guesses the type from the content.
        let headers = [("Content-Type", "application/octet-stream")];
        ask(self.address, method, target, &headers, body)
    }
}
