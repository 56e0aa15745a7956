//! Other programs' firewalls: a drop in any table is final, so what Weir accepts may still be
//! dropped by Docker's rules, by ufw's, by firewalld's, or by somebody's own.
//!
//! `nft.rs` and `iptables.rs` read rulesets into `model.rs`; `packet.rs` follows a packet of ours
//! through them; `remedy.rs` says how to let it pass. Our own table is no part of this.

mod iptables;
mod model;
mod nft;
mod packet;
mod remedy;
#[cfg(test)]
mod tests;

pub use model::{Chain, Family, Hook, Manager, Rule, Table};
pub use packet::{Judgement, Packet, Place};
pub use remedy::Programs;

use serde_json::Value;
use weir_kernel_plan::NFT_TABLE;

/// What `iptables-save` or one of its kind printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IptablesSave {
    /// IPv4's or IPv6's.
    pub family: Family,
    /// Which iptables.
    pub manager: Manager,
    /// The text.
    pub text: String,
}

/// A table, as nft lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NftListing {
    /// What `nft -j list table` prints.
    pub json: Value,
    /// What `nft -a list table` prints.
    pub text: String,
}

/// All firewalls of the host but ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OtherFirewalls {
    /// Their tables.
    pub tables: Vec<Table>,
    /// Tables that could not be read, and why.
    pub unread: Vec<String>,
    /// The programs that manage them, as far as they are installed.
    pub programs: Programs,
}

impl OtherFirewalls {
    /// Reads listings of nft and of iptables.
    #[must_use]
    pub fn read(
        listings: &[NftListing],
        saves: &[IptablesSave],
        unread: Vec<String>,
        programs: Programs,
    ) -> Self {
        let mut tables: Vec<Table> = listings
            .iter()
            .flat_map(|listing| {
                let mut tables = nft::tables(&listing.json);
                for table in &mut tables {
                    nft::add_texts(table, &listing.text);
                }
                tables
            })
            .filter(|table| (table.family, table.name.as_str()) != (Family::Inet, NFT_TABLE))
            .collect();
        for save in saves {
            for read in iptables::tables(&save.text, save.family, save.manager) {
                let same = tables
                    .iter_mut()
                    .find(|table| (table.family, &table.name) == (read.family, &read.name));
                match same.filter(|_| save.manager == Manager::IptablesNft) {
                    Some(table) => *table = with_handles(read, table),
                    None => tables.push(read),
                }
            }
        }
        Self {
            tables,
            unread,
            programs,
        }
    }

    /// What they do to a packet.
    #[must_use]
    pub fn judge(&self, packet: &Packet) -> Judgement {
        packet::judge(&self.tables, packet)
    }

    /// The command that lets a packet pass where it is dropped.
    #[must_use]
    pub fn remedy(&self, place: &Place, packet: &Packet, interface: &str) -> String {
        let table = self
            .tables
            .iter()
            .find(|table| (table.family, &table.name) == (place.family, &place.table));
        remedy::remedy(place, packet, interface, table, &self.programs)
    }
}

/// The same table, told by iptables, with what only nft tells: handles and priorities.
fn with_handles(mut read: Table, listed: &Table) -> Table {
    for (name, chain) in &mut read.chains {
        let Some(other) = listed.chains.get(name) else {
            continue;
        };
        chain.base = other.base;
        if chain.rules.len() == other.rules.len() {
            for (rule, other) in chain.rules.iter_mut().zip(&other.rules) {
                rule.handle = other.handle;
            }
        }
    }
    read
}
