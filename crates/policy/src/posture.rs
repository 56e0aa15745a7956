//! Conditions on a device, and whether what its agent reports meets them.

use crate::directory::Posture;
use std::{cmp::Ordering, fmt};

/// The attributes that agents report.
pub(crate) const ATTRIBUTES: [&str; 4] = [
    "node:os",
    "node:osVersion",
    "node:tsVersion",
    "node:weirVersion",
];

/// How an attribute is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    NotIn,
    IsSet,
    NotSet,
}

/// As they are written; the longer of two that begin alike comes first.
const OPERATORS: [(&str, Operator); 6] = [
    ("==", Operator::Equal),
    ("!=", Operator::NotEqual),
    ("<=", Operator::LessOrEqual),
    (">=", Operator::GreaterOrEqual),
    ("<", Operator::Less),
    (">", Operator::Greater),
];

/// One condition: `node:osVersion >= '6.1'`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Assertion {
    attribute: String,
    operator: Operator,
    values: Vec<String>,
}

pub(crate) fn how_to_write() -> String {
    "write a condition such as \"node:os == 'linux'\", \"node:osVersion >= '6.1'\" or \
     \"node:os IN ['linux', 'macos']\""
        .to_owned()
}

impl Assertion {
    /// Reads a condition.
    ///
    /// # Errors
    /// What is wrong with it, in a few words.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| format!("{text:?}: {what}");
        let end = text
            .find(|c: char| c.is_whitespace() || "=!<>".contains(c))
            .ok_or_else(|| wrong("there is no operator"))?;
        let (attribute, rest) = text.split_at(end);
        let has_kind = attribute
            .split_once(':')
            .is_some_and(|(kind, name)| !kind.is_empty() && !name.is_empty());
        if !has_kind {
            return Err(wrong("an attribute is written as KIND:NAME"));
        }
        let rest = rest.trim();
        let made = |operator, values| Self {
            attribute: attribute.to_owned(),
            operator,
            values,
        };
        if let Some((operator, value)) = OPERATORS
            .iter()
            .find_map(|(word, operator)| Some((*operator, rest.strip_prefix(word)?)))
        {
            let value = unquoted(value).ok_or_else(|| wrong("the value is not readable"))?;
            return Ok(made(operator, vec![value]));
        }
        let words = rest.to_ascii_uppercase();
        for (word, operator) in [("IS SET", Operator::IsSet), ("NOT SET", Operator::NotSet)] {
            if words == word {
                return Ok(made(operator, Vec::new()));
            }
        }
        for (word, operator) in [("NOT IN", Operator::NotIn), ("IN", Operator::In)] {
            if !words.starts_with(word) {
                continue;
            }
            let list = rest.get(word.len()..).map(str::trim);
            let items = list
                .and_then(|list| list.strip_prefix('[')?.strip_suffix(']'))
                .ok_or_else(|| wrong("the values are not a list in [ ]"))?;
            let values = items.split(',').map(unquoted).collect::<Option<_>>();
            let values = values.ok_or_else(|| wrong("a value is not readable"))?;
            return Ok(made(operator, values));
        }
        Err(wrong("the operator is not known"))
    }

    /// What it asks for.
    pub(crate) fn attribute(&self) -> &str {
        &self.attribute
    }

    /// Whether a device meets it. What a device does not report meets no condition but that it is
    /// not set.
    pub(crate) fn is_met(&self, posture: &Posture) -> bool {
        let value = match self.attribute.as_str() {
            "node:os" => posture.os.as_deref(),
            "node:osVersion" => posture.os_version.as_deref(),
            "node:tsVersion" | "node:weirVersion" => posture.weir_version.as_deref(),
            _ => None,
        };
        let Some(value) = value else {
            return self.operator == Operator::NotSet;
        };
        let order = |to: &String| compare(value, to);
        let any = |wanted: fn(Ordering) -> bool| self.values.iter().map(order).any(wanted);
        match self.operator {
            Operator::Equal | Operator::In => any(Ordering::is_eq),
            Operator::NotEqual | Operator::NotIn => !any(Ordering::is_eq),
            Operator::Less => any(Ordering::is_lt),
            Operator::LessOrEqual => any(Ordering::is_le),
            Operator::Greater => any(Ordering::is_gt),
            Operator::GreaterOrEqual => any(Ordering::is_ge),
            Operator::IsSet => true,
            Operator::NotSet => false,
        }
    }
}

