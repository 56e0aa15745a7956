//! Measures the firewall on the kernel of this host: what a packet costs, and what a change costs.

mod lane;
mod load;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::{Args, value_parser};
use weir_kernel_plan::firewall::{ObservedFirewall, Table, change};
use weir_overlay::InterfaceName;

use crate::report::{self, Figure, Report, milliseconds};
use lane::{Lane, frames};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Numbers of grants, the greatest last
    #[arg(long, value_delimiter = ',', default_values_t = [10, 1_000, 10_000, 100_000],
          value_parser = value_parser!(u32).range(1..=500_000))]
    grants: Vec<u32>,
    /// Numbers of grants for one rule per grant; more take long to load
    #[arg(long, value_delimiter = ',', default_values_t = [10, 1_000, 10_000],
          value_parser = value_parser!(u32).range(1..=100_000))]
    naive: Vec<u32>,
    /// Rounds; each measures every ruleset once, and ratios are taken within a round
    #[arg(long, default_value_t = 15, value_parser = value_parser!(u32).range(1..))]
    rounds: u32,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// Flows of a flood of established ones.
const FLOWS: u32 = 500;
/// How often each of them sends a packet, in a round.
const TIMES: usize = 200;
/// Flows that begin in a round.
const NEW_FLOWS: u32 = 20_000;
/// How often loads and differences are measured.
const LOADS: usize = 5;
const CHANGES: u32 = 20;

