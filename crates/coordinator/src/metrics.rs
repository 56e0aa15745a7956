//! What the coordinator counts and measures, and how Prometheus reads it.
//!
//! No label holds a name, an address or anything else that somebody outside could make more of: the
//! number of series is fixed by this program.

use std::{
    fmt::Write,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// The content type of [`Text`] (Prometheus text format 0.0.4).
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Counts one.
    pub(crate) fn count(&self) {
        self.add(1);
    }

    /// Counts several.
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds of the buckets, in microseconds: a commit to a fast disk takes one millisecond,
/// compiling the policy of ten thousand nodes takes seconds.
const BOUNDS: [u64; 12] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000,
    30_000_000,
];

/// How long something took, how often.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    /// One for each bound, and one for what took longer than any.
    buckets: [Counter; BOUNDS.len() + 1],
    microseconds: Counter,
}

impl Histogram {
    /// Notes how long it took once.
    pub(crate) fn note(&self, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let place = BOUNDS.partition_point(|bound| *bound < took);
        if let Some(bucket) = self.buckets.get(place) {
            bucket.count();
        }
        self.microseconds.add(took);
    }
}

/// Why a signed request of a machine was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unsigned {
    /// No signature, or one that cannot be read.
    Malformed,
    /// The signature is not of this machine or not of this request.
    Wrong,
    /// Signed too long ago, or in the future.
    Clock,
    /// Accepted before.
    Replayed,
    /// There is no room to remember more.
    Full,
}

/// What is counted where requests are answered.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// Machines that joined.
    pub enrolments: Counter,
    /// Machines that asked to join and were refused.
    pub enrolments_refused: Counter,
    /// Bytes of network maps that were handed to the connections.
    pub stream_bytes: Counter,
    malformed: Counter,
    wrong: Counter,
    clock: Counter,
    replayed: Counter,
    full: Counter,
}

impl Metrics {
    /// Counts a request that was refused for its signature.
    pub(crate) fn refused(&self, why: Unsigned) {
        match why {
            Unsigned::Malformed => self.malformed.count(),
            Unsigned::Wrong => self.wrong.count(),
            Unsigned::Clock => self.clock.count(),
            Unsigned::Replayed => self.replayed.count(),
            Unsigned::Full => self.full.count(),
        }
    }

    /// Writes all of it.
    pub(crate) fn write(&self, text: &mut Text) {
        text.counter(
            "weir_enrolments_total",
            "Machines that asked to join.",
            &[
                ("result=\"joined\"", &self.enrolments),
                ("result=\"refused\"", &self.enrolments_refused),
            ],
        );
        text.counter(
            "weir_signature_failures_total",
            "Requests of machines that were refused for their signature.",
            &[
                ("reason=\"malformed\"", &self.malformed),
                ("reason=\"wrong\"", &self.wrong),
                ("reason=\"clock\"", &self.clock),
                ("reason=\"full\"", &self.full),
            ],
        );
        text.counter(
            "weir_replays_refused_total",
            "Signed requests that had been accepted before.",
            &[("", &self.replayed)],
        );
        text.counter(
            "weir_stream_bytes_total",
            "Bytes of network maps handed to the connections of agents.",
            &[("", &self.stream_bytes)],
        );
    }
}

/// What is measured of the database.
#[derive(Debug, Default)]
pub(crate) struct StoreFigures {
    /// Beginning to read: how long a connection was waited for.
    pub begin: Histogram,
    /// Beginning to change: how long the turn was waited for.
    pub turn: Histogram,
    /// From there to the end of the commit.
    pub change: Histogram,
}

impl StoreFigures {
    /// Writes all of it.
    pub(crate) fn write(&self, text: &mut Text) {
        text.histogram(
            "weir_store_seconds",
            "How long the database took: to begin reading, to get the turn for a change, and from \
             there until the change was durable.",
            &[
                ("step=\"begin\"", &self.begin),
                ("step=\"turn\"", &self.turn),
                ("step=\"change\"", &self.change),
            ],
        );
    }
}

/// What is measured of the network that maps are made of.
#[derive(Debug, Default)]
pub(crate) struct NetworkFigures {
    /// Changes that it was brought up to.
    pub changes: Counter,
    /// Compiling another policy.
    pub policy: Histogram,
    /// Any other changes.
    pub other: Histogram,
}

