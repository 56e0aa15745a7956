//! `nodeAttrs`: settings of clients. Of these, Weir has one: nodes without an IPv4 address.

use super::{
    Resolver,
    selectors::{Refusal, Selector, is_role},
};
use crate::{
    document::{NOT_ENFORCED, NodeAttributes},
    selector::Source,
    syntax::Text,
};
use ipnet::{IpNet, Ipv4Net};
use std::net::Ipv4Addr;
use weir_overlay::parse_prefix;

/// Takes a node's IPv4 address away.
const DISABLE_IPV4: &str = "disable-ipv4";

/// Addresses that no pool may hold: those that clients and platforms use themselves.
const RESERVED: [Ipv4Net; 3] = [
    Ipv4Net::new_assert(Ipv4Addr::new(100, 100, 0, 0), 24),
    Ipv4Net::new_assert(Ipv4Addr::new(100, 100, 100, 0), 24),
    Ipv4Net::new_assert(Ipv4Addr::new(100, 115, 92, 0), 23),
];

impl Resolver<'_, '_, '_> {
    pub(super) fn node_attributes(&mut self, entries: Vec<NodeAttributes>, everywhere: bool) {
        if everywhere {
            self.policy.without_ipv4.push(Source::Any);
        }
        for entry in entries {
            let targets: Vec<Source> = entry
                .targets
                .iter()
                .filter_map(|target| self.attribute_target(target))
                .collect();
            for pool in &entry.pools {
                self.pool(pool);
            }
            let is_disabled = |attribute: &Text| attribute.value == DISABLE_IPV4;
            if entry.attributes.iter().any(is_disabled) {
                self.policy.without_ipv4.extend(targets);
            }
            for attribute in entry.attributes {
                if attribute.value != DISABLE_IPV4 {
                    let message = format!("attr {:?}: {NOT_ENFORCED}", attribute.value);
                    self.findings.warn(&attribute.span, message, None);
                }
            }
        }
    }

    /// `None` for what stands for no node here, such as the holders of a role.
    fn attribute_target(&mut self, target: &Text) -> Option<Source> {
        let text = target.value.as_str();
        let refusal = match self.selector(target, text) {
            Ok(Selector::Any) => return Some(Source::Any),
            Ok(Selector::Identity(identity)) => return Some(Source::Identity(identity)),
            Ok(Selector::Literal(addresses)) => return Some(Source::Literal(addresses)),
            Err(_) if is_role(text) => return None,
            Ok(Selector::Everything | Selector::Internet | Selector::OwnDevices) => {
                Refusal::new(format!("{text:?} cannot be a target of nodeAttrs"), None)
            }
            Err(refusal) if text.contains(':') || text.contains('@') => refusal,
            Err(refusal) => Refusal {
                message: format!("{text:?}: invalid address"),
                ..refusal
            },
        };
        self.findings
            .error(&target.span, refusal.message, refusal.help);
        None
    }

    fn pool(&mut self, pool: &Text) {
        let refusal = match parse_prefix(&pool.value) {
            Ok(prefix) => {
                let is_reserved = RESERVED.iter().any(|net| IpNet::V4(*net).contains(&prefix));
                if !is_reserved {
                    let message = format!("ipPool {:?}: {NOT_ENFORCED}", pool.value);
                    self.findings.warn(&pool.span, message, None);
                    return;
                }
                format!("IPPool({prefix}): network within reserved range")
            }
            Err(error) => format!("IPPool({}): {error}", pool.value),
        };
        self.findings.error(&pool.span, refusal, None);
    }
}
