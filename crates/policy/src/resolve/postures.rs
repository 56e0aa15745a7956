//! `postures`: named lists of conditions on the device that a rule's traffic comes from.

use super::Resolver;
use crate::{
    posture::{ATTRIBUTES, Assertion, how_to_write},
    syntax::Text,
};

impl Resolver<'_, '_, '_> {
    pub(super) fn define_postures(&mut self, postures: Vec<(Text, Vec<Text>)>, default: &[Text]) {
        for (name, conditions) in postures {
            let key = name.value;
            if key.strip_prefix("posture:").is_none_or(str::is_empty) {
                let message = format!("postures[{key:?}]: names must start with \"posture:\"");
                let help = Some(format!("write \"posture:{key}\""));
                self.findings.error(&name.span, message, help);
                continue;
            }
            let mut assertions = Vec::new();
            for condition in conditions {
                match Assertion::parse(&condition.value) {
                    Ok(assertion) => {
                        if !ATTRIBUTES.contains(&assertion.attribute()) {
                            let message = format!(
                                "no agent of Weir reports {:?}: no device meets this condition",
                                assertion.attribute()
                            );
                            let help = self
                                .findings
                                .suggestions
                                .did_you_mean(assertion.attribute(), ATTRIBUTES)
                                .or_else(|| {
                                    Some(format!("reported are {}", ATTRIBUTES.join(", ")))
                                });
                            self.findings.warn(&condition.span, message, help);
                        }
                        assertions.push(assertion);
                    }
                    Err(what) => {
                        let message = format!("postures[{key:?}]: {what}");
                        self.findings
                            .error(&condition.span, message, Some(how_to_write()));
                    }
                }
            }
            self.policy.postures.insert(key, assertions);
        }
        if !default.is_empty() {
            self.default_postures = self.postures(default);
        }
    }
}
