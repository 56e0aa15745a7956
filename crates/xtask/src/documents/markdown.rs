//! What the checks need to know of a Markdown document, read line by line.

use std::collections::BTreeSet;

/// A document.
#[derive(Debug, Default)]
pub(super) struct Document {
    pub(super) links: Vec<Link>,
    /// Commands of ours, in blocks and in the text.
    pub(super) commands: Vec<String>,
    /// Policies: the blocks of JSON with comments.
    pub(super) policies: Vec<String>,
    /// The anchors of its headings.
    pub(super) headings: BTreeSet<String>,
    /// The headings that are code, without the marks.
    pub(super) code_headings: Vec<String>,
    /// The second-level headings, and how many source files are linked below each.
    sections: Vec<(String, usize)>,
}

/// A link to another file of the workspace, or within the document.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Link {
    text: String,
    pub(super) target: String,
}

impl Link {
    /// The text, when it is code: then it names something in the target.
    pub(super) fn code(&self) -> Option<&str> {
        self.text.strip_prefix('`')?.strip_suffix('`')
    }
}

impl Document {
    pub(super) fn read(text: &str) -> Self {
        let mut document = Self::default();
        let mut block = None;
        for line in text.lines() {
            match (line.trim_start().strip_prefix("```"), block) {
                (Some(language), None) => {
                    block = Some(language.trim());
                    if block == Some("jsonc") {
                        document.policies.push(String::new());
                    }
                }
                (Some(_), Some(_)) => block = None,
                (None, Some(language)) => document.block_line(line, language),
                (None, None) => document.text_line(line),
            }
        }
        document
    }

    pub(super) fn sections_without_test(&self) -> Vec<&str> {
        let empty = self.sections.iter().filter(|(_, links)| *links == 0);
        empty.map(|(heading, _)| heading.as_str()).collect()
    }

    fn block_line(&mut self, line: &str, language: &str) {
        if language == "jsonc"
            && let Some(policy) = self.policies.last_mut()
        {
            policy.push_str(line);
            policy.push('\n');
            return;
        }
        let line = line.trim();
        let line = line.strip_prefix("$ ").unwrap_or(line);
        let line = line.strip_prefix("sudo ").unwrap_or(line);
        self.command(line);
    }

    fn command(&mut self, text: &str) {
        let ours = ["agent ", "coordinator ", "cargo xtask "];
        // Not `coordinator = "..."`, which is a setting.
        let is_setting = text.split_whitespace().nth(1) == Some("=");
        if !is_setting && ours.iter().any(|start| text.starts_with(start)) {
            self.commands.push(text.to_owned());
        }
    }

    fn text_line(&mut self, line: &str) {
        let heading = line.trim_start_matches('#');
        if heading.len() < line.len() && heading.starts_with(' ') {
            self.headings.insert(anchor(heading.trim()));
            let code = heading.trim().strip_prefix('`');
            if let Some(code) = code.and_then(|code| code.strip_suffix('`')) {
                self.code_headings.push(code.to_owned());
            }
            if line.starts_with("## ") {
                self.sections.push((heading.trim().to_owned(), 0));
            }
        }
        for link in links(line) {
            if link.target.ends_with(".rs")
                && let Some((_, count)) = self.sections.last_mut()
            {
                *count += 1;
            }
            self.links.push(link);
        }
        for code in line.split('`').skip(1).step_by(2) {
            self.command(code);
        }
    }
}

/// The links of a line that stay in the workspace.
fn links(line: &str) -> Vec<Link> {
    let mut links = Vec::new();
    let mut before = line;
    while let Some((text, rest)) = before.split_once("](") {
        let Some((target, after)) = rest.split_once(')') else {
            break;
        };
        let outside = ["https://", "http://", "mailto:"];
        if !outside.iter().any(|start| target.starts_with(start)) {
            links.push(Link {
                text: text.rsplit('[').next().unwrap_or_default().to_owned(),
                target: target.to_owned(),
            });
        }
        before = after;
    }
    links
}

/// The anchor that a forge gives to a heading.
fn anchor(heading: &str) -> String {
    heading
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

/// The words of a command, up to a comment or the next command; `\` before the end is dropped.
pub(super) fn words(command: &str) -> Vec<String> {
    command
        .split_whitespace()
        .take_while(|word| !matches!(*word, "#" | "|" | "&&" | ";" | ">" | "<"))
        .filter(|word| *word != "\\")
        .map(|word| word.trim_matches(['\'', '"']).to_owned())
        .collect()
}

/// A source with the texts that are continued on the next line in one piece.
pub(super) fn joined(source: &str) -> String {
    let mut pieces = source.split("\\\n");
    let mut text = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        text.push_str(piece.trim_start());
    }
    text
}

/// Whether the source has a test function of this name.
pub(super) fn is_test(source: &str, name: &str) -> bool {
    let lines: Vec<_> = source.lines().map(str::trim).collect();
    lines.iter().enumerate().any(|(number, line)| {
        let declared = line
            .trim_start_matches("async ")
            .strip_prefix("fn ")
            .and_then(|rest| rest.strip_prefix(name))
            .is_some_and(|rest| rest.starts_with('('));
        declared
            && lines[..number]
                .iter()
                .rev()
                .take_while(|above| above.starts_with("#[") || above.starts_with("//"))
                .any(|above| above.contains("test"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_commands_and_headings_are_found() {
        let document = Document::read(
            "# Getting in\n\
             ## What it is: \"weir\"\n\
             See [the lab](../lab/lib.rs#top) and [`name`](a.rs), not [that](https://b.c).\n\
             Run `agent up --wait` or `agent.toml`.\n\
             ## Nothing\n\
             ### `it is gone`\n\
             Set `coordinator = \"x\"`.\n\
             ```sh\n\
             $ sudo coordinator routes list  # all\n\
             echo [no](link)\n\
             ```\n\
             ```jsonc\n\
             {\n\
             }\n\
             ```\n",
        );
        assert_eq!(document.links.len(), 2);
        assert_eq!(document.links[0].target, "../lab/lib.rs#top");
        assert_eq!(document.links[1].code(), Some("name"));
        assert_eq!(
            document.commands,
            ["agent up --wait", "coordinator routes list  # all"]
        );
        assert_eq!(document.code_headings, ["it is gone"]);
        assert_eq!(document.policies, ["{\n}\n"]);
        assert!(document.headings.contains("what-it-is-weir"));
        assert_eq!(document.sections_without_test(), ["Nothing"]);
    }

    #[test]
    fn words_end_at_a_comment_or_the_next_command() {
        assert_eq!(
            words("agent up --auth-key='file:/root/key' \\"),
            ["agent", "up", "--auth-key='file:/root/key"]
        );
        assert_eq!(words("agent status | less"), ["agent", "status"]);
        assert_eq!(words("agent status # now"), ["agent", "status"]);
    }

    #[test]
    fn continued_texts_are_put_together() {
        let source = "\"one \\\n      sentence\" and\n  more";
        assert_eq!(joined(source), "\"one sentence\" and\n  more");
    }

    #[test]
    fn only_tests_are_tests() {
        let source = "#[tokio::test]\nasync fn it_holds() {}\n\nfn helper() {}\n\
                      #[test]\n#[cfg(unix)]\nfn it_holds_too(\n) {}\n";
        assert!(is_test(source, "it_holds"));
        assert!(is_test(source, "it_holds_too"));
        assert!(!is_test(source, "helper"));
        assert!(!is_test(source, "it"));
    }
}
