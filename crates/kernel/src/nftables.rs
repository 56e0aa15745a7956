//! Reads our nftables table from the kernel itself.
//!
//! `nft list` fetches and prints every set element, also when told not to: seconds for 100,000.
//! Here one number says whether anything in nftables changed since the last look, and only then
//! are the elements read, and compared by a digest.

use netlink_sys::{
    AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket, protocols::NETLINK_NETFILTER,
};
use std::{
    hash::{DefaultHasher, Hash, Hasher},
    io,
    time::Duration,
};
use tokio::time;
use weir_kernel_plan::{Counter, KernelError, NFT_TABLE, firewall::TableParts};

use crate::error::{failed, io_failed, kernel_said, timed_out};

/// How long one answer may take, in seconds.
const SECONDS: u64 = 10;
/// How often a dump during which the table changed is asked again.
const ATTEMPTS: usize = 10;

/// `NFNL_SUBSYS_NFTABLES << 8` (linux/netfilter/nfnetlink.h).
const SUBSYSTEM: u16 = 10 << 8;
// Requests (linux/netfilter/nf_tables.h, enum nf_tables_msg_types).
const GET_TABLE: u16 = 1;
const GET_CHAIN: u16 = 4;
const GET_RULE: u16 = 7;
const GET_SET: u16 = 10;
const GET_ELEMENTS: u16 = 13;
const GET_GENERATION: u16 = 16;
const GET_OBJECT: u16 = 19;
// Attributes (the same header). The first of every object is its table.
const TABLE: u16 = 1;
const GENERATION_ID: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const ELEMENTS_SET: u16 = 2;
const ELEMENTS_LIST: u16 = 3;
const ELEMENT_FLAGS: u16 = 3;
const OBJECT_NAME: u16 = 2;
const OBJECT_TYPE: u16 = 3;
const OBJECT_DATA: u16 = 4;
const COUNTER_BYTES: u16 = 1;
const COUNTER_PACKETS: u16 = 2;
/// `NFT_OBJECT_COUNTER`.
const COUNTER: u32 = 1;
/// `NFT_SET_ANONYMOUS`, `NFT_SET_MAP`, `NFT_SET_EVAL`.
const ANONYMOUS: u32 = 0x1;
const MAP: u32 = 0x8;
const EVALUATED: u32 = 0x20;
/// `NFT_SET_ELEM_INTERVAL_END`: an end of an interval, which belongs to the element before.
const INTERVAL_END: u32 = 0x1;
/// `NFPROTO_INET`.
const INET: u8 = 1;

/// `NLM_F_REQUEST`, `NLM_F_ACK`, `NLM_F_DUMP`, `NLM_F_DUMP_INTR` (linux/netlink.h).
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
const INTERRUPTED: u16 = 0x10;
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// The bits of an attribute's type that are not flags.
const TYPE_MASK: u16 = 0x3fff;
/// Lengths of the headers of netlink and nfnetlink, in bytes.
const NETLINK_HEADER: usize = 16;
const HEADERS: usize = NETLINK_HEADER + 4;

/// An error number from the kernel, or a failure to talk to it.
enum Failure {
    Errno(i32),
    Io(io::Error),
    TimedOut,
    Interrupted,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Failure {
    fn of(self, operation: &str) -> KernelError {
        match self {
            Self::Errno(errno) => kernel_said(operation, errno),
            Self::Io(error) => io_failed(operation, &error),
            Self::TimedOut => timed_out(operation, SECONDS),
            Self::Interrupted => failed(operation, "it kept changing while it was read"),
        }
    }
}

fn number16(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at + 2)?;
    Some(u16::from_ne_bytes(bytes.try_into().ok()?))
}

fn number32(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

/// The attributes in a piece of a message.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(number16(bytes, 0)?);
        let kind = number16(bytes, 2)? & TYPE_MASK;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(found, value)| (found == kind).then_some(value))
}

fn text(bytes: &[u8], kind: u16) -> Option<String> {
    let value = attribute(bytes, kind)?;
    let value = value.split(|byte| *byte == 0).next()?;
    String::from_utf8(value.to_vec()).ok()
}

/// Numbers in nftables' attributes are big-endian.
fn big(bytes: &[u8], kind: u16) -> Option<u64> {
    let value = attribute(bytes, kind)?;
    Some(
        value
            .iter()
            .fold(0, |number, byte| number << 8 | u64::from(*byte)),
    )
}

fn flags(bytes: &[u8], kind: u16) -> u32 {
    big(bytes, kind)
        .and_then(|flags| u32::try_from(flags).ok())
        .unwrap_or_default()
}

