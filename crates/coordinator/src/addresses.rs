//! Which overlay addresses and which name a new node gets. Pure.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};
use weir_overlay::{NodeName, OVERLAY_V4, OVERLAY_V6};

/// The lowest pair of addresses of which neither is taken, from 100.64.0.1 on; none when the
/// overlay is full. Both end in the same number, so that a person recognises the pair.
#[must_use]
pub(crate) fn lowest_free(
    taken: &BTreeSet<Ipv4Addr>,
    taken_v6: &BTreeSet<Ipv6Addr>,
) -> Option<(Ipv4Addr, Ipv6Addr)> {
    let first = OVERLAY_V4.network().to_bits();
    let last = OVERLAY_V4.broadcast().to_bits();
    (first + 1..last)
        .map(|bits| {
            let number = u128::from(bits - first);
            let v6 = OVERLAY_V6.network().to_bits() + number;
            (Ipv4Addr::from_bits(bits), Ipv6Addr::from_bits(v6))
        })
        .find(|(v4, v6)| !taken.contains(v4) && !taken_v6.contains(v6))
}

/// Why an address is not one that a node can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AddressError {
    /// It is not in the overlay.
    #[error("{0} is not an address of the overlay: choose one of {OVERLAY_V4} or {OVERLAY_V6}")]
    Outside(IpAddr),
    /// It has a meaning of its own, or is an IPv6 address without a counterpart in IPv4.
    #[error(
        "{0} cannot be given to a node: choose one from 100.64.0.1 to 100.127.255.254, or its \
         counterpart in {OVERLAY_V6} (100.64.0.7 and fd77:6569:7200::7 belong together)"
    )]
    Reserved(IpAddr),
}

/// The pair of addresses that an address belongs to: both end in the same number.
///
/// # Errors
/// [`AddressError`].
pub(crate) fn pair_of(address: IpAddr) -> Result<(Ipv4Addr, Ipv6Addr), AddressError> {
    let (first, last) = (
        OVERLAY_V4.network().to_bits(),
        OVERLAY_V4.broadcast().to_bits(),
    );
    let number = match address {
        IpAddr::V4(v4) if OVERLAY_V4.contains(&v4) => u128::from(v4.to_bits() - first),
        IpAddr::V6(v6) if OVERLAY_V6.contains(&v6) => v6.to_bits() - OVERLAY_V6.network().to_bits(),
        IpAddr::V4(_) | IpAddr::V6(_) => return Err(AddressError::Outside(address)),
    };
    let reserved = AddressError::Reserved(address);
    let v4 = u32::try_from(number).map_err(|_| reserved)?;
    if v4 == 0 || v4 >= last - first {
        return Err(reserved);
    }
    Ok((
        Ipv4Addr::from_bits(first + v4),
        Ipv6Addr::from_bits(OVERLAY_V6.network().to_bits() + number),
    ))
}

/// The name for a host: what it calls itself, with `-2`, `-3` ... when that is taken.
#[must_use]
pub(crate) fn free_name(hostname: &str, taken: &BTreeSet<NodeName>) -> NodeName {
    let wanted = NodeName::from_hostname(hostname);
    if !taken.contains(&wanted) {
        return wanted;
    }
    (2..=taken.len() + 2)
        .filter_map(|number| {
            let suffix = format!("-{number}");
            let stem: String = wanted.as_str().chars().take(63 - suffix.len()).collect();
            format!("{}{suffix}", stem.trim_end_matches('-'))
                .parse()
                .ok()
        })
        .find(|name| !taken.contains(name))
        // Of one more number than there are taken names, one is free.
        .unwrap_or(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> NodeName {
        text.parse().unwrap()
    }

    #[test]
    fn gaps_are_filled_from_below() {
        let mut taken = BTreeSet::new();
        let mut taken_v6 = BTreeSet::new();
        let first = lowest_free(&taken, &taken_v6).unwrap();
        assert_eq!(first.0, Ipv4Addr::new(100, 64, 0, 1));
        assert_eq!(first.1.to_string(), "fd77:6569:7200::1");
        taken.insert(first.0);
        taken_v6.insert(first.1);
        taken.insert(Ipv4Addr::new(100, 64, 0, 3));
        let second = lowest_free(&taken, &taken_v6).unwrap();
        assert_eq!(second.0, Ipv4Addr::new(100, 64, 0, 2));
        taken.insert(second.0);
        let fourth = lowest_free(&taken, &taken_v6).unwrap();
        assert_eq!(fourth.1.to_string(), "fd77:6569:7200::4");
    }

    #[test]
    fn an_address_names_its_pair() {
        let pair = pair_of("100.64.1.7".parse().unwrap()).unwrap();
        assert_eq!(pair.1.to_string(), "fd77:6569:7200::107");
        assert_eq!(pair_of(pair.1.into()), Ok(pair));
        let last = pair_of("100.127.255.254".parse().unwrap()).unwrap();
        assert_eq!(last.1.to_string(), "fd77:6569:7200::3f:fffe");
        for outside in ["10.0.0.1", "100.128.0.1", "fd00::1"] {
            let outside = outside.parse().unwrap();
            assert_eq!(pair_of(outside), Err(AddressError::Outside(outside)));
        }
        for reserved in [
            "100.64.0.0",
            "100.127.255.255",
            "fd77:6569:7200::",
            "fd77:6569:7200::40:0",
            "fd77:6569:7200:1::1",
        ] {
            let reserved = reserved.parse().unwrap();
            assert_eq!(pair_of(reserved), Err(AddressError::Reserved(reserved)));
        }
    }

    #[test]
    fn names_are_counted_up() {
        let mut taken = BTreeSet::new();
        for expected in ["relay", "relay-2", "relay-3"] {
            let given = free_name("relay.example.com", &taken);
            assert_eq!(given, name(expected));
            taken.insert(given);
        }
        taken.remove(&name("relay-2"));
        assert_eq!(free_name("Relay", &taken), name("relay-2"));
    }

    #[test]
    fn a_long_name_keeps_its_length() {
        let long = "a".repeat(80);
        let taken = BTreeSet::from([name(&"a".repeat(63))]);
        let given = free_name(&long, &taken);
        assert_eq!(given.as_str(), format!("{}-2", "a".repeat(61)));
    }
}
