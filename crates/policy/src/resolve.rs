//! Document to policy: every name is looked up, every selector understood.
//!
//! Messages about what the language itself refuses are worded as administrators of such networks
//! know them, to the letter; what to do about it is in the help beside them.

use crate::{
    diagnostics::{Diagnostic, Findings, Lines, Severity, Span},
    document::{Acl, Document},
    grant_id::{GrantIds, MAX_RULES},
    policy::{Policy, Rule},
    ports::{parse_ports, parse_protocol, protocol_names, split_destination},
    selector::{Identity, Source, TagOwner, Target, UserSelector},
    suggest::did_you_mean,
    syntax::Text,
};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use weir_overlay::{Tag, parse_prefix};
use weir_protocol::{IpProtocol, PortRange};

/// Autogroups of the language that this version does not have.
const OTHER_AUTOGROUPS: [&str; 9] = [
    "autogroup:admin",
    "autogroup:auditor",
    "autogroup:billing-admin",
    "autogroup:danger-all",
    "autogroup:it-admin",
    "autogroup:network-admin",
    "autogroup:owner",
    "autogroup:self",
    "autogroup:shared",
];
const AUTOGROUPS: [&str; 3] = ["autogroup:internet", "autogroup:member", "autogroup:tagged"];

/// What is wrong with a selector, and what to do.
struct Refusal {
    message: String,
    help: Option<String>,
}

impl Refusal {
    fn new(message: impl Into<String>, help: Option<String>) -> Self {
        Self {
            message: message.into(),
            help,
        }
    }

    fn unsupported(text: &str) -> Self {
        Self::new(format!("{text:?} is not supported by this version"), None)
    }
}

/// What a selector stands for, on either side of a rule.
enum Selector {
    Any,
    Internet,
    Identity(Identity),
    Literal(IpNet),
}

struct Resolver<'r, 'f, 'l> {
    policy: Policy,
    hosts: BTreeMap<String, IpNet>,
    /// All names that `hosts` has, also those whose address is wrong: one finding is enough.
    host_names: BTreeSet<String>,
    ids: GrantIds,
    lines: &'r Lines<'l>,
    findings: &'f mut Findings<'l>,
}

/// Looks up every name of a document.
pub(crate) fn resolve<'l>(
    document: Document,
    lines: &Lines<'l>,
    findings: &mut Findings<'l>,
) -> Policy {
    let mut resolver = Resolver {
        policy: Policy {
            is_set: true,
            ..Policy::default()
        },
        hosts: BTreeMap::new(),
        host_names: BTreeSet::new(),
        ids: GrantIds::default(),
        lines,
        findings,
    };
    resolver.groups(document.groups);
    resolver.tag_owners(document.tag_owners);
    resolver.hosts(document.hosts);
    for acl in document.acls {
        resolver.acl(acl);
    }
    resolver.policy
}

