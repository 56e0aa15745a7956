//! Who listens to the story.

use weir_lab::Output;

use super::Check;

/// What a step is called. Number 0 is the preparation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heading {
    /// Its number, from 1.
    pub number: usize,
    /// Its title.
    pub title: &'static str,
}

impl Heading {
    /// What comes before the first step.
    #[must_use]
    pub const fn prologue() -> Self {
        Self {
            number: 0,
            title: "A small internet",
        }
    }
}

/// Listens to the story while it happens.
pub trait Narrator {
    /// A step begins.
    fn begin(&mut self, heading: &Heading);

    /// A sentence or two of explanation.
    fn say(&mut self, text: &str);

    /// Somebody typed a command at a machine.
    fn typed(&mut self, place: &str, command: &str, output: &Output);

    /// Something worth knowing was observed.
    fn fact(&mut self, name: &str, value: &str);

    /// Something was checked.
    fn check(&mut self, check: &Check);

    /// The story waits for something.
    fn waiting(&mut self, what: &str);
}

/// Listens and says nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quiet;

impl Narrator for Quiet {
    fn begin(&mut self, _heading: &Heading) {}
    fn say(&mut self, _text: &str) {}
    fn typed(&mut self, _place: &str, _command: &str, _output: &Output) {}
    fn fact(&mut self, _name: &str, _value: &str) {}
    fn check(&mut self, _check: &Check) {}
    fn waiting(&mut self, _what: &str) {}
}
