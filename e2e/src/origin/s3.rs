//! S3: rclone, which serves a folder, and Garage, a real object store.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use super::{HOST, Running, free_address, free_address_on, listening, tool};
use crate::cluster::run;
use crate::wait::wait_for;

/// Access key of every S3 server here.
pub const ACCESS_KEY: &str = "GK31c2f218a2e44f485b94239e";
/// Secret key of every S3 server here: for tests only, it opens nothing else.
pub const SECRET_KEY: &str = "b892c0665f0ada8a4755dae98baa3b133590e11dae3bcc1f9d769d67f16c3835";

/// Folder of the buckets within the server's.
const BUCKETS: &str = "buckets";

/// In the folder of Garage.
const GARAGE_CONFIG: &str = "garage.toml";

/// A running S3 server; ended when dropped.
pub struct S3Server {
    /// Where it listens.
    pub address: SocketAddr,
    /// Name of the server's region.
    pub region: &'static str,
    _process: Running,
    folder: tempfile::TempDir,
    /// Kept as long as the server runs (rclone only).
    _hashes: Option<tempfile::TempDir>,
}

impl S3Server {
    /// rclone `serve s3`: each folder below `buckets()` is a bucket, files may be written there directly.
    ///
    /// # Errors
    /// When it does not start.
    pub fn rclone() -> Result<Self> {
        Self::rclone_on(HOST, &std::env::temp_dir())
    }

    /// The same on any address of this machine, with its folder below `parent`.
    ///
    /// # Errors
    /// When it does not start.
    pub fn rclone_on(ip: IpAddr, parent: &Path) -> Result<Self> {
        Self::rclone_with(ip, parent, &["--auth-key", &format!("{ACCESS_KEY},{SECRET_KEY}")])
    }

    /// The same, and anybody may read without a signature.
    ///
    /// # Errors
    /// When it does not start.
    pub fn public_rclone_on(ip: IpAddr, parent: &Path) -> Result<Self> {
        Self::rclone_with(ip, parent, &[])
    }

    fn rclone_with(ip: IpAddr, parent: &Path, options: &[&str]) -> Result<Self> {
        let folder = tempfile::tempdir_in(parent)?;
        let buckets = folder.path().join(BUCKETS);
        std::fs::create_dir(&buckets)?;
        // The ETag is the MD5 of the object. Without the hasher rclone reads the whole object again for each request that
        // asks for a part of it: 2.5 s a request for 1 GiB.
        let remote = format!(":hasher,remote='{}',hashes=md5,max_age=off:", buckets.display());
        // The hasher syncs each hash to disk, so listing 3,000 new objects takes 8 s, except in memory.
        let hashes = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir_in(parent))?;
        let address = free_address_on(ip)?;
        let child = Command::new(tool("rclone")?)
            .args(["serve", "s3", "--addr", &address.to_string()])
            .args(options)
            .args(["--dir-cache-time", "1s", "--vfs-cache-mode", "off"])
            .args(["--config", "/dev/null", "--cache-dir"])
            .arg(hashes.path())
            .arg(remote)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C is for whoever started it, who ends it when its readers are gone.
            .process_group(0)
            .spawn()
            .context("start rclone serve s3")?;
        Self {
            address,
            region: "us-east-1",
            _process: Running(child),
            folder,
            _hashes: Some(hashes),
        }
        .listening()
    }

    /// Garage, a real object store, with one bucket.
    ///
    /// # Errors
    /// When it does not start or refuses its configuration.
    pub fn garage(bucket: &str) -> Result<Self> {
        free_address()?;
        Self::garage_on(HOST, bucket)
    }

    /// The same on any address of this machine.
    ///
    /// # Errors
    /// When it does not start or refuses its configuration.
    pub fn garage_on(ip: IpAddr, bucket: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let (address, rpc, garage) = (free_address_on(ip)?, free_address_on(ip)?, tool("garage")?);
        let at = folder.path();
        let config = at.join(GARAGE_CONFIG);
        std::fs::write(
            &config,
            format!(
                "metadata_dir = \"{0}/meta\"\ndata_dir = \"{0}/data\"\ndb_engine = \"sqlite\"\nreplication_factor = 1\n\
                 rpc_bind_addr = \"{rpc}\"\nrpc_public_addr = \"{rpc}\"\nrpc_secret = \"{1}\"\n\
                 [s3_api]\ns3_region = \"garage\"\napi_bind_addr = \"{address}\"\nroot_domain = \".s3.garage\"\n",
                at.display(),
                "1799bccfd7411eddcf9ebd316bc1f5287ad12a68094e1c6ac6abde7e6feae1ec",
            ),
        )?;
        let child = Command::new(&garage)
            .args(["-c".as_ref(), config.as_os_str(), "server".as_ref()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start garage")?;
        let server = Self {
            address,
            region: "garage",
            _process: Running(child),
            folder,
            _hashes: None,
        }
        .listening()?;
        let node = wait_for("garage's node id", Duration::from_secs(20), || {
            Ok(server.ask_garage(&["node", "id", "-q"]).map_err(|e| e.to_string()))
        })?;
        let node = node.split('@').next().context("a node id")?.trim();
        server.ask_garage(&["layout", "assign", "-z", "dc1", "-c", "10G", node])?;
        server.ask_garage(&["layout", "apply", "--version", "1"])?;
        server.ask_garage(&["bucket", "create", bucket])?;
        server.allow_key(bucket, ACCESS_KEY, SECRET_KEY)?;
        Ok(server)
    }

    /// Whoever has this key may read and write a bucket (Garage only).
    ///
    /// # Errors
    /// When Garage refuses, for example because the id does not begin with `GK`.
    pub fn allow_key(&self, bucket: &str, id: &str, secret: &str) -> Result<()> {
        self.ask_garage(&["key", "import", "--yes", "-n", id, id, secret])?;
        self.ask_garage(&["bucket", "allow", "--read", "--write", bucket, "--key", id])?;
        Ok(())
    }

    /// A key opens nothing any more (Garage only).
    ///
    /// # Errors
    /// When there is no such key.
    pub fn revoke_key(&self, id: &str) -> Result<()> {
        self.ask_garage(&["key", "delete", "--yes", id]).map(drop)
    }

    fn ask_garage(&self, args: &[&str]) -> Result<String> {
        let config = self.folder.path().join(GARAGE_CONFIG);
        run(Command::new(tool("garage")?).arg("-c").arg(config).args(args))
    }

    /// The folder whose folders are the buckets (rclone only).
    pub fn buckets(&self) -> PathBuf {
        self.folder.path().join(BUCKETS)
    }

    /// Makes the objects below `bucket` equal to the files below `folder`, by the S3 API.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn upload(&self, folder: &Path, bucket: &str) -> Result<()> {
        run(Command::new(tool("rclone")?)
            .args(["sync", "--transfers", "8", "--checksum", "--config", "/dev/null"])
            .arg(folder)
            .arg(format!(":s3:{bucket}"))
            .args([
                "--s3-provider",
                "Other",
                "--s3-endpoint",
                &format!("http://{}", self.address),
            ])
            .args([
                "--s3-access-key-id",
                ACCESS_KEY,
                "--s3-secret-access-key",
                SECRET_KEY,
                "--s3-region",
                self.region,
            ])
            .args(["--s3-force-path-style", "--s3-no-check-bucket"]))?;
        Ok(())
    }

    fn listening(self) -> Result<Self> {
        listening(self.address)?;
        Ok(self)
    }
}
