//! `ssh`: read and checked, so that its tests can be answered. Weir does not enforce it.

use super::{
    Resolver,
    selectors::{Refusal, Selector},
};
use crate::{
    document::Ssh,
    duration,
    policy::{SshRule, SshTarget},
    selector::Identity,
    syntax::Text,
};

/// The longest that a check may hold.
const MAX_CHECK_PERIOD: i128 = duration::HOUR * 168;

impl Resolver<'_, '_, '_> {
    pub(super) fn ssh(&mut self, rules: Vec<Ssh>) {
        for rule in rules {
            let is_check = self.ssh_action(&rule);
            self.ssh_users(&rule);
            for item in rule.accept_env.iter().filter(|item| item.value.is_empty()) {
                self.findings
                    .error(&item.span, "acceptEnv values cannot be empty", None);
            }
            if let Some(period) = &rule.check_period {
                self.check_period(period);
            }
            self.postures(&rule.postures);
            let sources = self.ssh_sources(&rule.sources);
            let targets = self.ssh_targets(&rule.destinations);
            self.policy.ssh.push(SshRule {
                is_check,
                sources,
                targets,
                users: rule.users.into_iter().map(|user| user.value).collect(),
            });
        }
    }

    /// Whether it is `check`.
    fn ssh_action(&mut self, rule: &Ssh) -> bool {
        let help = "an action is \"accept\" or \"check\"".to_owned();
        match rule.action.as_ref().filter(|text| !text.value.is_empty()) {
            None => {
                self.findings
                    .error(&rule.span, "action must be specified", Some(help));
            }
            Some(action) if ["accept", "check"].contains(&action.value.as_str()) => {
                return action.value == "check";
            }
            Some(action) => {
                let message = format!("{:?} is not a valid action", action.value);
                self.findings.error(&action.span, message, Some(help));
            }
        }
        false
    }

    fn ssh_users(&mut self, rule: &Ssh) {
        if rule.users.is_empty() {
            let help = "list the login names, such as \"root\" or \"autogroup:nonroot\"".to_owned();
            self.findings
                .error(&rule.span, "users must be specified", Some(help));
        }
        for user in &rule.users {
            if ["", "*"].contains(&user.value.as_str()) {
                let message = format!("user {:?} is not valid", user.value);
                self.findings.error(&user.span, message, None);
            } else if let Some(domain) = user.value.strip_prefix("localpart:*@") {
                self.domain(domain, &user.span, "");
            }
        }
    }

    fn check_period(&mut self, period: &Text) {
        let text = period.value.as_str();
        if ["", "always"].contains(&text) {
            return;
        }
        let message = match duration::parse(text) {
            Err(message) => message,
            Ok(period) if period < 0 => format!(
                "checkPeriod {} must be a positive duration",
                duration::to_text(period)
            ),
            Ok(period) if period > MAX_CHECK_PERIOD => format!(
                "checkPeriod {} is above the max (168h)",
                duration::to_text(period)
            ),
            Ok(_) => return,
        };
        let help = "write a duration such as \"30m\" or \"12h\", or \"always\"".to_owned();
        self.findings.error(&period.span, message, Some(help));
    }

    fn ssh_sources(&mut self, written: &[Text]) -> Vec<Identity> {
        let mut sources = Vec::new();
        for source in written {
            let text = source.value.as_str();
            if let Some(domain) = text.strip_prefix("user:*@") {
                let domain = self.domain(domain, &source.span, "[ssh] ");
                sources.push(Identity::Domain(domain));
                continue;
            }
            let refusal = match self.selector(source, text) {
                Ok(Selector::Identity(identity)) => {
                    sources.push(identity);
                    continue;
                }
                Ok(Selector::Any) if self.wrong_tags.contains(text) => continue,
                Err(refusal) if text.contains(':') => refusal,
                Ok(_) | Err(_) => Refusal::new(format!("invalid src {text:?}"), who()),
            };
            self.findings
                .error(&source.span, refusal.message, refusal.help);
        }
        sources
    }

    fn ssh_targets(&mut self, written: &[Text]) -> Vec<SshTarget> {
        let mut targets = Vec::new();
        for target in written {
            let text = target.value.as_str();
            let refusal = match self.selector(target, text) {
                Ok(Selector::Identity(identity)) => {
                    targets.push(SshTarget::Identity(identity));
                    continue;
                }
                Ok(Selector::OwnDevices) => {
                    targets.push(SshTarget::OwnDevices);
                    continue;
                }
                Ok(Selector::Any) if self.wrong_tags.contains(text) => continue,
                Err(refusal) if text.contains(':') => refusal,
                Ok(_) | Err(_) => Refusal::new(format!("invalid dst {text:?}"), who()),
            };
            self.findings
                .error(&target.span, refusal.message, refusal.help);
        }
        targets
    }
}

fn who() -> Option<String> {
    Some("name users, groups, tags or autogroups".to_owned())
}
