//! Ports and protocols as policies write them.

use weir_protocol::{IpProtocol, PortRange};

/// Splits `host:ports` at the last colon; `[v6]:ports` and `[v6]/length:ports` lose their brackets.
/// A text without a colon is all ports, as such a text is read elsewhere.
pub(crate) fn split_destination(text: &str) -> (String, &str) {
    let (host, ports) = text.rsplit_once(':').unwrap_or(("", text));
    let host = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, length)) if length.is_empty() || length.starts_with('/') => {
            format!("{address}{length}")
        }
        Some(_) | None => host.to_owned(),
    };
    (host, ports)
}

/// Reads `*`, `443`, `8000-8080`, and lists of them.
///
/// # Errors
/// What is wrong with the first item that is.
pub(crate) fn parse_ports(text: &str) -> Result<Vec<PortRange>, String> {
    text.split(',')
        .map(|item| parse_range(item.trim()))
        .collect()
}

fn parse_range(text: &str) -> Result<PortRange, String> {
    if text == "*" {
        return Ok(PortRange::ALL);
    }
    let wrong = |reason: &str| format!("port range {text:?}: {reason}");
    // `u16` reads a plus sign too.
    let number = |digits: &str| {
        digits
            .bytes()
            .all(|byte| byte.is_ascii_digit())
            .then(|| digits.parse::<u16>().ok())
            .flatten()
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (first, Some(last)),
        None => (text, None),
    };
    let first = number(first).ok_or_else(|| wrong("invalid first integer"))?;
    let last = match last {
        Some(last) => number(last).ok_or_else(|| wrong("invalid last integer"))?,
        None => first,
    };
    if first == 0 {
        return Err(wrong("first port must be >0, or use '*' for wildcard"));
    }
    if last < first {
        return Err(wrong("the first port is above the last"));
    }
    Ok(PortRange { first, last })
}

/// The same ports in the fewest ranges, sorted: none touch or overlap.
pub(crate) fn merge_ports(mut ports: Vec<PortRange>) -> Vec<PortRange> {
    ports.sort_unstable();
    let mut merged: Vec<PortRange> = Vec::with_capacity(ports.len());
    for range in ports {
        match merged.last_mut() {
            Some(open) if range.first <= open.last.saturating_add(1) => {
                open.last = open.last.max(range.last);
            }
            Some(_) | None => merged.push(range),
        }
    }
    merged
}

/// Protocol names and their IANA numbers.
const PROTOCOLS: [(&str, u8); 18] = [
    ("ah", 51),
    ("dccp", 33),
    ("egp", 8),
    ("esp", 50),
    ("fc", 133),
    ("gre", 47),
    ("icmp", 1),
    ("icmpv4", 1),
    ("igmp", 2),
    ("igp", 9),
    ("ip-in-ip", 4),
    ("ipv4", 4),
    ("ipv6-icmp", 58),
    ("icmpv6", 58),
    ("sctp", 132),
    ("tcp", 6),
    ("tsmp", 99),
    ("udp", 17),
];

/// Reads a protocol's name or number.
pub(crate) fn parse_protocol(text: &str) -> Option<IpProtocol> {
    let named = PROTOCOLS.iter().find(|(name, _)| *name == text);
    match named {
        Some((_, number)) => Some(IpProtocol(*number)),
        None if text.starts_with('+') => None,
        None => text.parse().ok().map(IpProtocol),
    }
}

/// Writes a protocol as [`parse_protocol`] reads it.
pub(crate) fn protocol_text(protocol: IpProtocol) -> String {
    let named = PROTOCOLS.iter().find(|(_, number)| *number == protocol.0);
    named.map_or_else(|| protocol.0.to_string(), |(name, _)| (*name).to_owned())
}

/// The names that [`parse_protocol`] knows.
pub(crate) fn protocol_names() -> impl Iterator<Item = &'static str> {
    PROTOCOLS.iter().map(|(name, _)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_split_at_the_last_colon() {
        for (text, host, ports) in [
            ("tag:server:22", "tag:server", "22"),
            ("*:*", "*", "*"),
            ("autogroup:self", "autogroup", "self"),
            ("fd00::1:22", "fd00::1", "22"),
            ("[fd00::1]:22", "fd00::1", "22"),
            ("[fd00::]/64:22,80", "fd00::/64", "22,80"),
            ("22", "", "22"),
        ] {
            assert_eq!(split_destination(text), (host.to_owned(), ports), "{text}");
        }
    }

    #[test]
    fn ports() {
        let range = |first, last| PortRange { first, last };
        assert_eq!(
            parse_ports("22, 80-90,*"),
            Ok(vec![range(22, 22), range(80, 90), PortRange::ALL])
        );
        for (text, message) in [
            ("ssh", "port range \"ssh\": invalid first integer"),
            ("", "port range \"\": invalid first integer"),
            ("+22", "port range \"+22\": invalid first integer"),
            ("65536", "port range \"65536\": invalid first integer"),
            ("1-", "port range \"1-\": invalid last integer"),
            (
                "0",
                "port range \"0\": first port must be >0, or use '*' for wildcard",
            ),
            (
                "9-1",
                "port range \"9-1\": the first port is above the last",
            ),
        ] {
            assert_eq!(parse_ports(text), Err(message.to_owned()));
        }
    }

    #[test]
    fn overlapping_ports_are_one_range() {
        let merged = |text| merge_ports(parse_ports(text).unwrap_or_default());
        assert_eq!(
            merged("80,22,22,81-90,443,1-25"),
            parse_ports("1-25,80-90,443").unwrap()
        );
        assert_eq!(merged("65535,*,1"), [PortRange::ALL]);
    }

    #[test]
    fn protocols() {
        assert_eq!(parse_protocol("tcp"), Some(IpProtocol::TCP));
        assert_eq!(parse_protocol("17"), Some(IpProtocol::UDP));
        for text in ["TCP", "256", "-1", "+6", ""] {
            assert_eq!(parse_protocol(text), None, "{text}");
        }
    }
}
