//! Which policy is in force: the newest stored one that is valid.

use crate::{
    api::PolicyStatus,
    store::{StoreError, Tx},
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use weir_policy::{Policy, render};

/// How far back a valid policy is looked for. `policy set` stores valid ones only, so more than
/// one bad in a row means that the database was changed by hand.
const LOOK_BACK: u32 = 100;

/// The policy that maps are made with.
#[derive(Clone, Debug)]
pub(crate) struct PolicyInForce {
    /// The policy.
    pub policy: Arc<Policy>,
    /// Its revision. What is noteworthy about it depends on the network, and is not in here.
    pub status: PolicyStatus,
}

impl Default for PolicyInForce {
    fn default() -> Self {
        Self {
            policy: Arc::new(Policy::empty()),
            status: PolicyStatus::default(),
        }
    }
}

/// A policy that whoever stores it has parsed already.
#[derive(Clone, Debug, Default)]
pub(super) struct Offered(Arc<Mutex<Option<Offer>>>);

#[derive(Debug)]
struct Offer {
    text: String,
    policy: Arc<Policy>,
}

impl Offered {
    fn lock(&self) -> MutexGuard<'_, Option<Offer>> {
        // Replaced as a whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This text is about to be the newest.
    pub(super) fn set(&self, text: &str, policy: Arc<Policy>) {
        *self.lock() = Some(Offer {
            text: text.to_owned(),
            policy,
        });
    }

    fn take(&self, text: &str) -> Option<Arc<Policy>> {
        let offered = self.lock().take_if(|offer| offer.text == text);
        offered.map(|offer| offer.policy)
    }
}

/// Goes back from the newest stored policy to the first that is valid. Without any, nothing is
/// granted. `before` is what was in force until now: it is not parsed again.
pub(super) async fn newest_valid(
    tx: &mut Tx,
    before: &PolicyInForce,
    offered: &Offered,
) -> Result<PolicyInForce, StoreError> {
    let mut bad_revisions = Vec::new();
    // Nearly always the newest one is valid: do not read the texts of the others.
    for limit in [1, LOOK_BACK] {
        for row in tx.newest_policies(limit).await? {
            if bad_revisions.contains(&row.revision) {
                continue;
            }
            let parsed = if before.status.revision == Some(row.revision) {
                Ok(Arc::clone(&before.policy))
            } else if let Some(policy) = offered.take(&row.text) {
                Ok(policy)
            } else {
                Policy::parse(&row.text).map(Arc::new)
            };
            match parsed {
                Ok(policy) => {
                    return Ok(PolicyInForce {
                        status: PolicyStatus {
                            revision: Some(row.revision),
                            bad_revisions,
                            warnings: Vec::new(),
                        },
                        policy,
                    });
                }
                Err(problems) => {
                    if !before.status.bad_revisions.contains(&row.revision) {
                        tracing::error!(
                            revision = row.revision,
                            "the stored policy is not valid, so the one before it stays in force: \
                             save a valid one with coordinator policy set FILE\n{}",
                            render(&problems, &row.text, "stored policy")
                        );
                    }
                    bad_revisions.push(row.revision);
                }
            }
        }
    }
    Ok(PolicyInForce {
        policy: Arc::new(Policy::empty()),
        status: PolicyStatus {
            revision: None,
            bad_revisions,
            warnings: Vec::new(),
        },
    })
}
