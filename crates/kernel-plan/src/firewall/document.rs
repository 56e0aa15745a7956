//! The pieces of a libnftables JSON document: the `nftables` crate's types for what they can say,
//! and our own for verdict maps and per-source limits, which they cannot.

use nftables::{
    expr::{
        BinaryOperation, CT, Expression, Fib, FibFlag, FibResult, Meta, MetaKey, NamedExpression,
        Payload, PayloadField, Prefix, RT, RTKey, Range, SetItem, TcpOption,
    },
    schema::{
        Chain, Counter, FlushObject, NfCmd, NfListObject, NfObject, Set, SetFlag, SetType,
        SetTypeValue, Table,
    },
    stmt::{self, JumpTarget, Log, Mangle, Match, NATFamily, Operator, Statement},
    types::{NfChainPolicy, NfChainType, NfFamily, NfHook},
};
use serde::Serialize;
use std::{borrow::Cow, net::IpAddr};
use weir_overlay::AddressRange;

use crate::{NFLOG_GROUP, NFT_TABLE};

pub(super) type Expr = Expression<'static>;

const FAMILY: NfFamily = NfFamily::INet;
const TABLE: Cow<'static, str> = Cow::Borrowed(NFT_TABLE);

/// A statement of a rule.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Stmt {
    /// One that the crate can say.
    Known(Statement<'static>),
    /// An update of a dynamic set with a limit for each element (`stmt` is not in the crate).
    Limited { set: LimitedUpdate },
}

