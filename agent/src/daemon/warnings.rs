//! What this host itself sees to be wrong with what its settings and the network map say.
//!
//! Pure.

use std::{collections::BTreeSet, net::IpAddr};
use weir_kernel_plan::{NAT_PORTS, NodeSettings, PortUse};
use weir_protocol::NetworkMap;

use crate::route_checks::{cut_off_peers_by, exits};

/// A sentence for each thing that a person should know `now`, in seconds since 1970.
pub(crate) fn warnings(map: &NetworkMap, settings: &NodeSettings, now: i64) -> Vec<String> {
    let mut warnings: Vec<_> = expiring_key(map, now).into_iter().collect();
    if let Some(wanted) = settings
        .exit_node
        .as_ref()
        .filter(|_| settings.lacks_its_exit(map))
    {
        let others: Vec<_> = exits(map).map(|peer| peer.name.to_string()).collect();
        let others = if others.is_empty() {
            String::new()
        } else {
            format!(
                ", `agent set --exit-node=NAME` takes {}",
                others.join(" or ")
            )
        };
        let lan = if settings.exit_node_allow_lan_access {
            "; the networks that this host is connected to stay reachable"
        } else {
            ""
        };
        warnings.push(format!(
            "the exit node \"{wanted}\" is gone, or this node may no longer use it: internet \
             traffic is refused, and not sent out directly{lan}. `agent set --exit-node=` goes \
             without an exit{others}"
        ));
    }
    for (prefix, endpoint, peer) in cut_off_peers_by(&settings.advertised, map) {
        warnings.push(format!(
            "the route {prefix} holds {endpoint}, where {peer} says that its WireGuard is reached: \
             the tunnel itself goes around its own routes and works, but what other programs send \
             to that address is relayed through here. If that is not meant, leave the route out"
        ));
    }
    warnings
}

/// A sentence for each address that relayed traffic should leave with and that the host does not
/// have.
pub(crate) fn lost_addresses(
    map: &NetworkMap,
    settings: &NodeSettings,
    host: &BTreeSet<IpAddr>,
) -> Vec<String> {
    let by_route = map.node.egress.iter();
    let chosen: BTreeSet<IpAddr> = by_route
        .map(|choice| choice.address)
        .chain(settings.route_egress.values().copied())
        .chain(settings.egress.iter().copied())
        .collect();
    let lost = chosen.difference(host);
    lost.map(|address| {
        format!(
            "{address}, which was chosen for what this host relays, is not an address of this \
             host: new connections leave with it all the same, and with no other, and get no answers. \
             Give the host the address, or choose another (--egress-ip here, `coordinator routes \
             egress` there)"
        )
    })
    .collect()
}

/// From how many seconds before its end on a key is said to expire: two weeks, so that whoever
/// looks once a week sees it.
const EXPIRES_SOON_SECONDS: i64 = 14 * 24 * 3600;

/// A key that expires soon. One that has expired is told by the coordinator.
fn expiring_key(map: &NetworkMap, now: i64) -> Option<String> {
    let end = map.node.key.expires.filter(|_| !map.node.key.expired)?;
    let left = end.saturating_sub(now).max(0);
    if left > EXPIRES_SOON_SECONDS {
        return None;
    }
    let left = match left / 3600 {
        0 => "within the hour".to_owned(),
        hours @ 1..48 => format!("in {hours} h"),
        hours => format!("in {} days", hours / 24),
    };
    Some(format!(
        "the key of this node expires {left}: without a new one, no other node talks to it then. \
         `agent up --force-reauth --auth-key=KEY` renews it; an admin can lift the limit \
         (coordinator nodes expire {} --never)",
        map.node.name
    ))
}

/// From how many hundredths of the ports in use on they count as scarce.
const SCARCE_PERCENT: u32 = 80;

