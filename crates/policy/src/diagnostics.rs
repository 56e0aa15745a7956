//! What is wrong with a policy, where, and what was probably meant.

use crate::suggest::Suggestions;
use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet};
use serde::Serialize;
use std::{fmt, ops::Range};

/// How many errors, and how many warnings, are said of one policy: more than anybody reads before
/// checking again.
pub(crate) const MAX_SAID: usize = 100;
/// The most bytes of a message: it may quote a text of any length.
const MAX_MESSAGE: usize = 1000;

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
        let mut message = message.into();
        if message.len() > MAX_MESSAGE {
            message.truncate(within(&(0..MAX_MESSAGE), &message).end);
            message.push_str(" ...");
        }
        Self {
            severity,
            message,
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
/// question underlined. Of a text in question that goes on over many lines, the first line is
/// shown, and of a long line what is around the text in question. `name` is what the policy is
/// called, such as its file name.
#[must_use]
pub fn render(diagnostics: &[Diagnostic], text: &str, name: &str) -> String {
    let renderer = Renderer::plain();
    let lines = Lines::new(text);
    let mut drawn = String::new();
    for diagnostic in diagnostics {
        let level = match diagnostic.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let excerpt = lines.excerpt(&diagnostic.span);
        let snippet = Snippet::source(excerpt.source).line_start(excerpt.line);
        let snippet = snippet.annotation(AnnotationKind::Primary.span(excerpt.span));
        let title = level.primary_title(diagnostic.message.as_str());
        // Of a piece of a line, the drawing code would count the columns from its start.
        let mut group = if excerpt.is_piece {
            let column = lines.column(within(&diagnostic.span, text).start);
            let place = Origin::path(name).line(excerpt.line).char_column(column);
            title.element(place).element(snippet)
        } else {
            title.element(snippet.path(name))
        };
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

/// Finds line and column of a byte in logarithmic time, however long the lines are.
#[derive(Debug)]
pub(crate) struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
    /// How many characters start before each block of [`BLOCK`] bytes.
    characters: Vec<usize>,
}

/// Some lines of a text, or a piece of a long one.
struct Excerpt<'a> {
    /// The line that it starts in.
    line: usize,
    source: &'a str,
    /// Whether it starts within the line.
    is_piece: bool,
    /// The bytes of it that are in question.
    span: Span,
}

/// The bytes of a block.
const BLOCK: usize = 1024;

impl<'a> Lines<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        let newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let starts = std::iter::once(0)
            .chain(newlines.map(|(at, _)| at + 1))
            .collect();
        let blocks = text.as_bytes().chunks(BLOCK);
        let sums = blocks.scan(0, |sum, block| {
            *sum += starting_in(block);
            Some(*sum)
        });
        Self {
            text,
            starts,
            characters: std::iter::once(0).chain(sums).collect(),
        }
    }

    /// Where a line starts; the end of the text for a line after the last.
    pub(crate) fn start(&self, line: usize) -> usize {
        let start = self.starts.get(line.saturating_sub(1));
        start.copied().unwrap_or(self.text.len())
    }

    /// What of the text to show for a span: the drawing code reads all that it is given.
    fn excerpt(&self, span: &Span) -> Excerpt<'a> {
        /// The most lines that are underlined.
        const MAX_LINES: usize = 10;
        /// The most bytes that are shown, and how many of them before the span.
        const MAX_WIDTH: usize = 1000;
        const BEFORE: usize = 60;
        let mut span = within(span, self.text);
        let line = self.line(span.start);
        let start = self.start(line);
        let mut end = self.start(self.line(span.end) + 1);
        if self.line(span.end) - line >= MAX_LINES || end - start > MAX_WIDTH {
            end = self.start(line + 1);
        }
        let start = match end - start > MAX_WIDTH {
            true => start.max(span.start.saturating_sub(BEFORE)),
            false => start,
        };
        let shown = within(&(start..end.min(start + MAX_WIDTH)), self.text);
        let source = self.text.get(shown.clone()).unwrap_or_default();
        let source = source.strip_suffix('\n').unwrap_or(source);
        let end = shown.start + source.len();
        span = span.start.min(end)..span.end.min(end);
        Excerpt {
            line,
            source,
            is_piece: shown.start > self.start(line),
            span: span.start.saturating_sub(shown.start)..span.end.saturating_sub(shown.start),
        }
    }

    /// How many characters start before a byte.
    fn characters_before(&self, at: usize) -> usize {
        let block = at / BLOCK;
        let rest = self.text.as_bytes().get(block * BLOCK..at);
        self.characters.get(block).copied().unwrap_or_default()
            + starting_in(rest.unwrap_or_default())
    }

    /// The line of a byte, from 1.
    pub(crate) fn line(&self, at: usize) -> usize {
        self.starts.partition_point(|start| *start <= at)
    }

    /// The column of a byte in characters, from 1.
    pub(crate) fn column(&self, at: usize) -> usize {
        let start = self.start(self.line(at));
        let at = within(&(at..at), self.text).start;
        let before = self.characters_before(at);
        before.saturating_sub(self.characters_before(start)) + 1
    }
}

