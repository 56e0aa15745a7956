//! The page on which an admin lets a machine in.

use crate::{
    agent::{Agent, client},
    approval::pending,
    server::TestServer,
};
use serde_json::json;
use weir_protocol::{ErrorCode, REGISTER_PATH, RegisterResponse, machine_fingerprint};

const PASSWORD: &str = "correct horse battery";

struct Page {
    status: u16,
    headers: http::HeaderMap,
    text: String,
}

async fn read(request: reqwest::RequestBuilder) -> Page {
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let page = Page {
        status,
        headers,
        text: response.text().await.unwrap(),
    };
    page.is_shut();
    page
}

impl Page {
    /// Every page, whatever it says, runs nothing, is kept nowhere and is in no frame.
    fn is_shut(&self) {
        let header = |name: &str| self.headers[name].to_str().unwrap();
        assert_eq!(header("content-type"), "text/html; charset=utf-8");
        let policy = header("content-security-policy");
        for part in [
            "default-src 'none'",
            "form-action 'self'",
            "frame-ancestors 'none'",
            "style-src 'sha256-",
        ] {
            assert!(policy.contains(part), "{policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(header("cache-control"), "no-store");
        assert_eq!(header("referrer-policy"), "no-referrer");
        assert_eq!(header("x-content-type-options"), "nosniff");
        assert!(!self.text.contains("<script"), "{}", self.text);
        assert!(!self.text.contains(PASSWORD), "{}", self.text);
    }
}

/// A server with an admin and a user, and a machine that waits.
struct Scene {
    server: TestServer,
    agent: Agent,
    code: String,
}

impl Scene {
    async fn new(agent: impl FnOnce(&TestServer) -> Agent) -> Self {
        let server = TestServer::start().await;
        server.json(&["users", "create", "alice@example.com"]).await;
        let admin = json!({ "name": "root@example.com", "admin": true, "password": PASSWORD });
        let api = crate::api::Api::with(&server, "*").await;
        assert_eq!(api.post("/users", &admin).await.status, 200);
        let agent = agent(&server);
        let code = pending(&agent).await;
        Self {
            server,
            agent,
            code,
        }
    }

    fn url(&self, code: &str) -> String {
        format!("https://{}/register/{code}", self.server.address)
    }

    async fn get(&self, code: &str) -> Page {
        read(client(self.server.pin).get(self.url(code))).await
    }

    fn form(&self, fields: &[(&str, &str)]) -> reqwest::RequestBuilder {
        // As a browser writes it (WHATWG, URL, section 5.2), for the few characters used here.
        let encoded = |text: &str| {
            text.bytes()
                .map(|byte| match byte {
                    b' ' => "+".to_owned(),
                    b if b.is_ascii_alphanumeric() || b"-._".contains(&b) => {
                        char::from(b).to_string()
                    }
                    b => format!("%{b:02X}"),
                })
                .collect::<String>()
        };
        let body: Vec<_> = fields
            .iter()
            .map(|(name, value)| format!("{name}={}", encoded(value)))
            .collect();
        client(self.server.pin)
            .post(self.url(&self.code))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body.join("&"))
    }

    async fn decide(&self, decision: &str, password: &str, more: &[(&str, &str)]) -> Page {
        let fields = [
            ("name", "root@example.com"),
            ("password", password),
            ("decision", decision),
        ];
        read(self.form(&[&fields, more].concat())).await
    }

    async fn register(&self) -> Result<RegisterResponse, ErrorCode> {
        let request = self.agent.join_request(None, &[]);
        let done = self.agent.call(REGISTER_PATH, &request).await;
        done.map_err(|problem| problem.code)
    }

    async fn is_out(&self) {
        assert_eq!(self.register().await, Err(ErrorCode::NotEnrolled));
    }
}

#[tokio::test]
async fn an_admin_lets_a_machine_in_on_the_page() {
    let scene = Scene::new(|server| Agent::new(server, "relay").advertising("8.8.8.8/32")).await;
    let page = scene.get(&scene.code).await;
    assert_eq!(page.status, 200);
    let fingerprint = machine_fingerprint(&scene.agent.machine.public());
    for part in [fingerprint.as_str(), "relay", "8.8.8.8/32", "127.0.0.1"] {
        assert!(page.text.contains(part), "{}", page.text);
    }
    assert!(
        !page.text.contains("example.com"),
        "who has no password learns no user's name: {}",
        page.text
    );
    scene.is_out().await;
    let user = [("user", "alice@example.com"), ("tags", "")];
    let page = scene.decide("approve", PASSWORD, &user).await;
    assert_eq!(page.status, 200, "{}", page.text);
    assert!(page.text.contains("Approved"), "{}", page.text);
    scene.register().await.unwrap();
    let node = scene.server.json(&["nodes", "show", "relay"]).await;
    assert_eq!(node["user"], "alice@example.com");
    let log = scene.server.json(&["audit", "list"]).await;
    let log = log.as_array().unwrap();
    let entry = log.iter().find(|entry| entry["action"] == "nodes.approve");
    let entry = entry.unwrap();
    assert_eq!(entry["actor"], "admin root@example.com");
    assert_eq!(entry["origin"], "127.0.0.1");
    assert_eq!(scene.get(&scene.code).await.status, 404);
}

#[tokio::test]
async fn without_a_word_the_node_is_the_admins_own_and_with_tags_nobodys() {
    let scene = Scene::new(|server| Agent::new(server, "laptop")).await;
    let page = scene.decide("approve", PASSWORD, &[]).await;
    assert_eq!(page.status, 200, "{}", page.text);
    let node = scene.server.json(&["nodes", "show", "laptop"]).await;
    assert_eq!(node["user"], "root@example.com");
    let scene = Scene::new(|server| Agent::new(server, "relay")).await;
    let bad = scene
        .decide("approve", PASSWORD, &[("tags", "relay")])
        .await;
    assert_eq!(bad.status, 400, "{}", bad.text);
    scene.is_out().await;
    let page = scene
        .decide("approve", PASSWORD, &[("tags", "tag:relay, tag:b")])
        .await;
    assert_eq!(page.status, 200, "{}", page.text);
    let node = scene.server.json(&["nodes", "show", "relay"]).await;
    assert_eq!(node["tags"], json!(["tag:b", "tag:relay"]));
}

#[tokio::test]
async fn a_machine_is_denied_on_the_page() {
    let scene = Scene::new(|server| Agent::new(server, "laptop")).await;
    let wrong = scene.decide("deny", "no password at all", &[]).await;
    assert_eq!(wrong.status, 403);
    assert_eq!(scene.get(&scene.code).await.status, 200, "still to decide");
    let page = scene.decide("deny", PASSWORD, &[]).await;
    assert_eq!(page.status, 200, "{}", page.text);
    assert!(page.text.contains("Denied"), "{}", page.text);
    assert_eq!(scene.get(&scene.code).await.status, 404);
    let page = scene.decide("approve", PASSWORD, &[]).await;
    assert_eq!(page.status, 404, "{}", page.text);
    scene.is_out().await;
}

#[tokio::test]
async fn without_the_password_nobody_comes_in() {
    let scene = Scene::new(|server| Agent::new(server, "laptop")).await;
    let wrong = scene.decide("approve", "no password at all", &[]).await;
    assert_eq!(wrong.status, 403);
    let unknown = [
        ("name", "nobody@example.com"),
        ("password", "no password at all"),
        ("decision", "approve"),
    ];
    let unknown = read(scene.form(&unknown)).await;
    assert_eq!(unknown.status, 403);
    let told = |page: &Page| {
        let from = page.text.find("<p class=wrong>").unwrap();
        let end = page.text[from..].find("</p>").unwrap();
        page.text[from..from + end].to_owned()
    };
    assert_eq!(
        told(&wrong),
        told(&unknown),
        "no telling who has an account"
    );
    for fields in [
        &[][..],
        &[("decision", "approve")],
        &[("decision", "approve"), ("name", "root@example.com")],
        // A user who is no admin.
        &[
            ("decision", "approve"),
            ("name", "alice@example.com"),
            ("password", ""),
        ],
    ] {
        let page = read(scene.form(fields)).await;
        assert!(matches!(page.status, 400 | 403), "{fields:?}");
    }
    let neither = scene.decide("perhaps", PASSWORD, &[]).await;
    assert_eq!(neither.status, 400);
    scene.is_out().await;
}

#[tokio::test]
async fn who_guesses_passwords_on_the_page_is_slowed_down() {
    let scene = Scene::new(|server| Agent::new(server, "laptop")).await;
    let mut last = 403;
    for _ in 0..8 {
        let page = scene.decide("approve", "no password at all", &[]).await;
        last = page.status;
        if last == 429 {
            assert!(page.headers.contains_key("retry-after"));
            break;
        }
        assert_eq!(last, 403);
    }
    assert_eq!(last, 429);
    scene.is_out().await;
}

#[tokio::test]
async fn codes_that_are_unknown_decided_or_old_look_alike() {
    let scene = Scene::new(|server| Agent::new(server, "laptop")).await;
    scene.server.json(&["nodes", "deny", &scene.code]).await;
    let denied = scene.get(&scene.code).await;
    for other in ["0".repeat(32), "x".to_owned(), "%3Cscript%3E".to_owned()] {
        let unknown = scene.get(&other).await;
        assert_eq!(unknown.status, 404, "{other}");
        assert_eq!(unknown.text, denied.text);
    }
    // Nor is a password looked at for one.
    let posted = scene.decide("approve", PASSWORD, &[]).await;
    assert_eq!((posted.status, posted.text), (404, denied.text));
}

#[tokio::test]
async fn what_a_machine_says_of_itself_is_text_and_no_markup() {
    let scene = Scene::new(|server| {
        let mut agent = Agent::new(server, "<script>alert(1)</script>");
        agent.host.os = "\"><img src=x onerror='a'>".to_owned();
        agent.host.version = "1&2\u{202e}".to_owned();
        agent
    })
    .await;
    let fields = [
        ("name", "\"><b>"),
        ("password", "wrong"),
        ("decision", "approve"),
        ("user", "'><i>"),
        ("tags", "<u>"),
    ];
    for page in [
        scene.get(&scene.code).await,
        read(scene.form(&fields)).await,
    ] {
        for bad in ["<script", "<img", "<b>", "<i>", "<u>", "\u{202e}"] {
            assert!(!page.text.contains(bad), "{bad}: {}", page.text);
        }
        assert!(
            page.text.contains("&lt;script&gt;alert(1)"),
            "{}",
            page.text
        );
    }
}

#[tokio::test]
async fn a_form_that_another_page_sends_is_not_looked_at() {
    let scene = Scene::new(|server| Agent::new(server, "laptop")).await;
    let fields = [
        ("name", "root@example.com"),
        ("password", PASSWORD),
        ("decision", "approve"),
    ];
    for (name, value) in [
        ("origin", "https://evil.example"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
    ] {
        let page = read(scene.form(&fields).header(name, value)).await;
        assert_eq!(page.status, 403, "{name}: {value}");
    }
    scene.is_out().await;
    let page = scene
        .form(&fields)
        .header("origin", "null")
        .header("sec-fetch-site", "same-origin");
    assert_eq!(read(page).await.status, 200);
    scene.register().await.unwrap();
}

#[tokio::test]
async fn long_and_broken_forms_are_refused() {
    let scene = Scene::new(|server| Agent::new(server, "laptop")).await;
    let long = scene.decide("approve", &"x".repeat(5 << 10), &[]).await;
    assert_eq!(long.status, 400);
    let json = client(scene.server.pin)
        .post(scene.url(&scene.code))
        .json(&json!({ "name": "root@example.com" }));
    assert_eq!(read(json).await.status, 400);
    scene.is_out().await;
}
