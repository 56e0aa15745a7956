//! The vocabulary of the overlay network: ids, keys, names, prefixes and address sets.
//!
//! Pure: nothing here touches the network, the file system or the clock, and no random number is
//! drawn here (keys are made from bytes that the caller drew). Every other room speaks in these
//! types, so that a node id cannot be passed where a user id is meant and a private key cannot
//! reach a log.

#![forbid(unsafe_code)]

mod address_set;
mod id;
mod key;
mod name;
mod prefix;

pub use address_set::{AddressRange, AddressRangeError, AddressSet};
pub use id::{Generation, GrantId, KeyId, NodeId, UserId};
pub use key::{
    KeyError, MachinePrivateKey, MachinePublicKey, NodePrivateKey, NodePublicKey, Signature,
};
pub use name::{InterfaceName, NameError, NodeName, Tag};
pub use prefix::{
    OVERLAY_V4, OVERLAY_V6, PrefixError, TrafficClass, overlay_prefixes, parse_prefix,
    parse_prefix_list, refuse_route,
};
