//! Routing rules of ours: `not fwmark MARK/MASK lookup TABLE`, in our band of priorities.

use rtnetlink::{
    packet_core::{NLM_F_CREATE, NLM_F_EXCL},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        route::RouteProtocol,
        rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage},
    },
};
use std::collections::BTreeSet;
use weir_kernel_plan::{
    IpFamily, KernelError, PolicyRule, ROUTE_PROTOCOL, RULE_BAND_FIRST, RULE_BAND_LAST, Step,
    TUNNEL_MARK, TUNNEL_MARK_MASK,
};

use crate::{error::accept, netlink::Netlink};

/// What the kernel stores for a rule that suppresses nothing (-1).
const NO_SUPPRESSION: u32 = u32::MAX;

fn kernel_family(family: IpFamily) -> AddressFamily {
    match family {
        IpFamily::V4 => AddressFamily::Inet,
        IpFamily::V6 => AddressFamily::Inet6,
    }
}

/// Our rules: those in our band that bear our protocol number and have our form.
pub(crate) async fn observe(netlink: &Netlink) -> Result<BTreeSet<PolicyRule>, KernelError> {
    let mut rules = BTreeSet::new();
    for family in [IpFamily::V4, IpFamily::V6] {
        let mut filter = RuleMessage::default();
        filter.header.family = kernel_family(family);
        let answers = match netlink
            .dump(
                "list the routing rules",
                RouteNetlinkMessage::GetRule(filter),
            )
            .await
        {
            Ok(answers) => answers,
            Err(error) if matches!(error.errno, Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP)) => {
                continue;
            }
            Err(error) => return Err(error),
        };
        rules.extend(answers.iter().filter_map(|answer| ours(answer, family)));
    }
    Ok(rules)
}

fn ours(answer: &RouteNetlinkMessage, family: IpFamily) -> Option<PolicyRule> {
    let RouteNetlinkMessage::NewRule(message) = answer else {
        return None;
    };
    let mut table = u32::from(message.header.table);
    let (mut priority, mut mark, mut mask, mut by) = (0, 0, 0, None);
    let mut suppress_prefix_length = None;
    for attribute in &message.attributes {
        if let RuleAttribute::Table(value) = attribute {
            table = *value;
        } else if let RuleAttribute::Priority(value) = attribute {
            priority = *value;
        } else if let RuleAttribute::FwMark(value) = attribute {
            mark = *value;
        } else if let RuleAttribute::FwMask(value) = attribute {
            mask = *value;
        } else if let RuleAttribute::Protocol(value) = attribute {
            by = Some(*value);
        } else if let RuleAttribute::SuppressPrefixLen(value) = attribute {
            suppress_prefix_length = Some(*value).filter(|value| *value != NO_SUPPRESSION);
        }
    }
    let ours = message.header.family == kernel_family(family)
        && (RULE_BAND_FIRST..=RULE_BAND_LAST).contains(&priority)
        && by == Some(RouteProtocol::from(ROUTE_PROTOCOL))
        && message.header.action == RuleAction::ToTable
        && message.header.flags.contains(RuleFlags::Invert)
        && (mark, mask) == (TUNNEL_MARK, TUNNEL_MARK_MASK);
    ours.then_some(PolicyRule {
        priority,
        family,
        table,
        suppress_prefix_length,
    })
}

fn message(rule: &PolicyRule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = kernel_family(rule.family);
    message.header.action = RuleAction::ToTable;
    message.header.flags = RuleFlags::Invert;
    message.attributes = vec![
        RuleAttribute::Priority(rule.priority),
        RuleAttribute::FwMark(TUNNEL_MARK),
        RuleAttribute::FwMask(TUNNEL_MARK_MASK),
        RuleAttribute::Table(rule.table),
        RuleAttribute::Protocol(RouteProtocol::from(ROUTE_PROTOCOL)),
    ];
    if let Some(length) = rule.suppress_prefix_length {
        message
            .attributes
            .push(RuleAttribute::SuppressPrefixLen(length));
    }
    message
}

/// Adds a rule.
pub(crate) async fn add(netlink: &Netlink, rule: &PolicyRule) -> Result<(), KernelError> {
    let added = netlink
        .change(
            &Step::AddRule(*rule).to_string(),
            RouteNetlinkMessage::NewRule(message(rule)),
            NLM_F_CREATE | NLM_F_EXCL,
        )
        .await;
    accept(added, &[libc::EEXIST])
}

/// Removes a rule.
pub(crate) async fn remove(netlink: &Netlink, rule: &PolicyRule) -> Result<(), KernelError> {
    let removed = netlink
        .change(
            &Step::RemoveRule(*rule).to_string(),
            RouteNetlinkMessage::DelRule(message(rule)),
            0,
        )
        .await;
    accept(removed, &[libc::ENOENT, libc::ESRCH, libc::EAFNOSUPPORT])
}
