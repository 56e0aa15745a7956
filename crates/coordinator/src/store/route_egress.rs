//! With which of its addresses a relay lets traffic out, by route: what admins chose.

use super::dialect::{execute, fetch_all};
use super::{EgressRow, StoreError, Tx, parse, signed, unsigned};
use ipnet::IpNet;
use std::net::IpAddr;
use weir_overlay::NodeId;
use weir_policy::NodeSelector;

type Columns = (i64, String, String, String);

fn row((node, prefix, selector, address): Columns) -> Result<EgressRow, StoreError> {
    Ok(EgressRow {
        node: NodeId(unsigned("node id", node)?),
        prefix: parse("prefix", &prefix)?,
        selector: match selector.as_str() {
            "" => None,
            selector => Some(parse("selector of nodes", selector)?),
        },
        address: parse("address", &address)?,
    })
}

fn sorted(rows: Vec<Columns>) -> Result<Vec<EgressRow>, StoreError> {
    let mut rows = rows.into_iter().map(row).collect::<Result<Vec<_>, _>>()?;
    // What is for everybody comes last.
    rows.sort_by_cached_key(|row| {
        let is_for_all = row.selector.is_none();
        (row.node, row.prefix, is_for_all, row.selector.clone())
    });
    Ok(rows)
}

fn stored(selector: Option<&NodeSelector>) -> String {
    selector.map(ToString::to_string).unwrap_or_default()
}

impl Tx {
    /// All addresses that were chosen, by node and prefix, in the order in which they count.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn route_egress(&mut self) -> Result<Vec<EgressRow>, StoreError> {
        let rows: Vec<Columns> = fetch_all!(
            self,
            "list the addresses of routes",
            "SELECT node_id, prefix, selector, address FROM route_egress"
        )?;
        sorted(rows)
    }

    /// The addresses that were chosen for the routes of one node, by prefix, in the order in which
    /// they count.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn route_egress_of(&mut self, node: NodeId) -> Result<Vec<EgressRow>, StoreError> {
        let rows: Vec<Columns> = fetch_all!(
            self,
            "list the addresses of the routes of a node",
            "SELECT node_id, prefix, selector, address FROM route_egress WHERE node_id = $1",
            signed(node.0)
        )?;
        sorted(rows)
    }

    /// Stores the address that the traffic of some leaves with, or of everybody else.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn set_route_egress(
        &mut self,
        node: NodeId,
        prefix: &IpNet,
        selector: Option<&NodeSelector>,
        address: IpAddr,
        now: i64,
    ) -> Result<(), StoreError> {
        self.changes.nodes.insert(node);
        execute!(
            self,
            "store the address of a route",
            "INSERT INTO route_egress (node_id, prefix, selector, address, chosen_at) \
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT (node_id, prefix, selector) \
             DO UPDATE SET address = $4, chosen_at = $5",
            signed(node.0),
            prefix.to_string(),
            stored(selector),
            address.to_string(),
            now
        )?;
        Ok(())
    }

    /// Takes back the address that was chosen for some, or for everybody else.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn clear_route_egress(
        &mut self,
        node: NodeId,
        prefix: &IpNet,
        selector: Option<&NodeSelector>,
    ) -> Result<(), StoreError> {
        self.changes.nodes.insert(node);
        execute!(
            self,
            "forget the address of a route",
            "DELETE FROM route_egress WHERE node_id = $1 AND prefix = $2 AND selector = $3",
            signed(node.0),
            prefix.to_string(),
            stored(selector)
        )?;
        Ok(())
    }
}