fn request(kind: u16, mode: u16, names: &[(u16, &str)]) -> Vec<u8> {
    let mut body = vec![INET, 0, 0, 0];
    for (kind, name) in names {
        let length = u16::try_from(4 + name.len() + 1).unwrap_or(u16::MAX);
        body.extend_from_slice(&length.to_ne_bytes());
        body.extend_from_slice(&kind.to_ne_bytes());
        body.extend_from_slice(name.as_bytes());
        body.push(0);
        body.resize(body.len().next_multiple_of(4), 0);
    }
    let length = u32::try_from(NETLINK_HEADER + body.len()).unwrap_or(u32::MAX);
    let mut message = Vec::with_capacity(NETLINK_HEADER + body.len());
    message.extend_from_slice(&length.to_ne_bytes());
    message.extend_from_slice(&(SUBSYSTEM | kind).to_ne_bytes());
    message.extend_from_slice(&(REQUEST | mode).to_ne_bytes());
    message.extend_from_slice(&[0; 8]); // sequence; the kernel fills the port in
    message.extend_from_slice(&body);
    message
}

/// One conversation with nfnetlink.
struct Conversation {
    socket: TokioSocket,
}

impl Conversation {
    fn open() -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
        socket.socket_mut().bind_auto()?;
        Ok(Self { socket })
    }

    /// Asks, and hands each object of the answer on.
    async fn ask(
        &mut self,
        message: &[u8],
        mut found: impl FnMut(&[u8]) + Send,
    ) -> Result<(), Failure> {
        self.socket.send_to(message, &SocketAddr::new(0, 0)).await?;
        let mut interrupted = false;
        loop {
            let limit = Duration::from_secs(SECONDS);
            let answer = time::timeout(limit, self.socket.recv_from_full()).await;
            let (answer, _) = answer.map_err(|_| Failure::TimedOut)??;
            let mut rest = answer.as_slice();
            while let Some(length) = number32(rest, 0).and_then(|n| usize::try_from(n).ok()) {
                let (Some(message), Some(kind), Some(bits)) =
                    (rest.get(..length), number16(rest, 4), number16(rest, 6))
                else {
                    break;
                };
                interrupted |= bits & INTERRUPTED != 0;
                match kind {
                    ERROR => {
                        let errno = number32(message, NETLINK_HEADER).unwrap_or_default();
                        return match errno.cast_signed() {
                            0 => Ok(()),
                            errno => Err(Failure::Errno(-errno)),
                        };
                    }
                    DONE if interrupted => return Err(Failure::Interrupted),
                    DONE => return Ok(()),
                    _ => found(message.get(HEADERS..).unwrap_or_default()),
                }
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }

    async fn generation(&mut self) -> Result<u32, Failure> {
        let mut generation = None;
        let message = request(GET_GENERATION, ACK, &[]);
        self.ask(&message, |body| generation = big(body, GENERATION_ID))
            .await?;
        let generation = generation.and_then(|id| u32::try_from(id).ok());
        generation.ok_or_else(|| Failure::Io(io::ErrorKind::InvalidData.into()))
    }

    async fn dump(
        &mut self,
        kind: u16,
        names: &[(u16, &str)],
        mut found: impl FnMut(&[u8]) + Send,
    ) -> Result<(), Failure> {
        let message = request(kind, DUMP, names);
        self.ask(&message, |body| {
            if text(body, TABLE).as_deref() == Some(NFT_TABLE) {
                found(body);
            }
        })
        .await
    }

    /// The table without its elements; the digest is of that much.
    async fn table(&mut self) -> Result<Option<(TableParts, u64, Vec<String>)>, Failure> {
        let mut parts = TableParts::default();
        let mut digest = Digest::default();
        let exists = request(GET_TABLE, ACK, &[(TABLE, NFT_TABLE)]);
        match self.ask(&exists, |_| {}).await {
            Err(Failure::Errno(libc::ENOENT)) => return Ok(None),
            other => other?,
        }
        self.dump(GET_CHAIN, &[], |body| {
            if let Some(name) = text(body, CHAIN_NAME) {
                digest.add(&(&name, attribute(body, CHAIN_HOOK)));
                parts.chains.insert(name);
            }
        })
        .await?;
        self.dump(GET_RULE, &[(TABLE, NFT_TABLE)], |body| {
            parts.rules += 1;
            // Where it stands among the others counts too.
            let rule = (
                parts.rules,
                text(body, RULE_CHAIN),
                attribute(body, RULE_EXPRESSIONS),
            );
            digest.add(&rule);
        })
        .await?;
        let mut filled = Vec::new();
        self.dump(GET_SET, &[(TABLE, NFT_TABLE)], |body| {
            let flags = flags(body, SET_FLAGS);
            if let Some(name) = text(body, SET_NAME).filter(|_| flags & ANONYMOUS == 0) {
                parts.sets.insert(name.clone(), flags & MAP != 0);
                // What rules fill is not ours to know.
                if flags & EVALUATED == 0 {
                    digest.add(&(&name, flags));
                    filled.push(name);
                }
            }
        })
        .await?;
        self.dump(GET_OBJECT, &[(TABLE, NFT_TABLE)], |body| {
            if flags(body, OBJECT_TYPE) == COUNTER
                && let Some(name) = text(body, OBJECT_NAME)
            {
                let data = attribute(body, OBJECT_DATA).unwrap_or_default();
                let counter = Counter {
                    packets: big(data, COUNTER_PACKETS).unwrap_or_default(),
                    bytes: big(data, COUNTER_BYTES).unwrap_or_default(),
                };
                parts.counters.insert(name, counter);
            }
        })
        .await?;
        Ok(Some((parts, digest.0, filled)))
    }

    async fn elements(&mut self, sets: &[String]) -> Result<(usize, u64), Failure> {
        let (mut count, mut digest) = (0, Digest::default());
        for set in sets {
            let names = [(TABLE, NFT_TABLE), (ELEMENTS_SET, set.as_str())];
            self.dump(GET_ELEMENTS, &names, |body| {
                for (_, element) in attributes(attribute(body, ELEMENTS_LIST).unwrap_or_default()) {
                    digest.add(&(set, element));
                    if flags(element, ELEMENT_FLAGS) & INTERVAL_END == 0 {
                        count += 1;
                    }
                }
            })
            .await?;
        }
        Ok((count, digest.0))
    }
}

/// A sum of hashes: the order in which the kernel tells things does not matter.
#[derive(Default)]
struct Digest(u64);

impl Digest {
    fn add(&mut self, item: &impl Hash) {
        let mut hasher = DefaultHasher::new();
        item.hash(&mut hasher);
        self.0 = self.0.wrapping_add(hasher.finish());
    }
}

/// What is known of the table from the last look.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Known {
    /// The number of the ruleset of this namespace in which it was so.
    generation: u32,
    /// The digest it had then; `None` after a load of ours, which nobody has read yet.
    digest: Option<u64>,
}

