//! Which addresses a request may go to. Public ones are always granted, others only by a network of the manifest.
//!
//! The manifest grants names. The addresses of a name come from its DNS, which somebody else may run, and one of them may lie
//! in the host's own network. So the address of each connection is checked too.

use ipnet::IpNet;
use std::net::IpAddr;
use std::sync::LazyLock;

/// The networks of IANA's special-purpose address registries (RFC 6890) that are not public, and multicast. Of IPv6 only
/// 2000::/3 is assigned to public addresses at all.
const NOT_PUBLIC: [&str; 19] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "2001::/23",
    "2001:db8::/32",
    "2002::/16",
    "3fff::/20",
];

/// The public addresses of IPv6, without the exceptions above.
const PUBLIC_OF_IPV6: &str = "2000::/3";

static NETWORKS: LazyLock<(Vec<IpNet>, IpNet)> = LazyLock::new(|| {
    let network = |text: &str| text.parse::<IpNet>().expect("it is a network");
    (NOT_PUBLIC.into_iter().map(network).collect(), network(PUBLIC_OF_IPV6))
});

/// Returns whether an address is public, or in one of the granted networks.
pub(crate) fn is_granted(address: IpAddr, networks: &[IpNet]) -> bool {
    // An address of IPv4 may be written as one of IPv6.
    let address = address.to_canonical();
    is_public(address) || networks.iter().any(|network| network.contains(&address))
}

fn is_public(address: IpAddr) -> bool {
    let (not_public, public_of_ipv6) = &*NETWORKS;
    (address.is_ipv4() || public_of_ipv6.contains(&address)) && !not_public.iter().any(|found| found.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_own_network_are_granted_only_by_the_manifest() {
        let granted = |address: &str, networks: &[&str]| {
            let networks: Vec<IpNet> = networks.iter().map(|network| network.parse().unwrap()).collect();
            is_granted(address.parse().unwrap(), &networks)
        };
        for public in ["1.1.1.1", "192.0.1.1", "172.32.0.1", "2606:4700::1111", "::ffff:1.1.1.1"] {
            assert!(granted(public, &[]), "{public}");
        }
        for private in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.0.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "fc00::1",
            "fd12:3456::1",
            "fe80::1",
            "ff02::1",
        ] {
            assert!(!granted(private, &[]), "{private}");
            assert!(granted(private, &["0.0.0.0/0", "::/0"]), "{private}");
        }
        assert!(granted("10.1.2.3", &["10.1.0.0/16"]) && !granted("10.2.2.3", &["10.1.0.0/16"]));
        assert!(granted("::ffff:10.1.2.3", &["10.1.0.0/16"]), "the same address in another form");
        assert!(!granted("::1", &["127.0.0.0/8"]));
    }
}
