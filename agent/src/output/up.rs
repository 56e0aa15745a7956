//! What `up` and `down` say.

use weir_kernel_plan::WireguardBackend;
use weir_overlay::NodeName;
use weir_protocol::{ItemFailure, RouteState, RouteStatus};

use super::list;
use crate::control::{ApprovalReport, DownReport, UpReport};

/// What `up` did, and what is still to be done by others.
pub(crate) fn up(report: &UpReport) -> String {
    let mut text = format!(
        "Up as {} ({}), {} by {}.\n",
        report.name,
        list(&report.addresses),
        if report.enrolled { "enrolled" } else { "known" },
        report.coordinator
    );
    let wireguard = &report.wireguard;
    text.push_str(&match (wireguard.backend, &wireguard.reason) {
        (WireguardBackend::Kernel, _) => format!(
            "WireGuard: the kernel's, on {}, UDP port {}.\n",
            wireguard.interface, wireguard.listen_port
        ),
        (WireguardBackend::Userspace, reason) => format!(
            "WireGuard: a userspace process, on {}, UDP port {}{}.\n",
            wireguard.interface,
            wireguard.listen_port,
            reason
                .as_ref()
                .map(|reason| format!(" ({reason})"))
                .unwrap_or_default()
        ),
    });
    if !report.host.is_empty() {
        text.push_str("\nDone to this host:\n");
        for note in &report.host {
            text.push_str(&format!("  - {note}\n"));
        }
    }
    if !report.routes.is_empty() {
        text.push_str("\nRoutes:\n");
        for route in &report.routes {
            text.push_str(&format!("  {}: {}\n", route.prefix, state(route.state)));
        }
        text.push_str(&how_to_approve(&report.name, &report.routes));
    }
    text.push_str(&notices(&report.notices));
    text.push_str(&failures(&report.failures));
    text
}

/// What an admin is asked, and how they answer. `now` is in seconds since 1970.
pub(crate) fn waiting(report: &ApprovalReport, now: u64) -> String {
    let code = report.url.rsplit('/').next().unwrap_or_default();
    format!(
        "This machine is not in the network yet. An admin lets it in at\n\n    {url}\n\nor on the \
         coordinator's host, with\n\n    coordinator nodes approve {code} --user NAME\n\nThe admin \
         compares the fingerprint of this machine's key: {fingerprint}\n\nWaiting, at most {minutes} \
         min. The daemon waits by itself as well, and goes up when it is let in; `agent down` ends \
         that.\n",
        url = report.url,
        fingerprint = report.fingerprint,
        minutes = minutes_left(report, now),
    )
}

/// For how many minutes an admin can decide.
pub(super) fn minutes_left(report: &ApprovalReport, now: u64) -> u64 {
    let until = u64::try_from(report.until).unwrap_or(0);
    until.saturating_sub(now).div_ceil(60)
}

/// The state of a route in words.
pub(super) const fn state(state: RouteState) -> &'static str {
    match state {
        RouteState::AwaitingApproval => "awaiting approval",
        RouteState::Serving => "approved, serving",
        RouteState::Standby => "approved, standby: another relay serves it",
        RouteState::Rejected => "rejected by an admin",
    }
}

/// Where to approve what awaits approval; nothing when nothing does.
pub(super) fn how_to_approve(name: &NodeName, routes: &[RouteStatus]) -> String {
    let waiting: Vec<_> = routes
        .iter()
        .filter(|route| route.state == RouteState::AwaitingApproval)
        .map(|route| route.prefix)
        .collect();
    if waiting.is_empty() {
        return String::new();
    }
    format!(
        "A route changes nothing before an admin has approved it, on the coordinator's host:\n    \
         coordinator routes approve {name} {}\n",
        waiting
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(",")
    )
}

pub(super) fn notices(notices: &[String]) -> String {
    if notices.is_empty() {
        return String::new();
    }
    let mut text = String::from("\nThe coordinator says:\n");
    for notice in notices {
        text.push_str(&format!("  - {notice}\n"));
    }
    text
}

pub(super) fn warnings(warnings: &[String]) -> String {
    if warnings.is_empty() {
        return String::new();
    }
    let mut text = String::from("\nAttention:\n");
    for warning in warnings {
        text.push_str(&format!("  - {warning}\n"));
    }
    text
}

