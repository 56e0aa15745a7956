//! Requests that are not what they should be.

use crate::{
    agent::{Agent, answer, client, now, refused_or_done},
    server::TestServer,
};
use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    time::{Duration, timeout},
};
use weir_protocol::{
    ErrorCode, MAP_PATH, MapRequest, Pin, ProblemDetails, REGISTER_PATH, REPORT_PATH,
    RegisterResponse, ReportRequest, UPDATE_PATH,
};

async fn joined() -> (TestServer, Agent) {
    let server = TestServer::start().await;
    let agent = Agent::new(&server, "laptop");
    agent.join(&server.key("alice").await).await.unwrap();
    (server, agent)
}

#[tokio::test]
async fn a_request_is_accepted_once_also_across_a_restart() {
    let (server, mut agent) = joined().await;
    let request = agent.prepare(REPORT_PATH, &ReportRequest::default());
    refused_or_done(agent.send(&request).await).await.unwrap();
    let refused = refused_or_done(agent.send(&request).await)
        .await
        .unwrap_err();
    assert_eq!(refused.code, ErrorCode::BadSignature);
    let server = server.restart().await;
    agent.follow(&server);
    let refused = refused_or_done(agent.send(&request).await)
        .await
        .unwrap_err();
    assert_eq!(refused.code, ErrorCode::BadSignature);
    let fresh = agent.prepare(REPORT_PATH, &ReportRequest::default());
    refused_or_done(agent.send(&fresh).await).await.unwrap();
}

#[tokio::test]
async fn a_replayed_join_is_refused_too() {
    let mut server = TestServer::start().await;
    let mut agent = Agent::new(&server, "laptop");
    let request = agent.join_request(Some(&server.key("alice").await), &[]);
    let request = agent.prepare(REGISTER_PATH, &request);
    answer::<RegisterResponse>(agent.send(&request).await)
        .await
        .unwrap();
    for _ in 0..2 {
        let again = answer::<RegisterResponse>(agent.send(&request).await).await;
        assert_eq!(again.unwrap_err().code, ErrorCode::BadSignature);
        server = server.restart().await;
        agent.follow(&server);
    }
}

#[tokio::test]
async fn what_is_not_signed_by_its_machine_is_refused() {
    let (server, agent) = joined().await;
    let url = format!("https://{}{MAP_PATH}", server.address);
    let unsigned = agent.http.post(url).body("{}").send().await.unwrap();
    let refused = refused_or_done(unsigned).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::BadSignature);

    let mut tampered = agent.prepare(REPORT_PATH, &ReportRequest::default());
    tampered.body = br#"{"generation":9}"#.to_vec();
    let refused = refused_or_done(agent.send(&tampered).await)
        .await
        .unwrap_err();
    assert_eq!(refused.code, ErrorCode::BadSignature);
    assert!(refused.detail.contains("content-digest"), "{refused}");

    let mut elsewhere = agent.prepare(REPORT_PATH, &ReportRequest::default());
    elsewhere.path = UPDATE_PATH;
    let refused = refused_or_done(agent.send(&elsewhere).await)
        .await
        .unwrap_err();
    assert_eq!(refused.code, ErrorCode::BadSignature);
}

#[tokio::test]
async fn a_wrong_clock_is_named() {
    let (_server, agent) = joined().await;
    for (skew, direction) in [(-300, "5 minutes behind"), (330, "5 minutes ahead of")] {
        let request = agent.prepare_at(REPORT_PATH, &ReportRequest::default(), now() + skew);
        let refused = refused_or_done(agent.send(&request).await)
            .await
            .unwrap_err();
        assert_eq!(refused.code, ErrorCode::ClockSkew);
        assert!(refused.detail.contains(direction), "{refused}");
        assert!(refused.detail.contains("timedatectl"), "{refused}");
    }
}

#[tokio::test]
async fn machines_that_are_not_enrolled_hear_how_to_join() {
    let (server, agent) = joined().await;
    let stranger = Agent::new(&server, "stranger");
    let map = stranger
        .send(&stranger.prepare(MAP_PATH, &MapRequest::default()))
        .await;
    assert_eq!(
        refused_or_done(map).await.unwrap_err().code,
        ErrorCode::NotEnrolled
    );
    assert_eq!(
        stranger.update().await.unwrap_err().code,
        ErrorCode::NotEnrolled
    );
    server.json(&["nodes", "delete", "laptop"]).await;
    assert_eq!(
        agent.update().await.unwrap_err().code,
        ErrorCode::NotEnrolled
    );
}

#[tokio::test]
async fn nonsense_is_answered_in_one_sentence() {
    let (_server, agent) = joined().await;
    let send = async |path, body: serde_json::Value| -> ProblemDetails {
        refused_or_done(agent.send(&agent.prepare(path, &body)).await)
            .await
            .unwrap_err()
    };
    let not_json = send(UPDATE_PATH, "text".into()).await;
    assert_eq!(not_json.code, ErrorCode::BadRequest);
    assert_eq!(
        send("/agent/v2/map", "x".into()).await.code,
        ErrorCode::NotFound
    );
    let long = send(UPDATE_PATH, "x".repeat(300_000).into()).await;
    assert_eq!(long.code, ErrorCode::BadRequest);
    assert!(long.detail.contains("bytes"), "{long}");
    let mut port = Agent::new(&_server, "laptop");
    port.machine = agent.machine.clone();
    port.host.listen_port = 0;
    assert_eq!(port.update().await.unwrap_err().code, ErrorCode::BadRequest);
}

#[tokio::test]
async fn another_pin_is_another_coordinator() {
    let server = TestServer::start().await;
    let other = client(Pin::of_public_key_info(b"another key"));
    let error = other
        .get(format!("https://{}/", server.address))
        .send()
        .await
        .unwrap_err();
    assert!(error.is_connect(), "{error:?}");
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_closed() {
    let server = TestServer::start().await;
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    let mut buffer = [0];
    let read = timeout(Duration::from_secs(15), silent.read(&mut buffer)).await;
    assert!(matches!(read, Ok(Ok(0) | Err(_))), "still open: {read:?}");
}
