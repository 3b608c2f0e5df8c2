//! Which addresses no origin may have: a Dataset's author must not read with a cache node's place in the network what is for the
//! node alone. Names are judged by what they resolve to.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Services of clouds that tell a machine its secrets, where they are not link-local: Alibaba's, Azure's, and of IPv6 AWS's (of
/// machines and of pods), Google's and Oracle's.
const METADATA: [IpAddr; 6] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

const REFUSED: &str = "its address is for the machine itself, as those of the clouds' metadata services";

fn is_refused(address: IpAddr) -> bool {
    let address = address.to_canonical();
    let is_link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    is_link_local || METADATA.contains(&address)
}

/// Whether a URL names such an address itself; the sentence says so.
pub(super) fn check(url: &Url) -> Result<(), &'static str> {
    // However an address was written, the URL has it in its usual form.
    let host = url.host_str().unwrap_or_default();
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    if host.parse().is_ok_and(is_refused) {
        return Err(REFUSED);
    }
    Ok(())
}

/// The addresses of a name, or the one that it is, without such ones.
pub(super) async fn look_up(name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let all: Vec<SocketAddr> = tokio::net::lookup_host((name, port)).await?.collect();
    let (refused, allowed): (Vec<_>, Vec<_>) = all.into_iter().partition(|address| is_refused(address.ip()));
    if allowed.is_empty() && !refused.is_empty() {
        return Err(io::Error::other(REFUSED));
    }
    Ok(allowed)
}

/// Looks names up and leaves such addresses out.
pub(super) struct Resolver;

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move { Ok(Box::new(look_up(name.as_str(), 0).await?.into_iter()) as Addrs) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_the_machine_itself_should_reach_is_refused_however_it_is_written() {
        for (url, is_allowed) in [
            ("http://169.254.169.254/latest/", false),
            ("http://[fe80::1]/", false),
            ("http://[::ffff:169.254.169.254]/", false),
            ("http://0xa9fea9fe/", false),
            ("http://2852039166/", false),
            ("http://[fd00:ec2::254]/", false),
            ("http://[fd00:ec2::23]/", false),
            ("http://[fd20:ce::254]/", false),
            ("http://[fd00:c1::a9fe:a9fe]/", false),
            ("http://100.100.100.200/", false),
            ("http://168.63.129.16/", false),
            ("http://10.0.0.1/", true),
            ("http://[fd00::1]/", true),
            ("http://example.org/", true),
        ] {
            assert_eq!(check(&Url::parse(url).unwrap()).is_ok(), is_allowed, "{url}");
        }
    }
}
