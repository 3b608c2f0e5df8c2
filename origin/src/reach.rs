//! Which addresses no origin may have: a Dataset's author must not read with a cache node's place in the network what is for the
//! node alone, or for its cluster. Names are judged by what they resolve to.
//!
//! What is for the machine itself is refused always. What belongs to the cluster a cache node is told ([`Reach::set`]), and what of it may
//! be reached all the same, by address or by the name with which a source asks. Who is told nothing refuses nothing of that:
//! `penstock` reads what its user may.

use std::collections::BTreeMap;
use std::error::Error;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};

use ipnet::IpNet;
use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Services of clouds that tell a machine its secrets, where they are not link-local: Alibaba's, Azure's, and of IPv6 AWS's (of
/// machines and of pods), Google's, Oracle's and Scaleway's.
const METADATA: [IpAddr; 7] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

tokio::task_local! {
    /// Of the URL that is asked for: a resolver of HTTP is told names alone.
    static PORT: u16;
}

/// Why an address may not be reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotAllowed {
    #[error("its address is for the machine itself, as those of the clouds' metadata services")]
    Machine,
    #[error(
        "{address} belongs to the cluster itself; if it is meant, add {asked} to spec.origins.clusterAddresses of the CacheRuntime"
    )]
    Cluster { address: IpAddr, asked: String },
}

/// What may be reached; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Reach(Arc<RwLock<Bounds>>);

#[derive(Debug, Default)]
struct Bounds {
    /// Whether there are none.
    is_everything: bool,
    cluster: Vec<Span>,
    granted: Vec<Span>,
    granted_names: Vec<NamedHost>,
}

/// Addresses, at one port or at all.
#[derive(Clone, Copy, Debug)]
struct Span {
    addresses: IpNet,
    port: Option<u16>,
}

#[derive(Debug)]
struct NamedHost {
    name: String,
    port: Option<u16>,
}

impl Reach {
    /// Everything, the services that tell a machine its secrets too: for what the environment of the process names, never for what
    /// a source does.
    pub(super) fn everything() -> Self {
        let bounds = Bounds {
            is_everything: true,
            ..Bounds::default()
        };
        Self(Arc::new(RwLock::new(bounds)))
    }

    /// From now on what belongs to the cluster (`ADDRESS`, `ADDRESS:PORT` or CIDR) is refused, unless it is `granted` (the same, or
    /// `NAME` or `NAME:PORT`). Returns what of both makes no sense, which counts for nothing.
    pub fn set(&self, cluster: &[String], granted: &[String]) -> Vec<String> {
        let mut bounds = Bounds::default();
        let mut senseless = Vec::new();
        for text in cluster {
            match Span::read(text) {
                Some(span) => bounds.cluster.push(span),
                None => senseless.push(text.clone()),
            }
        }
        for text in granted {
            match (Span::read(text), NamedHost::read(text)) {
                (Some(span), _) => bounds.granted.push(span),
                (None, Some(name)) => bounds.granted_names.push(name),
                (None, None) => senseless.push(text.clone()),
            }
        }
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = bounds;
        senseless
    }

    /// Whether a URL names an address itself that may not be reached. A name is looked up where it is connected to.
    pub(super) fn check(&self, url: &Url) -> Result<(), NotAllowed> {
        // However an address was written, the URL has it in its usual form.
        let host = bare_host(url);
        match host.parse() {
            Ok(address) => self.judge(host, address, url.port_or_known_default()),
            Err(_) => Ok(()),
        }
    }

    /// Whether an address may be reached for which somebody asks by `name`. At a port that is not known nothing is reached of which a
    /// port is refused.
    pub(super) fn judge(&self, name: &str, address: IpAddr, port: Option<u16>) -> Result<(), NotAllowed> {
        let address = plain(address);
        let bounds = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let Bounds {
            is_everything,
            cluster,
            granted,
            granted_names,
        } = &*bounds;
        if *is_everything {
            return Ok(());
        }
        if is_for_the_machine(address) {
            return Err(NotAllowed::Machine);
        }
        let is_at = |wanted: Option<u16>| wanted.is_none() || wanted == port;
        let is_of_the_cluster = cluster
            .iter()
            .any(|span| span.addresses.contains(&address) && (port.is_none() || is_at(span.port)));
        let is_granted = || {
            granted
                .iter()
                .any(|span| span.addresses.contains(&address) && is_at(span.port))
                // A dot at the end makes another name of it, which may be somebody else's.
                || granted_names
                    .iter()
                    .any(|host| host.name.eq_ignore_ascii_case(name) && is_at(host.port))
        };
        if !is_of_the_cluster || is_granted() {
            return Ok(());
        }
        let host = if name.contains(':') {
            format!("[{name}]")
        } else {
            name.to_owned()
        };
        let asked = port.map_or(host.clone(), |port| format!("{host}:{port}"));
        Err(NotAllowed::Cluster { address, asked })
    }

