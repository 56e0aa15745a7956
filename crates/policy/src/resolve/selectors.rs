//! One selector: looks up the name it mentions.

use super::Resolver;
use crate::{
    diagnostics::{Diagnostic, Severity, Span},
    selector::{Identity, UserSelector},
    suggest::did_you_mean,
    syntax::Text,
};
use ipnet::IpNet;
use weir_overlay::{PrefixError, Tag, parse_prefix};

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
pub(super) struct Refusal {
    pub(super) message: String,
    pub(super) help: Option<String>,
}

impl Refusal {
    pub(super) fn new(message: impl Into<String>, help: Option<String>) -> Self {
        Self {
            message: message.into(),
            help,
        }
    }

    pub(super) fn unsupported(text: &str) -> Self {
        Self::new(format!("{text:?} is not supported by this version"), None)
    }
}

/// What a selector stands for, on either side of a rule.
pub(super) enum Selector {
    Any,
    Internet,
    Identity(Identity),
    Literal(IpNet),
}

impl Resolver<'_, '_, '_> {
    pub(super) fn selector(&mut self, at: &Text, text: &str) -> Result<Selector, Refusal> {
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
            Err(error @ PrefixError::HostBits { .. }) => Err(Refusal::new(error.to_string(), None)),
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
    pub(super) fn prefixed(&self, text: &str) -> Result<Option<Selector>, Refusal> {
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
    pub(super) fn user(&mut self, text: &str, span: &Span) -> Option<UserSelector> {
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

/// The help beside a text that may have been meant as a user.
pub(super) fn how_to_name_a_user(text: &str) -> String {
    let name = text.split(['@', ':', ' ']).next().unwrap_or_default();
    let name = if name.is_empty() { "alice" } else { name };
    format!("a user is written as an e-mail address, or as \"{name}@\" for the name {name:?}")
}
