//! Protocols above IP, by number and by name.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// An IP protocol number (IANA). Plain numbers on the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct IpProtocol(pub u8);

impl IpProtocol {
    /// ICMP.
    pub const ICMP: Self = Self(1);
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);
    /// ICMP for IPv6.
    pub const ICMPV6: Self = Self(58);
    /// SCTP.
    pub const SCTP: Self = Self(132);

    /// Whether packets of this protocol carry ports.
    #[must_use]
    pub const fn has_ports(self) -> bool {
        matches!(self, Self::TCP | Self::UDP | Self::SCTP)
    }

    /// The protocols of a rule that names none: TCP, UDP and both ICMPs.
    #[must_use]
    pub const fn defaults() -> [Self; 4] {
        [Self::ICMP, Self::TCP, Self::UDP, Self::ICMPV6]
    }
}

impl fmt::Display for IpProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            1 => f.write_str("icmp"),
            6 => f.write_str("tcp"),
            17 => f.write_str("udp"),
            58 => f.write_str("icmpv6"),
            132 => f.write_str("sctp"),
            other => other.fmt(f),
        }
    }
}

impl fmt::Debug for IpProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Names that people use beside those of [`fmt::Display`]; IANA's numbers.
const NAMES: [(&str, u8); 10] = [
    ("tcp", 6),
    ("udp", 17),
    ("icmp", 1),
    ("icmpv6", 58),
    ("ipv6-icmp", 58),
    ("sctp", 132),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("igmp", 2),
];

/// Not the name or number of a protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a protocol such as tcp, udp, icmp or 47")]
pub struct UnknownProtocol(String);

impl FromStr for IpProtocol {
    type Err = UnknownProtocol;

    /// Reads a name, in any case, or a number.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = NAMES
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(text));
        named
            .map(|(_, number)| *number)
            .or_else(|| text.parse().ok())
            .map(Self)
            .ok_or_else(|| UnknownProtocol(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_protocol_is_read_as_it_is_written() {
        for number in 0..=u8::MAX {
            let protocol = IpProtocol(number);
            assert_eq!(protocol.to_string().parse(), Ok(protocol));
        }
    }

    #[test]
    fn names_are_read_in_any_case_and_others_refused() {
        assert_eq!("UDP".parse(), Ok(IpProtocol::UDP));
        assert_eq!("ipv6-icmp".parse(), Ok(IpProtocol::ICMPV6));
        for text in ["flying", "", "256", "-1"] {
            let error = text.parse::<IpProtocol>().unwrap_err().to_string();
            assert!(error.contains("is not a protocol"), "{error}");
        }
    }
}
