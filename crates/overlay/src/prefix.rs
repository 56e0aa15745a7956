//! Prefixes as people write them, and which of them may be advertised as routes.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The overlay's IPv4 prefix: shared address space (RFC 6598).
pub const OVERLAY_V4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10);

/// The overlay's IPv6 prefix: a unique local prefix (RFC 4193).
pub const OVERLAY_V6: Ipv6Net =
    Ipv6Net::new_assert(Ipv6Addr::new(0xfd77, 0x6569, 0x7200, 0, 0, 0, 0, 0), 48);

/// Both overlay prefixes.
#[must_use]
pub const fn overlay_prefixes() -> [IpNet; 2] {
    [IpNet::V4(OVERLAY_V4), IpNet::V6(OVERLAY_V6)]
}

/// Why a text is not a prefix, or a prefix not a route that may be advertised.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PrefixError {
    /// Neither an address nor a prefix.
    #[error("\"{0}\" is not an address or a prefix such as 8.8.8.8 or 10.20.0.0/24")]
    NotAPrefix(String),
    /// Bits are set behind the prefix length.
    #[error("{given} has host bits set; the prefix is {right}")]
    HostBits {
        /// What was written.
        given: String,
        /// What was probably meant.
        right: IpNet,
    },
    /// A prefix that must never be relayed.
    #[error("{prefix} cannot be advertised: {reason}")]
    Refused {
        /// The prefix.
        prefix: IpNet,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// Reads a prefix or a bare address (`8.8.8.8` is `8.8.8.8/32`).
///
/// # Errors
/// [`PrefixError::NotAPrefix`], and [`PrefixError::HostBits`] naming the right prefix.
pub fn parse_prefix(text: &str) -> Result<IpNet, PrefixError> {
    let text = text.trim();
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address));
    }
    let prefix: IpNet = text
        .parse()
        .map_err(|_| PrefixError::NotAPrefix(text.to_owned()))?;
    if prefix.addr() == prefix.network() {
        Ok(prefix)
    } else {
        Err(PrefixError::HostBits {
            given: text.to_owned(),
            right: prefix.trunc(),
        })
    }
}

/// Reads a list of prefixes and addresses, separated by commas, white space or both. Sorted,
/// without repetition; an empty text is an empty list.
///
/// # Errors
/// Those of [`parse_prefix`], for the first item that is wrong.
pub fn parse_prefix_list(text: &str) -> Result<Vec<IpNet>, PrefixError> {
    let mut prefixes = text
        .split(|c: char| c == ',' || c.is_whitespace())
        .filter(|item| !item.is_empty())
        .map(parse_prefix)
        .collect::<Result<Vec<_>, _>>()?;
    prefixes.sort();
    prefixes.dedup();
    Ok(prefixes)
}

fn overlaps(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// Checks what is wrong with a route on any host: loopback, multicast, link-local, unspecified and
/// overlay prefixes are refused. Default routes pass. The host's own addresses and the endpoints
/// that would loop are the agent's to check, who knows them.
///
/// # Errors
/// [`PrefixError::Refused`] with the reason.
pub fn refuse_route(prefix: &IpNet) -> Result<(), PrefixError> {
    if prefix.prefix_len() == 0 {
        return Ok(());
    }
    let v4 = |a, b, c, d, length| IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length));
    let v6 = |first, length| {
        IpNet::V6(Ipv6Net::new_assert(
            Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0),
            length,
        ))
    };
    let refused = [
        (
            v4(127, 0, 0, 0, 8),
            "it holds loopback addresses (127.0.0.0/8)",
        ),
        (
            v4(0, 0, 0, 0, 8),
            "it holds addresses of \"this network\" (0.0.0.0/8)",
        ),
        (
            v4(169, 254, 0, 0, 16),
            "it holds link-local addresses (169.254.0.0/16)",
        ),
        (
            v4(224, 0, 0, 0, 4),
            "it holds multicast addresses (224.0.0.0/4)",
        ),
        (v4(255, 255, 255, 255, 32), "it holds the broadcast address"),
        (
            IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)),
            "it holds the loopback address (::1)",
        ),
        (
            IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 128)),
            "it holds the unspecified address (::)",
        ),
        (v6(0xfe80, 10), "it holds link-local addresses (fe80::/10)"),
        (v6(0xff00, 8), "it holds multicast addresses (ff00::/8)"),
        (
            IpNet::V4(OVERLAY_V4),
            "it overlaps the overlay network (100.64.0.0/10)",
        ),
        (
            IpNet::V6(OVERLAY_V6),
            "it overlaps the overlay network (fd77:6569:7200::/48)",
        ),
    ];
    match refused.iter().find(|(bad, _)| overlaps(bad, prefix)) {
        Some((_, reason)) => Err(PrefixError::Refused {
            prefix: *prefix,
            reason,
        }),
        None => Ok(()),
    }
}