impl fmt::Display for Assertion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values: Vec<String> = self.values.iter().map(|v| format!("'{v}'")).collect();
        let attribute = &self.attribute;
        match self.operator {
            Operator::IsSet => write!(f, "{attribute} IS SET"),
            Operator::NotSet => write!(f, "{attribute} NOT SET"),
            Operator::In => write!(f, "{attribute} IN [{}]", values.join(", ")),
            Operator::NotIn => write!(f, "{attribute} NOT IN [{}]", values.join(", ")),
            Operator::Equal
            | Operator::NotEqual
            | Operator::Less
            | Operator::LessOrEqual
            | Operator::Greater
            | Operator::GreaterOrEqual => {
                let word = OPERATORS.iter().find(|(_, known)| *known == self.operator);
                let word = word.map_or("", |(word, _)| word);
                write!(f, "{attribute} {word} {}", values.join(", "))
            }
        }
    }
}

/// A value: in single or double quotes, or a bare word such as a number or a truth value.
fn unquoted(text: &str) -> Option<String> {
    let text = text.trim();
    let inner = ['\'', '"']
        .into_iter()
        .find_map(|quote| text.strip_prefix(quote)?.strip_suffix(quote));
    let value = inner.unwrap_or(text);
    (!value.is_empty() && !value.contains(['\'', '"'])).then(|| value.to_owned())
}

/// Compares versions: runs of digits as numbers, everything else as text without regard to case.
fn compare(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        if a.is_empty() || b.is_empty() {
            return a.len().cmp(&b.len());
        }
        let digits = |text: &str| {
            text.find(|c: char| !c.is_ascii_digit())
                .unwrap_or(text.len())
        };
        let (x, y) = (digits(a), digits(b));
        let order = if x > 0 && y > 0 {
            let (number_a, number_b) = (
                a.get(..x).unwrap_or_default().trim_start_matches('0'),
                b.get(..y).unwrap_or_default().trim_start_matches('0'),
            );
            (a, b) = (
                a.get(x..).unwrap_or_default(),
                b.get(y..).unwrap_or_default(),
            );
            number_a
                .len()
                .cmp(&number_b.len())
                .then_with(|| number_a.cmp(number_b))
        } else {
            let (mut letters_a, mut letters_b) = (a.chars(), b.chars());
            let lower = |c: Option<char>| c.map(|c| c.to_ascii_lowercase());
            let order = lower(letters_a.next()).cmp(&lower(letters_b.next()));
            (a, b) = (letters_a.as_str(), letters_b.as_str());
            order
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn met(condition: &str) -> bool {
        let posture = Posture {
            os: Some("Linux".to_owned()),
            os_version: Some("6.10.3".to_owned()),
            weir_version: None,
        };
        Assertion::parse(condition).unwrap().is_met(&posture)
    }

    #[test]
    fn conditions_compare_versions_by_their_numbers() {
        for condition in [
            "node:os == 'linux'",
            "node:os=='linux'",
            "node:os IN ['macos', 'linux']",
            "node:os NOT IN ['windows']",
            "node:osVersion >= '6.9'",
            "node:osVersion < 6.10.10",
            "node:osVersion > '6.10'",
            "node:weirVersion NOT SET",
            "node:os IS SET",
        ] {
            assert!(met(condition), "{condition}");
        }
        for condition in [
            "node:os != 'linux'",
            "node:osVersion < '6.9'",
            "node:weirVersion >= '0'",
            "node:weirVersion != '9'",
            "custom:tier == 'gold'",
        ] {
            assert!(!met(condition), "{condition}");
        }
    }

    #[test]
    fn what_is_no_condition_is_refused_and_what_is_one_prints_as_itself() {
        for text in [
            "",
            "node:os",
            "os == 'linux'",
            "node:os ~ 'linux'",
            "node:os == ",
            "node:os IN 'linux'",
        ] {
            assert!(Assertion::parse(text).is_err(), "{text}");
        }
        for text in [
            "node:os == 'linux'",
            "node:os NOT IN ['a', 'b']",
            "node:os IS SET",
        ] {
            assert_eq!(Assertion::parse(text).unwrap().to_string(), text);
        }
    }
}