impl NetworkFigures {
    /// Writes all of it.
    pub(crate) fn write(&self, text: &mut Text) {
        text.counter(
            "weir_network_changes_total",
            "Changes of nodes, users, routes and the policy that were put in force.",
            &[("", &self.changes)],
        );
        text.histogram(
            "weir_policy_compile_seconds",
            "How long it took to compile a policy for the whole network.",
            &[("", &self.policy)],
        );
        text.histogram(
            "weir_network_update_seconds",
            "How long it took to put other changes in force.",
            &[("", &self.other)],
        );
    }
}

/// Metrics in the text format.
#[derive(Debug, Default)]
pub(crate) struct Text(String);

impl Text {
    /// A number that grows and falls.
    pub(crate) fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, help, "gauge");
        self.sample(name, "", value);
    }

    /// Counters of one name, each with its label, as it is written between the braces.
    pub(crate) fn counter(&mut self, name: &str, help: &str, of: &[(&str, &Counter)]) {
        self.head(name, help, "counter");
        for (label, counter) in of {
            self.sample(name, label, counter.get());
        }
    }

    /// Histograms of one name, each with its label.
    pub(crate) fn histogram(&mut self, name: &str, help: &str, of: &[(&str, &Histogram)]) {
        self.head(name, help, "histogram");
        for (label, histogram) in of {
            let comma = if label.is_empty() { "" } else { "," };
            let mut below = 0;
            let bounds = BOUNDS.iter().map(|bound| seconds(*bound));
            let bounds = bounds.chain(["+Inf".to_owned()]);
            for (bound, bucket) in bounds.zip(&histogram.buckets) {
                below += bucket.get();
                let label = format!("{label}{comma}le=\"{bound}\"");
                self.sample(&format!("{name}_bucket"), &label, below);
            }
            let sum = seconds(histogram.microseconds.get());
            self.sample(&format!("{name}_sum"), label, sum);
            self.sample(&format!("{name}_count"), label, below);
        }
    }

    fn head(&mut self, name: &str, help: &str, kind: &str) {
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    fn sample(&mut self, name: &str, label: &str, value: impl std::fmt::Display) {
        if label.is_empty() {
            self.line(format_args!("{name} {value}"));
        } else {
            self.line(format_args!("{name}{{{label}}} {value}"));
        }
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        writeln!(self.0, "{line}").ok();
    }

    /// The text.
    pub(crate) fn into_string(self) -> String {
        self.0
    }
}

/// Microseconds as seconds, exactly.
fn seconds(microseconds: u64) -> String {
    let text = format!(
        "{}.{:06}",
        microseconds / 1_000_000,
        microseconds % 1_000_000
    );
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_what_took_no_longer_than_each_bound() {
        let histogram = Histogram::default();
        for micros in [0, 500, 501, 60_000_000] {
            histogram.note(Duration::from_micros(micros));
        }
        let mut text = Text::default();
        text.histogram("took", "How long.", &[("what=\"a\"", &histogram)]);
        let text = text.into_string();
        for line in [
            "# TYPE took histogram",
            "took_bucket{what=\"a\",le=\"0.0005\"} 2",
            "took_bucket{what=\"a\",le=\"0.001\"} 3",
            "took_bucket{what=\"a\",le=\"30\"} 3",
            "took_bucket{what=\"a\",le=\"+Inf\"} 4",
            "took_sum{what=\"a\"} 60.001001",
            "took_count{what=\"a\"} 4",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn what_was_refused_is_counted_by_its_reason() {
        let metrics = Metrics::default();
        metrics.refused(Unsigned::Clock);
        metrics.refused(Unsigned::Replayed);
        metrics.refused(Unsigned::Replayed);
        let mut text = Text::default();
        metrics.write(&mut text);
        let text = text.into_string();
        assert!(
            text.contains("weir_signature_failures_total{reason=\"clock\"} 1\n"),
            "{text}"
        );
        assert!(
            text.contains("weir_signature_failures_total{reason=\"wrong\"} 0\n"),
            "{text}"
        );
        assert!(text.contains("weir_replays_refused_total 2\n"), "{text}");
    }
}
