//! Why the policy in force allows a connection, or why not.

use super::policy::stored;
use crate::{Coordinator, api, clock, refusal::Refusal, snapshot};
use ipnet::IpNet;
use std::{collections::BTreeMap, net::IpAddr};
use weir_netmap::{Network, NetworkState, Node};
use weir_overlay::{AddressRange, AddressSet, NodeId, NodeName, Tag};
use weir_policy::{CompiledPolicy, Packet, Policy};
use weir_protocol::{ErrorCode, IpProtocol};

/// The most connections that one question may be about: each asks every rule.
const MAX_PAIRS: usize = 1000;

/// A node, or an address that no node has.
#[derive(Clone, Debug)]
enum Party<'a> {
    Node(&'a Node),
    /// An address, and the node that has it.
    Address(IpAddr, Option<&'a Node>),
    /// Several addresses, of which the first is asked about.
    Range(AddressRange),
}

/// What the policy in force says of a connection, for each pair of addresses that the question is
/// about.
///
/// # Errors
/// [`Refusal`], when one end is nobody here, or when the two have no family of addresses in common.
pub(crate) async fn explain_policy(
    coordinator: &Coordinator,
    request: &api::ExplainPolicy,
) -> Result<Vec<api::Explained>, Refusal> {
    let in_force = coordinator.engine.policy();
    let mut tx = coordinator.store.read().await?;
    let state = snapshot::read(&mut tx, clock::now()).await?;
    let text = match in_force.status.revision {
        Some(revision) => stored(&mut tx, Some(revision)).await?.text,
        None => String::new(),
    };
    drop(tx);
    let network = Network::new(&state, &in_force.policy);
    let sources = parties(&state, &in_force.policy, &request.source)?;
    let destinations = parties(&state, &in_force.policy, &request.destination)?;
    let number = sources.len().saturating_mul(destinations.len());
    if number > MAX_PAIRS {
        return Err(Refusal::new(
            ErrorCode::BadRequest,
            format!(
                "this asks about {number} connections; at most {MAX_PAIRS} are explained at once: \
                 name a node or an address"
            ),
        ));
    }
    let pairs = pairs(&sources, &destinations, network.policy());
    if pairs.is_empty() {
        return Err(Refusal::new(
            ErrorCode::BadRequest,
            format!(
                "{} and {} have no addresses of one family: name both by IPv4 or both by IPv6",
                request.source, request.destination
            ),
        ));
    }
    let explainer = Explainer {
        names: state.nodes.values().map(|n| (n.id, &n.name)).collect(),
        lines: text.lines().collect(),
        policy: network.policy(),
    };
    Ok(pairs
        .into_iter()
        .map(|(source, destination)| explainer.explain(source, destination, request))
        .collect())
}

/// Whom a text stands for: a node by its name, an address, all nodes with a tag, all of a user or
/// of a group's members, what the policy's `hosts` and `ipsets` name, or a prefix or range.
fn parties<'a>(
    state: &'a NetworkState,
    policy: &Policy,
    text: &str,
) -> Result<Vec<Party<'a>>, Refusal> {
    let owner = |address: IpAddr| {
        let mut nodes = state.nodes.values();
        nodes.find(|node| node.addresses.contains(&address))
    };
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(vec![Party::Address(address, owner(address))]);
    }
    let nodes = |wanted: &dyn Fn(&Node) -> bool| -> Vec<Party<'a>> {
        let nodes = state.nodes.values().filter(|node| wanted(node));
        nodes.map(Party::Node).collect()
    };
    let not_found = |detail: String| Err(Refusal::new(ErrorCode::NotFound, detail));
    if text.starts_with("tag:") {
        let tag: Tag = text.parse().map_err(|error: weir_overlay::NameError| {
            Refusal::new(ErrorCode::BadRequest, error.to_string())
        })?;
        let tagged = nodes(&|node| node.tags.contains(&tag));
        return match tagged.is_empty() {
            true => not_found(format!("no node carries {tag}: see coordinator nodes list")),
            false => Ok(tagged),
        };
    }
    if text.starts_with("group:") {
        let owner = |node: &Node| state.users.get(&node.user?);
        let owned = nodes(&|node| {
            node.tags.is_empty() && owner(node).is_some_and(|user| policy.is_member(text, user))
        });
        return match owned.is_empty() {
            true => not_found(format!(
                "no machine in the network is of a member of {text}"
            )),
            false => Ok(owned),
        };
    }
    let named = nodes(&|node| node.name.as_str() == text);
    if !named.is_empty() {
        return Ok(named);
    }
    let written = text.parse::<IpNet>().map(AddressRange::from);
    let written = written.or_else(|_| text.parse::<AddressRange>());
    let written = written.map(|range| AddressSet::from_iter([range]));
    if let Some(named) = policy.addresses_of(text).or(written.as_ref().ok()) {
        let parties = named.ranges().iter().map(|range| match range.single() {
            Some(address) => Party::Address(address, owner(address)),
            None => Party::Range(*range),
        });
        return match named.is_empty() {
            true => not_found(format!("{text} has no addresses")),
            false => Ok(parties.collect()),
        };
    }
    let name = text.strip_suffix('@').unwrap_or(text);
    let user = state
        .users
        .values()
        .find(|user| user.name.eq_ignore_ascii_case(name));
    let Some(user) = user else {
        return not_found(format!(
            "{text} is no node, user, group, tag, host, set or address here: see coordinator nodes \
             list, coordinator users list and coordinator policy get"
        ));
    };
    let owned = nodes(&|node| node.tags.is_empty() && node.user == Some(user.id));
    match owned.is_empty() {
        true => not_found(format!("{} has no machine in the network", user.name)),
        false => Ok(owned),
    }
}

