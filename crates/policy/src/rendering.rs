//! Policy to text: one canonical form for all texts that mean the same.
//!
//! What has no meaning here is left out: comments, the names of hosts and sets (rules hold their
//! addresses), settings that Weir does not enforce. The text says all the rest, rule for rule.

mod entries;

use crate::{
    policy::{Effect, Expectation, Policy, SshExpectation, SshTarget},
    ports::{protocol_text, split_destination},
    selector::{Source, TagOwner, Target},
};
use ipnet::IpNet;
use std::{collections::BTreeMap, fmt::Write as _};
use weir_overlay::{AddressRange, AddressSet};
use weir_protocol::PortRange;

impl Policy {
    /// The policy as a text that [`Self::parse`] reads as the same policy: the same rules with the
    /// same ids in the same order, so the same answers for every network. The text depends on
    /// nothing else, so rendering what was read from it gives it again.
    ///
    /// A test that can only fail is rendered as one that says nothing, which fails too. The policy
    /// that nobody set ([`Self::empty`]) becomes one that grants nothing.
    #[must_use]
    pub fn to_hujson(&self) -> String {
        let mut text = Text::default();
        // A rule that only a grant can express, and what comes before it, is a grant.
        let border = self
            .rules
            .iter()
            .rposition(|rule| !entries::fits_acls(rule));
        let border = border.map_or(0, |last| last + 1);
        let (grants, acls) = self.rules.split_at_checked(border).unwrap_or_default();
        let mut sections = vec![("grants", '[', text.grants(grants))];
        let acls = text.acls(acls);
        let is_closed = self.rules.is_empty();
        sections.push(("acls", '[', acls));
        sections.push(("autoApprovers", '{', self.approvers_text()));
        if !self.without_ipv4.is_empty() {
            let target = list(self.without_ipv4.iter().map(|source| text.source(source)));
            let attribute = list(["disable-ipv4"]);
            let entry = object(&[("target", target), ("attr", attribute)]);
            sections.push(("nodeAttrs", '[', vec![entry]));
        }
        let tests = self.tests.iter().map(|test| text.test(test)).collect();
        sections.push(("tests", '[', tests));
        sections.push(("ssh", '[', self.ssh_text()));
        let ssh_tests = self.ssh_tests.iter();
        let ssh_tests = ssh_tests.map(|test| text.ssh_test(test)).collect();
        sections.push(("sshTests", '[', ssh_tests));

        let mut written = self.names();
        written.push(("ipsets", '{', text.ip_sets()));
        written.extend(sections);
        let mut all = String::from("{\n");
        for (name, open, entries) in written {
            if !entries.is_empty() || (name == "acls" && is_closed) {
                section(&mut all, name, open, &entries);
            }
        }
        all.push_str("}\n");
        all
    }

    /// The sections that rules refer to.
    fn names(&self) -> Vec<(&'static str, char, Vec<String>)> {
        let denies = self.rules.iter().any(|rule| rule.effect == Effect::Deny);
        let weir = if denies {
            vec!["\"denyRules\": true".to_owned()]
        } else {
            Vec::new()
        };
        let groups = self.groups.iter().map(|(name, members)| {
            property(name, &list(members.iter().map(|member| member.as_str())))
        });
        let owners = self.tag_owners.iter();
        let owners = owners.map(|(tag, owners)| property(tag.as_str(), &owner_list(owners)));
        let postures = self.postures.iter().map(|(name, conditions)| {
            property(name, &list(conditions.iter().map(ToString::to_string)))
        });
        vec![
            ("weir", '{', weir),
            ("groups", '{', groups.collect()),
            ("tagOwners", '{', owners.collect()),
            ("postures", '{', postures.collect()),
        ]
    }

    fn approvers_text(&self) -> Vec<String> {
        let mut routes: BTreeMap<IpNet, Vec<TagOwner>> = BTreeMap::new();
        for (prefix, who) in &self.approvers.routes {
            routes.entry(*prefix).or_default().extend_from_slice(who);
        }
        let mut entries = Vec::new();
        if !routes.is_empty() {
            let mut text = String::from("\"routes\": {\n");
            for (prefix, who) in routes {
                let route = property(&prefix.to_string(), &owner_list(&who));
                text.push_str(&format!("            {route},\n"));
            }
            text.push_str("        }");
            entries.push(text);
        }
        if !self.approvers.exits.is_empty() {
            entries.push(property("exitNode", &owner_list(&self.approvers.exits)));
        }
        entries
    }

    fn ssh_text(&self) -> Vec<String> {
        let rules = self.ssh.iter().map(|rule| {
            let action = if rule.is_check { "check" } else { "accept" };
            let targets = rule.targets.iter().map(|target| match target {
                SshTarget::Identity(identity) => identity.to_string(),
                SshTarget::OwnDevices | SshTarget::Literal(_) => "autogroup:self".to_owned(),
            });
            object(&[
                ("action", quoted(action)),
                ("src", list(rule.sources.iter().map(ToString::to_string))),
                ("dst", list(targets)),
                ("users", list(&rule.users)),
            ])
        });
        rules.collect()
    }
}

/// What is being rendered. Addresses that no single selector can say become sets, numbered as they
/// come.
#[derive(Debug, Default)]
struct Text {
    sets: Vec<AddressSet>,
}

