//! An entry of `acls`: the rules it makes.

use super::{
    Resolver,
    selectors::{Refusal, Selector},
};
use crate::{
    diagnostics::Span,
    document::Acl,
    grant_id::MAX_RULES,
    policy::Rule,
    ports::{merge_ports, parse_ports, parse_protocol, protocol_names, split_destination},
    selector::{Source, Target},
    suggest::did_you_mean,
    syntax::Text,
};
use std::collections::BTreeSet;
use weir_protocol::{IpProtocol, PortRange};

impl Resolver<'_, '_, '_> {
    pub(super) fn acl(&mut self, acl: Acl) {
        let action = acl
            .action
            .as_ref()
            .map_or("", |action| action.value.as_str());
        if action != "accept" {
            let span = acl.action.as_ref().map_or(&acl.span, |action| &action.span);
            let help = "\"accept\" is the only action: what no entry accepts is denied";
            let message = format!("action={action:?} is not supported");
            self.findings.error(span, message, Some(help.to_owned()));
        }
        let protocols = self.protocols(acl.protocol.as_ref());
        let sources: Vec<_> = acl
            .sources
            .iter()
            .filter_map(|source| self.source(source))
            .collect();
        let mut targets: Vec<(Target, Vec<PortRange>)> = Vec::new();
        for destination in &acl.destinations {
            let Some((target, mut ports)) = self.destination(destination) else {
                continue;
            };
            self.warn_of_unused_ports(&protocols, &ports, &destination.span);
            match targets.iter_mut().find(|(known, _)| *known == target) {
                Some((_, known)) => known.append(&mut ports),
                None => targets.push((target, ports)),
            }
        }
        if sources.is_empty() {
            return;
        }
        let origin = format!(
            "acls[{}], line {}",
            acl.index,
            self.lines.line(acl.span.start)
        );
        for (target, ports) in targets {
            let ports = merge_ports(ports);
            let content = content(&sources, &target, &ports, &protocols);
            let Some(id) = self.ids.next(&content) else {
                let message = format!("the policy has more than {MAX_RULES} rules");
                let help = "name groups, tags and prefixes instead of single users and addresses";
                self.findings
                    .error(&acl.span, message, Some(help.to_owned()));
                return;
            };
            self.policy.rules.push(Rule {
                id,
                origin: origin.clone(),
                sources: sources.clone(),
                target,
                ports,
                protocols: protocols.clone(),
            });
        }
    }

    fn protocols(&mut self, protocol: Option<&Text>) -> BTreeSet<IpProtocol> {
        let Some(text) = protocol else {
            return IpProtocol::defaults().into();
        };
        if let Some(protocol) = parse_protocol(&text.value) {
            return [protocol].into();
        }
        let help = did_you_mean(&text.value, protocol_names()).unwrap_or_else(|| {
            "write a name such as \"tcp\", or a number from 0 to 255".to_owned()
        });
        let message = format!("proto={:?} is not a protocol", text.value);
        self.findings.error(&text.span, message, Some(help));
        IpProtocol::defaults().into()
    }

    fn warn_of_unused_ports(
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

    fn source(&mut self, source: &Text) -> Option<Source> {
        let text = source.value.as_str();
        let refusal = match self.selector(source, text) {
            Ok(Selector::Any) => return Some(Source::Any),
            Ok(Selector::Identity(identity)) => return Some(Source::Identity(identity)),
            Ok(Selector::Literal(prefix)) => return Some(Source::Literal(prefix)),
            Ok(Selector::Internet) => not_a_source(text),
            Err(_) if text == "autogroup:self" => not_a_source(text),
            Err(refusal) => Refusal {
                message: format!("src={}", refusal.message),
                ..refusal
            },
        };
        self.findings
            .error(&source.span, refusal.message, refusal.help);
        None
    }

    fn destination(&mut self, destination: &Text) -> Option<(Target, Vec<PortRange>)> {
        let text = destination.value.as_str();
        let (host, ports) = split_destination(text);
        let refusal = match (parse_ports(ports), self.selector(destination, &host)) {
            (Err(message), _) => {
                let whole = self.selector(destination, text).is_ok();
                let host = if whole { text } else { "HOST" };
                let help = format!("write \"{host}:443\" for a port, \"{host}:*\" for all of them");
                Refusal::new(format!("dst={text:?}: {message}"), Some(help))
            }
            (Ok(ports), Ok(selector)) => {
                let target = match selector {
                    Selector::Any => Target::Any,
                    Selector::Internet => Target::Internet,
                    Selector::Identity(identity) => Target::Identity(identity),
                    Selector::Literal(prefix) => Target::Literal(prefix),
                };
                return Some((target, ports));
            }
            (Ok(_), Err(_)) if host == "autogroup:danger-all" => {
                Refusal::new("cannot use autogroup:danger-all as a dst", None)
            }
            (Ok(_), Err(refusal)) => Refusal {
                message: format!("dst={host:?}: {}", refusal.message),
                ..refusal
            },
        };
        self.findings
            .error(&destination.span, refusal.message, refusal.help);
        None
    }
}

fn not_a_source(text: &str) -> Refusal {
    Refusal::new(
        format!("{text:?} not valid on the src side of a rule"),
        None,
    )
}

/// What a rule says, in one normal form: what its id is made of.
fn content(
    sources: &[Source],
    target: &Target,
    ports: &[PortRange],
    protocols: &BTreeSet<IpProtocol>,
) -> String {
    let sources: BTreeSet<String> = sources.iter().map(ToString::to_string).collect();
    let ports: Vec<String> = ports
        .iter()
        .map(|range| format!("{}-{}", range.first, range.last))
        .collect();
    let protocols: Vec<String> = protocols.iter().map(|p| p.0.to_string()).collect();
    let sources: Vec<String> = sources.into_iter().collect();
    format!(
        "{} > {target} : {} / {}",
        sources.join(" "),
        ports.join(" "),
        protocols.join(" ")
    )
}
