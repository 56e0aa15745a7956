//! Routes: advertised by nodes, decided about by admins.

use super::{RouteRow, StoreError, Tx, parse, signed, unsigned};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, str::FromStr};
use weir_overlay::NodeId;

/// What an admin says about a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decision {
    /// It may be used.
    Approved,
    /// It may not.
    Rejected,
}

impl Decision {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Approved => "approved",
            Self::Rejected => "rejected",
        }
    }
}

impl FromStr for Decision {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "approved" => Ok(Self::Approved),
            "rejected" => Ok(Self::Rejected),
            _ => Err(()),
        }
    }
}

type Columns = (i64, String, bool, Option<String>);

fn row((node, prefix, advertised, decision): Columns) -> Result<RouteRow, StoreError> {
    Ok(RouteRow {
        node: NodeId(unsigned("node id", node)?),
        prefix: parse("prefix", &prefix)?,
        advertised,
        decision: decision
            .map(|text| parse("decision about a route", &text))
            .transpose()?,
    })
}

impl Tx {
    /// All routes that are advertised or decided about, by node and prefix.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn routes(&mut self) -> Result<Vec<RouteRow>, StoreError> {
        let rows: Vec<Columns> =
            sqlx::query_as("SELECT node_id, prefix, advertised, decision FROM routes")
                .fetch_all(&mut *self.inner)
                .await
                .map_err(StoreError::doing("list the routes"))?;
        sorted(rows)
    }

    /// The routes of one node, by prefix.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn routes_of(&mut self, node: NodeId) -> Result<Vec<RouteRow>, StoreError> {
        let rows: Vec<Columns> = sqlx::query_as(
            "SELECT node_id, prefix, advertised, decision FROM routes WHERE node_id = ?",
        )
        .bind(signed(node.0))
        .fetch_all(&mut *self.inner)
        .await
        .map_err(StoreError::doing("list the routes of a node"))?;
        sorted(rows)
    }

    /// Makes `prefixes` the routes that a node advertises, and no others.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn set_advertised(
        &mut self,
        node: NodeId,
        prefixes: &BTreeSet<IpNet>,
    ) -> Result<(), StoreError> {
        let doing = "store the advertised routes of a node";
        sqlx::query("UPDATE routes SET advertised = 0 WHERE node_id = ?")
            .bind(signed(node.0))
            .execute(&mut *self.inner)
            .await
            .map_err(StoreError::doing(doing))?;
        for prefix in prefixes {
            sqlx::query(
                "INSERT INTO routes (node_id, prefix, advertised) VALUES (?, ?, 1) \
                 ON CONFLICT (node_id, prefix) DO UPDATE SET advertised = 1",
            )
            .bind(signed(node.0))
            .bind(prefix.to_string())
            .execute(&mut *self.inner)
            .await
            .map_err(StoreError::doing(doing))?;
        }
        sqlx::query("DELETE FROM routes WHERE node_id = ? AND advertised = 0 AND decision IS NULL")
            .bind(signed(node.0))
            .execute(&mut *self.inner)
            .await
            .map_err(StoreError::doing(doing))?;
        Ok(())
    }

    /// Stores what an admin says about a route that a node advertises.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn set_decision(
        &mut self,
        node: NodeId,
        prefix: &IpNet,
        decision: Decision,
        now: i64,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE routes SET decision = ?, decided_at = ? WHERE node_id = ? AND prefix = ?",
        )
        .bind(decision.as_str())
        .bind(now)
        .bind(signed(node.0))
        .bind(prefix.to_string())
        .execute(&mut *self.inner)
        .await
        .map_err(StoreError::doing("store a decision about a route"))?;
        Ok(())
    }
}

fn sorted(rows: Vec<Columns>) -> Result<Vec<RouteRow>, StoreError> {
    // Text order is not prefix order: 10.0.0.0/8 would come before 8.8.8.8/32.
    let mut rows = rows.into_iter().map(row).collect::<Result<Vec<_>, _>>()?;
    rows.sort_by_key(|route| (route.node, route.prefix));
    Ok(rows)
}
