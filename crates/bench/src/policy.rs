//! Measures the policy compiler.

use crate::{
    change,
    generate::{self, Sample, Size},
    report::{self, Figure, Report, milliseconds},
    yardstick::{Ends, Yardstick, entries},
};
use anyhow::{Result, bail};
use clap::{Args, value_parser};
use std::{
    borrow::Cow,
    hint::black_box,
    time::{Duration, Instant},
};
use weir_policy::{CompiledPolicy, Policy, changed_nodes, compile};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Nodes of the network; four of five are users' devices
    #[arg(long, default_value_t = 10_000, value_parser = value_parser!(u32).range(100..=1_000_000))]
    nodes: u32,
    /// Users
    #[arg(long, default_value_t = 2_000, value_parser = value_parser!(u32).range(1..))]
    users: u32,
    /// Groups of users
    #[arg(long, default_value_t = 200, value_parser = value_parser!(u32).range(1..))]
    groups: u32,
    /// Tags
    #[arg(long, default_value_t = 300, value_parser = value_parser!(u32).range(1..))]
    tags: u32,
    /// Subnet routes
    #[arg(long, default_value_t = 500, value_parser = value_parser!(u32).range(1..=60_000))]
    routes: u32,
    /// Rules of the policy
    #[arg(long, default_value_t = 15_000, value_parser = value_parser!(u32).range(1..))]
    rules: u32,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// How many nodes' filters the yardstick makes: enough of them take some seconds.
const SLOW: usize = 2;
const FAST: usize = 100;

pub(crate) fn run(options: &Options) -> Result<()> {
    let count = |number: u32| usize::try_from(number);
    let size = Size {
        nodes: count(options.nodes)?,
        users: count(options.users)?,
        groups: count(options.groups)?,
        tags: count(options.tags)?,
        routes: count(options.routes)?,
        rules: count(options.rules)?,
    };
    let sample = generate::sample(size)?;
    let text = sample.text()?;
    let mut figures = Vec::new();

    let worked = report::processor_time()?;
    let start = Instant::now();
    let policy = parse(&text)?;
    let parsed = start.elapsed();
    let compiled = compile(&policy, &sample.directory);
    let resolved = start.elapsed();
    let mut grants = 0;
    for node in sample.directory.nodes.keys() {
        grants += black_box(compiled.filter(*node)).len();
    }
    let whole = start.elapsed();
    let work = report::processor_time()?.saturating_sub(worked);
    let memory = report::peak_memory()?;

    figures.push(
        Figure::time(
            format!(
                "parse {} rules in {} KiB, compile them for {} nodes, make every node's filter \
                 ({grants} grants)",
                size.rules,
                text.len() / 1024,
                size.nodes
            ),
            whole,
        )
        .below(2000.0),
    );
    figures.push(Figure::time("of this: parse", parsed));
    figures.push(Figure::time("of this: compile", resolved - parsed));
    figures.push(Figure::time("of this: filters", whole - resolved));
    figures.push(Figure::time("the same in processor time alone", work).below(2000.0));
    yardsticks(&sample, size, &compiled, whole, &mut figures)?;
    edit(&sample, &compiled, &mut figures)?;
    change::measure(&sample, size, policy, &mut figures)?;
    figures.push(
        Figure::new(
            "peak memory of all that, the generated network included",
            memory,
            "MiB",
        )
        .below(1024.0),
    );
    let report = Report {
        name: "policy",
        machine: report::machine(),
        figures,
    };
    report.print(options.json)
}

fn parse(text: &str) -> Result<Policy> {
    match Policy::parse(text) {
        Ok(policy) => Ok(policy),
        Err(found) => {
            let first = found.first().map(ToString::to_string).unwrap_or_default();
            bail!("the generated policy is refused: {first}")
        }
    }
}

/// Measures the straightforward compiler, on some nodes spread over all, and checks that both
/// compilers agree on them.
fn yardsticks(
    sample: &Sample,
    size: Size,
    compiled: &CompiledPolicy,
    whole: Duration,
    figures: &mut Vec<Figure>,
) -> Result<()> {
    let yardstick = Yardstick::of(sample, size.tags)?;
    let some = |count: usize| {
        let nodes = sample.directory.nodes.iter();
        nodes.step_by((size.nodes / count).max(1)).take(count)
    };
    let scale = |time: Duration, count: usize| {
        milliseconds(time) * milliseconds(Duration::from_millis(generate::id(size.nodes)))
            / milliseconds(Duration::from_millis(generate::id(count)))
    };

    let start = Instant::now();
    for (_, node) in some(SLOW) {
        black_box(yardstick.filter(node, |_, rule| Cow::Owned(yardstick.ends(rule))));
    }
    let slow = scale(start.elapsed(), SLOW);

    let start = Instant::now();
    let ends: Vec<Ends> = sample
        .rules
        .iter()
        .map(|rule| yardstick.ends(rule))
        .collect();
    let once = milliseconds(start.elapsed());
    let known = |number: usize, rule: &generate::Meant| match ends.get(number) {
        Some(ends) => Cow::Borrowed(ends),
        None => Cow::Owned(yardstick.ends(rule)),
    };
    let start = Instant::now();
    for (_, node) in some(FAST) {
        black_box(yardstick.filter(node, known));
    }
    let fast = once + scale(start.elapsed(), FAST);

    for (id, node) in some(FAST) {
        if yardstick.filter(node, known) != entries(&compiled.filter(*id)) {
            bail!("the compilers disagree about the filter of node {id}");
        }
    }
    let ours = |what: String| Figure::time(what, whole);
    figures.push(
        ours(format!(
            "the same against the straightforward compiler: each node asks every rule, each rule \
             asks every node (measured for {SLOW} nodes and scaled)"
        ))
        .against(slow, 50.0),
    );
    figures.push(
        ours(format!(
            "the same against a straightforward compiler that resolves each rule once, and then \
             asks every rule for every node (measured for {FAST} nodes and scaled; the filters are \
             the same)"
        ))
        .against(fast, 50.0),
    );
    Ok(())
}

/// Measures what a changed line costs: from the text to the nodes that have to be told.
fn edit(sample: &Sample, old: &CompiledPolicy, figures: &mut Vec<Figure>) -> Result<()> {
    let mut rules = sample.rules.clone();
    let middle = rules.len() / 2;
    if let Some(rule) = rules.get_mut(middle) {
        rule.port = 65_000;
    }
    let text = sample.with_rules(rules).text()?;
    let start = Instant::now();
    let policy = parse(&text)?;
    let new = compile(&policy, &sample.directory);
    let compiled = start.elapsed();
    let changed = changed_nodes(old, &new);
    let whole = start.elapsed();
    figures.push(Figure::time(
        format!(
            "one line of the policy changed, from its text to the {} nodes that have to be told",
            changed.len()
        ),
        whole,
    ));
    figures.push(Figure::time("of this: finding the nodes", whole - compiled));
    Ok(())
}