/// A sentence for each destination towards which an address runs out of ports.
pub(crate) fn scarce_ports(ports: &[PortUse]) -> impl Iterator<Item = String> + '_ {
    let scarce = |one: &&PortUse| one.ports >= NAT_PORTS / 100 * SCARCE_PERCENT;
    ports.iter().filter(scarce).map(|one| {
        format!(
            "{} of {NAT_PORTS} source ports of {} are in use towards {} {}: when they run out, new \
             connections there fail. Another relay, or another address for one of the routes \
             (--egress-ip=ROUTE=ADDRESS), brings more",
            one.ports, one.egress, one.protocol, one.destination
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::tests::{exit_map, node_settings};

    #[test]
    fn an_exit_that_is_gone_is_said_with_what_to_do() {
        let map = exit_map();
        let mut settings = node_settings();
        assert_eq!(warnings(&map, &settings, 0), Vec::<String>::new());
        settings.exit_node = Some("other".to_owned());
        assert_eq!(warnings(&map, &settings, 0), Vec::<String>::new());
        settings.exit_node = Some("gone".to_owned());
        settings.exit_node_allow_lan_access = true;
        let said = warnings(&map, &settings, 0).join("\n");
        for part in [
            "\"gone\" is gone",
            "refused",
            "stay reachable",
            "takes other",
        ] {
            assert!(said.contains(part), "{said}");
        }
    }

    #[test]
    fn an_address_that_the_host_lost_is_said() {
        let (mut map, mut settings) = (exit_map(), node_settings());
        let (here, gone) = (
            "203.0.113.7".parse().unwrap(),
            "203.0.113.8".parse().unwrap(),
        );
        let host = BTreeSet::from([here]);
        settings.egress = [here].into();
        assert_eq!(lost_addresses(&map, &settings, &host), Vec::<String>::new());
        map.node.egress.push(weir_protocol::RouteEgress {
            route: "8.8.8.8/32".parse().unwrap(),
            sources: None,
            address: gone,
        });
        let said = lost_addresses(&map, &settings, &host);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(
            said[0].starts_with("203.0.113.8, which was chosen"),
            "{said:?}"
        );
    }

    #[test]
    fn a_key_that_expires_soon_is_said_in_time() {
        const DAY: i64 = 24 * 3600;
        let mut map = exit_map();
        let said = |map: &NetworkMap| warnings(map, &node_settings(), 1_000).join("\n");
        assert_eq!(said(&map), "");
        for (left, words) in [
            (15 * DAY, ""),
            (14 * DAY, "expires in 14 days"),
            (DAY, "expires in 24 h"),
            (60, "expires within the hour"),
            (-60, "expires within the hour"),
        ] {
            map.node.key.expires = Some(1_000 + left);
            let said = said(&map);
            assert!(said.contains(words), "{left}: {said}");
            assert_eq!(said.is_empty(), words.is_empty(), "{left}: {said}");
        }
        map.node.key.expired = true;
        assert_eq!(said(&map), "", "the coordinator tells that");
    }

    #[test]
    fn ports_are_said_to_be_scarce_before_they_run_out() {
        let of = |ports| PortUse {
            egress: "203.0.113.7".parse().unwrap(),
            protocol: weir_protocol::IpProtocol::TCP,
            destination: "8.8.8.8:443".parse().unwrap(),
            ports,
        };
        assert_eq!(scarce_ports(&[of(51_599)]).count(), 0);
        let said: Vec<_> = scarce_ports(&[of(10), of(51_600)]).collect();
        assert_eq!(said.len(), 1);
        assert!(
            said[0].starts_with(
                "51600 of 64512 source ports of 203.0.113.7 are in use towards tcp 8.8.8.8:443"
            ),
            "{said:?}"
        );
    }

    #[test]
    fn a_route_that_holds_an_endpoint_is_said() {
        let mut settings = node_settings();
        settings.advertised = ["198.51.100.0/24".parse().unwrap()].into();
        let said = warnings(&exit_map(), &settings, 0).join("\n");
        assert!(
            said.starts_with("the route 198.51.100.0/24 holds 198.51.100.9, where other"),
            "{said}"
        );
    }
}