/// What kind of traffic goes to a destination. Decides where a client looks its route up and
/// whether a relay translates the source address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrafficClass {
    /// Overlay to overlay.
    Node,
    /// An approved private prefix: an office subnet.
    Subnet,
    /// An approved public prefix: a third-party service.
    Relayed,
    /// Reached by a default route.
    Exit,
}

impl TrafficClass {
    /// The class of traffic to a destination prefix. Private means RFC 1918, RFC 4193 (outside
    /// the overlay), RFC 6598 and link-local space; a prefix that holds both kinds is private,
    /// because a private LAN must never be hijacked.
    #[must_use]
    pub fn of(prefix: &IpNet) -> Self {
        if prefix.prefix_len() == 0 {
            return Self::Exit;
        }
        if overlay_prefixes()
            .iter()
            .any(|overlay| overlay.contains(prefix))
        {
            return Self::Node;
        }
        let private = [
            IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8)),
            IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12)),
            IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16)),
            IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16)),
            IpNet::V4(OVERLAY_V4),
            IpNet::V6(Ipv6Net::new_assert(
                Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0),
                7,
            )),
            IpNet::V6(Ipv6Net::new_assert(
                Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0),
                10,
            )),
        ];
        if private.iter().any(|private| overlaps(private, prefix)) {
            Self::Subnet
        } else {
            Self::Relayed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn bare_addresses_and_lists_are_read() {
        assert_eq!(parse_prefix("8.8.8.8"), Ok(net("8.8.8.8/32")));
        assert_eq!(parse_prefix("2001:db8::1"), Ok(net("2001:db8::1/128")));
        assert_eq!(
            parse_prefix_list("8.8.8.8, 8.8.4.4  10.20.0.0/24,8.8.8.8"),
            Ok(vec![
                net("8.8.4.4/32"),
                net("8.8.8.8/32"),
                net("10.20.0.0/24")
            ])
        );
        assert_eq!(parse_prefix_list("  "), Ok(vec![]));
    }

    #[test]
    fn host_bits_name_the_right_prefix() {
        let error = parse_prefix("10.20.0.5/24").unwrap_err();
        assert_eq!(
            error.to_string(),
            "10.20.0.5/24 has host bits set; the prefix is 10.20.0.0/24"
        );
        assert!(parse_prefix("somewhere").is_err());
        assert!(parse_prefix("8.8.8.8/33").is_err());
    }

    #[test]
    fn routes_that_must_never_be_relayed_are_refused() {
        for bad in [
            "127.0.0.0/8",
            "127.0.0.1/32",
            "224.0.0.0/8",
            "169.254.1.0/24",
            "100.64.0.0/16",
            "100.0.0.0/8",
            "fe80::/64",
            "ff02::/16",
            "::1/128",
            "fd77:6569:7200::/64",
        ] {
            assert!(refuse_route(&net(bad)).is_err(), "{bad}");
        }
        for good in [
            "8.8.8.8/32",
            "10.20.0.0/24",
            "0.0.0.0/0",
            "::/0",
            "2001:4860::/32",
        ] {
            assert_eq!(refuse_route(&net(good)), Ok(()), "{good}");
        }
    }

    #[test]
    fn classes() {
        for (prefix, class) in [
            ("8.8.8.8/32", TrafficClass::Relayed),
            ("10.20.0.0/24", TrafficClass::Subnet),
            ("100.64.0.3/32", TrafficClass::Node),
            ("0.0.0.0/0", TrafficClass::Exit),
            ("fd00:1::/64", TrafficClass::Subnet),
            ("2001:4860:4860::8888/128", TrafficClass::Relayed),
            ("0.0.0.0/1", TrafficClass::Subnet),
        ] {
            assert_eq!(TrafficClass::of(&net(prefix)), class, "{prefix}");
        }
    }
}
