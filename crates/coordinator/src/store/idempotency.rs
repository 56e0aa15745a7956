//! Requests that may be sent twice and must be done once.
//!
//! Who sends a request names it with a key of their own. The key is stored by [`Tx::record`], with
//! the entry of the audit log, in the very change that the request makes: both are there or none is,
//! whenever the coordinator dies. The answer is stored after that, when there is one to keep.

use super::dialect::{execute, fetch_one, fetch_optional};
use super::{StoreError, Tx, signed, unsigned};

/// How long a key is remembered, in seconds: a day.
const LIFE_SECONDS: i64 = 24 * 3600;

tokio::task_local! {
    /// The claim of the request that is being worked on. Not an argument, because every change
    /// passes through `record` and none may be forgotten.
    static CLAIM: Claim;
}

/// A request that is to be done once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// A hash of who asks and of the key that they chose.
    pub id: String,
    /// A hash of who asks: so many keys are remembered for each.
    pub caller: String,
    /// A hash of what is asked.
    pub request: String,
    /// Now, in seconds since 1970.
    pub at: i64,
}

impl Claim {
    /// Works on the request: the first change that it makes carries the claim. When another
    /// request with the same claim was faster, that change fails with [`StoreError::Repeated`].
    pub async fn during<F: Future>(self, work: F) -> F::Output {
        CLAIM.scope(self, work).await
    }
}

/// A request that was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// A hash of what was asked.
    pub request: String,
    /// The entry of the audit log that says what was done.
    pub audit: u64,
    /// The answer, when it was kept.
    pub answer: Option<String>,
}

impl Tx {
    /// Stores the claim of the request that is being worked on, if there is one, with its first
    /// entry of the audit log.
    pub(super) async fn claim(&mut self, audit: u64) -> Result<(), StoreError> {
        if self.claimed {
            return Ok(());
        }
        let Ok(claim) = CLAIM.try_with(Clone::clone) else {
            return Ok(());
        };
        let doing = "store the key of a request";
        execute!(
            self,
            doing,
            "DELETE FROM idempotency WHERE created_at <= $1",
            claim.at - LIFE_SECONDS
        )?;
        let stored = execute!(
            self,
            doing,
            "INSERT INTO idempotency (id, caller, request, audit_id, created_at) \
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT (id) DO NOTHING",
            &claim.id,
            &claim.caller,
            &claim.request,
            signed(audit),
            claim.at
        )?;
        if stored == 0 {
            return Err(StoreError::Repeated);
        }
        self.claimed = true;
        Ok(())
    }

    /// What is known of a request with this claim.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn claimed(&mut self, claim: &Claim) -> Result<Option<Claimed>, StoreError> {
        let found: Option<(String, i64, Option<String>)> = fetch_optional!(
            self,
            "look the key of a request up",
            "SELECT request, audit_id, answer FROM idempotency WHERE id = $1 AND created_at > $2",
            &claim.id,
            claim.at - LIFE_SECONDS
        )?;
        let claimed = |(request, audit, answer)| {
            Ok(Claimed {
                request,
                audit: unsigned("number of an audit entry", audit)?,
                answer,
            })
        };
        found.map(claimed).transpose()
    }

    /// How many claims of this one's sender are remembered.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn claims_of_caller(&mut self, claim: &Claim) -> Result<u64, StoreError> {
        let (number,): (i64,) = fetch_one!(
            self,
            "count the keys of requests",
            "SELECT count(*) FROM idempotency WHERE caller = $1 AND created_at > $2",
            &claim.caller,
            claim.at - LIFE_SECONDS
        )?;
        unsigned("number of keys", number)
    }

    /// Keeps the answer to a request that was done.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn answered(&mut self, claim: &Claim, answer: &str) -> Result<(), StoreError> {
        execute!(
            self,
            "store the answer to a request",
            "UPDATE idempotency SET answer = $1 WHERE id = $2 AND request = $3",
            answer,
            &claim.id,
            &claim.request
        )?;
        Ok(())
    }
}
