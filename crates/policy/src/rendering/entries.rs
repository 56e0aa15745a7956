//! Rules to entries of `grants` and `acls`: neighbours that one entry can say share it.

use super::{Text, list, object, ports_text, property, quoted, split_destination};
use crate::{
    policy::{Effect, Rule},
    ports::protocol_text,
    selector::Target,
};
use weir_protocol::IpProtocol;

/// Whether an entry of `acls` can say the same: it has no `via` and no capabilities, and takes off
/// brackets that a user's name may have.
pub(super) fn fits_acls(rule: &Rule) -> bool {
    let is_literal = matches!(rule.target, Target::Literal(_));
    let host = rule.target.to_string();
    rule.via.is_none()
        && rule.effect != Effect::Capability
        && (is_literal || split_destination(&format!("{host}:1")).0 == host)
}

impl Text {
    pub(super) fn acls(&mut self, rules: &[Rule]) -> Vec<String> {
        let mut entries: Vec<Vec<&Rule>> = Vec::new();
        for rule in rules {
            match entries.last_mut() {
                Some(entry) if may_join(entry, rule) => entry.push(rule),
                Some(_) | None => entries.push(vec![rule]),
            }
        }
        let entries = entries.iter().filter_map(|entry| self.acl(entry));
        entries.collect()
    }

    fn acl(&mut self, entry: &[&Rule]) -> Option<String> {
        let rule = entry.first()?;
        let action = if rule.effect == Effect::Deny {
            "deny"
        } else {
            "accept"
        };
        let mut fields = vec![("action", quoted(action)), ("src", self.sources(rule))];
        let destinations = entry.iter();
        let destinations = destinations
            .map(|rule| self.destination(&rule.target, &ports_text(&rule.ports)))
            .collect::<Vec<_>>();
        fields.push(("dst", list(destinations)));
        if !has_default_protocols(rule) {
            let protocol = rule.protocols.first()?;
            fields.push(("proto", quoted(&protocol_text(*protocol))));
        }
        if !rule.postures.is_empty() {
            fields.push(("srcPosture", list(&rule.postures)));
        }
        Some(object(&fields))
    }

    pub(super) fn grants(&mut self, rules: &[Rule]) -> Vec<String> {
        let same_ports = |a: &Rule, b: &Rule| {
            share_an_entry(a, b)
                && a.effect == b.effect
                && a.ports == b.ports
                && a.protocols == b.protocols
                && a.capabilities == b.capabilities
        };
        let mut entries: Vec<Vec<&[Rule]>> = Vec::new();
        for part in rules.chunk_by(same_ports) {
            match entries.last_mut() {
                Some(entry) if may_join_grant(entry, part) => entry.push(part),
                Some(_) | None => entries.push(vec![part]),
            }
        }
        let entries = entries.iter().filter_map(|parts| self.grant(parts));
        entries.collect()
    }

    /// `parts` are rules for the same targets, each with its own protocols.
    fn grant(&mut self, parts: &[&[Rule]]) -> Option<String> {
        let targets = parts.first()?;
        let rule = targets.first()?;
        let destinations: Vec<String> = targets
            .iter()
            .map(|rule| match &rule.target {
                // A grant refuses these two as they are.
                Target::Literal(addresses) => self.literal(addresses, |range| {
                    !["0.0.0.0/0", "::/0"].contains(&range.to_string().as_str())
                }),
                Target::Any | Target::Internet | Target::OwnDevices | Target::Identity(_) => {
                    rule.target.to_string()
                }
            })
            .collect();
        let mut fields = vec![("src", self.sources(rule)), ("dst", list(destinations))];
        let firsts = || parts.iter().filter_map(|part| part.first());
        let ip: Vec<String> = firsts().filter_map(ip).collect();
        if !ip.is_empty() {
            fields.push(("ip", list(ip)));
        }
        let capabilities: Vec<String> = firsts()
            .flat_map(|rule| &rule.capabilities)
            .map(|name| property(name, "[]"))
            .collect();
        if !capabilities.is_empty() {
            fields.push(("app", format!("{{{}}}", capabilities.join(", "))));
        }
        if let Some(via) = &rule.via {
            fields.push(("via", list(via.iter().map(|tag| tag.as_str()))));
        }
        if !rule.postures.is_empty() {
            fields.push(("srcPosture", list(&rule.postures)));
        }
        Some(object(&fields))
    }

    fn sources(&mut self, rule: &Rule) -> String {
        let sources = rule.sources.iter();
        list(sources.map(|source| self.source(source)))
    }
}

/// An item of `ip`; `None` for a capability.
fn ip(rule: &Rule) -> Option<String> {
    let ports = ports_text(&rule.ports);
    let protocol = rule.protocols.first()?;
    Some(if has_default_protocols(rule) {
        ports
    } else {
        format!("{}:{ports}", protocol_text(*protocol))
    })
}

fn has_default_protocols(rule: &Rule) -> bool {
    rule.protocols.iter().eq(IpProtocol::defaults().iter())
}

fn share_an_entry(a: &Rule, b: &Rule) -> bool {
    a.sources == b.sources && a.via == b.via && a.postures == b.postures
}

/// Whether an entry of `acls` can say this rule too. It would add the ports of one target together.
fn may_join(entry: &[&Rule], rule: &Rule) -> bool {
    entry.iter().all(|other| {
        share_an_entry(other, rule)
            && other.effect == rule.effect
            && other.protocols == rule.protocols
            && other.target != rule.target
    })
}

/// Whether a grant can say these rules too: they are for the same targets, by other protocols, and
/// what it says to applications comes last.
fn may_join_grant(entry: &[&[Rule]], part: &[Rule]) -> bool {
    let targets = part.iter().map(|rule| &rule.target);
    entry.iter().all(|other| {
        let (Some(first), Some(rule)) = (other.first(), part.first()) else {
            return false;
        };
        share_an_entry(first, rule)
            && first.effect == Effect::Accept
            && first.protocols != rule.protocols
            && other.iter().map(|rule| &rule.target).eq(targets.clone())
    })
}
