//! Values to the kinds that fields expect, with a finding for every one that is of another kind.

use crate::{
    diagnostics::{Findings, Span},
    syntax::{Property, Spanned, Text, Value},
};
use std::collections::BTreeSet;

/// Goes through the fields of an object. `take` says whether it knows a field; one that it does
/// not know is a finding, with the nearest of `known` as advice. Null is what such files also write
/// for a field that is not there.
pub(super) fn fields<'f>(
    entry: Spanned<Value>,
    what: &str,
    known: &[&'static str],
    findings: &mut Findings<'f>,
    take: impl FnMut(&str, Spanned<Value>, &mut Findings<'f>) -> bool,
) {
    fields_or_older(entry, what, known, &[], findings, take);
}

/// Like [`fields`], with older names of fields, each with today's.
pub(super) fn fields_or_older<'f>(
    entry: Spanned<Value>,
    what: &str,
    known: &[&'static str],
    older: &[(&str, &'static str)],
    findings: &mut Findings<'f>,
    mut take: impl FnMut(&str, Spanned<Value>, &mut Findings<'f>) -> bool,
) {
    let mut seen = BTreeSet::new();
    for Property { key, value } in object(entry, what, findings).unwrap_or_default() {
        let Some(name) = known_as(&key.value, known, older) else {
            unknown_field(&key, what, known, findings);
            continue;
        };
        respell(&key, name, findings);
        if !seen.insert(name) && name != key.value {
            written_twice(&key, name, findings);
        }
        if value.value != Value::Null && !take(name, value, findings) {
            unknown_field(&key, what, known, findings);
        }
    }
}

/// Today's name for a key: such files do not care for upper and lower case.
pub(super) fn known_as(
    key: &str,
    known: &[&'static str],
    older: &[(&str, &'static str)],
) -> Option<&'static str> {
    let same = |name: &str| name.eq_ignore_ascii_case(key);
    let exactly = known.iter().find(|name| **name == key);
    let other = || known.iter().find(|name| same(name));
    exactly.or_else(other).copied().or_else(|| {
        let found = older.iter().find(|(name, _)| same(name));
        found.map(|(_, today)| *today)
    })
}

/// Says how a key that is understood is written today.
pub(super) fn respell(key: &Text, name: &str, findings: &mut Findings<'_>) {
    if key.value != name {
        let message = format!("{:?} is read as {name:?}", key.value);
        findings.warn(&key.span, message, Some(format!("write {name:?}")));
    }
}

/// Reports a key that another one with another spelling is meant by, too.
pub(super) fn written_twice(key: &Text, name: &str, findings: &mut Findings<'_>) {
    let message = format!("{:?} is {name:?}, which is here already", key.value);
    findings.error(
        &key.span,
        message,
        Some("put both under one key".to_owned()),
    );
}

/// What people write for fields, from older policies or other languages.
const OTHER_FIELDS: [(&str, &str); 7] = [
    ("destination", "dst"),
    ("destinations", "dst"),
    ("ports", "dst"),
    ("source", "src"),
    ("sources", "src"),
    ("users", "src"),
    ("attrs", "attr"),
];

fn unknown_field(key: &Text, what: &str, known: &[&str], findings: &mut Findings<'_>) {
    let name = key.value.as_str();
    let help = OTHER_FIELDS
        .iter()
        .find(|(other, right)| *other == name && known.contains(right))
        .map(|(_, right)| format!("write {right:?}"))
        .or_else(|| {
            findings
                .suggestions
                .did_you_mean(name, known.iter().copied())
        })
        .or_else(|| Some(format!("its fields are {}", known.join(", "))));
    let message = format!("unknown field {name:?} in {what}");
    findings.error(&key.span, message, help);
}

pub(super) fn lists(
    value: Spanned<Value>,
    what: &str,
    findings: &mut Findings<'_>,
) -> Vec<(Text, Vec<Text>)> {
    object(value, what, findings)
        .unwrap_or_default()
        .into_iter()
        .map(|Property { key, value }| {
            let items = if value.value == Value::Null {
                Vec::new()
            } else {
                texts(value, &format!("{what}[{:?}]", key.value), findings)
            };
            (key, items)
        })
        .collect()
}

pub(super) fn texts(value: Spanned<Value>, what: &str, findings: &mut Findings<'_>) -> Vec<Text> {
    array(value, what, findings)
        .into_iter()
        .enumerate()
        .filter_map(|(index, item)| text(item, &format!("{what}[{index}]"), findings))
        .collect()
}

pub(super) fn array(
    value: Spanned<Value>,
    what: &str,
    findings: &mut Findings<'_>,
) -> Vec<Spanned<Value>> {
    if let Value::Array(items) = value.value {
        return items;
    }
    wrong_kind(&value, what, "a list", findings);
    Vec::new()
}

pub(super) fn object(
    value: Spanned<Value>,
    what: &str,
    findings: &mut Findings<'_>,
) -> Option<Vec<Property>> {
    if let Value::Object(properties) = value.value {
        return Some(properties);
    }
    wrong_kind(&value, what, "an object", findings);
    None
}

/// A text without the white space around it, which selectors, actions and names ignore.
pub(super) fn text(value: Spanned<Value>, what: &str, findings: &mut Findings<'_>) -> Option<Text> {
    if let Value::Text(text) = value.value {
        return Some(Spanned {
            value: text.trim().to_owned(),
            span: value.span,
        });
    }
    wrong_kind(&value, what, "a text", findings);
    None
}

pub(super) fn boolean(value: &Spanned<Value>, what: &str, findings: &mut Findings<'_>) -> bool {
    if let Value::Boolean(is) = value.value {
        return is;
    }
    wrong_kind(value, what, "true or false", findings);
    false
}

pub(super) fn wrong_kind(
    value: &Spanned<Value>,
    what: &str,
    expected: &str,
    findings: &mut Findings<'_>,
) {
    let kind = value.value.kind();
    findings.error(
        &value.span,
        format!("{what} must be {expected}, not {kind}"),
        None,
    );
}

/// The first byte of a value: where something is missing.
pub(super) fn start(span: &Span) -> Span {
    span.start..span.start.saturating_add(1).min(span.end)
}
