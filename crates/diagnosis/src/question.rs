//! What is asked: `8.8.8.8:443`, `[2001:db8::1]:53`, `build:22`.

use serde::{Deserialize, Serialize};
use std::{fmt, net::IpAddr};
use weir_protocol::IpProtocol;

/// A destination that is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuestionError {
    /// No port, and the protocol has them.
    #[error(
        "\"{0}\" names no port: write DESTINATION:PORT, such as 8.8.8.8:443 or [2001:db8::1]:443"
    )]
    NoPort(String),
    /// Nothing before the port.
    #[error("\"{0}\" names no destination: write DESTINATION:PORT, such as 8.8.8.8:443")]
    NoDestination(String),
}

/// Where a connection would go to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// An address or a name.
    pub host: String,
    /// The port, for protocols that have them.
    pub port: Option<u16>,
    /// The protocol.
    pub protocol: IpProtocol,
}

impl Target {
    /// Reads a destination. Protocols without ports need none, and pass over one that is there.
    ///
    /// # Errors
    /// [`QuestionError`].
    pub fn parse(text: &str, protocol: IpProtocol) -> Result<Self, QuestionError> {
        let bare = |text: &str| {
            let inner = text
                .strip_prefix('[')
                .and_then(|rest| rest.strip_suffix(']'));
            inner.unwrap_or(text).to_owned()
        };
        // `::1` ends like a port, but is an address.
        let is_address = text.parse::<IpAddr>().is_ok();
        let parts = text.rsplit_once(':').filter(|_| !is_address);
        let (host, port) = match parts {
            Some((host, port)) => match port.parse() {
                Ok(port) => (bare(host), Some(port)),
                Err(_) => (bare(text), None),
            },
            None => (bare(text), None),
        };
        if host.is_empty() {
            return Err(QuestionError::NoDestination(text.to_owned()));
        }
        if protocol.has_ports() && port.is_none() {
            return Err(QuestionError::NoPort(text.to_owned()));
        }
        Ok(Self {
            host,
            port: port.filter(|_| protocol.has_ports()),
            protocol,
        })
    }

    /// The same with the ICMP of the address's family.
    #[must_use]
    pub const fn protocol_towards(&self, address: IpAddr) -> IpProtocol {
        match (self.protocol, address) {
            (IpProtocol::ICMP, IpAddr::V6(_)) => IpProtocol::ICMPV6,
            (IpProtocol::ICMPV6, IpAddr::V4(_)) => IpProtocol::ICMP,
            (protocol, _) => protocol,
        }
    }

    /// The target with another host, in the form that is read.
    #[must_use]
    pub fn at(&self, address: IpAddr) -> String {
        match (address, self.port) {
            (IpAddr::V6(v6), Some(port)) => format!("[{v6}]:{port}"),
            (IpAddr::V4(v4), Some(port)) => format!("{v4}:{port}"),
            (address, None) => address.to_string(),
        }
    }

    /// The flag that names the protocol, where it is not TCP.
    #[must_use]
    pub fn protocol_flag(&self) -> String {
        match self.protocol {
            IpProtocol::TCP => String::new(),
            other => format!(" --protocol={other}"),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_v6 = self
            .host
            .parse()
            .is_ok_and(|address: IpAddr| address.is_ipv6());
        match (self.port, is_v6) {
            (Some(port), true) => write!(f, "[{}]:{port}", self.host),
            (Some(port), false) => write!(f, "{}:{port}", self.host),
            (None, _) => f.write_str(&self.host),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_read() {
        for (text, host, port) in [
            ("8.8.8.8:443", "8.8.8.8", Some(443)),
            ("[2001:db8::1]:53", "2001:db8::1", Some(53)),
            ("build:22", "build", Some(22)),
        ] {
            let target = Target::parse(text, IpProtocol::TCP).unwrap();
            assert_eq!((target.host.as_str(), target.port), (host, port));
            assert_eq!(target.to_string(), text);
        }
        let ping = Target::parse("2001:db8::1", IpProtocol::ICMP).unwrap();
        assert_eq!(ping.host, "2001:db8::1");
        assert_eq!(
            ping.protocol_towards("2001:db8::1".parse().unwrap()),
            IpProtocol::ICMPV6
        );
        for text in ["8.8.8.8", "build:http", "2001:db8::1"] {
            let error = Target::parse(text, IpProtocol::TCP).unwrap_err();
            assert!(error.to_string().contains("names no port"), "{error}");
        }
        assert!(Target::parse(":443", IpProtocol::TCP).is_err());
    }
}
