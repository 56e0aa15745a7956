//! Routes: advertised by nodes, decided about by admins.

use super::dialect::{execute, fetch_all};
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
        let rows: Vec<Columns> = fetch_all!(
            self,
            "list the routes",
            "SELECT node_id, prefix, advertised, decision FROM routes"
        )?;
        sorted(rows)
    }

    /// The routes of one node, by prefix.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn routes_of(&mut self, node: NodeId) -> Result<Vec<RouteRow>, StoreError> {
        let rows: Vec<Columns> = fetch_all!(
            self,
            "list the routes of a node",
            "SELECT node_id, prefix, advertised, decision FROM routes WHERE node_id = $1",
            signed(node.0)
        )?;
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
        self.changes.nodes.insert(node);
        let doing = "store the advertised routes of a node";
        execute!(
            self,
            doing,
            "UPDATE routes SET advertised = FALSE WHERE node_id = $1",
            signed(node.0)
        )?;
        for prefix in prefixes {
            execute!(
                self,
                doing,
                "INSERT INTO routes (node_id, prefix, advertised) VALUES ($1, $2, TRUE) \
                 ON CONFLICT (node_id, prefix) DO UPDATE SET advertised = TRUE",
                signed(node.0),
                prefix.to_string()
            )?;
        }
        self.forget_routes(node).await
    }

    /// Deletes the routes of a node that it does not advertise and that nobody decided about.
    async fn forget_routes(&mut self, node: NodeId) -> Result<(), StoreError> {
        execute!(
            self,
            "forget routes that nobody advertises",
            "DELETE FROM routes WHERE node_id = $1 AND NOT advertised AND decision IS NULL",
            signed(node.0)
        )?;
        Ok(())
    }

    /// Stores what an admin says about a route that a node advertises or once did; `None` takes
    /// back what was said.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn set_decision(
        &mut self,
        node: NodeId,
        prefix: &IpNet,
        decision: Option<Decision>,
        now: i64,
    ) -> Result<(), StoreError> {
        self.changes.nodes.insert(node);
        execute!(
            self,
            "store a decision about a route",
            "UPDATE routes SET decision = $1, decided_at = $2 WHERE node_id = $3 AND prefix = $4",
            decision.map(Decision::as_str),
            decision.map(|_| now),
            signed(node.0),
            prefix.to_string()
        )?;
        self.forget_routes(node).await
    }
}

fn sorted(rows: Vec<Columns>) -> Result<Vec<RouteRow>, StoreError> {
    // Text order is not prefix order: 10.0.0.0/8 would come before 8.8.8.8/32.
    let mut rows = rows.into_iter().map(row).collect::<Result<Vec<_>, _>>()?;
    rows.sort_by_key(|route| (route.node, route.prefix));
    Ok(rows)
}
