//! Addresses of links.

use ipnet::IpNet;
use rtnetlink::{
    AddressMessageBuilder,
    packet_core::{NLM_F_CREATE, NLM_F_EXCL},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::{AddressAttribute, AddressFlags, AddressMessage},
    },
};
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};
use weir_kernel_plan::KernelError;
use weir_overlay::InterfaceName;

use crate::{error::accept, links, netlink::Netlink};

/// An address and the link it is on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LinkAddress {
    /// The link's index.
    pub(crate) index: u32,
    /// The address with its prefix length.
    pub(crate) address: IpNet,
}

/// Whether the address is one that the kernel or a neighbour gave for this link only.
pub(crate) fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// The addresses of one link (`Some` index) or of all.
pub(crate) async fn list(
    netlink: &Netlink,
    index: Option<u32>,
) -> Result<Vec<LinkAddress>, KernelError> {
    let mut found = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = AddressMessage::default();
        message.header.family = family;
        message.header.index = index.unwrap_or_default();
        let answers = netlink
            .dump(
                "list the addresses",
                RouteNetlinkMessage::GetAddress(message),
            )
            .await;
        let answers = match answers {
            Ok(answers) => answers,
            // The link went away, or this kernel has no such family.
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
        found.extend(
            answers
                .iter()
                .filter_map(|answer| parse(answer, family))
                .filter(|found| index.is_none_or(|index| found.index == index)),
        );
    }
    Ok(found)
}

fn parse(answer: &RouteNetlinkMessage, family: AddressFamily) -> Option<LinkAddress> {
    let RouteNetlinkMessage::NewAddress(message) = answer else {
        return None;
    };
    // A kernel without IPv6 answers a question for its addresses with the IPv4 ones.
    if message.header.family != family {
        return None;
    }
    let mut address = None;
    for attribute in &message.attributes {
        // On a point-to-point link the first is the far end's, the second is ours.
        if let AddressAttribute::Address(found) = attribute {
            address = address.or(Some(*found));
        } else if let AddressAttribute::Local(found) = attribute {
            address = Some(*found);
        }
    }
    Some(LinkAddress {
        index: message.header.index,
        address: IpNet::new(address?, message.header.prefix_len).ok()?,
    })
}

/// The addresses of our link, link-local ones left out.
pub(crate) async fn of_link(netlink: &Netlink, index: u32) -> Result<BTreeSet<IpNet>, KernelError> {
    Ok(list(netlink, Some(index))
        .await?
        .into_iter()
        .map(|found| found.address)
        .filter(|address| !is_link_local(address.addr()))
        .collect())
}

fn message(index: u32, address: IpNet) -> AddressMessage {
    match address {
        IpNet::V4(v4) => AddressMessageBuilder::<Ipv4Addr>::new()
            .index(index)
            .address(v4.addr(), v4.prefix_len())
            .build(),
        IpNet::V6(v6) => AddressMessageBuilder::<Ipv6Addr>::new()
            .index(index)
            .address(v6.addr(), v6.prefix_len())
            .build(),
    }
}

/// Gives the link an address. The kernel derives no route to its prefix from it, and does not ask
/// the link for duplicates: nobody would answer on a tunnel.
pub(crate) async fn add(
    netlink: &Netlink,
    name: &InterfaceName,
    address: IpNet,
) -> Result<(), KernelError> {
    let operation = format!("add address {address}");
    let link = links::require(netlink, name, &operation).await?;
    let mut message = message(link.index, address);
    message
        .attributes
        .push(AddressAttribute::Flags(match address {
            IpNet::V4(_) => AddressFlags::Noprefixroute,
            IpNet::V6(_) => AddressFlags::Noprefixroute | AddressFlags::Nodad,
        }));
    let added = netlink
        .change(
            &operation,
            RouteNetlinkMessage::NewAddress(message),
            NLM_F_CREATE | NLM_F_EXCL,
        )
        .await;
    match added {
        Err(error) if address.addr().is_ipv6() && error.errno == Some(libc::EACCES) => {
            Err(KernelError {
                reason: format!(
                    "IPv6 is disabled on {name}: set net.ipv6.conf.{name}.disable_ipv6 to 0"
                ),
                ..error
            })
        }
        other => accept(other, &[libc::EEXIST]),
    }
}

/// Takes an address from the link.
pub(crate) async fn remove(
    netlink: &Netlink,
    name: &InterfaceName,
    address: IpNet,
) -> Result<(), KernelError> {
    let Some(link) = links::find(netlink, name).await? else {
        return Ok(());
    };
    let removed = netlink
        .change(
            &format!("remove address {address}"),
            RouteNetlinkMessage::DelAddress(message(link.index, address)),
            0,
        )
        .await;
    accept(removed, &[libc::EADDRNOTAVAIL, libc::ENODEV])
}
