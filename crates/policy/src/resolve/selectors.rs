//! One selector: looks up the name it mentions.

use super::Resolver;
use crate::{
    diagnostics::{Diagnostic, Severity, Span},
    selector::{Identity, UserSelector},
    syntax::Text,
};
use weir_overlay::{AddressRange, AddressSet, PrefixError, Tag, parse_prefix};

/// Autogroups of the language that stand for roles or for sharing, which Weir does not have.
const OTHER_AUTOGROUPS: [&str; 7] = [
    "autogroup:admin",
    "autogroup:auditor",
    "autogroup:billing-admin",
    "autogroup:it-admin",
    "autogroup:network-admin",
    "autogroup:owner",
    "autogroup:shared",
];
const AUTOGROUPS: [&str; 5] = [
    "autogroup:danger-all",
    "autogroup:internet",
    "autogroup:member",
    "autogroup:self",
    "autogroup:tagged",
];

/// What is wrong with a selector, and what to do.
#[derive(Clone, Debug)]
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

    /// For what the language has and Weir has not.
    fn unsupported(text: &str) -> Self {
        let help = match text {
            "autogroup:shared" => "no machines are shared with this network: leave it out",
            _ if is_role(text) => "users have no roles here: name them in a group",
            _ => "there are no services here: name a tag, a host or an address",
        };
        let message = format!("{text:?} is not supported by this version");
        Self::new(message, Some(help.to_owned()))
    }
}

/// What a selector stands for, on either side of a rule.
#[derive(Clone, Debug)]
pub(super) enum Selector {
    Any,
    Everything,
    Internet,
    OwnDevices,
    Identity(Identity),
    Literal(AddressSet),
}