/// The number of the namespace's ruleset: every transaction of anybody raises it by one.
pub(crate) async fn generation() -> Result<u32, KernelError> {
    let operation = "read the number of the nftables ruleset";
    let mut conversation = Conversation::open().map_err(|error| io_failed(operation, &error))?;
    conversation
        .generation()
        .await
        .map_err(|failure| failure.of(operation))
}

impl Known {
    /// After a transaction of ours, given the numbers before and after it: what is known stays
    /// known when nobody else's came between.
    pub(crate) fn after_load(
        known: Option<Self>,
        whole: bool,
        before: u32,
        after: u32,
    ) -> Option<Self> {
        let was_known = whole || known.is_some_and(|known| known.generation == before);
        (was_known && after == before.wrapping_add(1)).then_some(Self {
            generation: after,
            digest: None,
        })
    }
}

/// Reads our table; `None` when it is not there. What `known` says is not read again, and is
/// brought up to date.
pub(crate) async fn read(known: &mut Option<Known>) -> Result<Option<TableParts>, KernelError> {
    let operation = "read the firewall table";
    let mut conversation = Conversation::open().map_err(|error| io_failed(operation, &error))?;
    for _ in 0..ATTEMPTS {
        match attempt(&mut conversation, known).await {
            Err(Failure::Interrupted) => {}
            other => return other.map_err(|failure| failure.of(operation)),
        }
    }
    Err(Failure::Interrupted.of(operation))
}

async fn attempt(
    conversation: &mut Conversation,
    known: &mut Option<Known>,
) -> Result<Option<TableParts>, Failure> {
    let generation = conversation.generation().await?;
    let Some((mut parts, rules, sets)) = conversation.table().await? else {
        *known = None;
        return Ok(None);
    };
    let unchanged = known.is_some_and(|known| known.generation == generation);
    if !(unchanged && known.is_some_and(|known| known.digest.is_some())) {
        let (count, elements) = conversation.elements(&sets).await?;
        if conversation.generation().await? != generation {
            return Err(Failure::Interrupted);
        }
        let digest = rules.wrapping_add(elements);
        parts.elements = Some(count);
        // Somebody else's transaction: it was about something else if it left all as it was.
        parts.foreign = !unchanged && known.is_some_and(|known| known.digest != Some(digest));
        *known = Some(Known {
            generation,
            digest: Some(digest),
        });
    }
    Ok(Some(parts))
}
