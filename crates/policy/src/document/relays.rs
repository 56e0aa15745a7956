//! `derpMap`: checked as far as its shape goes, so that a slip in it does not lie hidden.

use super::reader::{array, boolean, fields, object, text, wrong_kind};
use crate::{
    diagnostics::Findings,
    syntax::{Property, Spanned, Value},
};

/// Checks the section's shape.
pub(super) fn check(value: Spanned<Value>, findings: &mut Findings<'_>) {
    const FIELDS: [&str; 3] = ["HomeParams", "OmitDefaultRegions", "Regions"];
    fields(
        value,
        "derpMap",
        &FIELDS,
        findings,
        |key, value, findings| {
            let what = format!("derpMap.{key}");
            match key {
                "OmitDefaultRegions" => is_boolean(&value, &what, findings),
                "HomeParams" => drop(object(value, &what, findings)),
                "Regions" => regions(value, &what, findings),
                _ => return false,
            }
            true
        },
    );
}

fn regions(value: Spanned<Value>, what: &str, findings: &mut Findings<'_>) {
    for Property { key, value } in object(value, what, findings).unwrap_or_default() {
        let what = format!("{what}[{:?}]", key.value);
        if key.value.parse::<u32>().is_err() {
            findings.error(&key.span, format!("{what}: the key must be a number"), None);
        }
        // Null switches a region off.
        if value.value != Value::Null {
            region(value, &what, &key.value, findings);
        }
    }
}

fn region(value: Spanned<Value>, what: &str, id: &str, findings: &mut Findings<'_>) {
    const FIELDS: [&str; 8] = [
        "Avoid",
        "Latitude",
        "Longitude",
        "NoMeasureNoHome",
        "Nodes",
        "RegionCode",
        "RegionID",
        "RegionName",
    ];
    fields(value, what, &FIELDS, findings, |key, value, findings| {
        let what = format!("{what}.{key}");
        match key {
            "RegionID" => same_number(&value, &what, id, findings),
            "RegionCode" | "RegionName" => drop(text(value, &what, findings)),
            "Avoid" | "NoMeasureNoHome" => is_boolean(&value, &what, findings),
            "Latitude" | "Longitude" => number(&value, &what, findings),
            "Nodes" => {
                for (index, node) in array(value, &what, findings).into_iter().enumerate() {
                    self::node(node, &format!("{what}[{index}]"), id, findings);
                }
            }
            _ => return false,
        }
        true
    });
}

fn node(value: Spanned<Value>, what: &str, id: &str, findings: &mut Findings<'_>) {
    const FIELDS: [&str; 12] = [
        "CanPort80",
        "CertName",
        "DERPPort",
        "HostName",
        "IPv4",
        "IPv6",
        "InsecureForTests",
        "Name",
        "RegionID",
        "STUNOnly",
        "STUNPort",
        "STUNTestIP",
    ];
    fields(value, what, &FIELDS, findings, |key, value, findings| {
        let what = format!("{what}.{key}");
        match key {
            "RegionID" => same_number(&value, &what, id, findings),
            "DERPPort" | "STUNPort" => number(&value, &what, findings),
            "CanPort80" | "InsecureForTests" | "STUNOnly" => {
                is_boolean(&value, &what, findings);
            }
            _ if FIELDS.contains(&key) => drop(text(value, &what, findings)),
            _ => return false,
        }
        true
    });
}

fn is_boolean(value: &Spanned<Value>, what: &str, findings: &mut Findings<'_>) {
    boolean(value, what, findings);
}

fn number(value: &Spanned<Value>, what: &str, findings: &mut Findings<'_>) {
    if !matches!(value.value, Value::Number(_)) {
        wrong_kind(value, what, "a number", findings);
    }
}

fn same_number(value: &Spanned<Value>, what: &str, id: &str, findings: &mut Findings<'_>) {
    match &value.value {
        Value::Number(written) if written == id => {}
        Value::Number(_) => {
            let help = Some(format!("write {id}, the key of the region"));
            findings.error(&value.span, format!("{what} is another region"), help);
        }
        Value::Object(_) | Value::Array(_) | Value::Text(_) | Value::Boolean(_) | Value::Null => {
            number(value, what, findings);
        }
    }
}
