//! Real servers of each kind of origin beside the cluster, reachable from its pods. Each ends when it is dropped.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::cluster::{repository, run};
use crate::wait::wait_for;

mod ask;
mod azure;
mod gcs;
mod hdfs;
mod kerberos;
mod nginx;
mod s3;
mod web;

pub use azure::{AZURE_ACCOUNT, AZURE_KEY, AZURE_READER, AzureServer};
pub use gcs::GcsServer;
pub use hdfs::HdfsCluster;
pub use kerberos::Realm;
pub use nginx::{Nginx, NginxOptions};
pub use s3::{ACCESS_KEY, S3Server, SECRET_KEY};
pub use web::WebServer;

/// The address of the machine in the cluster's network; pods reach it.
pub const HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 30, 0, 1));

/// A process that ends when this is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It is our own child and not yet waited for, so the id is still ours.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn listening(address: SocketAddr) -> Result<()> {
    listening_within(Duration::from_secs(20), address)
}

fn listening_within(deadline: Duration, address: SocketAddr) -> Result<()> {
    wait_for(&format!("the server on {address}"), deadline, || {
        Ok(TcpStream::connect(address)
            .map(|_| ())
            .map_err(|error| error.to_string()))
    })
}

/// An address on the machine's side of the cluster's network with a free port.
///
/// # Errors
/// When there is none, for example outside of the cluster's network namespace.
pub fn free_address() -> Result<SocketAddr> {
    free_address_on(HOST)
        .with_context(|| format!("{HOST} is not here: stories run inside the cluster's network, by e2e/stories"))
}

fn free_address_on(ip: IpAddr) -> Result<SocketAddr> {
    Ok(TcpListener::bind((ip, 0))?.local_addr()?)
}

fn tool(name: &str) -> Result<PathBuf> {
    let path = run(Command::new(repository().join("e2e/tools/get")).arg(name))?;
    Ok(PathBuf::from(path.trim()))
}
