//! `sshTests`: who may log in as whom, stated by the author, checked when the policy is saved.

use super::{Resolver, selectors::Selector, tests::FAILED};
use crate::{
    diagnostics::{Diagnostic, Severity},
    document::SshTest,
    policy::{SshExpectation, SshTarget},
    selector::Source,
    syntax::Text,
};
use std::net::Ipv6Addr;

impl Resolver<'_, '_, '_> {
    pub(super) fn ssh_tests(&mut self, tests: Vec<SshTest>) {
        for test in tests {
            let span = test.source.as_ref().map_or(&test.span, |text| &text.span);
            let finding = Diagnostic::at(self.lines, Severity::Error, span, FAILED, None);
            let mut problem = None;
            let mut source = None;
            match &test.source {
                None => problem = Some("the test has no src".to_owned()),
                Some(text) => match self.selector(text, &text.value) {
                    Ok(Selector::Any) => source = Some(Source::Any),
                    Ok(Selector::Identity(identity)) => source = Some(Source::Identity(identity)),
                    Ok(Selector::Literal(addresses)) => source = Some(Source::Literal(addresses)),
                    Ok(Selector::Everything | Selector::Internet | Selector::OwnDevices) => {
                        problem = Some(format!("{:?} stands for no device", text.value));
                    }
                    Err(refusal) => problem = Some(refusal.message),
                },
            }
            if test.destinations.is_empty() {
                problem.get_or_insert_with(|| "the test has no dst".to_owned());
            }
            let mut targets = Vec::new();
            for destination in &test.destinations {
                match self.ssh_test_target(destination) {
                    Ok(target) => targets.extend(target),
                    Err(what) => {
                        problem.get_or_insert(what);
                    }
                }
            }
            let logins = test.accept.iter().chain(&test.deny).chain(&test.check);
            if logins.clone().next().is_none() {
                problem.get_or_insert_with(|| "the test says nothing of any login".to_owned());
            }
            if logins.clone().any(|login| login.value.is_empty()) {
                problem.get_or_insert_with(|| "a login name is empty".to_owned());
            }
            let names = |texts: Vec<Text>| texts.into_iter().map(|text| text.value).collect();
            self.policy.ssh_tests.push(SshExpectation {
                finding,
                problem,
                source,
                targets,
                accept: names(test.accept),
                deny: names(test.deny),
                check: names(test.check),
            });
        }
    }

    /// A destination; `None` when it is refused for good, `Err` when the test fails for it.
    fn ssh_test_target(&mut self, written: &Text) -> Result<Option<SshTarget>, String> {
        let text = written.value.as_str();
        if text.parse::<Ipv6Addr>().is_ok() {
            return Err(format!("{text:?}: an IPv6 address cannot be a dst here"));
        }
        let disallowed = format!("SSH tests dst contains disallowed element {text:?}");
        let message = match self.selector(written, text) {
            Ok(Selector::Identity(identity)) => return Ok(Some(SshTarget::Identity(identity))),
            Ok(Selector::OwnDevices) => return Ok(Some(SshTarget::OwnDevices)),
            Ok(Selector::Literal(addresses)) if !text.contains('/') => {
                return Ok(Some(SshTarget::Literal(addresses)));
            }
            Ok(_) => disallowed,
            Err(_) if text.starts_with("tag:") => {
                format!("SSH tests dst contains unknown tag {text:?}")
            }
            Err(_) if text.contains('/') => disallowed,
            Err(refusal) => return Err(refusal.message),
        };
        let help = "name tags, users, hosts or IPv4 addresses, without a port".to_owned();
        self.findings.error(&written.span, message, Some(help));
        Ok(None)
    }
}
