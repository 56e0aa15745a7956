//! Who changed what, written in the same transaction as the change.

use super::{StoreError, Tx};
use serde::Serialize;
use std::fmt;
use weir_overlay::{NodeId, NodeName};

/// Who makes a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// Somebody on this machine, through the admin socket: the user id the kernel vouches for.
    LocalAdmin {
        /// The user id.
        uid: u32,
    },
    /// A machine, through a request that it signed.
    Node {
        /// The node.
        id: NodeId,
        /// Its name.
        name: NodeName,
    },
    /// A machine that joins with this auth key.
    AuthKey(weir_overlay::KeyId),
    /// The coordinator itself.
    Coordinator,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LocalAdmin { uid } => write!(f, "local admin uid {uid}"),
            Self::Node { id, name } => write!(f, "node {id} ({name})"),
            Self::AuthKey(id) => write!(f, "auth key {id}"),
            Self::Coordinator => f.write_str("coordinator"),
        }
    }
}

/// One change, for the audit log.
#[derive(Clone, Debug)]
pub struct AuditEntry<'a> {
    /// When, in seconds since 1970.
    pub at: i64,
    /// Who.
    pub actor: &'a Actor,
    /// What was done: `routes.approve`.
    pub action: &'static str,
    /// To what: `node 3 (relay)`.
    pub subject: String,
}

impl Tx {
    /// Writes a change down, with what was before and after it. Secrets do not belong in either.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn record<B, A>(
        &mut self,
        entry: AuditEntry<'_>,
        before: Option<&B>,
        after: Option<&A>,
    ) -> Result<(), StoreError>
    where
        B: Serialize + Sync,
        A: Serialize + Sync,
    {
        let (before, after) = (json(before)?, json(after)?);
        sqlx::query(
            "INSERT INTO audit (at, actor, action, subject, before, after) \
             VALUES (?, ?, ?, ?, ?, ?)",
        )
        .bind(entry.at)
        .bind(entry.actor.to_string())
        .bind(entry.action)
        .bind(entry.subject)
        .bind(before)
        .bind(after)
        .execute(&mut *self.inner)
        .await
        .map_err(StoreError::doing("write the audit log"))?;
        Ok(())
    }
}

fn json<T: Serialize>(value: Option<&T>) -> Result<Option<String>, StoreError> {
    value
        .map(serde_json::to_string)
        .transpose()
        .map_err(|source| StoreError::Json("an audit entry", source))
}