impl Text {
    /// A selector for exactly these addresses: the range itself where `may_be_plain`, else a set.
    fn literal(
        &mut self,
        addresses: &AddressSet,
        may_be_plain: impl FnOnce(&AddressRange) -> bool,
    ) -> String {
        if let [range] = addresses.ranges()
            && may_be_plain(range)
        {
            return range.to_string();
        }
        let known = self.sets.iter().position(|set| set == addresses);
        let at = known.unwrap_or_else(|| {
            self.sets.push(addresses.clone());
            self.sets.len() - 1
        });
        format!("ipset:{}", at + 1)
    }

    fn ip_sets(&self) -> Vec<String> {
        let sets = self.sets.iter().zip(1..).map(|(set, number): (_, usize)| {
            let ranges = set.ranges().iter().map(ToString::to_string);
            property(&format!("ipset:{number}"), &list(ranges))
        });
        sets.collect()
    }

    fn source(&mut self, source: &Source) -> String {
        match source {
            Source::Literal(addresses) => self.literal(addresses, |_| true),
            Source::Any | Source::Everything | Source::Identity(_) => source.to_string(),
        }
    }

    /// With ports behind it; IPv6 addresses get the brackets that keep the two apart.
    fn destination(&mut self, target: &Target, ports: &str) -> String {
        let Target::Literal(addresses) = target else {
            return format!("{target}:{ports}");
        };
        let host = self.literal(addresses, |_| true);
        match host.split_once('/') {
            _ if host.starts_with("ipset:") || !host.contains(':') => format!("{host}:{ports}"),
            Some((address, length)) => format!("[{address}]/{length}:{ports}"),
            None => format!("[{host}]:{ports}"),
        }
    }

    fn test(&mut self, test: &Expectation) -> String {
        let (Some(source), None) = (&test.source, &test.problem) else {
            return object(&[]);
        };
        let mut fields = vec![("src", quoted(&self.source(source)))];
        if let Some(protocol) = test.protocol {
            fields.push(("proto", quoted(&protocol_text(protocol))));
        }
        let posture = [
            ("node:os", &test.posture.os),
            ("node:osVersion", &test.posture.os_version),
            ("node:weirVersion", &test.posture.weir_version),
        ];
        let posture: Vec<(&str, String)> = posture
            .iter()
            .filter_map(|(name, value)| Some((*name, quoted(value.as_ref()?))))
            .collect();
        if !posture.is_empty() {
            fields.push(("srcPostureAttrs", object(&posture)));
        }
        for (name, accept) in [("accept", true), ("deny", false)] {
            let probes = test.probes.iter().filter(|probe| probe.accept == accept);
            let probes: Vec<String> = probes
                .map(|probe| self.destination(&probe.target, &probe.port.to_string()))
                .collect();
            if !probes.is_empty() {
                fields.push((name, list(probes)));
            }
        }
        object(&fields)
    }

    fn ssh_test(&mut self, test: &SshExpectation) -> String {
        let (Some(source), None) = (&test.source, &test.problem) else {
            return object(&[]);
        };
        let targets: Vec<String> = test
            .targets
            .iter()
            .map(|target| match target {
                SshTarget::Identity(identity) => identity.to_string(),
                SshTarget::OwnDevices => "autogroup:self".to_owned(),
                // Such a test takes no prefixes and no IPv6 addresses, but names of them.
                SshTarget::Literal(addresses) => self.literal(addresses, |range| {
                    range.is_ipv4() && range.single().is_some()
                }),
            })
            .collect();
        let mut fields = vec![
            ("src", quoted(&self.source(source))),
            ("dst", list(targets)),
        ];
        let logins = [
            ("accept", &test.accept),
            ("deny", &test.deny),
            ("check", &test.check),
        ];
        for (name, logins) in logins {
            if !logins.is_empty() {
                fields.push((name, list(logins)));
            }
        }
        object(&fields)
    }
}

/// Owners of tags, approvers of routes; nobody is not written.
fn owner_list(owners: &[TagOwner]) -> String {
    list(owners.iter().filter_map(|owner| match owner {
        TagOwner::User(user) => Some(user.as_str()),
        TagOwner::Group(name) => Some(name),
        TagOwner::Tag(tag) => Some(tag.as_str()),
        TagOwner::Member => Some("autogroup:member"),
        TagOwner::Nobody => None,
    }))
}

fn ports_text(ports: &[PortRange]) -> String {
    let ports: Vec<String> = ports
        .iter()
        .map(|range| match (range.first, range.last) {
            _ if range.is_all() => "*".to_owned(),
            (first, last) if first == last => first.to_string(),
            (first, last) => format!("{first}-{last}"),
        })
        .collect();
    ports.join(",")
}

fn section(text: &mut String, name: &str, open: char, entries: &[String]) {
    let close = if open == '{' { '}' } else { ']' };
    let name = quoted(name);
    if entries.is_empty() {
        text.push_str(&format!("    {name}: {open}{close},\n"));
        return;
    }
    text.push_str(&format!("    {name}: {open}\n"));
    for entry in entries {
        text.push_str(&format!("        {entry},\n"));
    }
    text.push_str(&format!("    {close},\n"));
}

fn list(items: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let items = items.into_iter().map(|item| quoted(item.as_ref()));
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}

fn object(fields: &[(&str, String)]) -> String {
    let fields = fields.iter().map(|(name, value)| property(name, value));
    format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
}

fn property(name: &str, value: &str) -> String {
    format!("{}: {value}", quoted(name))
}

/// A text as JSON has it.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            _ if letter.is_control() => {
                // Writing to a text cannot fail; control characters fit four digits.
                let _ = write!(quoted, "\\u{:04x}", u32::from(letter));
            }
            _ => quoted.push(letter),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests;
