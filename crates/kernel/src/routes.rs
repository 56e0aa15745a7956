//! Routes of ours: through our link, with our protocol number.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rtnetlink::{
    RouteMessageBuilder,
    packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        route::{
            RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteScope,
            RouteType,
        },
    },
};
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};
use weir_kernel_plan::{KernelError, ROUTE_PROTOCOL, Route};
use weir_overlay::InterfaceName;

use crate::{error::accept, links, netlink::Netlink};

fn protocol() -> RouteProtocol {
    RouteProtocol::from(ROUTE_PROTOCOL)
}

/// Our routes through the link with that index, in every table.
pub(crate) async fn observe(netlink: &Netlink, index: u32) -> Result<BTreeSet<Route>, KernelError> {
    let mut routes = BTreeSet::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut filter = RouteMessage::default();
        filter.header.address_family = family;
        filter.header.protocol = protocol();
        filter.attributes.push(RouteAttribute::Oif(index));
        let answers = match dump(netlink, filter).await {
            Ok(answers) => answers,
            Err(error)
                if matches!(
                    error.errno,
                    Some(libc::ENODEV | libc::EAFNOSUPPORT | libc::EOPNOTSUPP)
                ) =>
            {
                continue;
            }
            Err(error) => return Err(error),
        };
        routes.extend(
            answers
                .iter()
                .filter(|message| message.header.address_family == family)
                .filter_map(|message| ours(message, index)),
        );
    }
    Ok(routes)
}

/// The links that IPv6 default routes learned from router advertisements go through, by index.
pub(crate) async fn advertised_default_links(
    netlink: &Netlink,
) -> Result<BTreeSet<u32>, KernelError> {
    let mut filter = RouteMessage::default();
    filter.header.address_family = AddressFamily::Inet6;
    filter.header.protocol = RouteProtocol::Ra;
    let answers = match dump(netlink, filter).await {
        Ok(answers) => answers,
        Err(error) if matches!(error.errno, Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP)) => {
            return Ok(BTreeSet::new());
        }
        Err(error) => return Err(error),
    };
    Ok(answers
        .iter()
        .filter(|message| {
            message.header.address_family == AddressFamily::Inet6
                && message.header.protocol == RouteProtocol::Ra
                && message.header.destination_prefix_length == 0
        })
        .flat_map(|message| &message.attributes)
        .filter_map(|attribute| {
            if let RouteAttribute::Oif(index) = attribute {
                Some(*index)
            } else {
                None
            }
        })
        .collect())
}

async fn dump(netlink: &Netlink, filter: RouteMessage) -> Result<Vec<RouteMessage>, KernelError> {
    let answers = netlink
        .dump("list the routes", RouteNetlinkMessage::GetRoute(filter))
        .await?;
    Ok(answers
        .into_iter()
        .filter_map(|answer| {
            if let RouteNetlinkMessage::NewRoute(message) = answer {
                Some(message)
            } else {
                None
            }
        })
        .collect())
}

/// The route that this message describes, when it is one of ours.
fn ours(message: &RouteMessage, index: u32) -> Option<Route> {
    let header = &message.header;
    let mut table = u32::from(header.table);
    let mut through = None;
    let mut destination = None;
    let mut source = None;
    for attribute in &message.attributes {
        if let RouteAttribute::Table(value) = attribute {
            table = *value;
        } else if let RouteAttribute::Oif(value) = attribute {
            through = Some(*value);
        } else if let RouteAttribute::Destination(value) = attribute {
            destination = address(value);
        } else if let RouteAttribute::PrefSource(value) = attribute {
            source = address(value);
        }
    }
    let ours = header.protocol == protocol()
        && header.kind == RouteType::Unicast
        && through == Some(index)
        && !header.flags.contains(RouteFlags::Cloned);
    let destination = match destination {
        Some(address) => IpNet::new(address, header.destination_prefix_length).ok()?,
        None if header.address_family == AddressFamily::Inet => IpNet::V4(Ipv4Net::default()),
        None => IpNet::V6(Ipv6Net::default()),
    };
    ours.then_some(Route {
        table,
        destination,
        source,
    })
}

fn address(address: &RouteAddress) -> Option<IpAddr> {
    if let RouteAddress::Inet(v4) = address {
        Some(IpAddr::V4(*v4))
    } else if let RouteAddress::Inet6(v6) = address {
        Some(IpAddr::V6(*v6))
    } else {
        None
    }
}

fn message(route: &Route, index: u32) -> RouteMessage {
    match route.destination {
        IpNet::V4(destination) => {
            let builder = RouteMessageBuilder::<Ipv4Addr>::new()
                .table_id(route.table)
                .protocol(protocol())
                .scope(RouteScope::Link)
                .output_interface(index)
                .destination_prefix(destination.network(), destination.prefix_len());
            match route.source {
                Some(IpAddr::V4(source)) => builder.pref_source(source).build(),
                Some(IpAddr::V6(_)) | None => builder.build(),
            }
        }
        IpNet::V6(destination) => {
            let builder = RouteMessageBuilder::<Ipv6Addr>::new()
                .table_id(route.table)
                .protocol(protocol())
                .scope(RouteScope::Link)
                .output_interface(index)
                .destination_prefix(destination.network(), destination.prefix_len());
            match route.source {
                Some(IpAddr::V6(source)) => builder.pref_source(source).build(),
                Some(IpAddr::V4(_)) | None => builder.build(),
            }
        }
    }
}

/// Adds a route, or changes one of ours to the same destination. One that somebody else put there
/// is left alone and named in the error.
pub(crate) async fn add(
    netlink: &Netlink,
    name: &InterfaceName,
    route: &Route,
) -> Result<(), KernelError> {
    let operation = format!("add route {} in table {}", route.destination, route.table);
    let link = links::require(netlink, name, &operation).await?;
    let new = |flags| {
        let message = RouteNetlinkMessage::NewRoute(message(route, link.index));
        netlink.change(&operation, message, flags)
    };
    let error = match new(NLM_F_CREATE | NLM_F_EXCL).await {
        Err(error) if error.errno == Some(libc::EEXIST) => error,
        other => return other,
    };
    // A plain replacement would also replace a route that is not ours.
    let same_place = observe(netlink, link.index)
        .await?
        .into_iter()
        .find(|own| own.table == route.table && own.destination == route.destination);
    match same_place {
        Some(own) if own == *route => Ok(()),
        Some(_) => new(NLM_F_CREATE | NLM_F_REPLACE).await,
        None => Err(KernelError {
            reason: format!(
                "a route to {} that is not Weir's is already in table {}; remove it",
                route.destination, route.table
            ),
            ..error
        }),
    }
}

/// Removes a route.
pub(crate) async fn remove(
    netlink: &Netlink,
    name: &InterfaceName,
    route: &Route,
) -> Result<(), KernelError> {
    // Routes go with their link.
    let Some(link) = links::find(netlink, name).await? else {
        return Ok(());
    };
    let removed = netlink
        .change(
            &format!(
                "remove route {} from table {}",
                route.destination, route.table
            ),
            RouteNetlinkMessage::DelRoute(message(route, link.index)),
            0,
        )
        .await;
    accept(removed, &[libc::ESRCH, libc::ENOENT, libc::ENODEV])
}