/// `update @set { KEY limit rate RATE/second burst BURST packets }`.
#[derive(Clone, Debug, Serialize)]
pub(super) struct LimitedUpdate {
    op: &'static str,
    elem: Expr,
    set: String,
    stmt: [Statement<'static>; 1],
}

/// A rule.
#[derive(Clone, Debug, Serialize)]
struct RuleObject {
    family: NfFamily,
    table: Cow<'static, str>,
    chain: String,
    expr: Vec<Stmt>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comment: Option<String>,
}

/// A verdict map, which the crate has no type for.
#[derive(Clone, Debug, Serialize)]
struct VerdictMapObject {
    family: NfFamily,
    table: Cow<'static, str>,
    name: String,
    #[serde(rename = "type")]
    key: SetTypeValue<'static>,
    map: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    flags: Option<[&'static str; 1]>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    elem: Vec<(Expr, Statement<'static>)>,
}

/// A dynamic set whose elements go away a minute after their last use. (nft 1.0.6 refuses the flag
/// `dynamic` in JSON, and sets it by itself when a rule updates the set.)
#[derive(Clone, Debug, Serialize)]
struct DynamicSetObject {
    family: NfFamily,
    table: Cow<'static, str>,
    name: String,
    #[serde(rename = "type")]
    key: SetType,
    size: u32,
    flags: [&'static str; 1],
    timeout: u32,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum OwnObject {
    Rule(RuleObject),
    Map(VerdictMapObject),
    Set(DynamicSetObject),
}

#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
enum Command {
    Known(NfObject<'static>),
    Own {
        add: OwnObject,
    },
    /// The crate can delete maps only with their whole declaration.
    Delete {
        delete: serde_json::Value,
    },
}

/// A document under construction: what is added to it is carried out in that order, in one
/// transaction.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Document {
    nftables: Vec<Command>,
    #[serde(skip)]
    pub(super) rules: usize,
    #[serde(skip)]
    pub(super) elements: usize,
}

impl Document {
    fn list_object(&mut self, object: NfListObject<'static>) {
        self.nftables
            .push(Command::Known(NfObject::CmdObject(NfCmd::Add(object))));
    }

    pub(super) fn table(&mut self) {
        self.list_object(NfListObject::Table(table()));
    }

    pub(super) fn flush_table(&mut self) {
        self.nftables
            .push(Command::Known(NfObject::CmdObject(NfCmd::Flush(
                FlushObject::Table(table()),
            ))));
    }

    pub(super) fn delete_table(&mut self) {
        self.nftables
            .push(Command::Known(NfObject::CmdObject(NfCmd::Delete(
                NfListObject::Table(table()),
            ))));
    }

    /// Deletes a chain, set or map by name.
    pub(super) fn delete(&mut self, kind: &str, name: &str) {
        let named = serde_json::json!({ "family": "inet", "table": NFT_TABLE, "name": name });
        let mut delete = serde_json::Map::new();
        delete.insert(kind.to_owned(), named);
        self.nftables.push(Command::Delete {
            delete: delete.into(),
        });
    }

    /// A named counter; one that exists keeps its value.
    pub(super) fn counter(&mut self, name: &'static str) {
        self.list_object(NfListObject::Counter(Counter {
            family: FAMILY,
            table: TABLE,
            name: name.into(),
            handle: None,
            packets: None,
            bytes: None,
        }));
    }

    pub(super) fn chain(&mut self, name: &str) {
        self.list_object(NfListObject::Chain(Chain {
            family: FAMILY,
            table: TABLE,
            name: name.to_owned().into(),
            ..Chain::default()
        }));
    }

    /// A base chain: policy accept, since packets that are not ours pass by.
    pub(super) fn base_chain(
        &mut self,
        name: &str,
        kind: NfChainType,
        hook: NfHook,
        priority: i32,
    ) {
        self.list_object(NfListObject::Chain(Chain {
            family: FAMILY,
            table: TABLE,
            name: name.to_owned().into(),
            _type: Some(kind),
            hook: Some(hook),
            prio: Some(priority),
            policy: Some(NfChainPolicy::Accept),
            ..Chain::default()
        }));
    }

    pub(super) fn rule(&mut self, chain: &str, expr: Vec<Stmt>) {
        self.rule_with_comment(chain, expr, None);
    }

    pub(super) fn rule_with_comment(
        &mut self,
        chain: &str,
        expr: Vec<Stmt>,
        comment: Option<String>,
    ) {
        self.rules += 1;
        self.nftables.push(Command::Own {
            add: OwnObject::Rule(RuleObject {
                family: FAMILY,
                table: TABLE,
                chain: chain.to_owned(),
                expr,
                comment,
            }),
        });
    }

    /// A set of address stretches of one family.
    pub(super) fn interval_set(&mut self, name: &str, key: SetType, ranges: &[AddressRange]) {
        self.elements += ranges.len();
        let elem: Vec<_> = ranges.iter().map(range).collect();
        self.list_object(NfListObject::Set(Box::new(Set {
            family: FAMILY,
            table: TABLE,
            name: name.to_owned().into(),
            set_type: SetTypeValue::Single(key),
            flags: Some([SetFlag::Interval].into_iter().collect()),
            elem: (!elem.is_empty()).then(|| elem.into()),
            ..Set::default()
        })));
    }

    pub(super) fn verdict_map(
        &mut self,
        name: &str,
        key: &[SetType],
        interval: bool,
        elem: Vec<(Expr, Statement<'static>)>,
    ) {
        self.elements += elem.len();
        self.nftables.push(Command::Own {
            add: OwnObject::Map(VerdictMapObject {
                family: FAMILY,
                table: TABLE,
                name: name.to_owned(),
                key: match key {
                    // nft takes a list of one for a concatenation, and refuses its elements.
                    [single] => SetTypeValue::Single(*single),
                    parts => SetTypeValue::Concatenated(parts.to_vec().into()),
                },
                map: "verdict",
                flags: interval.then_some(["interval"]),
                elem,
            }),
        });
    }

    pub(super) fn dynamic_set(&mut self, name: &str, key: SetType, size: u32) {
        self.nftables.push(Command::Own {
            add: OwnObject::Set(DynamicSetObject {
                family: FAMILY,
                table: TABLE,
                name: name.to_owned(),
                key,
                size,
                flags: ["timeout"],
                timeout: 60,
            }),
        });
    }

    /// The document as nft reads it.
    pub(super) fn render(&self) -> String {
        // Maps with text keys and derived serialisers: there is nothing that could fail.
        serde_json::to_string(self).unwrap_or_default()
    }
}

fn table() -> Table<'static> {
    Table {
        family: FAMILY,
        name: TABLE,
        handle: None,
    }
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

pub(super) fn masquerade() -> Stmt {
    Stmt::Known(Statement::Masquerade(None))
}

pub(super) fn source_address(address: &IpAddr) -> Stmt {
    let family = if address.is_ipv4() {
        NATFamily::IP
    } else {
        NATFamily::IP6
    };
    Stmt::Known(Statement::SNAT(Some(stmt::NAT {
        addr: Some(text(&address.to_string())),
        family: Some(family),
        port: None,
        flags: None,
    })))
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
