//! Text to tree: JSON with comments and trailing commas, and nothing else that some readers allow.
//!
//! Every value keeps the bytes it was read from, so that later steps can point at them.

use crate::diagnostics::{Findings, Span};
use jsonc_parser::{CollectOptions, ParseOptions, ast};

/// A value and the bytes it was read from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Spanned<T> {
    pub(crate) value: T,
    pub(crate) span: Span,
}

/// A text in the policy, with its quotes in the span.
pub(crate) type Text = Spanned<String>;

/// A JSON value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Object(Vec<Property>),
    Array(Vec<Spanned<Self>>),
    Text(String),
    /// As it was written.
    Number(String),
    Boolean(bool),
    Null,
}

/// A key and its value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Property {
    pub(crate) key: Text,
    pub(crate) value: Spanned<Value>,
}

impl Value {
    /// What it is, for messages.
    pub(crate) const fn kind(&self) -> &'static str {
        match self {
            Self::Object(_) => "an object",
            Self::Array(_) => "a list",
            Self::Text(_) => "a text",
            Self::Number(_) => "a number",
            Self::Boolean(_) => "true or false",
            Self::Null => "null",
        }
    }
}

/// HuJSON is JSON plus these two.
const HUJSON: ParseOptions = ParseOptions {
    allow_comments: true,
    allow_trailing_commas: true,
    allow_loose_object_property_names: false,
    allow_missing_commas: false,
    allow_single_quoted_strings: false,
    allow_hexadecimal_numbers: false,
    allow_unary_plus_numbers: false,
    allow_bare_decimal_point_numbers: false,
    allow_non_finite_numbers: false,
    allow_extended_string_escapes: false,
};

/// Reads the text. `None` when it is not HuJSON; the reason is then among the findings. Repeated
/// keys are errors too: which one counts differs from reader to reader.
pub(crate) fn parse(text: &str, findings: &mut Findings<'_>) -> Option<Spanned<Value>> {
    if text.starts_with('\u{feff}') {
        findings.error(
            &(0..'\u{feff}'.len_utf8()),
            "the policy starts with a byte order mark",
            Some("save the file as UTF-8 without one".to_owned()),
        );
        return None;
    }
    match jsonc_parser::parse_to_ast(text, &CollectOptions::default(), &HUJSON) {
        Ok(result) => {
            let Some(value) = result.value else {
                findings.error(
                    &(0..0),
                    "the policy is empty",
                    Some("a policy that allows nothing is {\"acls\": []}".to_owned()),
                );
                return None;
            };
            Some(tree(value, findings))
        }
        Err(error) => {
            let range = error.range();
            findings.error(&(range.start..range.end), sentence(error.kind()), None);
            None
        }
    }
}

fn sentence(kind: &impl std::fmt::Display) -> String {
    let text = kind.to_string();
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => format!("{}{}", first.to_lowercase(), letters.as_str()),
        None => "not valid JSON".to_owned(),
    }
}

// The parser limits the depth, and so the recursion here.
fn tree(value: ast::Value<'_>, findings: &mut Findings<'_>) -> Spanned<Value> {
    let at = |range: jsonc_parser::common::Range| range.start..range.end;
    match value {
        ast::Value::StringLit(text) => Spanned {
            span: at(text.range),
            value: Value::Text(text.value.into_owned()),
        },
        ast::Value::NumberLit(number) => Spanned {
            span: at(number.range),
            value: Value::Number(number.value.to_owned()),
        },
        ast::Value::BooleanLit(boolean) => Spanned {
            span: at(boolean.range),
            value: Value::Boolean(boolean.value),
        },
        ast::Value::NullKeyword(null) => Spanned {
            span: at(null.range),
            value: Value::Null,
        },
        ast::Value::Array(array) => Spanned {
            span: at(array.range),
            value: Value::Array(
                array
                    .elements
                    .into_iter()
                    .map(|element| tree(element, findings))
                    .collect(),
            ),
        },
        ast::Value::Object(object) => {
            let mut properties: Vec<Property> = Vec::with_capacity(object.properties.len());
            let mut seen = std::collections::BTreeSet::new();
            for property in object.properties {
                let span = match &property.name {
                    ast::ObjectPropName::String(text) => at(text.range),
                    ast::ObjectPropName::Word(word) => at(word.range),
                };
                let key = property.name.into_string();
                if !seen.insert(key.clone()) {
                    findings.error(
                        &span,
                        format!("the key {key:?} is written twice"),
                        Some("put both under one key".to_owned()),
                    );
                }
                properties.push(Property {
                    key: Spanned { value: key, span },
                    value: tree(property.value, findings),
                });
            }
            Spanned {
                span: at(object.range),
                value: Value::Object(properties),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostics::Lines;

    fn problems(text: &str) -> Vec<String> {
        let lines = Lines::new(text);
        let mut findings = Findings::new(&lines);
        parse(text, &mut findings);
        match findings.finish() {
            Ok(_) => Vec::new(),
            Err(found) => found.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn comments_and_trailing_commas_are_all_that_json_lacks() {
        assert!(problems("// why\n{ /* how */ \"a\": [1, 2,], }").is_empty());
        for text in [
            "{a: 1}",
            "{'a': 1}",
            "{\"a\": 0x1}",
            "{\"a\": +1}",
            "{\"a\": 1 \"b\": 2}",
            "{\"a\": NaN}",
            "{\"a\": 1} {}",
            "{\"a\": [1}",
            "",
            "// nothing\n",
            "\u{feff}{}",
            "{\"a\": \"\\ud800\"}",
        ] {
            assert_eq!(problems(text).len(), 1, "{text}");
        }
    }

    #[test]
    fn a_repeated_key_is_named() {
        assert_eq!(
            problems("{\"a\": 1,\n \"a\": 2}"),
            ["line 2, column 2: the key \"a\" is written twice (put both under one key)"]
        );
    }
}
