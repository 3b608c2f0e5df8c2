//! Azure Blob Storage, as Azurite does it, in memory.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use super::ask::{ask, escaped_path};
use super::{Running, free_address_on, listening_within, tool};

/// The account of every Azurite; its documentation names it.
pub const AZURE_ACCOUNT: &str = "devstoreaccount1";
/// The key of that account, in Base64; its documentation names it too, and it opens nothing else.
pub const AZURE_KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
/// A query that lets its bearer read and list all containers until 2099: a shared access signature of the account, with that key.
pub const AZURE_READER: &str =
    "sv=2022-11-02&ss=b&srt=co&sp=rl&se=2099-01-01T00%3A00%3A00Z&sig=LGK2jIbCYATUqNmm1tq%2BByjuw88q5mi21KGDATg6kY8%3D";
/// The same, and to write and delete.
const WRITER: &str = "sv=2022-11-02&ss=b&srt=sco&sp=rwdlac&se=2099-01-01T00%3A00%3A00Z&sig=7UONs%2FYaET%2FoSyuKlfGYYrSHwkJMD5C6lbWQsyp6QTU%3D";

/// Node.js reads several hundred files before it listens: 2 s on a quiet machine, many times that on one that builds.
const START_SECONDS_MAX: Duration = Duration::from_secs(60);

/// A running blob service; ended when dropped.
///
/// What the real service does and this does not: a range that begins at the end of a blob is answered by 206 and no bytes, a
/// `NextMarker` is the name of the last blob, names are in the order of UTF-16 and control characters in them end the listing
/// by 500, the time of a signature is not looked at, who has none is refused by 403, and `versionid` is ignored.
pub struct AzureServer {
    /// Where it listens.
    pub address: SocketAddr,
    _process: Running,
}

impl AzureServer {
    /// On any address of this machine, with one empty container.
    ///
    /// # Errors
    /// When it does not start.
    pub fn on(ip: IpAddr, container: &str) -> Result<Self> {
        let address = free_address_on(ip)?;
        let child = Command::new(tool("azurite")?)
            .args(["--blobHost", &ip.to_string(), "--blobPort", &address.port().to_string()])
            .args(["--inMemoryPersistence", "--disableTelemetry", "--silent"])
            // A client may speak a version that is newer than Azurite.
            .arg("--skipApiVersionCheck")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C is for whoever started it, who ends it when its readers are gone.
            .process_group(0)
            .spawn()
            .context("start azurite")?;
        let server = Self {
            address,
            _process: Running(child),
        };
        listening_within(START_SECONDS_MAX, address)?;
        server.make_container(container)?;
        Ok(server)
    }

    /// Where clients begin. The account is a part of the path, because there is no name to put it into.
    pub fn endpoint(&self) -> String {
        format!("http://{}/{AZURE_ACCOUNT}", self.address)
    }

    /// Makes one more empty container.
    ///
    /// # Errors
    /// When the server refuses, for example because there is one of that name.
    pub fn make_container(&self, container: &str) -> Result<()> {
        self.ask("PUT", &format!("{container}?restype=container&"), &[], &[])
    }

    /// Makes a blob, or overwrites it.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn put(&self, container: &str, name: &str, bytes: &[u8]) -> Result<()> {
        let headers = [
            ("x-ms-blob-type", "BlockBlob"),
            ("Content-Type", "application/octet-stream"),
        ];
        self.ask("PUT", &format!("{container}/{}?", escaped_path(name)), &headers, bytes)
    }

    /// Deletes a blob.
    ///
    /// # Errors
    /// When the server refuses, for example because there is none.
    pub fn delete(&self, container: &str, name: &str) -> Result<()> {
        self.ask("DELETE", &format!("{container}/{}?", escaped_path(name)), &[], &[])
    }

    fn ask(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<()> {
        let target = format!("/{AZURE_ACCOUNT}/{target}{WRITER}");
        ask(self.address, method, &target, headers, body).map(drop)
    }
}
