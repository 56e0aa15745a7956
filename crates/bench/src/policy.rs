//! Measures the policy compiler.

use crate::{
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
use weir_overlay::NodeId;
use weir_policy::{CompiledPolicy, Directory, Policy, changed_nodes, compile};

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
    yardsticks(&sample, size, &compiled, whole, &mut figures)?;
    edit(&sample, &compiled, &mut figures)?;
    change(&sample, size, &policy, &mut figures)?;
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

/// How often each change of one node is made.
const CHANGES: usize = 5;

/// Measures what one node's change costs: the policy is compiled anew for it, not parsed.
fn change(sample: &Sample, size: Size, policy: &Policy, figures: &mut Vec<Figure>) -> Result<()> {
    for (name, change) in CHANGES_OF_A_NODE {
        let mut times = Vec::new();
        for turn in 0..CHANGES {
            let mut directory = sample.directory.clone();
            change(&mut directory, size, turn)?;
            let start = Instant::now();
            black_box(compile(policy, &directory));
            times.push(start.elapsed());
        }
        times.sort_unstable();
        let at = |part: usize| {
            let last = times.len().saturating_sub(1);
            times.get(last * part / 100).copied().unwrap_or_default()
        };
        let what = |figure: &str| {
            format!("{name}: {figure} of {CHANGES} (compiles the whole policy anew)")
        };
        figures.push(Figure::time(what("median"), at(50)).below(2.0));
        figures.push(Figure::time(what("99th percentile"), at(99)).below(2.0));
    }
    Ok(())
}

type Step = fn(&mut Directory, Size, usize) -> Result<()>;

/// Changes of one node, another one in each turn.
const CHANGES_OF_A_NODE: [(&str, Step); 4] = [
    ("a node joins", |directory, size, turn| {
        let node = generate::device(size.nodes, turn * 7 % size.users);
        directory
            .nodes
            .insert(NodeId(generate::id(size.nodes)), node);
        Ok(())
    }),
    ("a node leaves", |directory, _, turn| {
        directory.nodes.remove(&NodeId(generate::id(turn * 11)));
        Ok(())
    }),
    ("a node's tags change", |directory, size, turn| {
        let id = NodeId(generate::id(size.nodes - 1 - turn));
        if let Some(node) = directory.nodes.get_mut(&id) {
            node.tags = [format!("tag:t{}", turn * 13 % size.tags).parse()?].into();
        }
        Ok(())
    }),
    ("a node's routes change", |directory, size, turn| {
        let id = NodeId(generate::id(size.nodes - 1 - turn));
        if let Some(node) = directory.nodes.get_mut(&id) {
            node.approved_routes = [format!("10.255.{turn}.0/24").parse()?].into();
        }
        Ok(())
    }),
];