    /// The addresses of a name, or the one that it is, without such ones.
    pub(super) async fn look_up(&self, name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let all = tokio::net::lookup_host((name, port)).await?;
        self.allowed(name, all, Some(port)).map_err(io::Error::other)
    }

    fn allowed(
        &self,
        name: &str,
        all: impl Iterator<Item = SocketAddr>,
        port: Option<u16>,
    ) -> Result<Vec<SocketAddr>, NotAllowed> {
        let (mut allowed, mut refused) = (Vec::new(), BTreeMap::new());
        for address in all {
            match self.judge(name, address.ip(), port) {
                Ok(()) => allowed.push(address),
                Err(why) => drop(refused.insert(address.ip(), why)),
            }
        }
        // The same one is named, in whatever order they come: a status is not written again for nothing.
        match refused.pop_first() {
            Some((_, why)) if allowed.is_empty() => Err(why),
            _ => Ok(allowed),
        }
    }
}

impl Span {
    fn read(text: &str) -> Option<Self> {
        let at = |address, port| Self {
            addresses: IpNet::from(address),
            port,
        };
        if let Ok(addresses) = text.parse() {
            return Some(Self { addresses, port: None });
        }
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        if let Ok(address) = bare.unwrap_or(text).parse::<IpAddr>() {
            return Some(at(plain(address), None));
        }
        let address: SocketAddr = text.parse().ok()?;
        Some(at(plain(address.ip()), Some(address.port())))
    }
}

impl NamedHost {
    fn read(text: &str) -> Option<Self> {
        let (name, port) = match text.split_once(':') {
            None => (text, None),
            Some((name, port)) => (name, Some(port.parse().ok()?)),
        };
        let is_name = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
        // One of digits is an address that was written in a form that nobody compares.
        let is_number = |name: &str| name.chars().all(|c| c.is_ascii_digit() || c == '.');
        (is_name(name) && !is_number(name)).then(|| Self {
            name: name.to_owned(),
            port,
        })
    }
}

/// The host of a URL, an address of IPv6 without its brackets.
pub(super) fn bare_host(url: &Url) -> &str {
    let host = url.host_str().unwrap_or_default();
    host.strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host)
}

/// One of IPv4 however IPv6 writes it: mapped, or through a gateway (RFC 6052).
fn plain(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => match address.octets() {
            [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d] => IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
            _ => IpAddr::V6(address),
        },
        address => address,
    }
}

fn is_for_the_machine(address: IpAddr) -> bool {
    let is_link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    is_link_local || METADATA.contains(&address)
}

/// Asks for something at this port.
pub(super) async fn asking<F: Future>(port: u16, what: F) -> F::Output {
    PORT.scope(port, what).await
}

/// That an error comes from here.
pub(super) fn not_allowed(error: &(dyn Error + 'static)) -> Option<NotAllowed> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(NotAllowed::clone(found));
        }
        // What one of these holds is not its source.
        let held = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(found) = held.and_then(|held| held.downcast_ref()) {
            return Some(NotAllowed::clone(found));
        }
        next = error.source();
    }
    None
}