impl Resolver<'_, '_, '_> {
    pub(super) fn selector(&mut self, at: &Text, text: &str) -> Result<Selector, Refusal> {
        if text == "*" {
            return Ok(Selector::Any);
        }
        if let Some(domain) = text.strip_prefix("user:*@") {
            let domain = self.domain(domain, &at.span, "");
            return Ok(Selector::Identity(Identity::Domain(domain)));
        }
        if let Some(selector) = self.prefixed(text)? {
            return Ok(selector);
        }
        if let Some(prefix) = self.hosts.get(text) {
            return Ok(Selector::Literal([*prefix].into_iter().collect()));
        }
        if let Some(user) = self.user(text, &at.span) {
            return Ok(Selector::Identity(Identity::User(user)));
        }
        match addresses(text) {
            Ok(addresses) => Ok(Selector::Literal(addresses)),
            // Its wrong address was found already; any answer will do for a refused policy.
            Err(_) if self.host_names.contains(text) => Ok(Selector::Any),
            Err(error @ PrefixError::HostBits { .. }) => Err(Refusal::new(error.to_string(), None)),
            Err(_) => {
                let help = self
                    .findings
                    .suggestions
                    .did_you_mean(text, self.host_names.iter().map(String::as_str))
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
            "tag" => match self.tag(text) {
                Some(Ok(tag)) => Identity::Tag(tag),
                Some(Err(())) => return Ok(Some(Selector::Any)),
                None => return Err(self.no_tag(text)),
            },
            "group" => {
                let groups = &self.policy.groups;
                if !groups.contains_key(text) {
                    let help = self
                        .findings
                        .suggestions
                        .did_you_mean(text, groups.keys().map(String::as_str))
                        .unwrap_or_else(|| format!("add {text:?} to groups"));
                    return Err(Refusal::new(
                        format!("group not found: {text:?}"),
                        Some(help),
                    ));
                }
                Identity::Group(text.to_owned())
            }
            "autogroup" => match text {
                // The longer one is its older name.
                "autogroup:member" | "autogroup:members" => Identity::Member,
                "autogroup:tagged" => Identity::Tagged,
                "autogroup:internet" => return Ok(Some(Selector::Internet)),
                "autogroup:self" => return Ok(Some(Selector::OwnDevices)),
                "autogroup:danger-all" => return Ok(Some(Selector::Everything)),
                _ if OTHER_AUTOGROUPS.contains(&text) => return Err(Refusal::unsupported(text)),
                _ => {
                    let help = self
                        .findings
                        .suggestions
                        .did_you_mean(text, AUTOGROUPS.into_iter().chain(OTHER_AUTOGROUPS));
                    return Err(Refusal::new(format!("autogroup not found: {text:?}"), help));
                }
            },
            "ipset" => {
                let Some(addresses) = self.ip_sets.get(text) else {
                    let help = self
                        .findings
                        .suggestions
                        .did_you_mean(text, self.ip_sets.keys().map(String::as_str))
                        .unwrap_or_else(|| format!("add {text:?} to ipsets"));
                    let message = format!("ipset not found: {text:?}");
                    return Err(Refusal::new(message, Some(help)));
                };
                return Ok(Some(Selector::Literal(addresses.clone())));
            }
            "host" => {
                let name = text.strip_prefix("host:").unwrap_or_default();
                let Some(prefix) = self.hosts.get(name) else {
                    let help = self
                        .findings
                        .suggestions
                        .did_you_mean(name, self.host_names.iter().map(String::as_str));
                    return Err(Refusal::new(format!("host not found: {name:?}"), help));
                };
                return Ok(Some(Selector::Literal([*prefix].into_iter().collect())));
            }
            "user" => {
                let help = "write \"user:*@DOMAIN\" for all users of an e-mail domain";
                let message = format!("{text:?} is not a selector");
                return Err(Refusal::new(message, Some(help.to_owned())));
            }
            "svc" => return Err(Refusal::unsupported(text)),
            // What is left with a colon is an IPv6 address, or wrong.
            _ => return Ok(None),
        };
        Ok(Some(Selector::Identity(identity)))
    }

    /// A tag that `tagOwners` names; `Some(Err)` for one whose name is wrong there already.
    pub(super) fn tag(&self, text: &str) -> Option<Result<Tag, ()>> {
        match text.parse::<Tag>() {
            Ok(tag) if self.policy.tag_owners.contains_key(&tag) => Some(Ok(tag)),
            Ok(_) | Err(_) => self.wrong_tags.contains(text).then_some(Err(())),
        }
    }

    pub(super) fn no_tag(&self, text: &str) -> Refusal {
        let help = self
            .findings
            .suggestions
            .did_you_mean(text, self.policy.tag_owners.keys().map(Tag::as_str))
            .unwrap_or_else(|| format!("add {text:?} to tagOwners"));
        Refusal::new(format!("tag not found: {text:?}"), Some(help))
    }

    /// Reads a user, and remembers where the policy named it first.
    pub(super) fn user(&mut self, text: &str, span: &Span) -> Option<UserSelector> {
        let user = UserSelector::parse(text)?;
        if !self.policy.users.contains_key(&user) {
            let message = format!("the network has no user {text:?}");
            let finding = Diagnostic::at(self.lines, Severity::Warning, span, message, None);
            self.policy.users.insert(user.clone(), finding);
        }
        Some(user)
    }

    /// Remembers that the policy names a domain, which only the network can say is its own. Gives
    /// it in lower case.
    pub(super) fn domain(&mut self, domain: &str, span: &Span, prefix: &str) -> String {
        let message = format!(
            "{prefix}{domain} is not associated with this Tailnet and cannot be used in \
             user:*@<domain> expressions"
        );
        let help = "name the domain of the network's own e-mail addresses".to_owned();
        let finding = Diagnostic::at(self.lines, Severity::Error, span, message, Some(help));
        let domain = domain.to_ascii_lowercase();
        self.policy.domains.push((domain.clone(), finding));
        domain
    }
}

/// Reads an address, a prefix, or a range `first-last`.
pub(super) fn addresses(text: &str) -> Result<AddressSet, PrefixError> {
    if text.contains('-')
        && let Ok(range) = text.parse::<AddressRange>()
    {
        return Ok([range].into_iter().collect());
    }
    parse_prefix(text).map(|prefix| [prefix].into_iter().collect())
}

/// Whether an autogroup stands for the holders of a role.
pub(super) fn is_role(text: &str) -> bool {
    OTHER_AUTOGROUPS.contains(&text)
}

/// The help beside a text that may have been meant as a user.
pub(super) fn how_to_name_a_user(text: &str) -> String {
    let name = text.split(['@', ':', ' ']).next().unwrap_or_default();
    let name = if name.is_empty() { "alice" } else { name };
    format!("a user is written as an e-mail address, or as \"{name}@\" for the name {name:?}")
}
