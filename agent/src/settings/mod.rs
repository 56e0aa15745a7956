//! The agent's settings: one list from which flags, file keys, the wire form and the saved form
//! are all made, and the rules by which they are put together.
//!
//! Pure. Three layers: the default, the file over it, what flags said (and was saved) over both.

mod file;
mod guard;
mod values;

pub(crate) use file::{FileSettings, parse_file};
pub(crate) use guard::{SettingCommand, explicit_after};
pub(crate) use values::{
    CoordinatorUrl, CoordinatorUrls, Egress, Mtu, OrNone, Prefixes, Tags, WireguardChoice,
};

use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use weir_kernel_plan::{DEFAULT_INTERFACE, DEFAULT_LISTEN_PORT};
use weir_overlay::{InterfaceName, NodeName};

macro_rules! settings {
    ($($(#[$attribute:meta])* $field:ident, $name:literal: $type:ty = $default:expr;)*) => {
        /// Settings that somebody wrote down: what is `None` was not mentioned.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::Args)]
        #[serde(rename_all = "kebab-case", default)]
        pub(crate) struct Change {
            $(
                $(#[$attribute])*
                #[serde(skip_serializing_if = "Option::is_none")]
                pub(crate) $field: Option<$type>,
            )*
        }

        /// Every setting's value.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case", default)]
        pub(crate) struct Settings {
            $(pub(crate) $field: $type,)*
        }

        /// The names of all settings, as in flags and in the file.
        pub(crate) const NAMES: &[&str] = &[$($name,)*];

        impl Change {
            /// This change, and where it says nothing the other one.
            pub(crate) fn or(self, below: &Self) -> Self {
                Self {
                    $($field: self.$field.or_else(|| below.$field.clone()),)*
                }
            }

            /// What is mentioned, by name, as text.
            pub(crate) fn mentioned(&self) -> Vec<(&'static str, String)> {
                [$(($name, self.$field.as_ref().map(ToString::to_string)),)*]
                    .into_iter()
                    .filter_map(|(name, value)| Some((name, value?)))
                    .collect()
            }

            /// What is mentioned here and not in `other`, and differs from `settings`.
            pub(crate) fn left_out_by(&self, other: &Self, settings: &Settings) -> Self {
                Self {
                    $($field: self.$field.clone().filter(
                        |value| other.$field.is_none() && *value != settings.$field,
                    ),)*
                }
            }
        }

        impl Settings {
            /// These settings with a change.
            pub(crate) fn with(self, change: &Change) -> Self {
                Self {
                    $($field: change.$field.clone().unwrap_or(self.$field),)*
                }
            }
        }

        impl Default for Settings {
            fn default() -> Self {
                Self {
                    $($field: $default,)*
                }
            }
        }
    };
}

settings! {
    /// Where the coordinator is: https://HOST:PORT; several of one network with commas between
    #[arg(long, value_name = "URL")]
    coordinator, "coordinator": OrNone<CoordinatorUrls> = OrNone(None);

    /// Relay to these addresses and prefixes, once an admin has approved them
    #[arg(long, value_name = "LIST")]
    advertise_routes, "advertise-routes": Prefixes = Prefixes::default();

    /// Relay to the whole internet, once an admin has approved it
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    advertise_exit_node, "advertise-exit-node": bool = false;

    /// Ask for these tags; the auth key must allow them
    #[arg(long, value_name = "LIST")]
    advertise_tags, "advertise-tags": Tags = Tags::default();

    /// Use the approved routes of other nodes [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    accept_routes, "accept-routes": bool = true;

    /// Send all internet traffic through this node, by name or overlay address
    #[arg(long, value_name = "NODE")]
    exit_node, "exit-node": OrNone<String> = OrNone(None);

    /// Reach the directly connected networks directly while an exit node is used
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    exit_node_allow_lan_access, "exit-node-allow-lan-access": bool = false;

    /// Let relayed private subnets see this host's address as the source [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    snat_subnet_routes, "snat-subnet-routes": bool = true;

    /// The source address of relayed traffic, one of each family, and of single routes; addresses
    /// of this host
    #[arg(long, value_name = "IP[,IP6][,ROUTE=IP]")]
    egress_ip, "egress-ip": Egress = Egress::default();

    /// Where other nodes reach this host's WireGuard, when it cannot be seen from outside
    #[arg(long, value_name = "IP:PORT")]
    endpoint, "endpoint": OrNone<SocketAddr> = OrNone(None);

    /// WireGuard's UDP port [default: 51920]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    listen_port, "listen-port": u16 = DEFAULT_LISTEN_PORT;

    /// The tunnel's MTU in bytes; by default what the paths to the other nodes carry
    #[arg(long, value_name = "BYTES")]
    mtu, "mtu": OrNone<Mtu> = OrNone(None);

    /// The name to ask for; by default what the host calls itself
    #[arg(long, value_name = "NAME")]
    hostname, "hostname": OrNone<NodeName> = OrNone(None);

    /// Which WireGuard to use [default: auto]
    #[arg(long, value_name = "auto|kernel|userspace")]
    wireguard, "wireguard": WireguardChoice = WireguardChoice::Auto;

    /// The name of the network interface [default: weir0]
    #[arg(long, value_name = "NAME")]
    interface, "interface": Interface = Interface::default();
}

impl Change {
    /// Whether nothing is mentioned.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The interface's name, with its default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Interface(pub(crate) InterfaceName);

impl Default for Interface {
    fn default() -> Self {
        // The constant is a valid name; the test below holds it to that.
        DEFAULT_INTERFACE
            .parse()
            .unwrap_or_else(|_: String| unreachable!("{DEFAULT_INTERFACE} is an interface name"))
    }
}

impl std::str::FromStr for Interface {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        text.parse()
            .map(Self)
            .map_err(|error: weir_overlay::NameError| error.to_string())
    }
}

impl std::fmt::Display for Interface {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_serialised_names() {
        let settings = serde_json::to_value(Settings::default()).unwrap();
        let mut keys: Vec<&str> = settings
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        let mut names = NAMES.to_vec();
        keys.sort_unstable();
        names.sort_unstable();
        assert_eq!(keys, names);
    }

    #[test]
    fn settings_read_back() {
        let change = Change {
            advertise_routes: Some("8.8.8.8".parse().unwrap()),
            exit_node: Some(OrNone(None)),
            listen_port: Some(1),
            ..Change::default()
        };
        let text = serde_json::to_string(&change).unwrap();
        assert_eq!(
            text,
            r#"{"advertise-routes":"8.8.8.8/32","exit-node":"","listen-port":1}"#
        );
        assert_eq!(serde_json::from_str::<Change>(&text).unwrap(), change);
        let settings = Settings::default().with(&change);
        let text = serde_json::to_string(&settings).unwrap();
        assert_eq!(serde_json::from_str::<Settings>(&text).unwrap(), settings);
    }
}