/// Each with each, in the family that the two have in common: IPv4 where they have both.
fn pairs(
    sources: &[Party<'_>],
    destinations: &[Party<'_>],
    policy: &CompiledPolicy,
) -> Vec<(api::End, api::End)> {
    let each = sources
        .iter()
        .flat_map(|source| destinations.iter().map(move |to| (source, to)));
    each.filter_map(|(source, destination)| {
        let families = [IpAddr::is_ipv4, IpAddr::is_ipv6];
        families.into_iter().find_map(|family| {
            let end = |party: &Party<'_>| party.end(family, policy);
            Some((end(source)?, end(destination)?))
        })
    })
    .collect()
}

impl Party<'_> {
    fn end(&self, family: fn(&IpAddr) -> bool, policy: &CompiledPolicy) -> Option<api::End> {
        let node = match self {
            Self::Node(node) => Some(*node),
            Self::Address(_, node) => *node,
            Self::Range(_) => None,
        };
        let has = |address: &IpAddr| {
            let lost = node.is_some_and(|node| policy.is_without_ipv4(node.id));
            family(address) && (address.is_ipv6() || !lost)
        };
        let address = match self {
            Self::Node(node) => node.addresses.iter().copied().find(has)?,
            Self::Address(address, _) => Some(*address).filter(has)?,
            Self::Range(range) => Some(range.first()).filter(has)?,
        };
        let first_of = match self {
            Self::Node(_) | Self::Address(..) => None,
            Self::Range(range) => Some(range.to_string()),
        };
        Some(api::End {
            node: node.map(|node| node.name.clone()),
            address,
            first_of,
        })
    }
}

struct Explainer<'a> {
    names: BTreeMap<NodeId, &'a NodeName>,
    /// Of the policy.
    lines: Vec<&'a str>,
    policy: &'a CompiledPolicy,
}

impl Explainer<'_> {
    fn explain(
        &self,
        source: api::End,
        destination: api::End,
        request: &api::ExplainPolicy,
    ) -> api::Explained {
        let is_ping = [IpProtocol::ICMP, IpProtocol::ICMPV6].contains(&request.protocol);
        let protocol = match (is_ping, destination.address.is_ipv6()) {
            (true, true) => IpProtocol::ICMPV6,
            (true, false) => IpProtocol::ICMP,
            (false, _) => request.protocol,
        };
        let found = self.policy.explain(&Packet {
            source: source.address,
            destination: destination.address,
            port: request.port,
            protocol,
        });
        let mut rules: Vec<api::ExplainedRule> = Vec::new();
        for allowance in found.allowed {
            let at = self.name(allowance.at);
            match rules
                .iter_mut()
                .find(|rule| rule.origin == allowance.origin)
            {
                Some(rule) => rule.at.extend(at),
                None => rules.push(api::ExplainedRule {
                    text: self.line(&allowance.origin),
                    origin: allowance.origin,
                    at: at.into_iter().collect(),
                }),
            }
        }
        api::Explained {
            source,
            destination,
            protocol,
            port: request.port,
            allowed: !rules.is_empty(),
            rules,
            served_by: found
                .served_by
                .iter()
                .filter_map(|id| self.name(*id))
                .collect(),
            closest: found.closest.map(|closest| api::ClosestRule {
                text: self.line(&closest.origin),
                why: closest.misses.iter().map(ToString::to_string).collect(),
                origin: closest.origin,
            }),
        }
    }

    fn name(&self, id: NodeId) -> Option<NodeName> {
        self.names.get(&id).copied().cloned()
    }

    /// The line of the policy that an origin names.
    fn line(&self, origin: &str) -> String {
        let number = origin
            .rsplit_once("line ")
            .and_then(|(_, number)| number.parse::<usize>().ok());
        number
            .and_then(|number| self.lines.get(number.checked_sub(1)?))
            .map(|line| line.trim().to_owned())
            .unwrap_or_default()
    }
}
