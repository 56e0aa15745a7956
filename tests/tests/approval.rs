//! Joining without an auth key: an admin lets the machine in, on the command line or on a page.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde::Deserialize;
use weir_lab::{patient, wait_until};
use weir_tests::{Approval, Coordinator, Outpost};

const SOON: Duration = Duration::from_secs(20);
/// Long enough for the coordinator to answer that the host is to wait.
const IMPATIENT: Duration = Duration::from_secs(4);

#[derive(Deserialize)]
struct Pin {
    pin: String,
}

#[derive(Deserialize)]
struct CreatedUser {
    password: String,
}

/// A host whose daemon runs, and the flags with which it asks to be let in.
fn outpost() -> Result<(Outpost, String)> {
    let mut outpost = Outpost::new()?;
    outpost.host.start()?;
    let coordinator = outpost.coordinator().machine();
    let status = coordinator.must("coordinator status --json")?;
    let Pin { pin } = serde_json::from_str(&status.stdout)?;
    let flags = format!("--coordinator={} --pin={pin}", Coordinator::url());
    Ok((outpost, flags))
}

/// Waits until the host waits for an admin, and gives what its status says.
fn waiting(outpost: &Outpost) -> Result<Approval> {
    let waits = |approval: &Approval| approval.state == "waiting" && !approval.url.is_empty();
    let status = outpost
        .host
        .wait_for_status("the host to wait for an admin", SOON, |status| {
            status.approval.as_ref().is_some_and(waits)
        })?;
    status.approval.context("it does not wait")
}

fn is_up(outpost: &Outpost) -> Result<()> {
    let up = outpost
        .host
        .wait_for_status("the host to be up", SOON, |status| status.state == "up")?;
    ensure!(up.approval.is_none(), "{:?}", up.approval);
    outpost.host.settled().map(drop)
}

/// With HTTP/1.1 the report of the first map would have had a connection of its own, for ten seconds
/// more. Who is slow cannot tell.
fn speaks_on_one_connection(outpost: &Outpost) -> Result<()> {
    if patient(SOON) > SOON {
        return Ok(());
    }
    let node = outpost.host.machine().node();
    wait_until("one connection to be left", Duration::from_secs(5), || {
        let connections = node.run(["ss", "-Htn", "state", "established"])?;
        Ok(connections.stdout.lines().count() == 1)
    })?;
    Ok(())
}

#[test]
fn a_machine_is_let_in_on_the_command_line() -> Result<()> {
    let (outpost, flags) = outpost()?;
    let admin = outpost.coordinator().machine();
    outpost.coordinator().create_user("carol@example.com")?;
    let before = outpost.look()?;
    let command = format!("agent up {flags}");
    let node = outpost.host.machine().node();
    let typed = node.spawn(command.split_whitespace())?;
    let asked = waiting(&outpost)?;
    typed.wait_for_log(&asked.url, patient(SOON))?;
    let difference = before.difference(&outpost.look()?);
    ensure!(difference.is_none(), "the host was changed: {difference:?}");
    let pending = admin.must("coordinator nodes pending")?.stdout;
    ensure!(pending.contains(&asked.fingerprint), "{pending}");

    admin.must(&format!(
        "coordinator nodes approve {} --user carol@example.com",
        asked.url
    ))?;
    let ended = typed.wait(patient(SOON))?;
    let said = typed.log()?;
    ensure!(ended.success(), "{ended}: {said}");
    ensure!(said.contains("Up as host-"), "{said}");
    is_up(&outpost)?;
    speaks_on_one_connection(&outpost)?;
    let node = outpost.host.status()?.node.context("it is no node")?;
    let nodes = admin.must(&format!("coordinator nodes show {}", node.name))?;
    ensure!(
        nodes.stdout.contains("carol@example.com"),
        "{}",
        nodes.stdout
    );
    outpost.finish()
}

#[test]
fn a_machine_is_let_in_on_the_page_while_nobody_looks_at_it() -> Result<()> {
    let (mut outpost, flags) = outpost()?;
    let admin = outpost.coordinator().machine();
    let created = "coordinator users create dora@example.com --admin --json";
    // Not through the transcript: the password would be in it.
    let created = admin.node().run(created.split_whitespace())?;
    let CreatedUser { password } = serde_json::from_str(&created.stdout)?;
    let seconds = patient(IMPATIENT).as_secs();
    let impatient = format!("agent up {flags} --timeout={seconds}");
    let impatient = outpost.host.machine().type_in(&impatient)?;
    ensure!(!impatient.success(), "{}", impatient.text());
    ensure!(
        impatient.stderr.contains("the daemon waits on"),
        "{}",
        impatient.text()
    );
    let asked = waiting(&outpost)?;
    outpost.host.stop(Signal::SIGTERM)?;
    outpost.host.start()?;
    let again = waiting(&outpost)?;
    ensure!(again.url == asked.url, "{} and {}", again.url, asked.url);

    let code = asked.url.rsplit('/').next().context("it has no code")?;
    let page = format!("{}/register/{code}", Coordinator::url());
    let node = outpost.host.machine().node();
    let curl = ["curl", "--silent", "--insecure", "--max-time", "60"];
    let shown = node.run(curl.into_iter().chain([page.as_str()]))?.stdout;
    ensure!(shown.contains(&asked.fingerprint), "{shown}");
    let decide = |password: &str| {
        let fields = [
            "name=dora@example.com".to_owned(),
            format!("password={password}"),
            "tags=tag:relay".to_owned(),
            "decision=approve".to_owned(),
        ];
        let fields = fields
            .into_iter()
            .flat_map(|field| ["--data-urlencode".to_owned(), field]);
        let words = curl.map(str::to_owned).into_iter().chain(fields);
        node.run(words.chain([page.clone()]))
    };
    let wrong = decide("no password at all")?.stdout;
    ensure!(wrong.contains("wrong"), "{wrong}");
    ensure!(outpost.host.status()?.state == "down", "without a password");
    let done = decide(&password)?.stdout;
    ensure!(done.contains("Approved"), "{done}");
    is_up(&outpost)?;
    outpost.finish()
}

#[test]
fn a_machine_that_is_denied_stays_out_and_says_so() -> Result<()> {
    let (outpost, flags) = outpost()?;
    let before = outpost.look()?;
    let command = format!("agent up {flags}");
    let node = outpost.host.machine().node();
    let typed = node.spawn(command.split_whitespace())?;
    let asked = waiting(&outpost)?;
    let admin = outpost.coordinator().machine();
    admin.must(&format!("coordinator nodes deny {}", asked.url))?;
    let ended = typed.wait(patient(SOON))?;
    let said = typed.log()?;
    ensure!(!ended.success(), "{said}");
    ensure!(said.contains("an admin denied this machine"), "{said}");
    outpost.refuses(&flags, &["an admin denied this machine", "--auth-key"])?;
    let difference = before.difference(&outpost.look()?);
    ensure!(difference.is_none(), "the host was changed: {difference:?}");
    // With a key it need not ask.
    let key = outpost.key()?;
    let joining = outpost.joining_with(&key)?;
    outpost.host.up(&joining)?;
    outpost.finish()
}
