//! Who changed what, written in the same transaction as the change.

use super::{
    AuditHead, AuditReport, StoreError, Tx,
    audit_chain::Check,
    dialect::{execute, fetch_all, fetch_one, fetch_optional},
    signed, unsigned,
};
use serde::Serialize;
use sqlx::FromRow;
use std::{fmt, net::IpAddr};
use weir_overlay::{KeyId, NodeId, NodeName};

/// Who makes a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// Somebody on this machine, through the admin socket: the user id the kernel vouches for.
    LocalAdmin {
        /// The user id.
        uid: u32,
    },
    /// An admin who gave name and password.
    Account {
        /// The user's name.
        name: String,
        /// Where the request came from.
        address: IpAddr,
    },
    /// Whoever holds this token of the admin API.
    Token {
        /// The token.
        id: KeyId,
        /// What it is for.
        name: String,
        /// Who logged in for it.
        account: Option<String>,
        /// Where the request came from.
        address: IpAddr,
    },
    /// A machine, through a request that it signed.
    Node {
        /// The node.
        id: NodeId,
        /// Its name.
        name: NodeName,
        /// Where its request came from.
        address: IpAddr,
    },
    /// A machine that joins with an auth key.
    AuthKey {
        /// The key.
        id: KeyId,
        /// Where its request came from.
        address: IpAddr,
    },
    /// The coordinator itself.
    Coordinator,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LocalAdmin { uid } => write!(f, "local admin uid {uid}"),
            Self::Account { name, .. } => write!(f, "admin {name}"),
            Self::Token {
                id,
                account: Some(account),
                ..
            } => write!(f, "admin {account} (token {id})"),
            Self::Token { id, name, .. } => write!(f, "token {id} ({name})"),
            Self::Node { id, name, .. } => write!(f, "node {id} ({name})"),
            Self::AuthKey { id, .. } => write!(f, "auth key {id}"),
            Self::Coordinator => f.write_str("coordinator"),
        }
    }
}

impl Actor {
    /// From where the change was asked for.
    fn origin(&self) -> String {
        match self {
            Self::LocalAdmin { .. } => "admin socket".to_owned(),
            Self::Account { address, .. }
            | Self::Token { address, .. }
            | Self::Node { address, .. }
            | Self::AuthKey { address, .. } => address.to_string(),
            Self::Coordinator => "coordinator".to_owned(),
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

/// An entry of the audit log, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRow {
    /// Its number, from 1, without gaps.
    pub id: u64,
    /// When, in seconds since 1970.
    pub at: i64,
    /// Who.
    pub actor: String,
    /// From where.
    pub origin: String,
    /// What was done.
    pub action: String,
    /// To what.
    pub subject: String,
    /// What was before, as JSON; none when there was nothing.
    pub before: Option<String>,
    /// What is after, as JSON; none when there is nothing.
    pub after: Option<String>,
    /// The hash of all this and of the entry before.
    pub hash: String,
}

#[derive(FromRow)]
struct Columns {
    id: i64,
    at: i64,
    actor: String,
    origin: String,
    action: String,
    subject: String,
    before: Option<String>,
    after: Option<String>,
    hash: String,
}

impl Columns {
    fn row(self) -> Result<AuditRow, StoreError> {
        Ok(AuditRow {
            id: unsigned("number of an audit entry", self.id)?,
            at: self.at,
            actor: self.actor,
            origin: self.origin,
            action: self.action,
            subject: self.subject,
            before: self.before,
            after: self.after,
            hash: self.hash,
        })
    }
}

/// How many entries are read at a time.
const PAGE: i64 = 1000;

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
        let doing = "write the audit log";
        let previous = self.audit_head().await?;
        let row = AuditRow {
            id: 0,
            at: entry.at,
            actor: entry.actor.to_string(),
            origin: entry.actor.origin(),
            action: entry.action.to_owned(),
            subject: entry.subject,
            before: json(before)?,
            after: json(after)?,
            hash: String::new(),
        };
        let head = previous.after(&row);
        execute!(
            self,
            doing,
            "INSERT INTO audit (id, at, actor, origin, action, subject, before, after, hash) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            signed(head.id),
            row.at,
            &row.actor,
            &row.origin,
            &row.action,
            &row.subject,
            &row.before,
            &row.after,
            &head.hash
        )?;
        self.set_audit_head(&head).await?;
        self.claim(head.id).await?;
        self.recorded = Some(head);
        Ok(())
    }

