//! Where the kernel sends a packet, and by which rules.

use ipnet::IpNet;
use rtnetlink::packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteType},
    rule::{RuleAction, RuleAttribute, RuleMessage},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use weir_diagnosis::{RouteAnswer, RouteOut, RuleSeen};
use weir_kernel_plan::KernelError;
use weir_overlay::InterfaceName;

use crate::{links, netlink::Netlink};

/// What the kernel answers for the way to an address that is not there, not allowed, or (for
/// packets that come in by a link) not to be forwarded.
const NO_WAY: [i32; 6] = [
    libc::ENETUNREACH,
    libc::EHOSTUNREACH,
    libc::EACCES,
    libc::EINVAL,
    libc::EXDEV,
    libc::EAFNOSUPPORT,
];

/// Asks the kernel for the way of a packet: one of this host, or one that came from `source` by
/// the link.
pub(super) async fn way(
    netlink: &Netlink,
    to: IpAddr,
    coming: Option<(IpAddr, &InterfaceName)>,
) -> Result<RouteAnswer, KernelError> {
    let operation = format!("look up the way to {to}");
    let input = match coming {
        Some((source, interface)) => {
            let link = links::find(netlink, interface).await?;
            link.map(|link| (source, link.index))
        }
        None => None,
    };
    let ask = |flags| {
        let message = RouteNetlinkMessage::GetRoute(question(to, input, flags));
        netlink.get(&operation, message)
    };
    let chosen = match ask(RouteFlags::LookupTable).await {
        Ok(answers) => answers.into_iter().find_map(answer),
        Err(error) if error.errno.is_some_and(|errno| NO_WAY.contains(&errno)) => {
            return Ok(RouteAnswer::Nowhere(error.reason));
        }
        Err(error) => return Err(error),
    };
    // Kernels before 5.x, or a way that was just found by other means, do not tell the route.
    let matched = ask(RouteFlags::LookupTable | RouteFlags::FibMatch)
        .await
        .ok()
        .and_then(|answers| answers.into_iter().find_map(answer));
    let Some(chosen) = chosen else {
        return Ok(RouteAnswer::Nowhere(
            "the kernel does not answer".to_owned(),
        ));
    };
    let names = links::names(netlink).await?;
    Ok(read(&chosen, matched.as_ref(), &names))
}

fn question(to: IpAddr, input: Option<(IpAddr, u32)>, flags: RouteFlags) -> RouteMessage {
    let mut message = RouteMessage::default();
    let (family, length) = match to {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    message.header.address_family = family;
    message.header.destination_prefix_length = length;
    message.header.flags = flags;
    message
        .attributes
        .push(RouteAttribute::Destination(to.into()));
    if let Some((source, index)) = input {
        message.header.source_prefix_length = length;
        message
            .attributes
            .push(RouteAttribute::Source(source.into()));
        message.attributes.push(RouteAttribute::Iif(index));
    }
    message
}

fn answer(message: RouteNetlinkMessage) -> Option<RouteMessage> {
    if let RouteNetlinkMessage::NewRoute(route) = message {
        Some(route)
    } else {
        None
    }
}

fn read(
    chosen: &RouteMessage,
    matched: Option<&RouteMessage>,
    names: &BTreeMap<u32, String>,
) -> RouteAnswer {
    let kind = chosen.header.kind;
    if matches!(
        kind,
        RouteType::Local | RouteType::Broadcast | RouteType::Anycast
    ) {
        return RouteAnswer::Local;
    }
    if matches!(
        kind,
        RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit
    ) {
        return RouteAnswer::Nowhere(format!("a route of kind {kind:?} says so").to_lowercase());
    }
    let mut out = RouteOut {
        link: String::new(),
        gateway: None,
        source: None,
        table: table(matched.unwrap_or(chosen)),
        matched: matched.and_then(prefix),
    };
    for attribute in &chosen.attributes {
        if let RouteAttribute::Oif(index) = attribute {
            out.link = names
                .get(index)
                .cloned()
                .unwrap_or_else(|| format!("link {index}"));
        } else if let RouteAttribute::Gateway(gateway) = attribute {
            out.gateway = address(gateway);
        } else if let RouteAttribute::PrefSource(source) = attribute {
            out.source = address(source);
        }
    }
    RouteAnswer::Out(out)
}

fn table(message: &RouteMessage) -> Option<u32> {
    let attribute = message.attributes.iter().find_map(|attribute| {
        if let RouteAttribute::Table(table) = attribute {
            Some(*table)
        } else {
            None
        }
    });
    attribute
        .or(Some(u32::from(message.header.table)))
        .filter(|table| *table != 0)
}

fn prefix(message: &RouteMessage) -> Option<IpNet> {
    let destination = message.attributes.iter().find_map(|attribute| {
        if let RouteAttribute::Destination(destination) = attribute {
            address(destination)
        } else {
            None
        }
    });
    let any = if message.header.address_family == AddressFamily::Inet {
        IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED)
    } else {
        IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED)
    };
    let length = message.header.destination_prefix_length;
    IpNet::new(destination.unwrap_or(any), length).ok()
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

/// All routing rules, whoever made them.
pub(super) async fn rules(netlink: &Netlink) -> Result<BTreeSet<RuleSeen>, KernelError> {
    let mut rules = BTreeSet::new();
    for (family, ipv4) in [(AddressFamily::Inet, true), (AddressFamily::Inet6, false)] {
        let mut filter = RuleMessage::default();
        filter.header.family = family;
        let message = RouteNetlinkMessage::GetRule(filter);
        let answers = match netlink.dump("list the routing rules", message).await {
            Ok(answers) => answers,
            Err(error) if matches!(error.errno, Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP)) => {
                continue;
            }
            Err(error) => return Err(error),
        };
        rules.extend(answers.iter().filter_map(|answer| {
            let RouteNetlinkMessage::NewRule(rule) = answer else {
                return None;
            };
            let mut seen = RuleSeen {
                priority: 0,
                ipv4,
                table: (rule.header.action == RuleAction::ToTable)
                    .then_some(u32::from(rule.header.table)),
            };
            for attribute in &rule.attributes {
                if let RuleAttribute::Priority(priority) = attribute {
                    seen.priority = *priority;
                } else if let RuleAttribute::Table(table) = attribute {
                    seen.table = seen.table.map(|_| *table);
                }
            }
            (rule.header.family == family).then_some(seen)
        }));
    }
    Ok(rules)
}
