//! `coordinator policy explain`.

use super::{Session, output};
use crate::api;
use anyhow::bail;
use weir_protocol::IpProtocol;

pub(super) async fn explain(
    session: &Session,
    source: String,
    destination: &str,
    protocol: IpProtocol,
) -> anyhow::Result<()> {
    let (destination, port) = split(destination, protocol)?;
    let request = api::ExplainPolicy {
        source,
        destination,
        port,
        protocol,
    };
    let answers: Vec<api::Explained> = session.client.post("/policy/explain", &request).await?;
    if session.json {
        return output::json(&answers);
    }
    for answer in &answers {
        output::line(&in_words(answer))?;
    }
    Ok(())
}

/// Splits `bank:443`, `8.8.8.8:443`, `[2001:db8::1]:443` or `tag:relay:22`. Protocols without
/// ports need none.
fn split(text: &str, protocol: IpProtocol) -> anyhow::Result<(String, u16)> {
    let bare = |text: &str| {
        let inner = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        inner.unwrap_or(text).to_owned()
    };
    // `::1` ends like a port, but is an address.
    let is_address = text.parse::<std::net::Ipv6Addr>().is_ok();
    let parts = text.rsplit_once(':').filter(|_| !is_address);
    if let Some((destination, port)) = parts
        && let Ok(port) = port.parse()
    {
        return Ok((bare(destination), port));
    }
    if protocol.has_ports() {
        bail!(
            "\"{text}\" names no port: write DESTINATION:PORT, such as 8.8.8.8:443 or \
             [2001:db8::1]:443"
        );
    }
    Ok((bare(text), 0))
}

fn in_words(answer: &api::Explained) -> String {
    let port = if answer.protocol.has_ports() {
        format!(" port {}", answer.port)
    } else {
        String::new()
    };
    let verdict = if answer.allowed { "allowed" } else { "denied" };
    let mut text = format!(
        "{verdict}: {} to {}{port}, {}",
        end(&answer.source),
        end(&answer.destination),
        answer.protocol
    );
    let mut add = |line: &str| {
        text.push_str("\n  ");
        text.push_str(line);
    };
    for rule in &answer.rules {
        add(&format!(
            "by {}, on {}",
            rule.origin,
            output::list(&rule.at)
        ));
        quote(&rule.text, &mut add);
    }
    if !answer.allowed && answer.served_by.is_empty() {
        add(&format!(
            "no node has the address {0} or serves it: see coordinator routes list",
            answer.destination.address
        ));
    }
    match &answer.closest {
        Some(closest) => {
            add(&format!(
                "no rule allows it; the closest is {}: {}",
                closest.origin,
                closest.why.join(", and ")
            ));
            quote(&closest.text, &mut add);
        }
        None if answer.allowed => {}
        None => add("no rule is for this source or this destination"),
    }
    text
}

fn quote(line: &str, add: &mut impl FnMut(&str)) {
    if !line.is_empty() {
        add(&format!("  | {line}"));
    }
}

fn end(end: &api::End) -> String {
    match (&end.node, &end.first_of) {
        (Some(node), _) => format!("{node} ({})", end.address),
        (None, Some(all)) => format!("{} (the first of {all})", end.address),
        (None, None) => end.address.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::split;
    use weir_protocol::IpProtocol;

    #[test]
    fn destinations_are_split_at_their_port() {
        for (text, destination, port) in [
            ("8.8.8.8:443", "8.8.8.8", 443),
            ("[2001:db8::1]:443", "2001:db8::1", 443),
            ("tag:relay:22", "tag:relay", 22),
            ("relay:1", "relay", 1),
        ] {
            let found = split(text, IpProtocol::TCP).unwrap();
            assert_eq!(found, (destination.to_owned(), port), "{text}");
        }
        for text in [
            "8.8.8.8",
            "2001:db8::1",
            "relay:",
            "relay:99999",
            "tag:relay",
        ] {
            assert!(split(text, IpProtocol::TCP).is_err(), "{text}");
            assert!(split(text, IpProtocol::ICMP).is_ok(), "{text}");
        }
    }
}
