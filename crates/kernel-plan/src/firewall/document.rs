//! The pieces of rules, as libnftables' JSON says them: the `nftables` crate's types for what they
//! can say, and our own for per-source limits, which they cannot.

use nftables::{
    expr::{
        BinaryOperation, CT, Expression, Fib, FibFlag, FibResult, Map, Meta, MetaKey,
        NamedExpression, Payload, PayloadField, Prefix, RT, RTKey, Range, SetItem, TcpOption,
    },
    stmt::{self, JumpTarget, Log, Mangle, Match, NATFamily, NATFlag, Operator, Statement},
};
use serde::Serialize;
use std::net::IpAddr;
use weir_overlay::AddressRange;

use crate::NFLOG_GROUP;

pub(super) type Expr = Expression<'static>;

/// A statement of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(super) enum Stmt {
    /// One that the crate can say.
    Known(Statement<'static>),
    /// An update of a dynamic set with a limit for each element (`stmt` is not in the crate).
    Limited { set: LimitedUpdate },
}

/// `update @set { KEY limit rate RATE/second burst BURST packets }`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct LimitedUpdate {
    op: &'static str,
    elem: Expr,
    set: String,
    stmt: [Statement<'static>; 1],
}

/// A stretch of addresses as an element: an address, a prefix, or first and last.
pub(super) fn range(range: &AddressRange) -> Expr {
    if let Some(address) = range.single() {
        return text(&address.to_string());
    }
    match range.prefixes().as_slice() {
        [prefix] => Expression::Named(NamedExpression::Prefix(Prefix {
            addr: Box::new(text(&prefix.addr().to_string())),
            len: u32::from(prefix.prefix_len()),
        })),
        _ => pair(
            text(&range.first().to_string()),
            text(&range.last().to_string()),
        ),
    }
}

/// `first-last`.
pub(super) fn pair(first: Expr, last: Expr) -> Expr {
    Expression::Range(Box::new(Range {
        range: [first, last],
    }))
}

pub(super) fn text(text: &str) -> Expr {
    Expression::String(text.to_owned().into())
}

pub(super) const fn integer(number: u32) -> Expr {
    Expression::Number(number)
}

pub(super) fn any_of(items: impl IntoIterator<Item = Expr>) -> Expr {
    Expression::Named(NamedExpression::Set(
        items.into_iter().map(SetItem::Element).collect(),
    ))
}

pub(super) const fn concat(parts: Vec<Expr>) -> Expr {
    Expression::Named(NamedExpression::Concat(parts))
}

pub(super) const fn meta(key: MetaKey) -> Expr {
    Expression::Named(NamedExpression::Meta(Meta { key }))
}

pub(super) fn ct(key: &'static str) -> Expr {
    Expression::Named(NamedExpression::CT(CT {
        key: key.into(),
        family: None,
        dir: None,
    }))
}

pub(super) fn payload(protocol: &'static str, field: &'static str) -> Expr {
    Expression::Named(NamedExpression::Payload(Payload::PayloadField(
        PayloadField {
            protocol: protocol.into(),
            field: field.into(),
        },
    )))
}

pub(super) fn masked(left: Expr, mask: u32) -> Expr {
    Expression::BinaryOperation(Box::new(BinaryOperation::AND(left, integer(mask))))
}

pub(super) fn is(left: Expr, right: Expr) -> Stmt {
    Stmt::Known(Statement::Match(Match {
        left,
        right,
        op: Operator::EQ,
    }))
}

pub(super) fn is_not(left: Expr, right: Expr) -> Stmt {
    Stmt::Known(Statement::Match(Match {
        left,
        right,
        op: Operator::NEQ,
    }))
}

pub(super) fn from_link(name: &str) -> Stmt {
    is(meta(MetaKey::Iifname), text(name))
}

pub(super) fn to_link(name: &str) -> Stmt {
    is(meta(MetaKey::Oifname), text(name))
}

pub(super) fn not_to_link(name: &str) -> Stmt {
    is_not(meta(MetaKey::Oifname), text(name))
}

/// Established connections and what belongs to them, such as ICMP errors.
pub(super) fn established() -> Stmt {
    Stmt::Known(Statement::Match(Match {
        left: ct("state"),
        right: Expression::List(vec![text("established"), text("related")]),
        op: Operator::IN,
    }))
}

pub(super) fn direction(which: &'static str) -> Stmt {
    is(ct("direction"), text(which))
}

/// The link that the routing table would send an answer to the packet's source out of.
pub(super) fn route_back_is(link: &str) -> Stmt {
    let fib = Expression::Named(NamedExpression::Fib(Fib {
        result: FibResult::Oifname,
        flags: [FibFlag::Saddr].into_iter().collect(),
    }));
    is(fib, text(link))
}