    /// The newest entry that the coordinator wrote.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn audit_head(&mut self) -> Result<AuditHead, StoreError> {
        let head: Option<(i64, String)> = fetch_optional!(
            self,
            "read the end of the audit log",
            "SELECT id, hash FROM audit_head"
        )?;
        head.map_or_else(
            || Ok(AuditHead::none()),
            |(id, hash)| {
                let id = unsigned("number of an audit entry", id)?;
                Ok(AuditHead { id, hash })
            },
        )
    }

    async fn set_audit_head(&mut self, head: &AuditHead) -> Result<(), StoreError> {
        execute!(
            self,
            "write the end of the audit log",
            "INSERT INTO audit_head (one, id, hash) VALUES (1, $1, $2) \
             ON CONFLICT (one) DO UPDATE SET id = $1, hash = $2",
            signed(head.id),
            &head.hash
        )?;
        Ok(())
    }

    /// Up to `limit` entries before this one, or the newest, the newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn audit(
        &mut self,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<AuditRow>, StoreError> {
        let rows: Vec<Columns> = fetch_all!(
            self,
            "read the audit log",
            "SELECT id, at, actor, origin, action, subject, before, after, hash FROM audit \
             WHERE id < $1 ORDER BY id DESC LIMIT $2",
            before.map_or(i64::MAX, signed),
            i64::from(limit)
        )?;
        rows.into_iter().map(Columns::row).collect()
    }

    async fn audit_after(&mut self, id: u64) -> Result<Vec<AuditRow>, StoreError> {
        let rows: Vec<Columns> = fetch_all!(
            self,
            "read the audit log",
            "SELECT id, at, actor, origin, action, subject, before, after, hash FROM audit \
             WHERE id > $1 ORDER BY id LIMIT $2",
            signed(id),
            PAGE
        )?;
        rows.into_iter().map(Columns::row).collect()
    }

    /// Checks the whole log and, when given, an entry's hash that was kept elsewhere.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn verify_audit(
        &mut self,
        known: Option<AuditHead>,
    ) -> Result<AuditReport, StoreError> {
        let mut check = Check::new(known);
        let mut last = 0;
        loop {
            let page = self.audit_after(last).await?;
            let Some(newest) = page.last() else {
                let head = self.audit_head().await?;
                return Ok(check.finish(head));
            };
            last = newest.id;
            page.iter().for_each(|row| check.entry(row));
        }
    }

    /// Ties together the entries of before there were hashes, numbering them anew without gaps.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(super) async fn tie_old_audit(&mut self) -> Result<(), StoreError> {
        let doing = "tie the entries of the audit log together";
        let mut head = self.audit_head().await?;
        let (hashed,): (i64,) =
            fetch_one!(self, doing, "SELECT count(*) FROM audit WHERE hash <> ''")?;
        if head.id > 0 || hashed > 0 {
            return Ok(());
        }
        let mut last = 0;
        loop {
            let page = self.audit_after(last).await?;
            let Some(newest) = page.last() else {
                break;
            };
            last = newest.id;
            for row in &page {
                head = head.after(row);
                execute!(
                    self,
                    doing,
                    "UPDATE audit SET id = $1, hash = $2 WHERE id = $3",
                    signed(head.id),
                    &head.hash,
                    signed(row.id)
                )?;
            }
        }
        if head.id > 0 {
            self.set_audit_head(&head).await?;
        }
        Ok(())
    }
}

fn json<T: Serialize>(value: Option<&T>) -> Result<Option<String>, StoreError> {
    value
        .map(serde_json::to_string)
        .transpose()
        .map_err(|source| StoreError::Json("an audit entry", source))
}
