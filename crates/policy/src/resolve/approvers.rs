//! `autoApprovers`: whose routes need no admin.

use super::{
    Resolver,
    selectors::{Refusal, Selector, how_to_name_a_user, is_role},
};
use crate::{
    document::AutoApprovers,
    selector::{Identity, TagOwner},
    syntax::Text,
};
use weir_overlay::parse_prefix;

impl Resolver<'_, '_, '_> {
    pub(super) fn auto_approvers(&mut self, approvers: AutoApprovers) {
        for (prefix, who) in approvers.routes {
            let who = self.approvers(&who);
            match parse_prefix(&prefix.value) {
                Ok(prefix) => self.policy.approvers.routes.push((prefix, who)),
                Err(error) => {
                    let message = format!("autoApprovers.routes[{:?}]: {error}", prefix.value);
                    self.findings.error(&prefix.span, message, None);
                }
            }
        }
        self.policy.approvers.exits = self.approvers(&approvers.exit_node);
    }

    fn approvers(&mut self, written: &[Text]) -> Vec<TagOwner> {
        let mut approvers = Vec::new();
        for approver in written {
            match self.approver(approver) {
                Ok(approver) => approvers.push(approver),
                Err(refusal) => {
                    let message = format!("autoApprovers: {}", refusal.message);
                    self.findings.error(&approver.span, message, refusal.help);
                }
            }
        }
        approvers
    }

    /// Users, groups, tags and `autogroup:member` own tags as well as they approve routes.
    pub(super) fn approver(&mut self, written: &Text) -> Result<TagOwner, Refusal> {
        let text = written.value.as_str();
        if let Some(user) = self.user(text, &written.span) {
            return Ok(TagOwner::User(user));
        }
        if is_role(text) {
            let message = format!("{text:?} is nobody here: Weir's users have no roles");
            let help = "an admin may always do this by hand".to_owned();
            self.findings.warn(&written.span, message, Some(help));
            return Ok(TagOwner::Nobody);
        }
        match self.prefixed(text)? {
            Some(Selector::Identity(Identity::Group(name))) => Ok(TagOwner::Group(name)),
            Some(Selector::Identity(Identity::Tag(tag))) => Ok(TagOwner::Tag(tag)),
            Some(Selector::Identity(Identity::Member)) => Ok(TagOwner::Member),
            // A tag whose name is wrong was reported where it is defined.
            Some(Selector::Any) => Ok(TagOwner::Nobody),
            Some(_) | None => Err(Refusal::new(
                format!("{text:?}: must be a user, a group, a tag or autogroup:member"),
                Some(how_to_name_a_user(text)),
            )),
        }
    }
}
