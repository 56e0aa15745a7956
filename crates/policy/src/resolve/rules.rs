//! What entries of `acls` and `grants` have in common: sources, destinations, and the making of
//! rules.

use super::{
    Resolver,
    selectors::{Refusal, Selector},
};
use crate::{
    diagnostics::Span,
    grant_id::MAX_RULES,
    policy::{Effect, Rule},
    ports::merge_ports,
    selector::{Identity, Source, Target},
    syntax::Text,
};
use std::collections::BTreeSet;
use weir_overlay::Tag;
use weir_protocol::{IpProtocol, PortRange};

/// The most sources and ports of all rules together: an entry's sources count for each of its
/// destinations.
const MAX_PARTS: usize = 2_000_000;

/// What all rules of an entry share.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) span: Span,
    pub(super) origin: String,
    pub(super) sources: Vec<Source>,
    pub(super) via: Option<BTreeSet<Tag>>,
    /// Names in `postures`; one of them must be met. Empty asks for nothing.
    pub(super) postures: Vec<String>,
    /// The names of capabilities, for the rules that say something to applications.
    pub(super) capabilities: Vec<String>,
}

impl Resolver<'_, '_, '_> {
    /// Adds a rule. `false` when there are too many.
    pub(super) fn rule(
        &mut self,
        entry: &Entry,
        effect: Effect,
        target: Target,
        ports: Vec<PortRange>,
        protocols: BTreeSet<IpProtocol>,
    ) -> bool {
        let parts = entry.sources.len() + ports.len() + entry.postures.len();
        self.parts = self.parts.saturating_add(parts);
        let too_many = match self.parts > MAX_PARTS {
            true => Some(format!(
                "the policy names more than {MAX_PARTS} sources and ports"
            )),
            false => None,
        };
        let id = match too_many {
            Some(message) => Err(message),
            None => self
                .ids
                .next(&content(entry, effect, &target, &ports, &protocols))
                .ok_or_else(|| format!("the policy has more than {MAX_RULES} rules")),
        };
        let id = match id {
            Ok(id) => id,
            Err(message) => {
                let help = "name groups, tags and prefixes instead of single users and addresses";
                self.findings
                    .error(&entry.span, message, Some(help.to_owned()));
                return false;
            }
        };
        self.policy.rules.push(Rule {
            id,
            origin: entry.origin.clone(),
            sources: entry.sources.clone(),
            target,
            ports,
            protocols,
            effect,
            via: entry.via.clone(),
            postures: entry.postures.clone(),
            capabilities: match effect {
                Effect::Capability => entry.capabilities.clone(),
                Effect::Accept | Effect::Deny => Vec::new(),
            },
        });
        true
    }

    pub(super) fn sources(&mut self, sources: &[Text]) -> Vec<Source> {
        sources
            .iter()
            .filter_map(|source| self.source(source))
            .collect()
    }

    fn source(&mut self, source: &Text) -> Option<Source> {
        let text = source.value.as_str();
        let refusal = match self.selector(source, text) {
            Ok(Selector::Any) => return Some(Source::Any),
            Ok(Selector::Everything) => return Some(Source::Everything),
            Ok(Selector::Identity(identity)) => return Some(Source::Identity(identity)),
            Ok(Selector::Literal(addresses)) => return Some(Source::Literal(addresses)),
            Ok(Selector::Internet | Selector::OwnDevices) => Refusal::new(
                format!("{text:?} not valid on the src side of a rule"),
                None,
            ),
            Err(refusal) => Refusal {
                message: format!("src={}", refusal.message),
                ..refusal
            },
        };
        self.findings
            .error(&source.span, refusal.message, refusal.help);
        None
    }

    /// Looks up the host part of a destination.
    pub(super) fn target(&mut self, at: &Text, host: &str) -> Result<Target, Refusal> {
        match self.selector(at, host) {
            Ok(Selector::Any) => Ok(Target::Any),
            Ok(Selector::Internet) => Ok(Target::Internet),
            Ok(Selector::OwnDevices) => Ok(Target::OwnDevices),
            Ok(Selector::Identity(identity)) => Ok(Target::Identity(identity)),
            Ok(Selector::Literal(addresses)) => Ok(Target::Literal(addresses)),
            Ok(Selector::Everything) => Err(Refusal::new(
                "cannot use autogroup:danger-all as a dst",
                Some("write \"*\" for everything in the network".to_owned()),
            )),
            Err(refusal) => Err(Refusal {
                message: format!("dst={host:?}: {}", refusal.message),
                ..refusal
            }),
        }
    }

    /// Whether these sources may be used with `autogroup:self`.
    pub(super) fn may_reach_own_devices(sources: &[Source], any_is_allowed: bool) -> bool {
        let is_users = |source: &Source| match source {
            Source::Any => any_is_allowed,
            Source::Identity(
                Identity::User(_) | Identity::Group(_) | Identity::Member | Identity::Domain(_),
            ) => true,
            Source::Identity(Identity::Tag(_) | Identity::Tagged)
            | Source::Everything
            | Source::Literal(_) => false,
        };
        sources.iter().all(is_users)
    }

    /// Says that a destination does not go with its entry's sources.
    pub(super) fn cannot_reach_own_devices(&mut self, span: &Span) {
        self.findings.error(
            span,
            "autogroup:self can only be used with users, groups, or supported autogroups",
            Some("write users, groups or \"autogroup:member\" as src".to_owned()),
        );
    }

    pub(super) fn postures(&mut self, written: &[Text]) -> Vec<String> {
        let names = if written.is_empty() {
            return self.default_postures.clone();
        } else {
            written
        };
        let mut known = Vec::new();
        for name in names {
            if self.policy.postures.contains_key(&name.value) {
                known.push(name.value.clone());
            } else {
                let help = self
                    .findings
                    .suggestions
                    .did_you_mean(&name.value, self.policy.postures.keys().map(String::as_str))
                    .unwrap_or_else(|| format!("add {:?} to postures", name.value));
                let message = format!("posture not found: {:?}", name.value);
                self.findings.error(&name.span, message, Some(help));
            }
        }
        known
    }

    pub(super) fn warn_of_unused_ports(
        &mut self,
        protocols: &BTreeSet<IpProtocol>,
        ports: &[PortRange],
        span: &Span,
    ) {
        let needs_all = |protocol: &IpProtocol| {
            !protocol.has_ports() && ![IpProtocol::ICMP, IpProtocol::ICMPV6].contains(protocol)
        };
        if protocols.iter().all(needs_all) && !ports.iter().any(PortRange::is_all) {
            self.findings.warn(
                span,
                "this allows nothing: the protocol has no ports",
                Some("write \"*\" for the ports".to_owned()),
            );
        }
    }
}

/// What a rule says, in one normal form: what its id is made of.
fn content(
    entry: &Entry,
    effect: Effect,
    target: &Target,
    ports: &[PortRange],
    protocols: &BTreeSet<IpProtocol>,
) -> String {
    let sources: BTreeSet<String> = entry.sources.iter().map(ToString::to_string).collect();
    let ports: Vec<String> = merge_ports(ports.to_vec())
        .iter()
        .map(|range| format!("{}-{}", range.first, range.last))
        .collect();
    let protocols: Vec<String> = protocols.iter().map(|p| p.0.to_string()).collect();
    let sources: Vec<String> = sources.into_iter().collect();
    let mut content = format!(
        "{} > {target} : {} / {}",
        sources.join(" "),
        ports.join(" "),
        protocols.join(" ")
    );
    match effect {
        Effect::Accept => {}
        Effect::Deny => content.push_str(" deny"),
        Effect::Capability => content.push_str(" app"),
    }
    for tag in entry.via.iter().flatten() {
        content.push_str(" via ");
        content.push_str(tag.as_str());
    }
    for posture in &entry.postures {
        content.push(' ');
        content.push_str(posture);
    }
    content
}