/// How many characters start in some bytes of UTF-8: all bytes but those that continue one.
fn starting_in(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| (**byte as i8) >= -0x40).count()
}

/// Collects findings, so that several are reported at once.
#[derive(Debug)]
pub(crate) struct Findings<'a> {
    lines: &'a Lines<'a>,
    /// Each with the byte that it is sorted by.
    found: Vec<(usize, Diagnostic)>,
    pub(crate) suggestions: Suggestions,
}

impl<'a> Findings<'a> {
    pub(crate) fn new(lines: &'a Lines<'a>) -> Self {
        Self {
            lines,
            found: Vec::new(),
            suggestions: Suggestions::default(),
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

    /// All findings in the order of the text, as far as [`MAX_SAID`] goes; `Err` when one of them
    /// is an error.
    pub(crate) fn finish(mut self) -> Result<Vec<Diagnostic>, Vec<Diagnostic>> {
        self.found
            .sort_by_key(|(order, found)| (*order, found.severity));
        let found = self.found.into_iter().map(|(_, found)| found);
        let found = first_of_each(found.collect());
        if found.iter().any(|found| found.severity == Severity::Error) {
            Err(found)
        } else {
            Ok(found)
        }
    }
}

/// The first [`MAX_SAID`] errors and as many warnings, each list with a last word on how many are
/// left out.
pub(crate) fn first_of_each(found: Vec<Diagnostic>) -> Vec<Diagnostic> {
    if found.len() <= MAX_SAID {
        return found;
    }
    let mut said = Vec::new();
    let mut left_out: [(usize, Option<Diagnostic>); 2] = Default::default();
    let mut counts = [0usize; 2];
    for one in found {
        let kind = usize::from(one.severity == Severity::Warning);
        if let (Some(count), Some((more, first))) = (counts.get_mut(kind), left_out.get_mut(kind)) {
            *count += 1;
            if *count <= MAX_SAID {
                said.push(one);
            } else {
                *more += 1;
                first.get_or_insert(one);
            }
        }
    }
    for (more, first) in left_out {
        said.extend(first.map(|first| Diagnostic {
            message: match first.severity {
                Severity::Error => format!("{more} more errors are not shown"),
                Severity::Warning => format!("{more} more warnings are not shown"),
            },
            help: Some(format!("the next is: {}", first.message)),
            ..first
        }));
    }
    said
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
    fn long_lines_are_counted_too() {
        let text = format!("{}x\n\u{e9}y", "\u{1f600}".repeat(3000));
        let lines = Lines::new(&text);
        for (at, (character_at, _)) in text.char_indices().enumerate() {
            let (line, column) = match at {
                0..=3001 => (1, at + 1),
                _ => (2, at - 3001),
            };
            assert_eq!(
                (lines.line(character_at), lines.column(character_at)),
                (line, column)
            );
        }
    }

    #[test]
    fn what_goes_on_over_many_lines_is_drawn_by_its_first() {
        let text = format!("[\n  {{\n{}  }},\n]", "    \"a\": 1,\n".repeat(50));
        let lines = Lines::new(&text);
        let mut findings = Findings::new(&lines);
        findings.error(&(4..text.len() - 3), "too long", None);
        let drawn = render(&findings.finish().unwrap_err(), &text, "policy.hujson");
        insta::assert_snapshot!(drawn, @r"
        error: too long
         --> policy.hujson:2:3
          |
        2 |   {
          |   ^
        ");
    }

    #[test]
    fn of_a_long_line_a_piece_is_drawn() {
        let text = format!(
            "\n[{}\"here\"{}]",
            "\u{e9},".repeat(2000),
            ",1".repeat(2000)
        );
        let lines = Lines::new(&text);
        let mut findings = Findings::new(&lines);
        let at = text.find('"').unwrap();
        findings.error(&(at..at + 6), "x".repeat(2000), None);
        let drawn = render(&findings.finish().unwrap_err(), &text, "policy.hujson");
        assert!(drawn.contains("--> policy.hujson:2:4002"), "{drawn}");
        assert!(
            drawn.contains("\"here\"") && drawn.contains("^^^^^^"),
            "{drawn}"
        );
        assert!(drawn.len() < 5000, "{drawn}");
    }

    #[test]
    fn of_many_findings_the_first_are_said() {
        let text = "x".repeat(1000);
        let lines = Lines::new(&text);
        let mut findings = Findings::new(&lines);
        for at in (0..1000).rev() {
            findings.error(&(at..at + 1), format!("error {at}"), None);
            findings.warn(&(at..at + 1), format!("warning {at}"), None);
        }
        let found = findings.finish().unwrap_err();
        assert_eq!(found.len(), 2 * (MAX_SAID + 1));
        assert_eq!((found[0].message.as_str(), found[0].column), ("error 0", 1));
        assert_eq!(found[199].message, "warning 99");
        assert_eq!(found[200].message, "900 more errors are not shown");
        assert_eq!(found[200].help.as_deref(), Some("the next is: error 100"));
        assert_eq!(found[201].column, 101);
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