impl Resolver<'_, '_, '_> {
    fn groups(&mut self, groups: Vec<(Text, Vec<Text>)>) {
        for (name, members) in groups {
            let key = name.value;
            if key.strip_prefix("group:").is_none_or(str::is_empty) {
                let help = Some(format!("write \"group:{key}\""));
                let message = format!("groups[{key:?}]: group names must start with \"group:\"");
                self.findings.error(&name.span, message, help);
                continue;
            }
            let mut users = BTreeSet::new();
            for member in members {
                let text = member.value.as_str();
                if text.starts_with("group:") {
                    let message =
                        format!("groups[{key:?}]: {text:?}: group members cannot be recursive");
                    self.findings.error(&member.span, message, None);
                } else if let Some(user) = self.user(text, &member.span) {
                    users.insert(user);
                } else {
                    let message = format!("groups[{key:?}]: {text:?}: group members must be users");
                    self.findings
                        .error(&member.span, message, Some(how_to_name_a_user(text)));
                }
            }
            self.policy.groups.insert(key, users);
        }
    }

    fn tag_owners(&mut self, entries: Vec<(Text, Vec<Text>)>) {
        let mut tags = Vec::new();
        for (name, owners) in entries {
            let key = name.value;
            match key.parse::<Tag>() {
                Ok(tag) => {
                    self.policy.tag_owners.insert(tag.clone(), Vec::new());
                    tags.push((tag, owners));
                }
                Err(_) => {
                    let rule = match key.strip_prefix("tag:") {
                        None => "tag names must start with 'tag:'",
                        Some(rest) if !rest.starts_with(|c: char| c.is_ascii_alphabetic()) => {
                            "tag names must start with a letter, after 'tag:'"
                        }
                        Some(_) => "tag names are at most 63 letters, digits and '-'",
                    };
                    let message = format!("tagOwners[{key:?}]: {rule}");
                    self.findings.error(&name.span, message, None);
                }
            }
        }
        // Owners may be tags that are named further down.
        for (tag, owners) in tags {
            let owners = owners
                .into_iter()
                .filter_map(|owner| match self.tag_owner(&owner) {
                    Ok(owner) => Some(owner),
                    Err(refusal) => {
                        let what = format!("tagOwners[{:?}]: {}", tag.as_str(), refusal.message);
                        self.findings.error(&owner.span, what, refusal.help);
                        None
                    }
                })
                .collect();
            self.policy.tag_owners.insert(tag, owners);
        }
    }

    fn tag_owner(&mut self, owner: &Text) -> Result<TagOwner, Refusal> {
        let text = owner.value.as_str();
        if let Some(user) = self.user(text, &owner.span) {
            return Ok(TagOwner::User(user));
        }
        match self.prefixed(text)? {
            Some(Selector::Identity(Identity::Group(name))) => Ok(TagOwner::Group(name)),
            Some(Selector::Identity(Identity::Tag(tag))) => Ok(TagOwner::Tag(tag)),
            Some(Selector::Identity(Identity::Member)) => Ok(TagOwner::Member),
            Some(_) | None => Err(Refusal::new(
                format!("{text:?}: tag owners must be users, groups, tags or autogroup:member"),
                Some(how_to_name_a_user(text)),
            )),
        }
    }

    fn hosts(&mut self, hosts: Vec<(Text, Text)>) {
        for (name, address) in hosts {
            let key = name.value;
            let confusing = |c: char| c.is_whitespace() || ":@/*[]".contains(c);
            if key.is_empty() || key.contains(confusing) || key.parse::<IpAddr>().is_ok() {
                let message = format!("hosts[{key:?}]: not a name");
                let help = "a name has no white space and none of : @ / * [ ], and is no address";
                self.findings
                    .error(&name.span, message, Some(help.to_owned()));
                continue;
            }
            match parse_prefix(&address.value) {
                Ok(prefix) => {
                    self.hosts.insert(key.clone(), prefix);
                }
                Err(error) => {
                    let message = format!("hosts[{key:?}]: {error}");
                    self.findings.error(&address.span, message, None);
                }
            }
            self.host_names.insert(key);
        }
    }

    fn acl(&mut self, acl: Acl) {
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

    fn selector(&mut self, at: &Text, text: &str) -> Result<Selector, Refusal> {
        if text == "*" {
            return Ok(Selector::Any);
        }
        if let Some(selector) = self.prefixed(text)? {
            return Ok(selector);
        }
        if let Some(prefix) = self.hosts.get(text) {
            return Ok(Selector::Literal(*prefix));
        }
        if let Some(user) = self.user(text, &at.span) {
            return Ok(Selector::Identity(Identity::User(user)));
        }
        match parse_prefix(text) {
            Ok(prefix) => Ok(Selector::Literal(prefix)),
            // Its wrong address was found already; any answer will do for a refused policy.
            Err(_) if self.host_names.contains(text) => Ok(Selector::Any),
            Err(error @ weir_overlay::PrefixError::HostBits { .. }) => {
                Err(Refusal::new(error.to_string(), None))
            }
            Err(_) => {
                let help = did_you_mean(text, self.host_names.iter().map(String::as_str))
                    .unwrap_or_else(|| how_to_name_a_user(text));
                Err(Refusal::new(
                    format!("host not found: {text:?}"),
                    Some(help),
                ))
            }
        }
    }

    /// Selectors of the form `kind:name`; `None` for the others.
    fn prefixed(&self, text: &str) -> Result<Option<Selector>, Refusal> {
        let Some((kind, _)) = text.split_once(':') else {
            return Ok(None);
        };
        let identity = match kind {
            "tag" => {
                let tags = &self.policy.tag_owners;
                match text
                    .parse::<Tag>()
                    .ok()
                    .filter(|tag| tags.contains_key(tag))
                {
                    Some(tag) => Identity::Tag(tag),
                    None => {
                        let help = did_you_mean(text, tags.keys().map(Tag::as_str))
                            .unwrap_or_else(|| format!("add {text:?} to tagOwners"));
                        return Err(Refusal::new(format!("tag not found: {text:?}"), Some(help)));
                    }
                }
            }
            "group" => {
                let groups = &self.policy.groups;
                if !groups.contains_key(text) {
                    let help = did_you_mean(text, groups.keys().map(String::as_str))
                        .unwrap_or_else(|| format!("add {text:?} to groups"));
                    return Err(Refusal::new(
                        format!("group not found: {text:?}"),
                        Some(help),
                    ));
                }
                Identity::Group(text.to_owned())
            }
            "autogroup" => match text {
                "autogroup:member" => Identity::Member,
                "autogroup:tagged" => Identity::Tagged,
                "autogroup:internet" => return Ok(Some(Selector::Internet)),
                _ if OTHER_AUTOGROUPS.contains(&text) => return Err(Refusal::unsupported(text)),
                _ => {
                    let help = did_you_mean(text, AUTOGROUPS.into_iter().chain(OTHER_AUTOGROUPS));
                    return Err(Refusal::new(format!("autogroup not found: {text:?}"), help));
                }
            },
            "user" | "ipset" | "svc" | "host" => return Err(Refusal::unsupported(text)),
            // What is left with a colon is an IPv6 address, or wrong.
            _ => return Ok(None),
        };
        Ok(Some(Selector::Identity(identity)))
    }

    /// Reads a user, and remembers where the policy named it first.
    fn user(&mut self, text: &str, span: &Span) -> Option<UserSelector> {
        let user = UserSelector::parse(text)?;
        if !self.policy.users.contains_key(&user) {
            let finding = Diagnostic {
                severity: Severity::Warning,
                message: format!("the network has no user {text:?}"),
                help: None,
                line: self.lines.line(span.start),
                column: self.lines.column(span.start),
                span: span.clone(),
            };
            self.policy.users.insert(user.clone(), finding);
        }
        Some(user)
    }
}

fn not_a_source(text: &str) -> Refusal {
    Refusal::new(
        format!("{text:?} not valid on the src side of a rule"),
        None,
    )
}

fn how_to_name_a_user(text: &str) -> String {
    let name = text.split(['@', ':', ' ']).next().unwrap_or_default();
    let name = if name.is_empty() { "alice" } else { name };
    format!("a user is written as an e-mail address, or as \"{name}@\" for the name {name:?}")
}

/// What a rule says, in one normal form: what its id is made of.
fn content(
    sources: &[Source],
    target: &Target,
    ports: &[PortRange],
    protocols: &BTreeSet<IpProtocol>,
) -> String {
    let sources: BTreeSet<String> = sources.iter().map(ToString::to_string).collect();
    let ports: BTreeSet<String> = ports
        .iter()
        .map(|range| format!("{}-{}", range.first, range.last))
        .collect();
    let protocols: Vec<String> = protocols.iter().map(|p| p.0.to_string()).collect();
    let list = |items: BTreeSet<String>| items.into_iter().collect::<Vec<_>>().join(" ");
    format!(
        "{} > {target} : {} / {}",
        list(sources),
        list(ports),
        protocols.join(" ")
    )
}
