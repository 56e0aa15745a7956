//! The admin API over TLS, as a program with a token uses it.

use crate::{agent::client, openapi::check_answer, server::TestServer};
use http::Method;
use serde_json::Value;

pub(crate) struct Api {
    http: reqwest::Client,
    origin: String,
    token: Option<String>,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Value,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    /// What it says to people, after a look at whether it is a problem as RFC 9457 has it.
    pub(crate) fn problem(&self) -> &str {
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(self.body["status"], self.status, "{self:?}");
        let kind = self.body["type"].as_str().unwrap();
        assert!(kind.starts_with("urn:weir:problem:"), "{kind}");
        assert!(!self.body["title"].as_str().unwrap().is_empty());
        self.body["detail"].as_str().unwrap()
    }
}

impl Api {
    /// Without a token.
    pub(crate) fn stranger(server: &TestServer) -> Self {
        Self {
            http: client(server.pin),
            origin: format!("https://{}", server.address),
            token: None,
        }
    }

    /// With a token of these scopes, made on the host.
    pub(crate) async fn with(server: &TestServer, scopes: &str) -> Self {
        let token = make_token(server, scopes).await;
        Self::stranger(server).bearing(&token)
    }

    pub(crate) fn bearing(&self, token: &str) -> Self {
        Self {
            http: self.http.clone(),
            origin: self.origin.clone(),
            token: Some(token.to_owned()),
        }
    }

    /// A request for something below the API's prefix.
    pub(crate) fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.request_to(method, &format!("/api/v1{path}"))
    }

    /// A request for any path.
    pub(crate) fn request_to(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.origin));
        match &self.token {
            Some(token) => request.header("authorization", format!("Bearer {token}")),
            None => request,
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        send(self.request(Method::GET, path)).await
    }

    pub(crate) async fn call(&self, method: Method, path: &str, body: &Value) -> Reply {
        send(self.request(method, path).json(body)).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Reply {
        self.call(Method::POST, path, body).await
    }
}

/// Sends a request, and holds the answer against the description of the API.
pub(crate) async fn send(request: reqwest::RequestBuilder) -> Reply {
    let (client, request) = request.build_split();
    let request = request.unwrap();
    let (method, path) = (request.method().clone(), request.url().path().to_owned());
    let response = client.execute(request).await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let bytes = response.bytes().await.unwrap();
    let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    check_answer(&method, &path, status, &body);
    Reply {
        status,
        headers,
        body,
    }
}

/// Makes a token on the host.
pub(crate) async fn make_token(server: &TestServer, scopes: &str) -> String {
    let made = server
        .json(&["tokens", "create", "--name", "test", "--scope", scopes])
        .await;
    made["token"].as_str().unwrap().to_owned()
}
