//! What the programs that watch a coordinator see: health, readiness, metrics.

use crate::{
    agent::{Agent, client, now, refused_or_done},
    api::{Api, send},
    postgres::Cluster,
    server::{TestServer, settings},
};
use http::Method;
use std::collections::BTreeMap;
use weir_coordinator::server::Server;
use weir_protocol::{REPORT_PATH, ReportRequest};

/// The samples of a text, by name and labels.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let mut kinds = BTreeMap::new();
    let mut samples = BTreeMap::new();
    for line in text.lines() {
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert_eq!(
                kinds.insert(name.to_owned(), kind.to_owned()),
                None,
                "{line}"
            );
            continue;
        }
        if line.starts_with("# HELP ") {
            continue;
        }
        let (name, value) = line.rsplit_once(' ').unwrap();
        let family = name.split('{').next().unwrap();
        let plain = ["_bucket", "_sum", "_count"];
        let plain = plain.iter().find_map(|end| family.strip_suffix(end));
        assert!(
            kinds.contains_key(family) || plain.is_some_and(|name| kinds.contains_key(name)),
            "{line} has no type"
        );
        assert_eq!(
            samples.insert(name.to_owned(), value.parse().unwrap()),
            None,
            "{line}"
        );
    }
    samples
}

async fn scrape(api: &Api) -> (u16, String) {
    let response = api
        .request_to(Method::GET, "/metrics")
        .send()
        .await
        .unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

#[tokio::test]
async fn metrics_count_what_happens_and_name_nobody() {
    let server = TestServer::start().await;
    assert_eq!(scrape(&Api::stranger(&server)).await.0, 401);
    assert_eq!(
        scrape(&Api::with(&server, "status:read").await).await.0,
        403
    );
    let api = Api::with(&server, "metrics:read").await;
    let before = samples(&scrape(&api).await.1);
    let agent = Agent::new(&server, "a-name-of-somebody");
    agent.join(&server.key("alice").await).await.unwrap();
    let refused = Agent::new(&server, "b").join("weir-key-no").await;
    refused.unwrap_err();
    let mut stream = agent.map_stream(None).await;
    stream.first().await;
    let request = agent.prepare(REPORT_PATH, &ReportRequest::default());
    refused_or_done(agent.send(&request).await).await.unwrap();
    refused_or_done(agent.send(&request).await)
        .await
        .unwrap_err();
    let late = agent.prepare_at(REPORT_PATH, &ReportRequest::default(), now() - 300);
    refused_or_done(agent.send(&late).await).await.unwrap_err();
    let mut tampered = agent.prepare(REPORT_PATH, &ReportRequest::default());
    tampered.body = br#"{"generation":9}"#.to_vec();
    refused_or_done(agent.send(&tampered).await)
        .await
        .unwrap_err();
    let (status, text) = scrape(&api).await;
    assert_eq!(status, 200);
    let after = samples(&text);
    let grown = |name: &str| after[name] - before[name];
    for (name, by) in [
        ("weir_nodes", 1.0),
        ("weir_agents_connected", 1.0),
        ("weir_agents_lagging", 1.0),
        ("weir_store_up", 0.0),
        ("weir_enrolments_total{result=\"joined\"}", 1.0),
        ("weir_enrolments_total{result=\"refused\"}", 1.0),
        ("weir_signature_failures_total{reason=\"clock\"}", 1.0),
        ("weir_signature_failures_total{reason=\"wrong\"}", 1.0),
        ("weir_signature_failures_total{reason=\"malformed\"}", 0.0),
        ("weir_replays_refused_total", 1.0),
    ] {
        assert_eq!(grown(name), by, "{name}\n{text}");
    }
    for name in [
        "weir_stream_bytes_total",
        "weir_network_changes_total",
        "weir_store_seconds_count{step=\"change\"}",
        "weir_map_generation",
    ] {
        assert!(grown(name) > 0.0, "{name}\n{text}");
    }
    assert_eq!(after.len(), before.len(), "the number of series is fixed");
    for name in ["alice", "somebody", "127.0.0.1"] {
        assert!(!text.contains(name), "{text}");
    }
    server.set_policy(crate::server::ALLOW_ALL).await;
    let after = samples(&scrape(&api).await.1);
    assert!(after["weir_policy_compile_seconds_count"] > 0.0);
}

#[tokio::test]
async fn an_address_for_metrics_serves_them_and_no_more() {
    let directory = tempfile::tempdir().unwrap();
    let mut settings = settings(directory.path());
    settings.metrics_listen = Some(([127, 0, 0, 1], 0).into());
    let server = Server::start(settings).await.unwrap();
    let address = server.metrics_listen().unwrap();
    let http = client(server.identity().pin);
    let get = async |path: &str| {
        let url = format!("http://{address}{path}");
        let response = http.get(url).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    let (status, text) = get("/metrics").await;
    assert_eq!(status, 200);
    samples(&text);
    assert_eq!(
        get("/healthz").await,
        (200, r#"{"status":"alive"}"#.to_owned())
    );
    assert_eq!(
        get("/readyz").await,
        (200, r#"{"status":"ready"}"#.to_owned())
    );
    for path in ["/api/v1/status", "/api/v1/login", "/agent/v1/map", "/"] {
        assert_eq!(get(path).await.0, 404, "{path}");
    }
    server.stop().await;
}

#[tokio::test]
async fn one_without_its_database_is_alive_and_not_ready() {
    let mut cluster = Cluster::start();
    let database = cluster.database().await.parse().unwrap();
    let server = TestServer::start_on(database).await;
    let api = Api::with(&server, "*").await;
    let ask = async |path: &str| send(api.request_to(Method::GET, path)).await;
    assert_eq!(ask("/readyz").await.status, 200);
    cluster.pull_the_plug();
    let unready = ask("/readyz").await;
    assert_eq!(unready.status, 503);
    assert!(unready.problem().contains("database"), "{unready:?}");
    assert_eq!(ask("/healthz").await.status, 200);
}
