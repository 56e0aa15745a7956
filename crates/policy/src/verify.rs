//! What only the network can decide about a policy: whether its tests hold, and whether it names
//! the network's own domains.

mod login;

use crate::{
    compile::{Compiler, Reach, internet},
    diagnostics::{Diagnostic, first_of_each},
    directory::Directory,
    policy::{Effect, Expectation, Policy, Probe, Rule},
    selector::{Source, Target},
};
use weir_overlay::{AddressRange, AddressSet};
use weir_protocol::IpProtocol;

impl Policy {
    /// Checks the policy against the network it is for: its `tests` and `sshTests`, and the e-mail
    /// domains that it names.
    ///
    /// # Errors
    /// All that fails. The policy should not be put in force then.
    pub fn verify(&self, directory: &Directory) -> Result<(), Vec<Diagnostic>> {
        let strangers = self.domains.iter();
        let strangers = strangers.filter(|(domain, _)| !directory.has_domain(domain));
        let mut found: Vec<Diagnostic> = strangers.map(|(_, finding)| finding.clone()).collect();
        if !self.tests.is_empty() {
            let mut verifier = Verifier::new(self, directory);
            for test in &self.tests {
                verifier.test(test, &mut found);
            }
        }
        found.extend(login::failures(self, directory));
        found.sort_by_key(|finding| finding.span.start);
        match found.is_empty() {
            true => Ok(()),
            false => Err(first_of_each(found)),
        }
    }
}

/// A failed test, and why.
fn failed(finding: &Diagnostic, why: &str) -> Diagnostic {
    Diagnostic {
        help: Some(why.to_owned()),
        ..finding.clone()
    }
}

/// A test's source as it was written; where that stands for several addresses, also which of them
/// it is.
fn sender(written: &str, address: AddressRange, of: usize) -> String {
    match of {
        0 | 1 => format!("{written:?}"),
        _ => format!("{written:?} ({address})"),
    }
}

/// Answers tests from the rules before they are cut down to nodes. `via` rules and
/// `autogroup:self`, which depend on nodes, allow nothing in a test.
struct Verifier<'a> {
    policy: &'a Policy,
    compiler: Compiler<'a>,
    rules: Vec<Candidate<'a>>,
}

struct Candidate<'a> {
    rule: &'a Rule,
    sources: AddressSet,
    reach: Reach,
}

impl<'a> Verifier<'a> {
    fn new(policy: &'a Policy, directory: &'a Directory) -> Self {
        let mut compiler = Compiler::new(policy, directory);
        let counts = |rule: &&Rule| {
            rule.effect != Effect::Capability
                && rule.via.is_none()
                && rule.target != Target::OwnDevices
        };
        let rules = policy.rules.iter().filter(counts).map(|rule| Candidate {
            rule,
            sources: compiler.sources(&rule.sources),
            reach: compiler.reach(&rule.target),
        });
        Self {
            policy,
            rules: rules.collect(),
            compiler,
        }
    }

    fn test(&mut self, test: &Expectation, found: &mut Vec<Diagnostic>) {
        if let Some(problem) = &test.problem {
            found.push(failed(&test.finding, problem));
            return;
        }
        let sources = test.source.as_ref().map(|source| self.senders(source));
        let sources = sources.unwrap_or_default();
        if sources.is_empty() {
            found.push(failed(&test.finding, "no node is meant by this src"));
            return;
        }
        for probe in &test.probes {
            if let Some(why) = self.failure(test, probe, &sources) {
                found.push(failed(&probe.finding, &why));
            }
        }
    }

    /// The addresses of senders; those of nodes each for itself.
    fn senders(&mut self, source: &Source) -> Vec<AddressRange> {
        match source {
            Source::Identity(identity) => {
                let nodes = self.compiler.index.members(self.policy, identity);
                let addresses = nodes.iter().flat_map(|node| &node.addresses);
                addresses.copied().map(AddressRange::from).collect()
            }
            Source::Any | Source::Everything | Source::Literal(_) => {
                let set = self.compiler.sources(std::slice::from_ref(source));
                set.ranges().to_vec()
            }
        }
    }

    fn failure(
        &mut self,
        test: &Expectation,
        probe: &Probe,
        sources: &[AddressRange],
    ) -> Option<String> {
        let goal = match self.compiler.reach(&probe.target) {
            Reach::Anything => AddressSet::everything(),
            Reach::Nodes(addresses) | Reach::Literal(addresses) => addresses,
            Reach::Internet | Reach::OwnDevices => AddressSet::empty(),
        };
        if goal.is_empty() {
            return Some(format!("{:?}: no node is meant by this dst", probe.text));
        }
        let stopped = sources.iter().find_map(|source| {
            let by = self.allows(test, probe.port, *source, &goal);
            by.is_none().then_some(*source)
        });
        match (probe.accept, stopped) {
            (true, Some(source)) => Some(format!(
                "{:?} must be allowed, but nothing allows it from {}",
                probe.text,
                sender(&test.source_text, source, sources.len())
            )),
            (false, None) => {
                let first = *sources.first()?;
                let by = self.allows(test, probe.port, first, &goal)?;
                let source = sender(&test.source_text, first, sources.len());
                Some(format!(
                    "{:?} must not be allowed, but {by} allows it from {source}",
                    probe.text
                ))
            }
            (true, None) | (false, Some(_)) => None,
        }
    }

    /// The entry that lets the source reach some of the goal.
    fn allows(
        &self,
        test: &Expectation,
        port: u16,
        source: AddressRange,
        goal: &AddressSet,
    ) -> Option<&'a str> {
        let source: AddressSet = [source].into_iter().collect();
        test.protocols().into_iter().find_map(|protocol| {
            let mut left = goal.clone();
            for candidate in &self.rules {
                let rule = candidate.rule;
                let is_about = rule
                    .ports
                    .iter()
                    .any(|range| (range.first..=range.last).contains(&port))
                    && has_protocol(rule, protocol)
                    && candidate.sources.overlaps(&source);
                if !is_about {
                    continue;
                }
                let reached = match &candidate.reach {
                    Reach::Anything => left.clone(),
                    Reach::Internet => left.intersection(&internet()),
                    Reach::Nodes(addresses) | Reach::Literal(addresses) => {
                        left.intersection(addresses)
                    }
                    Reach::OwnDevices => AddressSet::empty(),
                };
                match rule.effect {
                    Effect::Deny => left = left.difference(&reached),
                    Effect::Accept | Effect::Capability => {
                        let meets = self.meets(test, rule);
                        if meets && !reached.is_empty() {
                            return Some(rule.origin.as_str());
                        }
                    }
                }
            }
            None
        })
    }

    fn meets(&self, test: &Expectation, rule: &Rule) -> bool {
        let met = |name: &String| {
            let conditions = self.policy.postures.get(name);
            conditions.is_some_and(|all| all.iter().all(|one| one.is_met(&test.posture)))
        };
        rule.postures.is_empty() || rule.postures.iter().any(met)
    }
}

/// Whether a rule is about a protocol; one that names none is about all.
fn has_protocol(rule: &Rule, protocol: IpProtocol) -> bool {
    rule.protocols.contains(&protocol) || rule.protocols == IpProtocol::defaults().into()
}