/// Looks names up and leaves such addresses out.
pub(super) struct Resolver(pub(super) Reach);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = self.0.clone();
        let port = PORT.try_with(|port| *port).ok();
        Box::pin(async move {
            let all = tokio::net::lookup_host((name.as_str(), 0)).await?;
            Ok(Box::new(reach.allowed(name.as_str(), all, port)?.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn what_only_the_machine_itself_should_reach_is_refused_however_it_is_written() {
        let reach = Reach::default();
        for (url, is_allowed) in [
            ("http://169.254.169.254/latest/", false),
            ("http://[fe80::1]/", false),
            ("http://[::ffff:169.254.169.254]/", false),
            ("http://[64:ff9b::169.254.169.254]/", false),
            ("http://0xa9fea9fe/", false),
            ("http://2852039166/", false),
            ("http://[fd00:ec2::254]/", false),
            ("http://[fd00:ec2::23]/", false),
            ("http://[fd20:ce::254]/", false),
            ("http://[fd00:c1::a9fe:a9fe]/", false),
            ("http://100.100.100.200/", false),
            ("http://168.63.129.16/", false),
            ("http://10.0.0.1/", true),
            ("http://127.0.0.1/", true),
            ("http://[fd00::1]/", true),
            ("http://example.org/", true),
        ] {
            assert_eq!(reach.check(&Url::parse(url).unwrap()).is_ok(), is_allowed, "{url}");
        }
        // Nobody can grant it.
        assert_eq!(reach.set(&[], &owned(&["169.254.169.254", "0.0.0.0/0"])), [""; 0]);
        assert!(reach.check(&Url::parse("http://169.254.169.254/").unwrap()).is_err());
    }

    #[test]
    fn what_belongs_to_the_cluster_is_refused_however_it_is_written() {
        let reach = Reach::default();
        let cluster = [
            "10.96.0.0/16",
            "127.0.0.0/8",
            "::1",
            "fd00:1::/64",
            "0.0.0.0/8",
            "172.30.0.1:6443",
        ];
        assert_eq!(reach.set(&owned(&cluster), &[]), [""; 0]);
        for (url, is_allowed) in [
            ("http://10.96.3.4:9000/", false),
            ("http://[::ffff:10.96.3.4]/", false),
            ("http://[64:ff9b::10.96.3.4]/", false),
            ("http://0x0a600304/", false),
            ("http://10.97.0.1/", true),
            ("http://127.1.2.3/", false),
            ("http://0177.1/", false),
            ("http://[::1]/", false),
            ("http://0/", false),
            ("http://[fd00:1::5]/", false),
            ("http://[fd00:2::5]/", true),
            ("https://172.30.0.1:6443/", false),
            ("https://172.30.0.1/", true),
            ("http://172.30.0.1:9000/", true),
            ("http://name.example/", true),
        ] {
            assert_eq!(reach.check(&Url::parse(url).unwrap()).is_ok(), is_allowed, "{url}");
        }
        let refused = reach.check(&Url::parse("http://[fd00:1::5]:81/").unwrap());
        let said = refused.unwrap_err().to_string();
        assert!(
            said.contains("add [fd00:1::5]:81 to spec.origins.clusterAddresses"),
            "{said}"
        );
    }

    #[test]
    fn a_grant_is_for_an_address_or_a_name_and_for_its_port() {
        let reach = Reach::default();
        let granted = [
            "10.96.0.7:9000",
            "10.96.8.0/24",
            "[fd00:1::5]:81",
            "minio.storage.svc:9000",
            "Any.storage.svc",
        ];
        assert_eq!(
            reach.set(&owned(&["10.96.0.0/16", "fd00:1::/64"]), &owned(&granted)),
            [""; 0]
        );
        for (name, address, port, is_allowed) in [
            ("10.96.0.7", "10.96.0.7", Some(9000), true),
            ("other.name", "10.96.0.7", Some(9000), true),
            ("10.96.0.7", "10.96.0.7", Some(9001), false),
            ("10.96.0.7", "10.96.0.7", None, false),
            ("x", "10.96.8.200", Some(1), true),
            ("x", "10.96.9.1", Some(1), false),
            ("fd00:1::5", "fd00:1::5", Some(81), true),
            ("minio.storage.svc", "10.96.1.1", Some(9000), true),
            ("MINIO.storage.svc", "10.96.1.1", Some(9000), true),
            ("minio.storage.svc", "10.96.1.1", Some(80), false),
            // Absolute, so perhaps somebody else's.
            ("minio.storage.svc.", "10.96.1.1", Some(9000), false),
            ("x.minio.storage.svc", "10.96.1.1", Some(9000), false),
            ("any.storage.svc", "10.96.1.1", Some(1), true),
            ("any.storage.svc", "10.96.1.1", None, true),
            ("any.storage.svc", "169.254.169.254", Some(80), false),
        ] {
            let judged = reach.judge(name, address.parse().unwrap(), port);
            assert_eq!(judged.is_ok(), is_allowed, "{name} {address} {port:?}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_said_and_grants_nothing() {
        let reach = Reach::default();
        let senseless = reach.set(
            &owned(&["10.0.0.0/8", "10.0.0.0/33", "a name"]),
            &owned(&["10.1", "167772161", "a:b", "a b", "", "10.0.0.1:99999", "h:99999"]),
        );
        let expected = [
            "10.0.0.0/33",
            "a name",
            "10.1",
            "167772161",
            "a:b",
            "a b",
            "",
            "10.0.0.1:99999",
            "h:99999",
        ];
        assert_eq!(senseless, expected);
        assert!(reach.judge("10.1", "10.0.0.1".parse().unwrap(), Some(80)).is_err());
    }

    #[tokio::test]
    async fn names_are_judged_by_all_that_they_resolve_to_and_at_the_port_that_is_asked_for() {
        let reach = Reach::default();
        assert!(!reach.look_up("localhost", 9000).await.unwrap().is_empty());
        reach.set(&owned(&["127.0.0.0/8:1", "127.0.0.0/8", "::1"]), &[]);
        for name in ["localhost", "127.0.0.1", "127.1", "2130706433", "::1"] {
            let error = reach.look_up(name, 9000).await.unwrap_err();
            assert!(not_allowed(&error).is_some(), "{name}: {error}");
        }
        reach.set(&owned(&["127.0.0.1:9000", "[::1]:9000"]), &[]);
        let resolver = Resolver(reach);
        let resolve = || resolver.resolve("localhost".parse().unwrap());
        assert!(asking(9001, async { resolve().await }).await.is_ok());
        for error in [
            asking(9000, async { resolve().await }).await.err(),
            resolve().await.err(),
        ] {
            assert!(not_allowed(&*error.unwrap()).is_some());
        }
    }
}
