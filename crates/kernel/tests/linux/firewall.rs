//! The nftables table on the real kernel.

use crate::support::{Node, apply, kernel, observe, output, run, scope};
use weir_kernel::{KernelOptions, LinuxKernel};
use weir_kernel_plan::{Kernel, Step};

const RULESET: &str = r#"{"nftables": [
    {"add": {"table": {"family": "inet", "name": "weir"}}},
    {"delete": {"table": {"family": "inet", "name": "weir"}}},
    {"add": {"table": {"family": "inet", "name": "weir"}}},
    {"add": {"counter": {"family": "inet", "table": "weir", "name": "denied"}}},
    {"add": {"chain": {"family": "inet", "table": "weir", "name": "forward", "type": "filter",
        "hook": "forward", "prio": 0, "policy": "accept"}}}
]}"#;

fn load(ruleset: &str) -> Step {
    Step::LoadFirewall {
        ruleset: ruleset.to_owned(),
        table: None,
        difference: false,
    }
}

#[test]
fn the_table_is_loaded_observed_and_removed_and_others_stay() {
    Node::new().run(|| async {
        let kernel = kernel();
        run("nft add table inet other");
        assert_eq!(observe(&kernel).await.firewall, None);
        apply(&kernel, load(RULESET)).await;
        let firewall = observe(&kernel).await.firewall.unwrap();
        assert!(firewall.chains.contains("forward"));
        assert!(firewall.counters.contains_key("denied"));
        apply(&kernel, Step::DeleteFirewall).await;
        assert_eq!(observe(&kernel).await.firewall, None);
        run("nft list table inet other");
    });
}

#[test]
fn an_error_keeps_nfts_own_words_and_changes_nothing() {
    Node::new().run(|| async {
        let kernel = kernel();
        apply(&kernel, load(RULESET)).await;
        let bad = RULESET.replace("\"hook\": \"forward\"", "\"hook\": \"nowhere\"");
        let error = kernel.apply(&scope(), &load(&bad)).await.unwrap_err();
        assert!(error.to_string().contains("nft says: "), "{error}");
        assert!(error.to_string().contains("hook"), "{error}");
        assert!(
            observe(&kernel).await.firewall.is_some(),
            "the old table is gone"
        );
        let error = kernel.apply(&scope(), &load("{")).await.unwrap_err();
        assert!(error.to_string().contains("nft says: "), "{error}");
    });
}

#[test]
fn a_large_ruleset_loads_in_one_piece() {
    Node::new().run(|| async {
        let kernel = kernel();
        let elements: Vec<String> = (0..20_000u32)
            .map(|n| format!("\"{}\"", std::net::Ipv4Addr::from(0x0a00_0000 + n)))
            .collect();
        let ruleset = format!(
            r#"{{"nftables": [{{"add": {{"table": {{"family": "inet", "name": "weir"}}}}}},
            {{"add": {{"set": {{"family": "inet", "table": "weir", "name": "s", "type": "ipv4_addr",
            "elem": [{}]}}}}}}]}}"#,
            elements.join(",")
        );
        kernel.apply(&scope(), &load(&ruleset)).await.unwrap();
        let firewall = observe(&kernel).await.firewall.unwrap();
        assert_eq!(firewall.sets.get("s"), Some(&false));
    });
}

#[test]
fn a_missing_nft_names_the_package() {
    Node::new().run(|| async {
        let kernel = LinuxKernel::new(KernelOptions {
            nft: "/nonexistent/nft".into(),
            ..KernelOptions::default()
        });
        for step in [load(RULESET), Step::DeleteFirewall] {
            let error = kernel.apply(&scope(), &step).await.unwrap_err();
            assert!(
                error.to_string().contains("apt install nftables"),
                "{error}"
            );
        }
        assert!(kernel.observe(&scope()).await.is_err());
        assert!(!output("nft list table inet weir").status.success());
    });
}
