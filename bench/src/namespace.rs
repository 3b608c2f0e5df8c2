//! A second machine, as far as the network goes: a network namespace with a virtual cable to ours. Removed when dropped.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::os::fd::AsFd;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, ensure};
use rustix::net::sockopt;
use rustix::thread::LinkNameSpaceType;

/// The namespace and its cable.
pub struct Namespace {
    name: String,
    cable: String,
}

// Our end of the cable. 198.18.0.0/15 is set aside for benchmarks (RFC 2544), so nobody's network is hidden.
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 77, 1));
// The other end.
const THERE: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 77, 2));

impl Namespace {
    /// Makes the namespace.
    ///
    /// # Errors
    /// When `ip` of iproute2 is missing or refuses: this needs root.
    pub fn new() -> Result<Self> {
        let id = std::process::id();
        let namespace = Self {
            name: format!("penstock-bench-{id}"),
            cable: format!("psb{id}"),
        };
        let (name, cable) = (&namespace.name, &namespace.cable);
        ip(&format!("netns add {name}"))?;
        ip(&format!(
            "link add {cable} mtu 1500 type veth peer name eth0 mtu 1500 netns {name}"
        ))?;
        ip(&format!("addr add {HERE}/30 dev {cable}"))?;
        ip(&format!("link set {cable} up"))?;
        ip(&format!("-n {name} addr add {THERE}/30 dev eth0"))?;
        ip(&format!("-n {name} link set eth0 up"))?;
        ip(&format!("-n {name} link set lo up"))?;
        Ok(namespace)
    }

    /// A socket that listens in there on a free port, served by whoever holds it: what is accepted stays in there too.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn listen(&self) -> Result<TcpListener> {
        let path = format!("/run/netns/{}", self.name);
        // A thread of its own: a namespace is entered for the rest of a thread's life.
        let listening = thread::spawn(move || -> Result<TcpListener> {
            let namespace = File::open(&path).with_context(|| path.clone())?;
            rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            let listener = TcpListener::bind((THERE, 0))?;
            // BBR models a cable, and one that is as fast as memory misleads it: a plain loop swung between 1.5 and 5 GiB/s.
            sockopt::set_tcp_congestion(&listener, "cubic").context("set the congestion control to cubic")?;
            Ok(listener)
        });
        listening.join().map_err(|_| anyhow::anyhow!("the listener panicked"))?
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The cable goes with either end, but only once the last socket there is closed: take it first.
        let _ = ip(&format!("link del {}", self.cable));
        let _ = ip(&format!("netns del {}", self.name));
    }
}

fn ip(arguments: &str) -> Result<()> {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .context("run ip (Debian package iproute2)")?;
    ensure!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
