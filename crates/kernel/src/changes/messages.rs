//! What the kernel's notifications say: which part changed, whether it may be ours, and who did it.
//!
//! Only headers and single attributes are read, and never past the end of what came.

use weir_kernel_plan::{Area, NFT_TABLE, ROUTE_PROTOCOL};

/// The length of a netlink header, in bytes (`struct nlmsghdr`, linux/netlink.h).
const HEADER: usize = 16;
/// `NLM_F_REPLACE`: a new route took the place of another one.
const REPLACED: u16 = 0x100;
/// `RTM_*` (linux/rtnetlink.h).
mod route {
    pub(super) const LINK: std::ops::RangeInclusive<u16> = 16..=17;
    pub(super) const ADDRESS: std::ops::RangeInclusive<u16> = 20..=21;
    pub(super) const ROUTE: std::ops::RangeInclusive<u16> = 24..=25;
    pub(super) const RULE: std::ops::RangeInclusive<u16> = 32..=33;
    pub(super) const SETTINGS: std::ops::RangeInclusive<u16> = 80..=81;
    /// Where the protocol is in a route's own header (`struct rtmsg`).
    pub(super) const PROTOCOL: usize = 5;
}
/// `NFNL_SUBSYS_NFTABLES` (linux/netfilter/nfnetlink.h).
const NFTABLES: u16 = 10;
/// `NFT_MSG_NEWGEN` (linux/netfilter/nf_tables.h): the end of a transaction.
const GENERATION: u16 = 15;
/// `NFTA_GEN_PROC_PID` and `NFTA_GEN_PROC_NAME`.
const GENERATION_PROCESS: u16 = 2;
const GENERATION_NAME: u16 = 3;
/// The table's name: the first attribute of tables, chains, rules, sets, elements, objects and
/// flow tables alike.
const TABLE: u16 = 1;
/// `NFPROTO_INET` (linux/netfilter.h).
const INET: u8 = 1;
/// The length of the header after the first one (`struct nfgenmsg`), in bytes.
const NETFILTER_HEADER: usize = 4;

/// Who made a change, as far as the kernel says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Writer {
    /// The kernel itself, or it does not say.
    Unknown,
    /// The process of this number: the netlink port that asked for the change, which is the number
    /// of the process for its first socket.
    Process(u32),
    /// The process of this number and name.
    Named(u32, String),
}

/// A change that may be to something of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hint {
    pub(super) area: Area,
    pub(super) by: Writer,
}

struct Message<'a> {
    kind: u16,
    flags: u16,
    port: u32,
    content: &'a [u8],
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// The messages in what was read, up to the first that is cut off.
fn messages(mut bytes: &[u8]) -> Vec<Message<'_>> {
    let mut found = Vec::new();
    while let (Some(length), Some(kind), Some(flags), Some(port)) = (
        number(bytes, 0).map(u32::from_ne_bytes),
        number(bytes, 4).map(u16::from_ne_bytes),
        number(bytes, 6).map(u16::from_ne_bytes),
        number(bytes, 12).map(u32::from_ne_bytes),
    ) {
        let Ok(length) = usize::try_from(length) else {
            break;
        };
        let Some(content) = bytes.get(HEADER..length) else {
            break;
        };
        found.push(Message {
            kind,
            flags,
            port,
            content,
        });
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// The first attribute of this kind.
fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(number(bytes, 0)?));
        // Without the flags for nesting and byte order (`NLA_TYPE_MASK`).
        let kind = u16::from_ne_bytes(number(bytes, 2)?) & 0x3fff;
        let value = bytes.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0);
    String::from_utf8_lossy(value.get(..end.unwrap_or(value.len())).unwrap_or_default())
        .into_owned()
}

/// A port that can be the number of a process: those of a process's later sockets are negative.
fn writer(port: u32) -> Writer {
    if port == 0 || i32::try_from(port).is_err() {
        Writer::Unknown
    } else {
        Writer::Process(port)
    }
}

/// The hints in what an rtnetlink socket gave. A route of somebody else is none, unless it took
/// another one's place.
pub(super) fn route_hints(bytes: &[u8]) -> Vec<Hint> {
    let hint = |message: Message<'_>| {
        let area = match message.kind {
            kind if route::LINK.contains(&kind) || route::ADDRESS.contains(&kind) => Area::Links,
            kind if route::RULE.contains(&kind) => Area::Rules,
            kind if route::SETTINGS.contains(&kind) => Area::Settings,
            kind if route::ROUTE.contains(&kind) => {
                let ours = message.content.get(route::PROTOCOL) == Some(&ROUTE_PROTOCOL);
                if !ours && message.flags & REPLACED == 0 {
                    return None;
                }
                Area::Routes
            }
            _ => return None,
        };
        Some(Hint {
            area,
            by: writer(message.port),
        })
    };
    messages(bytes).into_iter().filter_map(hint).collect()
}

