//! The whole story on this kernel: in the virtual machine with the kernel's WireGuard, on a host
//! without it with the userspace device. `weir-demo` tells the same story to a person.

use anyhow::{Result, anyhow, ensure};
use weir_tests::story::{CheckFailed, Interrupted, Quiet, Story};

#[test]
fn the_whole_story() -> Result<()> {
    let mut story = Story::begin(&mut Quiet)?;
    let told = story.play(&mut Quiet);
    // Asked in any case: an error that was logged may be why a check failed.
    let logs = story.finish();
    let reports = told.map_err(|interrupted| explained(&interrupted, logs.as_ref().err()))?;
    logs?;
    println!("WireGuard: {}", story.world().expected_backend);
    for report in &reports {
        println!(
            "{} {} ({} checks, {:.1} s)",
            report.number,
            report.title,
            report.checks.len(),
            report.elapsed.as_secs_f64()
        );
        for figure in &report.figures {
            println!("    {}: {}", figure.name, figure.value);
        }
    }
    ensure!(reports.len() == 9, "{} of 9 steps were told", reports.len());
    Ok(())
}

fn explained(interrupted: &Interrupted, logs: Option<&anyhow::Error>) -> anyhow::Error {
    let what = match interrupted.reason.downcast_ref::<CheckFailed>() {
        Some(_) => "a check failed",
        None => "the story broke off",
    };
    let logs = logs.map_or_else(String::new, |error| format!("{error:#}\n\n"));
    anyhow!("{what}: {interrupted}\n\n{logs}{}", interrupted.context)
}
