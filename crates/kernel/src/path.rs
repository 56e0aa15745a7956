//! The MTU of the paths that encrypted packets take.

use rtnetlink::packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteProtocol, RouteType},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use weir_kernel_plan::{KernelError, TUNNEL_MARK};

use crate::netlink::Netlink;

/// What the routes to these addresses carry: the smallest MTU among them, in bytes. `None` when
/// there is no route to any of them, or none is asked for. Sends nothing.
pub(crate) async fn smallest_mtu(
    netlink: &Netlink,
    addresses: &BTreeSet<IpAddr>,
) -> Result<Option<u32>, KernelError> {
    let mut links = BTreeMap::new();
    let mut smallest = None;
    for address in addresses {
        let answers = netlink
            .get(
                "look up the way to a peer",
                RouteNetlinkMessage::GetRoute(question(*address)),
            )
            .await;
        let route = match answers {
            Ok(answers) => answers.into_iter().find_map(|answer| {
                if let RouteNetlinkMessage::NewRoute(route) = answer {
                    Some(route)
                } else {
                    None
                }
            }),
            // There is no route at the moment, or one that refuses.
            Err(error) if error.errno.is_some() => None,
            Err(error) => return Err(error),
        };
        let Some(route) = route else { continue };
        let (own, link) = of_route(&route);
        let of_link = match link {
            Some(index) => match links.get(&index) {
                Some(known) => *known,
                None => {
                    let mtu = link_mtu(netlink, index).await?;
                    links.insert(index, mtu);
                    mtu
                }
            },
            None => None,
        };
        smallest = [smallest, own, of_link].into_iter().flatten().min();
    }
    Ok(smallest)
}

/// Asks as the tunnel's own packets would, which none of our rules concerns.
fn question(address: IpAddr) -> RouteMessage {
    let mut message = RouteMessage::default();
    // The kernel refuses a question that names any of these.
    message.header.kind = RouteType::Unspec;
    message.header.protocol = RouteProtocol::Unspec;
    let destination = match address {
        IpAddr::V4(address) => {
            message.header.address_family = AddressFamily::Inet;
            message.header.destination_prefix_length = 32;
            RouteAddress::Inet(address)
        }
        IpAddr::V6(address) => {
            message.header.address_family = AddressFamily::Inet6;
            message.header.destination_prefix_length = 128;
            RouteAddress::Inet6(address)
        }
    };
    message
        .attributes
        .push(RouteAttribute::Destination(destination));
    message.attributes.push(RouteAttribute::Mark(TUNNEL_MARK));
    message
}

/// The MTU that the route itself sets, or that was learned on it, and the link it leads to.
fn of_route(route: &RouteMessage) -> (Option<u32>, Option<u32>) {
    let (mut mtu, mut link) = (None, None);
    for attribute in &route.attributes {
        if let RouteAttribute::Metrics(metrics) = attribute {
            for metric in metrics {
                if let RouteMetric::Mtu(value) = metric {
                    mtu = Some(*value).filter(|value| *value > 0);
                }
            }
        } else if let RouteAttribute::Oif(index) = attribute {
            link = Some(*index);
        }
    }
    (mtu, link)
}

async fn link_mtu(netlink: &Netlink, index: u32) -> Result<Option<u32>, KernelError> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    let asked = netlink
        .get("look up a link", RouteNetlinkMessage::GetLink(message))
        .await;
    let answers = match asked {
        Ok(answers) => answers,
        // It went away meanwhile.
        Err(error) if error.errno == Some(libc::ENODEV) => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(answers.into_iter().find_map(|answer| {
        let RouteNetlinkMessage::NewLink(link) = answer else {
            return None;
        };
        link.attributes.into_iter().find_map(|attribute| {
            if let LinkAttribute::Mtu(mtu) = attribute {
                Some(mtu)
            } else {
                None
            }
        })
    }))
}
