//! What each command does: ask the daemon, show the answer.

use anyhow::{Context, Result, anyhow, bail};
use clap::CommandFactory;
use serde::Serialize;
use std::{
    path::Path,
    process::ExitCode,
    time::{Duration, Instant, SystemTime},
};

use weir_diagnosis::{Check, Outcome, Remedy, Target};

use crate::{
    cli::{self, Cli, Command, DownArgs, ExplainArgs, JoinArgs, LogoutArgs, SetArgs, UpArgs},
    client::ask,
    control::{
        ApprovalState, ExplainRequest, NodeState, Request, Response, StatusReport, UpReport,
        UpRequest, any_awaits_approval,
    },
    daemon, debug, manual, output,
    secret::SecretText,
    settings::Change,
    tools,
};

/// How long the daemon may take over its own deadline: for the pass over the kernel, and for
/// taking things back.
const GRACE: Duration = Duration::from_secs(210);
const SHOW_DEADLINE: Duration = Duration::from_secs(15);
/// Looking at other programs' firewalls runs nft and iptables once a table.
const EXPLAIN_DEADLINE: Duration = Duration::from_secs(180);
/// How often `--wait` looks.
const WAIT_INTERVAL: Duration = Duration::from_millis(250);

/// Carries a command out.
///
/// # Errors
/// What went wrong, for [`output::complain`].
pub(crate) fn run(cli: Cli) -> Result<ExitCode> {
    let socket = cli.socket;
    match cli.command {
        Command::Up(args) => up(&socket, args),
        Command::Set(args) => set(&socket, args),
        Command::Down(args) => down(&socket, &args),
        Command::Status(args) => {
            let report = status(&socket)?;
            show(&report, args.json, |report| output::status(report, now()))?;
            let well = report.state == NodeState::Up && report.failures.is_empty();
            Ok(exit(well))
        }
        Command::Routes(args) => {
            let report = status(&socket)?;
            if args.json {
                let routes = RoutesJson {
                    advertised: &report.advertised,
                    available: &report.available,
                };
                show(&routes, true, |_| String::new())?;
            } else {
                output::print(&output::routes(&report));
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Logout(args) => logout(&socket, &args),
        Command::RotateKey(args) => rotate_key(&socket, args.json),
        Command::Bugreport { output } => crate::bugreport::write(&socket, output.as_deref()),
        Command::Doctor(args) => doctor(&socket, args.json),
        Command::Debug(command) => debug::run(&command),
        Command::Ping(args) => tools::ping(&args, &|| status(&socket)),
        Command::Whois(args) => tools::whois(&status(&socket)?, &args.query, args.json),
        Command::Completions { shell } => tools::completions(shell),
        Command::Explain(args) => explain(&socket, &args),
        Command::Version(args) => version(&socket, args.json),
        Command::Daemon(args) => {
            start_logging();
            daemon::run(daemon::Options {
                config: args.config,
                state: args.state_dir,
                socket,
            })?;
            Ok(ExitCode::SUCCESS)
        }
        Command::UserspaceWireguard { interface } => userspace_wireguard(&interface),
        Command::Manual { directory } => {
            manual::write(Cli::command(), &directory)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[derive(Serialize)]
struct RoutesJson<'a> {
    advertised: &'a [weir_protocol::RouteStatus],
    available: &'a [crate::control::AvailableRoute],
}

#[derive(Serialize)]
struct VersionJson {
    client: &'static str,
    daemon: Option<String>,
}

fn exit(well: bool) -> ExitCode {
    if well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn show<T: Serialize>(value: &T, json: bool, text: impl FnOnce(&T) -> String) -> Result<()> {
    if json {
        output::print(&format!("{}\n", serde_json::to_string_pretty(value)?));
    } else {
        output::print(&text(value));
    }
    Ok(())
}

/// Puts a request to `up` or `set` together. A key file is read here: it belongs to who typed the
/// command.
fn request(change: Change, joining: &JoinArgs, reset: bool) -> Result<UpRequest> {
    let auth_key = joining
        .auth_key
        .clone()
        .map(SecretText::new)
        .map(|given| crate::auth_key::read_auth_key(&given))
        .transpose()?
        .map(|key| SecretText::new(key.reveal()));
    let pin = joining.pin.as_deref().map(str::parse).transpose();
    let pin = pin.context("--pin: `coordinator status` shows it, on the coordinator's host")?;
    Ok(UpRequest {
        change,
        auth_key,
        pin,
        timeout: joining.timeout,
        reauthenticate: false,
        reset,
        force: joining.force,
    })
}

fn patience(timeout: Option<u64>) -> Duration {
    // The file may set a longer timeout than the command's default of 30 s.
    Duration::from_secs(timeout.unwrap_or(600)) + GRACE
}

fn up(socket: &Path, args: UpArgs) -> Result<ExitCode> {
    let started = Instant::now();
    let joining = args.joining;
    let request = UpRequest {
        reauthenticate: args.force_reauth,
        ..request(args.change, &joining, args.reset)?
    };
    let request = Request::Up(Box::new(request));
    let Response::Up(report) = joined(socket, &request, &joining, started)? else {
        return Err(unexpected());
    };
    let well = report.failures.is_empty();
    if !args.wait {
        show(report.as_ref(), joining.json, output::up)?;
        return Ok(exit(well));
    }
    if !joining.json {
        output::print(&output::up(&report));
    }
    wait_for_approval(socket, *report, &joining, started)
}

/// Asks for `up` or `set`, and again once an admin has let this machine in, where one has to.
fn joined(
    socket: &Path,
    request: &Request,
    joining: &JoinArgs,
    started: Instant,
) -> Result<Response> {
    loop {
        let answer = accepted(ask(socket, request.clone(), patience(joining.timeout))?)?;
        let Response::Waiting(asked) = answer else {
            return Ok(answer);
        };
        let text = output::waiting(&asked, now());
        if joining.json {
            output::hint(text.trim_end());
        } else {
            output::print(&text);
        }
        wait_for_admin(socket, joining, started)?;
    }
}

/// Waits until the daemon is up. It waits by itself; this only watches.
fn wait_for_admin(socket: &Path, joining: &JoinArgs, started: Instant) -> Result<()> {
    let limit = joining.timeout.map(Duration::from_secs);
    loop {
        let report = status(socket)?;
        match &report.approval {
            None if report.state == NodeState::Up => return Ok(()),
            None => bail!("`agent down` was run meanwhile: this machine asks no more"),
            Some(approval) if approval.state == ApprovalState::Waiting => {}
            Some(approval) => {
                let problem = approval.problem.clone();
                bail!(
                    "{}",
                    problem.unwrap_or_else(|| "it was not let in".to_owned())
                );
            }
        }
        if let Some(limit) = limit.filter(|limit| started.elapsed() >= *limit) {
            bail!(
                "this machine was not let in within {} s; the daemon waits on, and goes up by itself: \
                 `agent status` shows how it stands, `agent down` ends it",
                limit.as_secs()
            );
        }
        std::thread::sleep(WAIT_INTERVAL);
    }
}

fn wait_for_approval(
    socket: &Path,
    mut report: UpReport,
    joining: &JoinArgs,
    started: Instant,
) -> Result<ExitCode> {
    let limit = joining.timeout.map(Duration::from_secs);
    let had_to_wait = any_awaits_approval(&report.routes);
    if had_to_wait && !joining.json {
        output::print("\nWaiting for approval ...\n");
    }
    while any_awaits_approval(&report.routes) {
        if limit.is_some_and(|limit| started.elapsed() >= limit) {
            bail!(
                "the routes were not approved within {} s; the node is up, and they take effect \
                 as soon as they are",
                limit.unwrap_or_default().as_secs()
            );
        }
        std::thread::sleep(WAIT_INTERVAL);
        let now = status(socket)?;
        if now.state != NodeState::Up {
            bail!("the node went down while its routes awaited approval");
        }
        report.routes = now.advertised;
        report.failures = now.failures;
    }
    if joining.json {
        show(&report, true, output::up)?;
    } else if had_to_wait {
        output::print(&output::approved(&report.routes));
    }
    let rejected = report
        .routes
        .iter()
        .any(|route| route.state == weir_protocol::RouteState::Rejected);
    Ok(exit(!rejected && report.failures.is_empty()))
}

fn set(socket: &Path, args: SetArgs) -> Result<ExitCode> {
    if args.change.is_empty() {
        bail!("`agent set` changes the settings that it names: name one, such as --accept-routes");
    }
    let request = Request::Set(Box::new(request(args.change, &args.joining, false)?));
    match joined(socket, &request, &args.joining, Instant::now())? {
        Response::Up(report) => {
            show(report.as_ref(), args.joining.json, output::up)?;
            Ok(exit(report.failures.is_empty()))
        }
        Response::Saved => {
            if !args.joining.json {
                output::print("Saved; the node is down, `agent up` goes up with it.\n");
            }
            Ok(ExitCode::SUCCESS)
        }
        Response::Down(_)
        | Response::Waiting(_)
        | Response::Status(_)
        | Response::LoggedOut(_)
        | Response::KeyRotated(_)
        | Response::Doctor(_)
        | Response::Explained(_)
        | Response::Version { .. }
        | Response::Refused { .. } => Err(unexpected()),
    }
}

fn down(socket: &Path, args: &DownArgs) -> Result<ExitCode> {
    let request = Request::Down {
        timeout: args.timeout,
    };
    let Response::Down(report) = accepted(ask(socket, request, patience(args.timeout))?)? else {
        return Err(unexpected());
    };
    show(&report, args.json, output::down)?;
    Ok(exit(report.failures.is_empty()))
}

fn logout(socket: &Path, args: &LogoutArgs) -> Result<ExitCode> {
    if !args.yes {
        let report = status(socket)?;
        let name = report
            .node
            .map_or_else(|| "this machine".to_owned(), |node| node.name.to_string());
        let question = format!(
            "This removes {name} from the network for good, and its keys from this host. To come \
             back, it needs a new auth key. Go on? [y/N]"
        );
        if !output::confirmed(&question)? {
            bail!("nothing was changed; `agent down` goes down and keeps the node");
        }
    }
    let request = Request::Logout { force: args.force };
    let Response::LoggedOut(report) = accepted(ask(socket, request, patience(None))?)? else {
        return Err(unexpected());
    };
    show(&report, args.json, output::logout)?;
    Ok(ExitCode::SUCCESS)
}

fn rotate_key(socket: &Path, json: bool) -> Result<ExitCode> {
    let answer = accepted(ask(socket, Request::RotateKey, patience(None))?)?;
    let Response::KeyRotated(report) = answer else {
        return Err(unexpected());
    };
    show(&report, json, output::rotated)?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn status(socket: &Path) -> Result<StatusReport> {
    let Response::Status(report) = accepted(ask(socket, Request::Status, SHOW_DEADLINE)?)? else {
        return Err(unexpected());
    };
    Ok(*report)
}

/// Asks the daemon, which may look at everything; where none runs, looks as far as it can itself.
fn doctor(socket: &Path, json: bool) -> Result<ExitCode> {
    let asked = ask(socket, Request::Doctor, EXPLAIN_DEADLINE).and_then(accepted);
    let (daemon, mut checks) = match asked {
        Ok(Response::Doctor(checks)) => {
            let evidence = "it answers".to_owned();
            (daemon_check(Outcome::Passed, evidence, vec![]), checks)
        }
        Ok(_) => return Err(unexpected()),
        Err(error) => {
            let start = Remedy::here("systemctl start weir-agent");
            let failed = daemon_check(Outcome::Failed, format!("{error:#}"), vec![start]);
            let state = Path::new(cli::STATE_DIRECTORY);
            let looked = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?
                .block_on(daemon::doctor_without_daemon(state));
            // Who may not ask the daemon may not look either, and is told the first reason.
            (failed, looked.unwrap_or_default())
        }
    };
    checks.0.insert(0, daemon);
    show(&checks, json, output::doctor)?;
    Ok(exit(checks.all_well()))
}

fn daemon_check(outcome: Outcome, evidence: String, remedies: Vec<Remedy>) -> Check {
    Check {
        name: "daemon".to_owned(),
        outcome,
        evidence,
        remedies,
    }
}

fn explain(socket: &Path, args: &ExplainArgs) -> Result<ExitCode> {
    let request = ExplainRequest {
        target: Target::parse(&args.destination, args.protocol)?,
        from: args.from.clone(),
        trace: args.trace,
    };
    if let (Some(seconds), Some(from)) = (args.trace, &args.from) {
        output::hint(&format!(
            "waiting for a packet, at most {seconds} s: open the connection on {from} now"
        ));
    }
    let request = Request::Explain(Box::new(request));
    let Response::Explained(report) = accepted(ask(socket, request, EXPLAIN_DEADLINE)?)? else {
        return Err(unexpected());
    };
    show(report.as_ref(), args.json, output::explain)?;
    Ok(exit(report.checks.all_well()))
}

fn version(socket: &Path, json: bool) -> Result<ExitCode> {
    let answer = ask(socket, Request::Version, SHOW_DEADLINE).and_then(accepted);
    let (daemon, problem) = match answer {
        Ok(Response::Version { version }) => (Some(version), None),
        Ok(_) => (None, Some(unexpected())),
        Err(error) => (None, Some(error)),
    };
    let shown = VersionJson {
        client: env!("CARGO_PKG_VERSION"),
        daemon,
    };
    show(&shown, json, |shown| {
        let daemon = shown.daemon.clone().unwrap_or_else(|| {
            problem.map_or_else(String::new, |problem| format!("not known: {problem:#}"))
        });
        format!("agent   {}\ndaemon  {daemon}\n", shown.client)
    })?;
    Ok(ExitCode::SUCCESS)
}

fn accepted(response: Response) -> Result<Response> {
    match response {
        Response::Refused { message } => Err(anyhow!(message)),
        Response::Up(_)
        | Response::Waiting(_)
        | Response::Saved
        | Response::Down(_)
        | Response::Status(_)
        | Response::LoggedOut(_)
        | Response::KeyRotated(_)
        | Response::Doctor(_)
        | Response::Explained(_)
        | Response::Version { .. } => Ok(response),
    }
}

fn unexpected() -> anyhow::Error {
    anyhow!("the daemon answered something else: restart it with `systemctl restart weir-agent`")
}

fn start_logging() {
    use std::io::IsTerminal;
    let filter = tracing_subscriber::EnvFilter::try_from_env("WEIR_LOG")
        // A certificate that is not trusted is an answer to who asked, and no error of the daemon.
        .unwrap_or_else(|_| {
            tracing_subscriber::EnvFilter::new("info,rustls_platform_verifier=off")
        });
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}

fn userspace_wireguard(interface: &str) -> Result<ExitCode> {
    weir_kernel::userspace::run_userspace_device(&interface.parse()?)?;
    Ok(ExitCode::SUCCESS)
}
