//! Links: ours by name, and whether the kernel knows WireGuard.

use rtnetlink::{
    LinkUnspec, LinkWireguard,
    packet_core::{NLM_F_CREATE, NLM_F_EXCL},
    packet_route::{
        RouteNetlinkMessage,
        link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
    },
};
use std::collections::BTreeMap;
use weir_kernel_plan::{KernelError, LinkKind};
use weir_overlay::InterfaceName;

use crate::{
    error::{accept, failed, kernel_said},
    netlink::Netlink,
};

/// What is known of a link.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) kind: LinkKind,
    pub(crate) mtu: u32,
    pub(crate) up: bool,
}

/// The link of that name.
pub(crate) async fn find(
    netlink: &Netlink,
    name: &InterfaceName,
) -> Result<Option<Link>, KernelError> {
    let mut message = LinkMessage::default();
    message
        .attributes
        .push(LinkAttribute::IfName(name.to_string()));
    let found = netlink
        .get(
            &format!("look up the link {name}"),
            RouteNetlinkMessage::GetLink(message),
        )
        .await;
    match found {
        Ok(answers) => Ok(answers.iter().find_map(link)),
        Err(error) if error.errno == Some(libc::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The link of that name; an error that says so when there is none.
pub(crate) async fn require(
    netlink: &Netlink,
    name: &InterfaceName,
    operation: &str,
) -> Result<Link, KernelError> {
    find(netlink, name)
        .await?
        .ok_or_else(|| kernel_said(operation, libc::ENODEV))
}

async fn list(netlink: &Netlink) -> Result<Vec<LinkMessage>, KernelError> {
    let all = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let answers = netlink.dump("list the links", all).await?;
    let links = answers.into_iter().filter_map(|answer| {
        if let RouteNetlinkMessage::NewLink(message) = answer {
            Some(message)
        } else {
            None
        }
    });
    Ok(links.collect())
}

/// The MTU of each link, in bytes, by name.
pub(crate) async fn mtus(netlink: &Netlink) -> Result<BTreeMap<String, u32>, KernelError> {
    Ok(list(netlink)
        .await?
        .into_iter()
        .filter_map(|message| {
            let (mut name, mut mtu) = (None, None);
            for attribute in message.attributes {
                if let LinkAttribute::IfName(found) = attribute {
                    name = Some(found);
                } else if let LinkAttribute::Mtu(found) = attribute {
                    mtu = Some(found);
                }
            }
            name.zip(mtu)
        })
        .collect())
}

/// All links, names by index.
pub(crate) async fn names(netlink: &Netlink) -> Result<BTreeMap<u32, String>, KernelError> {
    Ok(list(netlink)
        .await?
        .into_iter()
        .filter_map(|message| {
            message.attributes.into_iter().find_map(|attribute| {
                if let LinkAttribute::IfName(name) = attribute {
                    Some((message.header.index, name))
                } else {
                    None
                }
            })
        })
        .collect())
}

fn link(answer: &RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = answer else {
        return None;
    };
    let mut kind = LinkKind::Other("physical".to_owned());
    let mut mtu = 0;
    for attribute in &message.attributes {
        if let LinkAttribute::Mtu(value) = attribute {
            mtu = *value;
        } else if let LinkAttribute::LinkInfo(infos) = attribute {
            for info in infos {
                if let LinkInfo::Kind(found) = info {
                    kind = if *found == InfoKind::Wireguard {
                        LinkKind::Wireguard
                    } else if *found == InfoKind::Tun {
                        LinkKind::Tun
                    } else {
                        LinkKind::Other(found.to_string())
                    };
                }
            }
        }
    }
    Some(Link {
        index: message.header.index,
        kind,
        mtu,
        up: message.header.flags.contains(LinkFlags::Up),
    })
}

/// Makes a link of the kernel's WireGuard. One that is there already is left as it is.
pub(crate) async fn create_wireguard(
    netlink: &Netlink,
    name: &InterfaceName,
    mtu: u32,
) -> Result<(), KernelError> {
    let operation = "create the kernel WireGuard link";
    let message = LinkWireguard::new(name.as_str()).mtu(mtu).build();
    let made = netlink
        .change(
            operation,
            RouteNetlinkMessage::NewLink(message),
            NLM_F_CREATE | NLM_F_EXCL,
        )
        .await;
    match made {
        Err(error) if error.errno == Some(libc::EEXIST) => {
            match find(netlink, name).await?.map(|link| link.kind) {
                Some(LinkKind::Wireguard) => Ok(()),
                Some(LinkKind::Tun | LinkKind::Other(_)) | None => Err(error),
            }
        }
        Err(error) if error.errno == Some(libc::EOPNOTSUPP) => Err(KernelError {
            reason: format!(
                "{}; this kernel has no WireGuard: install its module or use \
                 --wireguard=userspace",
                error.reason
            ),
            ..error
        }),
        other => other,
    }
}

/// Removes the link.
pub(crate) async fn delete(netlink: &Netlink, index: u32) -> Result<(), KernelError> {
    let message = LinkUnspec::new_with_index(index).build();
    let removed = netlink
        .change("remove the link", RouteNetlinkMessage::DelLink(message), 0)
        .await;
    accept(removed, &[libc::ENODEV])
}

/// Sets the MTU, in bytes.
pub(crate) async fn set_mtu(
    netlink: &Netlink,
    name: &InterfaceName,
    mtu: u32,
) -> Result<(), KernelError> {
    let operation = format!("set the link's MTU to {mtu}");
    let link = require(netlink, name, &operation).await?;
    let message = LinkUnspec::new_with_index(link.index).mtu(mtu).build();
    netlink
        .change(&operation, RouteNetlinkMessage::SetLink(message), 0)
        .await
}

/// Sets the link up.
pub(crate) async fn set_up(netlink: &Netlink, name: &InterfaceName) -> Result<(), KernelError> {
    let operation = "set the link up";
    let link = require(netlink, name, operation).await?;
    let message = LinkUnspec::new_with_index(link.index).up().build();
    let set = netlink
        .change(operation, RouteNetlinkMessage::SetLink(message), 0)
        .await;
    match set {
        Err(error) if error.errno == Some(libc::EADDRINUSE) => Err(KernelError {
            reason: format!("{}; another process has its UDP port", error.reason),
            ..error
        }),
        other => other,
    }
}

/// Whether the kernel can make WireGuard links. Asks for one with an MTU that no link can have:
/// `EINVAL` where the kind is known, `EOPNOTSUPP` where it is not, and none is made either way.
/// The kernel loads the module on the way when it has one.
pub(crate) async fn kernel_has_wireguard(netlink: &Netlink) -> Result<bool, KernelError> {
    let operation = "ask the kernel for WireGuard";
    // Without a name: a link that has ours would answer EEXIST first.
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::Mtu(u32::MAX));
    message
        .attributes
        .push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(
            InfoKind::Wireguard,
        )]));
    let asked = netlink
        .change(
            operation,
            RouteNetlinkMessage::NewLink(message),
            NLM_F_CREATE | NLM_F_EXCL,
        )
        .await;
    match asked {
        Err(error) => match error.errno {
            Some(libc::EINVAL | libc::ERANGE) => Ok(true),
            Some(libc::EOPNOTSUPP | libc::EPERM) => Ok(false),
            _ => Err(error),
        },
        Ok(()) => Err(failed(
            operation,
            "it made a link with an impossible MTU; remove it by hand",
        )),
    }
}
