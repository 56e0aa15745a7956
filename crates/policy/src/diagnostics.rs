//! What is wrong with a policy, where, and what was probably meant.

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use serde::Serialize;
use std::{fmt, ops::Range};

/// Bytes of the policy text.
pub(crate) type Span = Range<usize>;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The policy is refused.
    Error,
    /// The policy is accepted, but probably does not do what its author thinks.
    Warning,
}

/// One finding about a policy text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// Whether the policy is refused for it.
    pub severity: Severity,
    /// What is wrong, in one line.
    pub message: String,
    /// What to do instead: the nearest valid name, or what is allowed here.
    pub help: Option<String>,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// The bytes of the policy text that it is about.
    pub span: Range<usize>,
}

impl Diagnostic {
    pub(crate) fn at(
        lines: &Lines<'_>,
        severity: Severity,
        span: &Span,
        message: impl Into<String>,
        help: Option<String>,
    ) -> Self {
        Self {
            severity,
            message: message.into(),
            help,
            line: lines.line(span.start),
            column: lines.column(span.start),
            span: span.clone(),
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "line {}, column {}: {}",
            self.line, self.column, self.message
        )?;
        match &self.help {
            Some(help) => write!(f, " ({help})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Diagnostic {}

/// Draws diagnostics for a terminal without colours: each with its line of the policy, the text in
/// question underlined. `name` is what the policy is called, such as its file name.
#[must_use]
pub fn render(diagnostics: &[Diagnostic], text: &str, name: &str) -> String {
    let renderer = Renderer::plain();
    let mut drawn = String::new();
    for diagnostic in diagnostics {
        let level = match diagnostic.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut group = level.primary_title(diagnostic.message.as_str()).element(
            Snippet::source(text)
                .path(name)
                .annotation(AnnotationKind::Primary.span(within(&diagnostic.span, text))),
        );
        if let Some(help) = &diagnostic.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        drawn.push_str(&renderer.render(&[group]));
        drawn.push_str("\n\n");
    }
    drawn.truncate(drawn.trim_end().len());
    drawn
}

/// The span as far as it lies in the text, cut at character borders: the drawing code trusts it.
fn within(span: &Span, text: &str) -> Span {
    let border = |mut at: usize| {
        at = at.min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let (start, end) = (border(span.start), border(span.end));
    start..end.max(start)
}

/// Finds line and column of a byte in logarithmic time.
#[derive(Debug)]
pub(crate) struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        let newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let starts = std::iter::once(0)
            .chain(newlines.map(|(at, _)| at + 1))
            .collect();
        Self { text, starts }
    }

    /// The line of a byte, from 1.
    pub(crate) fn line(&self, at: usize) -> usize {
        self.starts.partition_point(|start| *start <= at)
    }

    /// The column of a byte in characters, from 1.
    pub(crate) fn column(&self, at: usize) -> usize {
        let start = self
            .starts
            .get(self.line(at) - 1)
            .copied()
            .unwrap_or_default();
        let at = within(&(at..at), self.text).start;
        self.text
            .get(start..at)
            .map_or(0, |before| before.chars().count())
            + 1
    }
}

/// Collects findings, so that several are reported at once.
#[derive(Debug)]
pub(crate) struct Findings<'a> {
    lines: &'a Lines<'a>,
    /// Each with the byte that it is sorted by.
    found: Vec<(usize, Diagnostic)>,
}

impl<'a> Findings<'a> {
    pub(crate) const fn new(lines: &'a Lines<'a>) -> Self {
        Self {
            lines,
            found: Vec::new(),
        }
    }

    pub(crate) fn error(&mut self, span: &Span, message: impl Into<String>, help: Option<String>) {
        self.push(Severity::Error, span, message.into(), help);
    }

    pub(crate) fn warn(&mut self, span: &Span, message: impl Into<String>, help: Option<String>) {
        self.push(Severity::Warning, span, message.into(), help);
    }

    /// Like [`Self::error`], but reported as if it stood at `order`.
    pub(crate) fn error_ordered(
        &mut self,
        order: usize,
        span: &Span,
        message: impl Into<String>,
        help: Option<String>,
    ) {
        self.push(Severity::Error, span, message.into(), help);
        if let Some((at, _)) = self.found.last_mut() {
            *at = order;
        }
    }

    fn push(&mut self, severity: Severity, span: &Span, message: String, help: Option<String>) {
        let diagnostic = Diagnostic::at(self.lines, severity, span, message, help);
        self.found.push((span.start, diagnostic));
    }

    /// All findings in the order of the text; `Err` when one of them is an error.
    pub(crate) fn finish(mut self) -> Result<Vec<Diagnostic>, Vec<Diagnostic>> {
        self.found
            .sort_by_key(|(order, found)| (*order, found.severity));
        let found: Vec<_> = self.found.into_iter().map(|(_, found)| found).collect();
        if found.iter().any(|found| found.severity == Severity::Error) {
            Err(found)
        } else {
            Ok(found)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_in_lines_and_characters() {
        let lines = Lines::new("a\n\u{e9}b\r\nc");
        assert_eq!((lines.line(0), lines.column(0)), (1, 1));
        assert_eq!((lines.line(4), lines.column(4)), (2, 2));
        assert_eq!((lines.line(7), lines.column(7)), (3, 1));
        assert_eq!((lines.line(99), lines.column(99)), (3, 2));
    }

    #[test]
    fn the_text_in_question_is_underlined() {
        let text = "{\n  \"acl\": [],\n}";
        let lines = Lines::new(text);
        let mut findings = Findings::new(&lines);
        findings.error(
            &(4..9),
            "unknown section \"acl\"",
            Some("did you mean \"acls\"?".into()),
        );
        let drawn = render(&findings.finish().unwrap_err(), text, "policy.hujson");
        insta::assert_snapshot!(drawn, @r#"
        error: unknown section "acl"
         --> policy.hujson:2:3
          |
        2 |   "acl": [],
          |   ^^^^^
          |
          = help: did you mean "acls"?
        "#);
    }
}