pub(super) fn failures(failures: &[ItemFailure]) -> String {
    if failures.is_empty() {
        return String::new();
    }
    let mut text = String::from("\nNot done yet, tried again until it is:\n");
    for failure in failures {
        text.push_str(&format!("  - {}: {}\n", failure.item, failure.reason));
    }
    text
}

/// What became of the routes that `--wait` waited for.
pub(crate) fn approved(routes: &[RouteStatus]) -> String {
    routes
        .iter()
        .map(|route| format!("{}: {}\n", route.prefix, state(route.state)))
        .collect()
}

/// What `down` did.
pub(crate) fn down(report: &DownReport) -> String {
    if report.was_down {
        return "Already down: nothing was changed.\n".to_owned();
    }
    let mut text = if report.failures.is_empty() {
        "Down: this host is as it was before `agent up`.\n".to_owned()
    } else {
        "Not all the way down.\n".to_owned()
    };
    if report.deleted {
        text.push_str("The node was ephemeral: the coordinator has deleted it.\n");
    }
    if !report.steps.is_empty() {
        text.push_str("\nDone to this host:\n");
        for step in &report.steps {
            text.push_str(&format!("  - {step}\n"));
        }
    }
    text.push_str(&failures(&report.failures));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::WireguardReport;
    use weir_overlay::NodePublicKey;

    fn relay() -> UpReport {
        let route = |prefix: &str, state| RouteStatus {
            prefix: prefix.parse().unwrap(),
            state,
        };
        UpReport {
            name: "relay".parse().unwrap(),
            addresses: ["100.64.0.1".parse().unwrap()].into(),
            coordinator: "https://192.0.2.1:8443".to_owned(),
            enrolled: true,
            wireguard: WireguardReport {
                backend: WireguardBackend::Userspace,
                reason: Some("this kernel has no WireGuard; userspace is slower".to_owned()),
                interface: "weir0".parse().unwrap(),
                listen_port: 51920,
                mtu: None,
                public_key: NodePublicKey::from_bytes([1; 32]),
            },
            host: vec!["IPv4 forwarding is on; `agent down` puts the old value back".to_owned()],
            routes: vec![
                route("8.8.4.4/32", RouteState::AwaitingApproval),
                route("8.8.8.8/32", RouteState::AwaitingApproval),
                route("10.20.0.0/24", RouteState::Serving),
            ],
            notices: vec!["no policy is set: nothing is allowed".to_owned()],
            failures: Vec::new(),
        }
    }

    #[test]
    fn up_says_what_was_done_and_what_is_left_to_an_admin() {
        assert_eq!(
            up(&relay()),
            "\
Up as relay (100.64.0.1), enrolled by https://192.0.2.1:8443.
WireGuard: a userspace process, on weir0, UDP port 51920 (this kernel has no WireGuard; userspace is slower).

Done to this host:
  - IPv4 forwarding is on; `agent down` puts the old value back

Routes:
  8.8.4.4/32: awaiting approval
  8.8.8.8/32: awaiting approval
  10.20.0.0/24: approved, serving
A route changes nothing before an admin has approved it, on the coordinator's host:
    coordinator routes approve relay 8.8.4.4/32,8.8.8.8/32

The coordinator says:
  - no policy is set: nothing is allowed
"
        );
    }

    #[test]
    fn a_machine_that_waits_says_what_an_admin_has_to_do() {
        let report = ApprovalReport {
            state: crate::control::ApprovalState::Waiting,
            url: "https://c.example:8443/register/00c0de".to_owned(),
            fingerprint: "72cd-6e84".to_owned(),
            until: 1_900,
            problem: None,
        };
        assert_eq!(
            waiting(&report, 1_000),
            "\
This machine is not in the network yet. An admin lets it in at

    https://c.example:8443/register/00c0de

or on the coordinator's host, with

    coordinator nodes approve 00c0de --user NAME

The admin compares the fingerprint of this machine's key: 72cd-6e84

Waiting, at most 15 min. The daemon waits by itself as well, and goes up when it is let in; `agent down` ends that.
"
        );
    }

    #[test]
    fn down_says_that_the_host_is_as_it_was() {
        let report = DownReport {
            was_down: false,
            deleted: false,
            steps: vec![
                "set net/ipv4/ip_forward to 0".to_owned(),
                "remove the link".to_owned(),
            ],
            failures: Vec::new(),
        };
        assert_eq!(
            down(&report),
            "\
Down: this host is as it was before `agent up`.

Done to this host:
  - set net/ipv4/ip_forward to 0
  - remove the link
"
        );
    }
}
