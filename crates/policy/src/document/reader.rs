//! Values to the kinds that fields expect, with a finding for every one that is of another kind.

use crate::{
    diagnostics::{Findings, Span},
    suggest::did_you_mean,
    syntax::{Property, Spanned, Text, Value},
};

/// Goes through the fields of an object. `take` says whether it knows a field; one that it does
/// not know is a finding, with the nearest of `known` as advice.
pub(super) fn fields<'f>(
    entry: Spanned<Value>,
    what: &str,
    known: &[&str],
    findings: &mut Findings<'f>,
    mut take: impl FnMut(&str, Spanned<Value>, &mut Findings<'f>) -> bool,
) {
    for Property { key, value } in object(entry, what, findings).unwrap_or_default() {
        if !take(&key.value, value, findings) {
            unknown_field(&key, what, known, findings);
        }
    }
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
        .or_else(|| did_you_mean(name, known.iter().copied()))
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
            let items = texts(value, &format!("{what}[{:?}]", key.value), findings);
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

/// A list of texts, or null for an empty one.
pub(super) fn texts_or_null(
    value: Spanned<Value>,
    what: &str,
    findings: &mut Findings<'_>,
) -> Vec<Text> {
    if value.value == Value::Null {
        return Vec::new();
    }
    texts(value, what, findings)
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

/// A text, or null for none.
pub(super) fn text_or_null(
    value: Spanned<Value>,
    what: &str,
    findings: &mut Findings<'_>,
) -> Option<Text> {
    if value.value == Value::Null {
        return None;
    }
    text(value, what, findings)
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