pub(super) fn look_up(key: Expr, map: &str) -> Stmt {
    Stmt::Known(Statement::VerdictMap(stmt::VerdictMap {
        key,
        data: text(&format!("@{map}")),
    }))
}

pub(super) const fn accept() -> Stmt {
    Stmt::Known(Statement::Accept(None))
}

pub(super) const fn drop() -> Stmt {
    Stmt::Known(Statement::Drop(None))
}

pub(super) const fn leave() -> Stmt {
    Stmt::Known(Statement::Return(None))
}

pub(super) fn jump(chain: &str) -> Stmt {
    Stmt::Known(Statement::Jump(JumpTarget {
        target: chain.to_owned().into(),
    }))
}

pub(super) fn go(chain: &str) -> Statement<'static> {
    Statement::Goto(JumpTarget {
        target: chain.to_owned().into(),
    })
}

pub(super) fn goto(chain: &str) -> Stmt {
    Stmt::Known(go(chain))
}

pub(super) fn count(counter: &'static str) -> Stmt {
    Stmt::Known(Statement::Counter(stmt::Counter::Named(counter.into())))
}

pub(super) fn set_ct_mark(value: Expr) -> Stmt {
    Stmt::Known(Statement::Mangle(Mangle {
        key: ct("mark"),
        value,
    }))
}

pub(super) fn ct_mark_or(bits: u32) -> Expr {
    Expression::BinaryOperation(Box::new(BinaryOperation::OR(vec![
        ct("mark"),
        integer(bits),
    ])))
}

/// Gives the packet a mark in the bits of `mask`, and leaves the others.
pub(super) fn set_packet_mark(mark: u32, mask: u32) -> Stmt {
    let others = masked(meta(MetaKey::Mark), !mask);
    Stmt::Known(Statement::Mangle(Mangle {
        key: meta(MetaKey::Mark),
        value: Expression::BinaryOperation(Box::new(BinaryOperation::OR(vec![
            others,
            integer(mark),
        ]))),
    }))
}

/// Goes on with the rule at most `rate` times a second for each value of `key`.
pub(super) fn at_most(rate: u32, burst: u32, key: Expr, set: &str) -> Stmt {
    Stmt::Limited {
        set: LimitedUpdate {
            op: "update",
            elem: key,
            set: format!("@{set}"),
            stmt: [Statement::Limit(stmt::Limit {
                rate,
                rate_unit: None,
                per: Some("second".into()),
                burst: Some(burst),
                burst_unit: None,
                inv: None,
            })],
        },
    }
}

pub(super) fn log(prefix: &'static str) -> Stmt {
    Stmt::Known(Statement::Log(Some(Log {
        prefix: Some(prefix.into()),
        group: Some(u32::from(NFLOG_GROUP)),
        snaplen: None,
        queue_threshold: None,
        level: None,
        flags: None,
    })))
}

/// A source translation. Ports are drawn at random: they tell nobody which connections there are,
/// and two connections that begin at once do not try for the same one.
fn translation(addr: Option<Expr>, family: Option<NATFamily>) -> stmt::NAT<'static> {
    stmt::NAT {
        addr,
        family,
        port: None,
        flags: Some([NATFlag::FullyRandom].into_iter().collect()),
    }
}

pub(super) fn masquerade() -> Stmt {
    Stmt::Known(Statement::Masquerade(Some(translation(None, None))))
}

pub(super) fn source_address(address: &IpAddr) -> Stmt {
    let family = if address.is_ipv4() {
        NATFamily::IP
    } else {
        NATFamily::IP6
    };
    let address = text(&address.to_string());
    Stmt::Known(Statement::SNAT(Some(translation(
        Some(address),
        Some(family),
    ))))
}

/// Lowers the segment size that a TCP handshake offers to what the route's MTU carries.
pub(super) fn clamp_segment_size() -> [Stmt; 2] {
    let flags = payload("tcp", "flags");
    let syn_of_syn_and_rst = Expression::BinaryOperation(Box::new(BinaryOperation::AND(
        flags,
        Expression::List(vec![text("syn"), text("rst")]),
    )));
    [
        is(syn_of_syn_and_rst, text("syn")),
        Stmt::Known(Statement::Mangle(Mangle {
            key: Expression::Named(NamedExpression::TcpOption(TcpOption {
                name: "maxseg".into(),
                field: Some("size".into()),
            })),
            value: Expression::Named(NamedExpression::RT(RT {
                key: RTKey::MTU,
                family: None,
            })),
        })),
    ]
}

/// What a map has for a key. A rule ends here when it has nothing.
pub(super) fn looked_up(key: Expr, map: &str) -> Expr {
    Expression::Named(NamedExpression::Map(Box::new(Map {
        key,
        data: text(&format!("@{map}")),
    })))
}
