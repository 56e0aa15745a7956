//! An entry of `acls`: the rules it makes.

use super::{Resolver, rules::Entry, selectors::Refusal};
use crate::{
    document::Acl,
    policy::Effect,
    ports::{parse_ports, parse_protocol, protocol_names, split_destination},
    selector::Target,
    suggest::Suggestions,
    syntax::Text,
};
use std::collections::{BTreeMap, BTreeSet};
use weir_protocol::{IpProtocol, PortRange};

impl Resolver<'_, '_, '_> {
    pub(super) fn acl(&mut self, acl: Acl) {
        let effect = self.action(&acl);
        let protocols = self.protocols(acl.protocol.as_ref());
        let sources = self.sources(&acl.sources);
        let mut targets: Vec<(Target, Vec<PortRange>)> = Vec::new();
        // Where each is in the list.
        let mut known: BTreeMap<Target, usize> = BTreeMap::new();
        let fits_own_devices = Self::may_reach_own_devices(&sources, true);
        for destination in &acl.destinations {
            let Some((target, mut ports)) = self.destination(destination) else {
                continue;
            };
            if target == Target::OwnDevices {
                if !fits_own_devices {
                    self.cannot_reach_own_devices(&destination.span);
                    continue;
                }
                if !self.may_be_denied(effect, destination) {
                    continue;
                }
            }
            self.warn_of_unused_ports(&protocols, &ports, &destination.span);
            let at = *known.entry(target.clone()).or_insert(targets.len());
            match targets.get_mut(at) {
                Some((_, known)) => known.append(&mut ports),
                None => targets.push((target, ports)),
            }
        }
        let postures = self.postures(&acl.postures);
        if sources.is_empty() {
            return;
        }
        let line = self.lines.line(acl.span.start);
        let entry = Entry {
            origin: format!("acls[{}], line {line}", acl.index),
            span: acl.span,
            sources,
            via: None,
            // A device that meets a condition is not denied less for it.
            postures: match effect {
                Effect::Deny => Vec::new(),
                Effect::Accept | Effect::Capability => postures,
            },
            capabilities: Vec::new(),
        };
        for (target, ports) in targets {
            if !self.rule(&entry, effect, target, ports, protocols.clone()) {
                return;
            }
        }
    }

    fn action(&mut self, acl: &Acl) -> Effect {
        let action = acl
            .action
            .as_ref()
            .map_or("", |action| action.value.as_str());
        let span = acl.action.as_ref().map_or(&acl.span, |action| &action.span);
        let help = match action {
            "accept" => return Effect::Accept,
            "deny" if self.deny_rules => {
                if let Some(posture) = acl.postures.first() {
                    let message = "an entry that denies cannot have \"srcPosture\"";
                    self.findings.error(&posture.span, message, None);
                }
                return Effect::Deny;
            }
            "deny" => {
                "what no entry accepts is denied; entries that deny are an extension: write \
                 \"weir\": {\"denyRules\": true} at the top to have them"
            }
            _ => "\"accept\" is the only action: what no entry accepts is denied",
        };
        let message = format!("action={action:?} is not supported");
        self.findings.error(span, message, Some(help.to_owned()));
        Effect::Accept
    }

    fn may_be_denied(&mut self, effect: Effect, destination: &Text) -> bool {
        if effect == Effect::Deny {
            let message = "an entry that denies cannot have autogroup:self as dst";
            let help = "name the users, a tag or addresses".to_owned();
            self.findings.error(&destination.span, message, Some(help));
            return false;
        }
        true
    }

    fn protocols(&mut self, protocol: Option<&Text>) -> BTreeSet<IpProtocol> {
        let Some(text) = protocol.filter(|text| !text.value.is_empty()) else {
            return IpProtocol::defaults().into();
        };
        if let Some(protocol) = parse_protocol(&text.value) {
            return [protocol].into();
        }
        let message = format!("proto={:?} is not a protocol", text.value);
        let help = how_to_name_a_protocol(&text.value);
        self.findings.error(&text.span, message, Some(help));
        IpProtocol::defaults().into()
    }

    fn destination(&mut self, destination: &Text) -> Option<(Target, Vec<PortRange>)> {
        let text = destination.value.as_str();
        let (host, ports) = split_destination(text);
        // A text without a colon is read as ports; these may be a number or "*".
        let ports = match text.contains(':') {
            true => parse_ports(ports),
            false => parse_ports(ports).and(Err("there is no host before the ports".to_owned())),
        };
        let refusal = match (ports, self.target(destination, &host)) {
            (Err(message), _) => {
                let whole = self.selector(destination, text).is_ok();
                let host = if whole { text } else { "HOST" };
                let help = format!("write \"{host}:443\" for a port, \"{host}:*\" for all of them");
                Refusal::new(format!("dst={text:?}: {message}"), Some(help))
            }
            (Ok(ports), Ok(target)) => return Some((target, ports)),
            (Ok(_), Err(refusal)) => refusal,
        };
        self.findings
            .error(&destination.span, refusal.message, refusal.help);
        None
    }
}

pub(super) fn how_to_name_a_protocol(text: &str) -> String {
    Suggestions::default()
        .did_you_mean(text, protocol_names())
        .unwrap_or_else(|| "write a name such as \"tcp\", or a number from 0 to 255".to_owned())
}
