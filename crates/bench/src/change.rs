//! Measures what one node's change costs.

use crate::{
    generate::{self, Sample, Size},
    report::{self, Figure},
};
use anyhow::{Result, ensure};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use weir_overlay::NodeId;
use weir_policy::{
    CompiledPolicy, Directory, LivePolicy, Policy, PolicyNode, changed_nodes, compile,
};

/// How often each kind of change is made.
const CHANGES: usize = 100;

/// Measures each kind of change, every time for another node, which is as it was again before the
/// next. Checks that what results is what compiling anew gives.
pub(crate) fn measure(
    sample: &Sample,
    size: Size,
    policy: Policy,
    figures: &mut Vec<Figure>,
) -> Result<()> {
    let mut live = LivePolicy::new(Arc::new(policy), sample.directory.clone());
    for (name, change) in KINDS {
        check(&mut live, size, name, change)?;
        let mut times = Vec::with_capacity(CHANGES);
        let mut work = Vec::with_capacity(CHANGES);
        let mut touched = 0;
        for turn in 0..CHANGES {
            let (id, node) = change(live.directory(), size, turn)?;
            let before = live.directory().nodes.get(&id).cloned();
            let worked = report::processor_time()?;
            let start = Instant::now();
            touched += live.set_node(id, node).len();
            times.push(start.elapsed());
            work.push(report::processor_time()?.saturating_sub(worked));
            live.set_node(id, before);
        }
        times.sort_unstable();
        work.sort_unstable();
        let told = touched / CHANGES;
        figures.push(
            Figure::time(
                format!(
                    "{name}, to the list of nodes that have to be told ({told} on average): median \
                     of {CHANGES}"
                ),
                part(&times, 50),
            )
            .below(2.0),
        );
        let what = format!("{name}: 99th percentile");
        figures.push(Figure::time(what, part(&times, 99)).below(2.0));
        let what = format!("{name}: 99th percentile of the processor time alone");
        figures.push(Figure::time(what, part(&work, 99)).below(2.0));
    }
    let anew = compile(live.policy(), live.directory());
    same(
        live.compiled(),
        &anew,
        live.directory(),
        "all changes were taken back",
    )
}

fn part(sorted: &[Duration], percent: usize) -> Duration {
    let last = sorted.len().saturating_sub(1);
    sorted
        .get(last * percent / 100)
        .copied()
        .unwrap_or_default()
}

/// Makes one change and compares with compiling anew.
fn check(live: &mut LivePolicy, size: Size, name: &str, change: Change) -> Result<()> {
    let old = live.compiled().clone();
    let (id, node) = change(live.directory(), size, 0)?;
    let before = live.directory().nodes.get(&id).cloned();
    let touched = live.set_node(id, node);
    let new = compile(live.policy(), live.directory());
    same(live.compiled(), &new, live.directory(), name)?;
    ensure!(
        touched.is_superset(&changed_nodes(&old, &new)),
        "{name}: a node whose answers differ is not named"
    );
    live.set_node(id, before);
    Ok(())
}

fn same(
    one: &CompiledPolicy,
    other: &CompiledPolicy,
    directory: &Directory,
    after: &str,
) -> Result<()> {
    for id in directory.nodes.keys() {
        ensure!(
            one.filter(*id) == other.filter(*id)
                && one.peers(*id) == other.peers(*id)
                && one.ways(*id) == other.ways(*id)
                && one.heard_routes(*id) == other.heard_routes(*id),
            "after {after}: node {id} is told something else than by a policy that is compiled anew"
        );
    }
    Ok(())
}

/// Which node becomes what.
type Change = fn(&Directory, Size, usize) -> Result<(NodeId, Option<PolicyNode>)>;

const KINDS: [(&str, Change); 4] = [
    ("a node joins", |_, size, turn| {
        let node = generate::device(size.nodes, turn * 7 % size.users);
        Ok((NodeId(generate::id(size.nodes)), Some(node)))
    }),
    ("a node leaves", |_, size, turn| {
        Ok((NodeId(generate::id(turn * 97 % size.nodes)), None))
    }),
    ("a node's tags change", |directory, size, turn| {
        let servers = (size.nodes / 5).max(1);
        let id = NodeId(generate::id(size.nodes - servers + turn * 7 % servers));
        let tags = [format!("tag:t{}", turn * 13 % size.tags).parse()?].into();
        let node = directory.nodes.get(&id).cloned();
        Ok((id, node.map(|node| PolicyNode { tags, ..node })))
    }),
    ("a relay's routes change", |directory, size, turn| {
        let relays = (size.nodes / 20).max(1);
        let first = size.nodes - size.nodes / 5;
        let id = NodeId(generate::id(first + turn * 7 % relays));
        let mut node = directory.nodes.get(&id).cloned();
        if let Some(node) = &mut node {
            let subnets = node.approved_routes.iter();
            let given_up = subnets.copied().find(|route| route.prefix_len() > 0);
            node.approved_routes
                .retain(|route| Some(*route) != given_up);
            node.approved_routes
                .insert(format!("10.255.{turn}.0/24").parse()?);
        }
        Ok((id, node))
    }),
];