pub(crate) fn run(options: &Options) -> Result<()> {
    let most = *options.grants.last().context("no number of grants")?;
    let link: InterfaceName = "weir0".parse()?;
    let mut lanes = vec![(Lane::new(0, "an empty accept chain")?, most)];
    for (lane, _) in &lanes {
        lane.nft("-f -", &load::empty())?;
    }
    for grants in &options.grants {
        let lane = Lane::new(lanes.len(), format!("{grants} grants"))?;
        let document = change(&load::firewall(*grants)?, &link, None, None)
            .last
            .document;
        lane.nft("-j -f -", &document)?;
        lanes.push((lane, *grants));
    }
    for grants in &options.naive {
        let lane = Lane::new(lanes.len(), format!("{grants} rules, one per grant"))?;
        lane.nft("-f -", &load::naive(*grants)?)?;
        lanes.push((lane, *grants));
    }
    let mut figures = forwarding(&lanes, options)?;
    let relay = lanes
        .iter()
        .find(|(lane, grants)| *grants == most && lane.name.ends_with("grants"));
    let (relay, _) = relay.context("no relay with the most grants")?;
    loads(relay, most, &link, &mut figures)?;
    changes(relay, most, &link, &mut figures)?;
    let report = Report {
        name: "firewall",
        machine: report::machine(),
        figures,
    };
    report.print(options.json)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Rates of every lane, in rounds; ratios to the first lane of the same round.
fn forwarding(lanes: &[(Lane, u32)], options: &Options) -> Result<Vec<Figure>> {
    let most = options.grants.last().copied();
    let mut figures = Vec::new();
    for (kind, aim) in [("established", 0.9), ("new", 0.7)] {
        let mut rates: Vec<Vec<f64>> = vec![Vec::new(); lanes.len()];
        if kind == "established" {
            for (lane, grants) in lanes {
                lane.establish(&load::flows(*grants, FLOWS.min(*grants), 0)?)?;
            }
        }
        for round in 0..options.rounds {
            for ((lane, grants), rates) in lanes.iter().zip(&mut rates) {
                let burst = if kind == "established" {
                    let flows = load::flows(*grants, FLOWS.min(*grants), 0)?;
                    let times = TIMES * usize::try_from(FLOWS)? / flows.len().max(1);
                    lane.flood(&frames(&flows), times)?
                } else {
                    lane.forget_flows()?;
                    let flows = load::flows(*grants, NEW_FLOWS, round)?;
                    lane.flood(&frames(&flows), 1)?
                };
                if burst.arrived == 0 {
                    bail!("{}: not one packet of {kind} flows arrived", lane.name);
                }
                rates.push(burst.rate());
            }
        }
        let bare = rates.first().cloned().unwrap_or_default();
        for ((lane, grants), rates) in lanes.iter().zip(&rates).skip(1) {
            let ratios = rates.iter().zip(&bare).map(|(rate, bare)| rate / bare);
            let ratio = median(ratios.collect());
            let ours = lane.name.ends_with("grants");
            let aimed = ours && Some(*grants) == most;
            figures.push(Figure {
                yardstick: Some(median(bare.clone())),
                ratio: Some(ratio),
                aim: aimed.then(|| format!(">= {aim} of the empty chain")),
                met: aimed.then_some(ratio >= aim),
                ..Figure::new(
                    format!(
                        "packets of {kind} flows forwarded with {}, against an empty accept chain \
                         (both translate the source; medians of {} rounds)",
                        lane.name, options.rounds
                    ),
                    median(rates.clone()),
                    "pps",
                )
            });
        }
    }
    Ok(figures)
}

/// The time to load everything, against nft's own text of the same.
fn loads(relay: &Lane, grants: u32, link: &InterfaceName, figures: &mut Vec<Figure>) -> Result<()> {
    let desired = load::firewall(grants)?;
    let start = Instant::now();
    let whole = change(&desired, link, None, None);
    let compiled = start.elapsed();
    let (text, _) = relay.nft("list table inet weir", "")?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..LOADS {
        relay.nft("flush ruleset", "")?;
        theirs.push(milliseconds(relay.nft("-f -", &text)?.1));
        relay.nft("flush ruleset", "")?;
        ours.push(milliseconds(relay.nft("-j -f -", &whole.last.document)?.1));
    }
    let ratio = median(
        ours.iter()
            .zip(&theirs)
            .map(|(ours, theirs)| ours / theirs)
            .collect(),
    );
    figures.push(Figure {
        yardstick: Some(median(theirs)),
        ratio: Some(ratio),
        aim: Some("<= 1.3 of nft -f".to_owned()),
        met: Some(ratio <= 1.3),
        ..Figure::new(
            format!(
                "load {grants} grants ({} set elements), against nft -f of the same as text",
                whole.elements
            ),
            median(ours),
            "ms",
        )
    });
    figures.push(Figure::time(
        format!("compile {grants} grants and write the transaction"),
        compiled,
    ));
    Ok(())
}

fn stamped(table: &Table) -> ObservedFirewall {
    ObservedFirewall {
        fingerprint: Some(table.fingerprint().to_owned()),
        generation: table.generation(),
        ..ObservedFirewall::default()
    }
}

/// The time to add a grant and to take it away, with all the others there.
fn changes(
    relay: &Lane,
    grants: u32,
    link: &InterfaceName,
    figures: &mut Vec<Figure>,
) -> Result<()> {
    let without = load::firewall(grants)?;
    let mut with = without.clone();
    with.grants.push(load::grant(grants)?);
    let mut table = change(&without, link, None, None).last.table;
    let (mut added, mut taken, mut idle) = (Vec::new(), Vec::new(), Vec::new());
    let mut compiled: Vec<f64> = Vec::new();
    for _ in 0..CHANGES {
        for (next, times) in [(&with, &mut added), (&without, &mut taken)] {
            let start = Instant::now();
            let change = change(next, link, Some(&stamped(&table)), Some(&table));
            compiled.push(milliseconds(start.elapsed()));
            if let Some(reason) = change.full {
                bail!("one grant is a whole load: {reason}");
            }
            let mut took = 0.0;
            for document in change.documents() {
                took += milliseconds(relay.nft("-j -f -", document)?.1);
            }
            times.push(took);
            idle.push(milliseconds(relay.nft("list tables", "")?.1));
            table = change.last.table;
        }
    }
    let figure = |what: &str, times: Vec<f64>| {
        Figure::new(
            format!("{what} {grants}: its transaction"),
            median(times),
            "ms",
        )
        .below(10.0)
    };
    figures.push(figure("one grant more beside", added));
    figures.push(figure("one grant less of", taken));
    figures.push(Figure::time(
        format!("find what one grant changes among {grants}"),
        Duration::from_secs_f64(median(compiled) / 1000.0),
    ));
    Ok(())
}
