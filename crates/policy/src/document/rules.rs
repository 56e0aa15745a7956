//! Entries of `acls` and `grants`.

use super::reader::{array, fields, fields_or_older, object, start, text, texts, wrong_kind};
use crate::{
    diagnostics::{Findings, Span},
    syntax::{Property, Spanned, Text, Value},
};

/// An entry of `acls` as it was written.
#[derive(Clone, Debug)]
pub(crate) struct Acl {
    /// Its place in the list, from 0.
    pub(crate) index: usize,
    pub(crate) span: Span,
    pub(crate) action: Option<Text>,
    pub(crate) sources: Vec<Text>,
    pub(crate) destinations: Vec<Text>,
    pub(crate) protocol: Option<Text>,
    pub(crate) postures: Vec<Text>,
}

/// An entry of `grants` as it was written.
#[derive(Clone, Debug)]
pub(crate) struct Grant {
    /// Its place in the list, from 0.
    pub(crate) index: usize,
    pub(crate) span: Span,
    pub(crate) sources: Vec<Text>,
    pub(crate) destinations: Vec<Text>,
    pub(crate) ip: Vec<Text>,
    /// The names of capabilities.
    pub(crate) app: Vec<Text>,
    pub(crate) via: Vec<Text>,
    pub(crate) postures: Vec<Text>,
}

pub(super) fn acls(value: Spanned<Value>, findings: &mut Findings<'_>) -> Vec<Acl> {
    let entries = array(value, "acls", findings).into_iter().enumerate();
    entries
        .map(|(index, entry)| acl(index, entry, findings))
        .collect()
}

pub(super) fn grants(value: Spanned<Value>, findings: &mut Findings<'_>) -> Vec<Grant> {
    let entries = array(value, "grants", findings).into_iter().enumerate();
    entries
        .map(|(index, entry)| grant(index, entry, findings))
        .collect()
}

fn acl(index: usize, entry: Spanned<Value>, findings: &mut Findings<'_>) -> Acl {
    const FIELDS: [&str; 5] = ["action", "dst", "proto", "src", "srcPosture"];
    const OLDER: [(&str, &str); 2] = [("ports", "dst"), ("users", "src")];
    let what = format!("acls[{index}]");
    let (span, is_object) = (entry.span.clone(), matches!(entry.value, Value::Object(_)));
    let mut acl = Acl {
        index,
        span: span.clone(),
        action: None,
        sources: Vec::new(),
        destinations: Vec::new(),
        protocol: None,
        postures: Vec::new(),
    };
    let (mut has_src, mut has_dst) = (!is_object, !is_object);
    let take = |key: &str, value, findings: &mut Findings<'_>| {
        let what = format!("{what}.{key}");
        match key {
            "action" => acl.action = text(value, &what, findings),
            "proto" => acl.protocol = text(value, &what, findings),
            "src" => {
                has_src = true;
                acl.sources = texts(value, &what, findings);
            }
            "dst" => {
                has_dst = true;
                acl.destinations = texts(value, &what, findings);
            }
            "srcPosture" => acl.postures = texts(value, &what, findings),
            _ => return false,
        }
        true
    };
    fields_or_older(entry, &what, &FIELDS, &OLDER, findings, take);
    missing(&what, &span, has_src, has_dst, findings);
    acl
}

fn grant(index: usize, entry: Spanned<Value>, findings: &mut Findings<'_>) -> Grant {
    const FIELDS: [&str; 6] = ["app", "dst", "ip", "src", "srcPosture", "via"];
    let what = format!("grants[{index}]");
    let (span, is_object) = (entry.span.clone(), matches!(entry.value, Value::Object(_)));
    let mut grant = Grant {
        index,
        span: span.clone(),
        sources: Vec::new(),
        destinations: Vec::new(),
        ip: Vec::new(),
        app: Vec::new(),
        via: Vec::new(),
        postures: Vec::new(),
    };
    let (mut has_src, mut has_dst) = (!is_object, !is_object);
    fields(entry, &what, &FIELDS, findings, |key, value, findings| {
        let what = format!("{what}.{key}");
        match key {
            "src" => {
                has_src = true;
                grant.sources = texts(value, &what, findings);
            }
            "dst" => {
                has_dst = true;
                grant.destinations = texts(value, &what, findings);
            }
            "ip" => grant.ip = texts(value, &what, findings),
            "via" => grant.via = texts(value, &what, findings),
            "srcPosture" => grant.postures = texts(value, &what, findings),
            "app" => grant.app = capabilities(value, &what, findings),
            _ => return false,
        }
        true
    });
    missing(&what, &span, has_src, has_dst, findings);
    grant
}

/// The names of `app`. What a capability's values mean is the application's own business.
fn capabilities(value: Spanned<Value>, what: &str, findings: &mut Findings<'_>) -> Vec<Text> {
    object(value, what, findings)
        .unwrap_or_default()
        .into_iter()
        .map(|Property { key, value }| {
            if !matches!(value.value, Value::Array(_) | Value::Null) {
                let what = format!("{what}[{:?}]", key.value);
                wrong_kind(&value, &what, "a list", findings);
            }
            key
        })
        .collect()
}

/// An entry without one of the two is about nothing, as if the list were empty.
fn missing(what: &str, span: &Span, has_src: bool, has_dst: bool, findings: &mut Findings<'_>) {
    for (there, name) in [(has_src, "src"), (has_dst, "dst")] {
        if !there {
            let message = format!("{what} has no {name:?}: it allows nothing");
            findings.warn(&start(span), message, None);
        }
    }
}
