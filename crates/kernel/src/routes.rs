//! Routes of ours, known by our protocol number: through our link, or through none.

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
use weir_kernel_plan::{BACKSTOP_METRIC, KernelError, ROUTE_PROTOCOL, Route, RouteTarget, Step};
use weir_overlay::InterfaceName;

use crate::{error::accept, links, netlink::Netlink};

fn protocol() -> RouteProtocol {
    RouteProtocol::from(ROUTE_PROTOCOL)
}

/// Our routes in every table: those through the link with that index, where there is one, and
/// those through none.
pub(crate) async fn observe(
    netlink: &Netlink,
    index: Option<u32>,
) -> Result<BTreeSet<Route>, KernelError> {
    let mut routes = BTreeSet::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut filter = RouteMessage::default();
        filter.header.address_family = family;
        filter.header.protocol = protocol();
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
fn ours(message: &RouteMessage, index: Option<u32>) -> Option<Route> {
    let header = &message.header;
    let mut table = u32::from(header.table);
    let mut through = None;
    let mut destination = None;
    let (mut source, mut metric) = (None, 0);
    for attribute in &message.attributes {
        if let RouteAttribute::Table(value) = attribute {
            table = *value;
        } else if let RouteAttribute::Oif(value) = attribute {
            through = Some(*value);
        } else if let RouteAttribute::Destination(value) = attribute {
            destination = address(value);
        } else if let RouteAttribute::PrefSource(value) = attribute {
            source = address(value);
        } else if let RouteAttribute::Priority(value) = attribute {
            metric = *value;
        }
    }
    if header.protocol != protocol() || header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let target = if header.kind == RouteType::Unicast && through.is_some() && through == index {
        RouteTarget::Link { source }
    } else if header.kind == RouteType::Unreachable && metric == BACKSTOP_METRIC {
        RouteTarget::Unreachable
    } else if header.kind == RouteType::Throw {
        RouteTarget::NextRule
    } else {
        return None;
    };
    let destination = match destination {
        Some(address) => IpNet::new(address, header.destination_prefix_length).ok()?,
        None if header.address_family == AddressFamily::Inet => IpNet::V4(Ipv4Net::default()),
        None => IpNet::V6(Ipv6Net::default()),
    };
    Some(Route {
        table,
        destination,
        target,
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

/// A route's message; `index` is the link's, for those that lead there.
fn message(route: &Route, index: Option<u32>) -> RouteMessage {
    let mut message = match route.destination {
        IpNet::V4(destination) => RouteMessageBuilder::<Ipv4Addr>::new()
            .table_id(route.table)
            .destination_prefix(destination.network(), destination.prefix_len())
            .build(),
        IpNet::V6(destination) => RouteMessageBuilder::<Ipv6Addr>::new()
            .table_id(route.table)
            .destination_prefix(destination.network(), destination.prefix_len())
            .build(),
    };
    message.header.protocol = protocol();
    match route.target {
        RouteTarget::Link { source } => {
            message.header.kind = RouteType::Unicast;
            message.header.scope = RouteScope::Link;
            message.attributes.extend(index.map(RouteAttribute::Oif));
            let source = source.map(|source| match source {
                IpAddr::V4(source) => RouteAddress::Inet(source),
                IpAddr::V6(source) => RouteAddress::Inet6(source),
            });
            message
                .attributes
                .extend(source.map(RouteAttribute::PrefSource));
        }
        RouteTarget::Unreachable => {
            message.header.kind = RouteType::Unreachable;
            message
                .attributes
                .push(RouteAttribute::Priority(BACKSTOP_METRIC));
        }
        RouteTarget::NextRule => message.header.kind = RouteType::Throw,
    }
    message
}

/// Adds a route, or changes one of ours to the same destination. One that somebody else put there
/// is left alone and named in the error.
pub(crate) async fn add(
    netlink: &Netlink,
    name: &InterfaceName,
    route: &Route,
) -> Result<(), KernelError> {
    let operation = Step::AddRoute(*route).to_string();
    let link = if route.goes_with_the_link() {
        Some(links::require(netlink, name, &operation).await?.index)
    } else {
        links::find(netlink, name).await?.map(|link| link.index)
    };
    let new = |flags| {
        let message = RouteNetlinkMessage::NewRoute(message(route, link));
        netlink.change(&operation, message, flags)
    };
    let error = match new(NLM_F_CREATE | NLM_F_EXCL).await {
        Err(error) if error.errno == Some(libc::EEXIST) => error,
        other => return other,
    };
    // A plain replacement would also replace a route that is not ours.
    let same_place = observe(netlink, link)
        .await?
        .into_iter()
        .find(|own| own.has_the_place_of(route));
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
    let link = links::find(netlink, name).await?.map(|link| link.index);
    if link.is_none() && route.goes_with_the_link() {
        return Ok(());
    }
    let removed = netlink
        .change(
            &Step::RemoveRoute(*route).to_string(),
            RouteNetlinkMessage::DelRoute(message(route, link)),
            0,
        )
        .await;
    accept(removed, &[libc::ESRCH, libc::ENOENT, libc::ENODEV])
}
