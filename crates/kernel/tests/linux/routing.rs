//! Addresses, routes and rules on the real kernel: ours round trip, foreign ones stay.

use crate::support::{Node, add_cable, apply, kernel, observe, output, run, scope};
use std::collections::BTreeSet;
use weir_kernel_plan::{
    IpFamily, Kernel, LinkKind, PolicyRule, RELAYED_TABLE, RULE_MAIN, RULE_RELAYED, Route,
    RouteTarget, Step,
};

fn route(table: u32, destination: &str, source: Option<&str>) -> Route {
    Route {
        table,
        destination: destination.parse().unwrap(),
        target: RouteTarget::Link {
            source: source.map(|text| text.parse().unwrap()),
        },
    }
}

fn with_link() {
    add_cable("weir0");
}

#[test]
fn addresses_bring_no_routes_of_the_kernels_own() {
    Node::new().run(|| async {
        with_link();
        let kernel = kernel();
        let addresses: BTreeSet<ipnet::IpNet> = ["100.64.0.7/32", "fd77:6569:7200::7/128"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        for address in &addresses {
            apply(&kernel, Step::AddAddress(*address)).await;
        }
        let link = observe(&kernel).await.link.unwrap();
        assert_eq!(link.addresses, addresses);
        assert_eq!(link.kind, LinkKind::Other("veth".to_owned()));
        assert!(link.up);
        assert_eq!(run("ip -4 route show"), "");
        assert!(!run("ip -6 route show").contains("fd77"));
        let own = run("ip -6 addr show dev weir0 scope global");
        assert!(own.contains("nodad") && !own.contains("tentative"), "{own}");
        for address in &addresses {
            apply(&kernel, Step::RemoveAddress(*address)).await;
        }
        assert!(observe(&kernel).await.link.unwrap().addresses.is_empty());
    });
}

#[test]
fn routes_round_trip_and_foreign_ones_stay() {
    Node::new().run(|| async {
        with_link();
        let kernel = kernel();
        for address in ["100.64.0.7/32", "100.64.0.8/32", "fd77:6569:7200::7/128"] {
            apply(&kernel, Step::AddAddress(address.parse().unwrap())).await;
        }
        add_cable("lan0");
        run("ip route add 198.51.100.0/24 dev lan0");
        run("ip route add 192.0.2.0/24 dev weir0");
        run("ip route add 203.0.113.0/24 dev lan0 proto 87");
        let routes: BTreeSet<Route> = [
            route(254, "100.64.0.0/10", Some("100.64.0.7")),
            route(254, "fd77:6569:7200::/48", Some("fd77:6569:7200::7")),
            route(RELAYED_TABLE, "8.8.8.8/32", None),
            route(RELAYED_TABLE, "2001:db8::/32", None),
            route(5703, "0.0.0.0/0", Some("100.64.0.7")),
            route(5703, "::/0", None),
        ]
        .into();
        for route in &routes {
            apply(&kernel, Step::AddRoute(*route)).await;
        }
        assert_eq!(observe(&kernel).await.routes, routes);
        let printed = run("ip route show table 5701");
        assert!(
            printed.contains("8.8.8.8 dev weir0 proto 87 scope link"),
            "{printed}"
        );

        // Another source address replaces the route of ours.
        let moved = route(254, "100.64.0.0/10", Some("100.64.0.8"));
        apply(&kernel, Step::AddRoute(moved)).await;
        let now = observe(&kernel).await.routes;
        assert!(now.contains(&moved) && now.len() == routes.len());

        for route in now {
            apply(&kernel, Step::RemoveRoute(route)).await;
        }
        assert!(observe(&kernel).await.routes.is_empty());
        let left = run("ip route show");
        for foreign in ["198.51.100.0/24", "192.0.2.0/24", "203.0.113.0/24"] {
            assert!(left.contains(foreign), "{foreign} is gone: {left}");
        }
    });
}

#[test]
fn a_refusal_and_a_hole_stay_when_the_link_goes() {
    Node::new().run(|| async {
        with_link();
        let kernel = kernel();
        let of = |destination: &str, target| Route {
            table: 5703,
            destination: destination.parse().unwrap(),
            target,
        };
        let lasting: BTreeSet<Route> = [
            of("0.0.0.0/0", RouteTarget::Unreachable),
            of("::/0", RouteTarget::Unreachable),
            of("192.0.2.1/32", RouteTarget::NextRule),
            of("2001:db8::1/128", RouteTarget::NextRule),
        ]
        .into();
        let mut routes = lasting.clone();
        routes.insert(route(5703, "0.0.0.0/0", None));
        routes.insert(route(5703, "::/0", None));
        for _twice in 0..2 {
            for route in &routes {
                apply(&kernel, Step::AddRoute(*route)).await;
            }
        }
        assert_eq!(observe(&kernel).await.routes, routes);
        // The link's route wins while it is there.
        run("ip rule add pref 5740 lookup 5703");
        run("ip -6 rule add pref 5740 lookup 5703");
        let found = run("ip route get 1.1.1.1");
        assert!(found.contains("dev weir0"), "{found}");

        run("ip link del weir0");
        assert_eq!(observe(&kernel).await.routes, lasting);
        assert!(!output("ip route get 1.1.1.1").status.success());
        assert!(!output("ip -6 route get 2001:db8::7").status.success());
        for route in &routes {
            apply(&kernel, Step::RemoveRoute(*route)).await;
        }
        assert!(observe(&kernel).await.routes.is_empty());
    });
}

#[test]
fn somebody_elses_route_is_not_replaced() {
    Node::new().run(|| async {
        with_link();
        let kernel = kernel();
        add_cable("lan0");
        run("ip route add 100.64.0.0/10 dev lan0");
        let step = Step::AddRoute(route(254, "100.64.0.0/10", None));
        let error = kernel.apply(&scope(), &step).await.unwrap_err();
        assert_eq!(error.errno, Some(libc::EEXIST));
        assert!(error.to_string().contains("not Weir's"), "{error}");
        assert!(run("ip route show").contains("100.64.0.0/10 dev lan0"));
    });
}

#[test]
fn rules_round_trip_and_foreign_ones_stay() {
    Node::new().run(|| async {
        let kernel = kernel();
        let before = run("ip rule show");
        run("ip rule add pref 5715 from 192.0.2.1 lookup 100");
        run("ip rule add pref 100 lookup 100");
        let mut rules = BTreeSet::new();
        for family in [IpFamily::V4, IpFamily::V6] {
            rules.insert(PolicyRule {
                priority: RULE_RELAYED,
                family,
                table: RELAYED_TABLE,
                suppress_prefix_length: None,
            });
            rules.insert(PolicyRule {
                priority: RULE_MAIN,
                family,
                table: 254,
                suppress_prefix_length: Some(0),
            });
        }
        for rule in &rules {
            apply(&kernel, Step::AddRule(*rule)).await;
        }
        assert_eq!(observe(&kernel).await.rules, rules);
        for command in ["ip rule show", "ip -6 rule show"] {
            let printed = run(command);
            for line in [
                "5710:\tnot from all fwmark 0x57000000/0xff000000 lookup 5701 proto 87",
                "5720:\tnot from all fwmark 0x57000000/0xff000000 lookup main suppress_prefixlength 0 proto 87",
            ] {
                assert!(printed.contains(line), "{line:?} is not in:\n{printed}");
            }
        }
        for rule in &rules {
            apply(&kernel, Step::RemoveRule(*rule)).await;
        }
        assert!(observe(&kernel).await.rules.is_empty());
        run("ip rule del pref 5715");
        run("ip rule del pref 100");
        assert_eq!(run("ip rule show"), before);
    });
}

#[test]
fn steps_on_a_missing_link_say_so_or_are_done_already() {
    Node::new().run(|| async {
        let kernel = kernel();
        let address: ipnet::IpNet = "100.64.0.7/32".parse().unwrap();
        apply(&kernel, Step::RemoveAddress(address)).await;
        apply(
            &kernel,
            Step::RemoveRoute(route(254, "100.64.0.0/10", None)),
        )
        .await;
        apply(&kernel, Step::DeleteLink).await;
        for step in [
            Step::AddAddress(address),
            Step::AddRoute(route(254, "100.64.0.0/10", None)),
            Step::SetLinkUp,
            Step::SetMtu(1400),
            Step::RemovePeers(BTreeSet::new()),
        ] {
            let error = kernel.apply(&scope(), &step).await.unwrap_err();
            assert_eq!(error.errno, Some(libc::ENODEV), "{step}: {error}");
        }
        assert!(
            !output("ip link show weir0").status.success(),
            "a link appeared"
        );
    });
}

#[test]
fn a_link_that_is_not_ours_is_not_removed() {
    Node::new().run(|| async {
        with_link();
        let kernel = kernel();
        let error = kernel.apply(&scope(), &Step::DeleteLink).await.unwrap_err();
        assert!(
            error.to_string().contains("not a WireGuard link"),
            "{error}"
        );
        run("ip link show weir0");
    });
}

#[test]
fn a_thousand_routes_are_observed_while_others_change() {
    Node::new().run(|| async {
        with_link();
        add_cable("lan0");
        let kernel = kernel();
        for n in 0..1000u32 {
            let destination = std::net::Ipv4Addr::from(0x0a00_0000 + n);
            let route = route(RELAYED_TABLE, &format!("{destination}/32"), None);
            kernel
                .apply(&scope(), &Step::AddRoute(route))
                .await
                .unwrap();
        }
        let script = "for i in $(seq 400); do echo route add 198.51.100.0/24 dev lan0; \
            echo route del 198.51.100.0/24; done | ip -batch -";
        let churn = std::process::Command::new("sh")
            .args(["-c", script])
            .spawn();
        let (a, b) = tokio::join!(observe(&kernel), observe(&kernel));
        assert_eq!(a.routes.len(), 1000);
        assert_eq!(b.routes.len(), 1000);
        churn.unwrap().wait().unwrap();
    });
}
