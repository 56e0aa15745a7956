//! The whole story on this kernel: in the virtual machine with the kernel's WireGuard, on a host
//! without it with the userspace device. `weir-demo` tells the same story to a person.

use weir_tests::story::{CheckFailed, Quiet, Story};

#[test]
fn the_whole_story() {
    let mut story = Story::begin(&mut Quiet).unwrap_or_else(|error| panic!("{error:#}"));
    let reports = match story.play(&mut Quiet) {
        Ok(reports) => reports,
        Err(interrupted) => {
            let check = interrupted.reason.downcast_ref::<CheckFailed>();
            let what = if check.is_some() {
                "a check failed"
            } else {
                "the story broke off"
            };
            panic!("{what}: {interrupted}\n\n{}", interrupted.context);
        }
    };
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
    assert_eq!(reports.len(), 9, "every step was told");
    story.finish().unwrap_or_else(|error| panic!("{error:#}"));
}
