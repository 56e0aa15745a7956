//! What a policy defines: groups, the owners of tags, hosts.

use super::{Resolver, selectors::how_to_name_a_user};
use crate::syntax::Text;
use std::{collections::BTreeSet, net::IpAddr};
use weir_overlay::{Tag, parse_prefix};

impl Resolver<'_, '_, '_> {
    pub(super) fn groups(&mut self, mut groups: Vec<(Text, Vec<Text>)>) {
        // Of several nested groups, the one that comes last by name is reported first.
        let first = groups.iter().map(|(name, _)| name.span.start).min();
        groups.sort_by(|(a, _), (b, _)| b.value.cmp(&a.value));
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
                    let order = first.unwrap_or(member.span.start);
                    let help = Some(format!("list the members of {text:?} here"));
                    self.findings
                        .error_ordered(order, &member.span, message, help);
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

    pub(super) fn tag_owners(&mut self, entries: Vec<(Text, Vec<Text>)>) {
        let mut tags = Vec::new();
        for (name, owners) in entries {
            let key = name.value;
            match key.parse::<Tag>() {
                Ok(tag) => {
                    self.policy.tag_owners.insert(tag.clone(), Vec::new());
                    tags.push((tag, owners));
                }
                Err(_) => {
                    self.wrong_tags.insert(key.clone());
                    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-';
                    let rule = match key.strip_prefix("tag:") {
                        None => "tags must start with 'tag:'",
                        Some("") => "tag names must not be empty",
                        Some(rest) if !rest.starts_with(|c: char| c.is_ascii_alphabetic()) => {
                            "tag names must start with a letter, after 'tag:'"
                        }
                        Some(rest) if !rest.chars().all(allowed) => {
                            "tag names can only contain numbers, letters, or dashes"
                        }
                        Some(_) => "tag names have at most 63 characters",
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
                .filter_map(|owner| match self.approver(&owner) {
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

    pub(super) fn hosts(&mut self, hosts: Vec<(Text, Text)>) {
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
}
