//! `tests`: what must and must not be allowed, stated by the author, checked when the policy is
//! saved.

use super::{Resolver, selectors::Selector};
use crate::{
    diagnostics::{Diagnostic, Severity},
    directory::Posture,
    document::Test,
    policy::{Expectation, Probe},
    ports::{parse_protocol, split_destination},
    selector::{Source, Target},
    syntax::Text,
};
use weir_protocol::IpProtocol;

/// What is said of every test that fails; why is in the help beside it.
pub(crate) const FAILED: &str = "test(s) failed";

impl Resolver<'_, '_, '_> {
    pub(super) fn tests(&mut self, tests: Vec<Test>) {
        for test in tests {
            let span = test.source.as_ref().map_or(&test.span, |text| &text.span);
            let finding = Diagnostic::at(self.lines, Severity::Error, span, FAILED, None);
            let mut expectation = Expectation {
                finding,
                problem: None,
                source: None,
                source_text: test
                    .source
                    .as_ref()
                    .map_or_else(String::new, |text| text.value.clone()),
                protocol: None,
                posture: posture(&test.posture),
                probes: Vec::new(),
            };
            match self.test_source(test.source.as_ref()) {
                Ok(source) => expectation.source = Some(source),
                Err(what) => expectation.problem = Some(what),
            }
            if let Some(text) = test.protocol.filter(|text| !text.value.is_empty()) {
                expectation.protocol = parse_protocol(&text.value).filter(|it| it.has_ports());
                if expectation.protocol.is_none() {
                    let what = format!("proto {:?}: tests know tcp, udp and sctp", text.value);
                    expectation.problem.get_or_insert(what);
                }
            }
            if test.accept.is_empty() && test.deny.is_empty() {
                let what = "the test has neither accept nor deny".to_owned();
                expectation.problem.get_or_insert(what);
            }
            let accept = test.accept.iter().map(|text| (text, true));
            for (text, accept) in accept.chain(test.deny.iter().map(|text| (text, false))) {
                let finding = Diagnostic::at(self.lines, Severity::Error, &text.span, FAILED, None);
                let probe = self.probe(text).map(|(target, port)| Probe {
                    finding: finding.clone(),
                    text: text.value.clone(),
                    accept,
                    target,
                    port,
                });
                match probe {
                    Ok(probe) => expectation.probes.push(probe),
                    Err(what) => {
                        if expectation.problem.is_none() {
                            expectation.finding = finding;
                            expectation.problem = Some(what);
                        }
                    }
                }
            }
            self.policy.tests.push(expectation);
        }
    }

    fn test_source(&mut self, written: Option<&Text>) -> Result<Source, String> {
        let Some(text) = written.filter(|text| !text.value.is_empty()) else {
            return Err("the test has no src".to_owned());
        };
        match self.selector(text, &text.value) {
            Ok(Selector::Any) => Ok(Source::Any),
            Ok(Selector::Identity(identity)) => Ok(Source::Identity(identity)),
            Ok(Selector::Literal(addresses)) => Ok(Source::Literal(addresses)),
            Ok(Selector::Everything | Selector::Internet | Selector::OwnDevices) => {
                Err(format!("{:?} cannot be the src of a test", text.value))
            }
            Err(refusal) => Err(refusal.message),
        }
    }

    /// One destination and one port.
    fn probe(&mut self, written: &Text) -> Result<(Target, u16), String> {
        let text = written.value.as_str();
        let (host, port) = split_destination(text);
        let number = Some(port)
            .filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|port| port.parse::<u16>().ok());
        let Some(port) = number.filter(|port| *port > 0) else {
            return Err(format!("{text:?}: a test asks for one port, 1 to 65535"));
        };
        if host.contains('/') {
            return Err(format!(
                "{text:?}: a test asks for one address, not a prefix"
            ));
        }
        match self.target(written, &host) {
            Ok(Target::Internet | Target::OwnDevices) => {
                Err(format!("{text:?}: {host} cannot be the dst of a test"))
            }
            Ok(Target::Literal(addresses))
                if addresses
                    .ranges()
                    .iter()
                    .any(|range| range.single().is_none()) =>
            {
                Err(format!("{text:?}: {host} is more than one address"))
            }
            Ok(target) => Ok((target, port)),
            Err(refusal) => Err(refusal.message),
        }
    }
}

fn posture(written: &[(Text, Text)]) -> Posture {
    let value = |names: &[&str]| {
        let is = |(name, _): &&(Text, Text)| names.contains(&name.value.as_str());
        written
            .iter()
            .find(is)
            .map(|(_, value)| value.value.clone())
    };
    Posture {
        os: value(&["node:os"]),
        os_version: value(&["node:osVersion"]),
        weir_version: value(&["node:weirVersion", "node:tsVersion"]),
    }
}

impl Expectation {
    /// The protocols that a test asks for: its own, or any of the usual ones.
    pub(crate) fn protocols(&self) -> Vec<IpProtocol> {
        self.protocol.map_or_else(
            || IpProtocol::defaults().to_vec(),
            |protocol| vec![protocol],
        )
    }
}
