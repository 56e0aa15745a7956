//! An entry of `grants`: the rules it makes.

use super::{Resolver, acl::how_to_name_a_protocol, rules::Entry, selectors::Refusal};
use crate::{
    document::{Grant, NOT_ENFORCED},
    policy::Effect,
    ports::{parse_ports, parse_protocol},
    selector::Target,
    syntax::Text,
};
use std::collections::BTreeSet;
use weir_overlay::Tag;
use weir_protocol::{IpProtocol, PortRange};

/// Ports of one set of protocols.
type Allowed = (BTreeSet<IpProtocol>, Vec<PortRange>);

/// The capabilities of the language's own domain that a policy may give.
const OWN_CAPABILITIES: [&str; 6] = ["drive", "kubernetes", "relay", "secrets", "tsidp", "webui"];

impl Resolver<'_, '_, '_> {
    pub(super) fn grant(&mut self, grant: Grant) {
        let sources = self.sources(&grant.sources);
        let via = self.via(&grant.via);
        if grant.ip.is_empty() && grant.app.is_empty() {
            self.findings.error(
                &grant.span,
                "ip and app can not both be empty",
                Some("\"ip\": [\"*\"] allows all ports; \"ip\": [\"tcp:443\"] one".to_owned()),
            );
        }
        let allowed = self.allowed(&grant.ip);
        for capability in &grant.app {
            self.capability(capability);
        }
        let fits_own_devices = Self::may_reach_own_devices(&sources, false);
        let mut targets = Vec::new();
        for destination in &grant.destinations {
            let Some(target) = self.grant_target(destination, !grant.app.is_empty()) else {
                continue;
            };
            if target == Target::OwnDevices && !fits_own_devices {
                self.cannot_reach_own_devices(&destination.span);
                continue;
            }
            if via.is_some() && !self.may_lead_through(&target, destination) {
                continue;
            }
            for (protocols, ports) in &allowed {
                self.warn_of_unused_ports(protocols, ports, &destination.span);
            }
            targets.push(target);
        }
        let postures = self.postures(&grant.postures);
        if sources.is_empty() {
            return;
        }
        let line = self.lines.line(grant.span.start);
        let entry = Entry {
            origin: format!("grants[{}], line {line}", grant.index),
            span: grant.span,
            sources,
            via,
            postures,
            capabilities: grant.app.iter().map(|name| name.value.clone()).collect(),
        };
        for (protocols, ports) in allowed {
            for target in &targets {
                let (ports, protocols) = (ports.clone(), protocols.clone());
                if !self.rule(&entry, Effect::Accept, target.clone(), ports, protocols) {
                    return;
                }
            }
        }
        if !grant.app.is_empty() {
            for target in targets {
                let none = BTreeSet::new();
                if !self.rule(&entry, Effect::Capability, target, Vec::new(), none) {
                    return;
                }
            }
        }
    }

    /// Whether nodes can be chosen to lead to a destination: those that serve its addresses. Nobody
    /// leads to devices, so such a destination allows nothing, and nobody a user to their own.
    fn may_lead_through(&mut self, target: &Target, destination: &Text) -> bool {
        if !matches!(target, Target::Literal(_) | Target::Internet) {
            let message = format!(
                "{:?}: via leads to no device: it allows nothing",
                destination.value
            );
            let help = "write addresses or \"autogroup:internet\", or leave via out".to_owned();
            self.findings.warn(&destination.span, message, Some(help));
        }
        *target != Target::OwnDevices
    }

    fn grant_target(&mut self, destination: &Text, has_app: bool) -> Option<Target> {
        let text = destination.value.as_str();
        let refusal = match self.target(destination, text) {
            Ok(Target::Internet) if has_app => {
                Refusal::new("cannot use app grants with autogroup:internet", None)
            }
            Ok(Target::Literal(_)) if ["0.0.0.0/0", "::/0"].contains(&text) => Refusal::new(
                format!(
                    "dst {text:?}: to allow all IP addresses, use \"*\" or \"autogroup:internet\""
                ),
                None,
            ),
            Ok(target) => return Some(target),
            Err(refusal) => refusal,
        };
        self.findings
            .error(&destination.span, refusal.message, refusal.help);
        None
    }

    /// The ports of each protocol, in the order in which the protocols come.
    fn allowed(&mut self, items: &[Text]) -> Vec<Allowed> {
        let mut allowed: Vec<Allowed> = Vec::new();
        for item in items {
            let (protocols, ports) = match item.value.split_once(':') {
                None => (IpProtocol::defaults().into(), item.value.as_str()),
                Some((name, ports)) => {
                    let Some(protocol) = parse_protocol(name) else {
                        let message = format!("ip={:?}: {name:?} is not a protocol", item.value);
                        let help = how_to_name_a_protocol(name);
                        self.findings.error(&item.span, message, Some(help));
                        continue;
                    };
                    ([protocol].into(), ports)
                }
            };
            match parse_ports(ports) {
                Ok(mut ports) => match allowed.iter_mut().find(|(of, _)| *of == protocols) {
                    Some((_, known)) => known.append(&mut ports),
                    None => allowed.push((protocols, ports)),
                },
                Err(message) => {
                    let help = match parse_protocol(&item.value) {
                        Some(_) => format!("write \"{}:*\"", item.value),
                        None => "write \"443\", \"tcp:443\", \"udp:53\" or \"*\"".to_owned(),
                    };
                    self.findings.error(&item.span, message, Some(help));
                }
            }
        }
        allowed
    }

    /// `None` for a grant without `via`.
    fn via(&mut self, items: &[Text]) -> Option<BTreeSet<Tag>> {
        let mut tags = BTreeSet::new();
        for item in items {
            let text = item.value.as_str();
            if !text.starts_with("tag:") {
                let help = "name the tag of the nodes to go through".to_owned();
                self.findings
                    .error(&item.span, "via can only be a tag", Some(help));
                continue;
            }
            match self.tag(text) {
                Some(tag) => tags.extend(tag),
                None => {
                    let help = self.no_tag(text).help;
                    self.findings
                        .error(&item.span, format!("tag {text:?} not found"), help);
                }
            }
        }
        (!items.is_empty()).then_some(tags)
    }

    fn capability(&mut self, name: &Text) {
        let text = name.value.as_str();
        let message = match text.split_once('/') {
            Some((domain, path))
                if !text.contains("://") && domain.contains('.') && !path.is_empty() =>
            {
                let own = domain == "tailscale.com";
                let is_known = path
                    .strip_prefix("cap/")
                    .is_some_and(|name| OWN_CAPABILITIES.contains(&name));
                if !own || is_known {
                    let message = format!("app {text:?}: {NOT_ENFORCED}");
                    self.findings.warn(&name.span, message, None);
                    return;
                }
                "capability name must not be in the tailscale.com domain"
            }
            Some(_) | None => "capability name must have the form {domain}/{path}",
        };
        self.findings.error(&name.span, message, None);
    }
}