/// An nftables transaction while it is told of: its parts come one by one, and at its end who made
/// it.
#[derive(Debug, Default)]
pub(super) struct Batch {
    touches_ours: bool,
}

impl Batch {
    /// The hints in what a netfilter socket gave: one for each transaction that touched our table.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Vec<Hint> {
        let mut hints = Vec::new();
        for message in messages(bytes) {
            if message.kind >> 8 != NFTABLES {
                continue;
            }
            let attributes = message.content.get(NETFILTER_HEADER..).unwrap_or_default();
            if message.kind & 0xff == GENERATION {
                if std::mem::take(&mut self.touches_ours) {
                    hints.push(Hint {
                        area: Area::Firewall,
                        by: transaction_writer(attributes),
                    });
                }
            } else if message.content.first() == Some(&INET) {
                self.touches_ours |=
                    attribute(attributes, TABLE).is_some_and(|name| text(name) == NFT_TABLE);
            }
        }
        hints
    }
}

fn transaction_writer(attributes: &[u8]) -> Writer {
    let process = attribute(attributes, GENERATION_PROCESS)
        .and_then(|value| number(value, 0))
        .map(u32::from_be_bytes);
    match (process, attribute(attributes, GENERATION_NAME).map(text)) {
        (Some(process), Some(name)) => Writer::Named(process, name),
        (Some(process), None) => Writer::Process(process),
        (None, _) => Writer::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(kind: u16, flags: u16, port: u32, content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER + content.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(7u32.to_ne_bytes());
        bytes.extend(port.to_ne_bytes());
        bytes.extend(content);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn with_attributes(family: u8, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut content = vec![family, 0, 0, 0];
        for (kind, value) in attributes {
            content.extend(u16::try_from(4 + value.len()).unwrap().to_ne_bytes());
            content.extend(kind.to_ne_bytes());
            content.extend(*value);
            content.resize(content.len().next_multiple_of(4), 0);
        }
        content
    }

    #[test]
    fn routes_of_others_are_passed_over() {
        let route = |protocol| [2, 0, 0, 0, 254, protocol, 0, 1, 0, 0, 0, 0];
        let foreign = message(24, 0, 5, &route(3));
        let replaced = message(24, REPLACED, 5, &route(3));
        let ours = message(25, 0, 5, &route(ROUTE_PROTOCOL));
        let rule = message(33, 0, 0xffff_f001, &[0; 12]);
        let all = [foreign, replaced, ours, rule].concat();
        let hint = |area, by| Hint { area, by };
        assert_eq!(
            route_hints(&all),
            [
                hint(Area::Routes, Writer::Process(5)),
                hint(Area::Routes, Writer::Process(5)),
                hint(Area::Rules, Writer::Unknown),
            ]
        );
    }

    #[test]
    fn a_transaction_is_ours_when_it_touches_our_table_and_names_its_process() {
        let kind = |number: u16| NFTABLES << 8 | number;
        let rule = |family, table: &[u8]| {
            message(kind(6), 0, 9, &with_attributes(family, &[(TABLE, table)]))
        };
        let end = message(
            kind(GENERATION),
            0,
            9,
            &with_attributes(
                0,
                &[
                    (1, &1u32.to_be_bytes()),
                    (GENERATION_PROCESS, &4711u32.to_be_bytes()),
                    (GENERATION_NAME, b"nft\0"),
                ],
            ),
        );
        let mut batch = Batch::default();
        assert_eq!(batch.read(&rule(INET, b"filter\0")), []);
        assert_eq!(batch.read(&rule(2, b"weir\0")), []);
        assert_eq!(batch.read(&end), []);
        assert_eq!(batch.read(&rule(INET, b"weir\0")), []);
        assert_eq!(
            batch.read(&end),
            [Hint {
                area: Area::Firewall,
                by: Writer::Named(4711, "nft".to_owned())
            }]
        );
        assert_eq!(batch.read(&end), []);
    }

    proptest! {
        #[test]
        fn anything_can_be_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _hints = route_hints(&bytes);
            let _hints = Batch::default().read(&bytes);
        }
    }
}
