//! The page on which an admin lets a machine in: `/register/CODE`.
//!
//! No session and no cookie stands behind it: each decision carries name and password in the form
//! itself. A page of somebody else can make a browser send this form, but not with a password that
//! it does not know, so that a forged request is one more wrong password. Where the browser says
//! that the form comes from elsewhere, the password is not even looked at.

use super::admin_api::From;
use crate::{
    Coordinator,
    accounts::{Caller, Password, Scope},
    admin,
    api::{ApproveMachine, MachineName, WaitingMachine},
    refusal::Refusal,
};
use axum::{
    Form, Router,
    extract::{DefaultBodyLimit, FromRequest, Path, Request, State},
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode, Uri,
        header::{
            CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, ORIGIN, REFERRER_POLICY,
            RETRY_AFTER, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
        },
    },
    response::{IntoResponse, Response},
    routing::get,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeSet,
    fmt::{self, Write},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};
use tokio::time::timeout;
use weir_overlay::Tag;
use weir_protocol::ErrorCode;

/// The longest form: a name, a password and some tags fit.
const MAX_BODY_BYTES: usize = 4 << 10;
/// How long a form may take to arrive.
const DEADLINE: Duration = Duration::from_secs(10);
/// Says where a request comes from, as the browser sees it (W3C, Fetch Metadata).
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

const STYLE: &str = "body{font:16px/1.5 sans-serif;max-width:42em;margin:2em auto;padding:0 1em}\
    th{text-align:left;vertical-align:top;padding-right:1em;white-space:nowrap}\
    td{word-break:break-word}code{font-size:1.1em}\
    label{display:block;margin-top:.7em}input{width:100%;box-sizing:border-box;font:inherit}\
    button{font:inherit;margin:1em 1em 0 0;padding:.3em 1.2em}\
    .wrong{border-left:4px solid #b00;padding-left:.7em}";

/// The page's paths.
pub(super) fn routes() -> Router<Arc<Coordinator>> {
    Router::new().route(
        "/register/{code}",
        get(show)
            .post(decide)
            .layer(DefaultBodyLimit::max(MAX_BODY_BYTES)),
    )
}

/// What is typed into the form.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Decision {
    decision: String,
    name: String,
    password: String,
    user: String,
    tags: String,
}

async fn show(
    State(coordinator): State<Arc<Coordinator>>,
    Path(code): Path<String>,
) -> Result<Response, Refusal> {
    Ok(match admin::find_waiting(&coordinator, &code).await? {
        Some(machine) => page(StatusCode::OK, &form(&machine, &Decision::default(), None)),
        None => nobody(),
    })
}

async fn decide(
    State(coordinator): State<Arc<Coordinator>>,
    Path(code): Path<String>,
    From(address): From,
    request: Request,
) -> Result<Response, Refusal> {
    if !is_from_here(request.headers(), request.uri()) {
        return Ok(message(
            StatusCode::FORBIDDEN,
            "This did not come from this page",
            "Your browser says that another page sent this form. Nothing was done: open the address \
             that agent up printed, or use coordinator nodes approve on the coordinator's host.",
        ));
    }
    let Ok(Ok(Form(typed))) = timeout(DEADLINE, Form::<Decision>::from_request(request, &())).await
    else {
        return Ok(message(
            StatusCode::BAD_REQUEST,
            "This is no decision",
            "The form did not arrive whole. Nothing was done: go back and try again.",
        ));
    };
    // Before the password: who does not know a code guesses no passwords here.
    let Some(machine) = admin::find_waiting(&coordinator, &code).await? else {
        return Ok(nobody());
    };
    match carry_out(&coordinator, &code, &typed, address).await {
        Ok(done) => Ok(page(StatusCode::OK, &done)),
        Err(refusal) => Ok(refused(&machine, &typed, refusal)),
    }
}

/// Checks who decides, and does it. Gives what to show.
async fn carry_out(
    coordinator: &Coordinator,
    code: &str,
    typed: &Decision,
    address: IpAddr,
) -> Result<String, Refusal> {
    let is_approved = match typed.decision.as_str() {
        "approve" => true,
        "deny" => false,
        _ => {
            return Err(Refusal::new(
                ErrorCode::BadRequest,
                "press one of the two buttons",
            ));
        }
    };
    let (store, passwords) = (&coordinator.store, &coordinator.passwords);
    let password = Password::presented(&typed.password);
    let account = passwords.log_in(store, typed.name.trim(), password).await?;
    let caller = Caller::of_account(&account, address);
    let scope = Scope::NodesWrite;
    if !caller.scopes.allow(scope) {
        return Err(Refusal::MissingScope { scope });
    }
    let (actor, proof) = (&caller.actor, Some(&account));
    if !is_approved {
        let denied = admin::deny_machine(coordinator, actor, proof, code).await?;
        return Ok(format!(
            "<h1>Denied</h1><p>{} stays out, and hears so.</p>",
            Escaped(&denied.hostname)
        ));
    }
    let user = typed.user.trim();
    let request = ApproveMachine {
        user: (!user.is_empty()).then(|| user.to_owned()),
        tags: tags(&typed.tags)?,
        ..ApproveMachine::default()
    };
    let node = admin::approve_machine(coordinator, actor, proof, code, request).await?;
    let owner = node.user.unwrap_or_else(|| list(&node.tags));
    Ok(format!(
        "<h1>Approved</h1><p>The machine is in, as {} of {}. Its agent goes up by itself. Routes that \
         it advertises are approved each for itself.</p>",
        Escaped(node.name.as_str()),
        Escaped(&owner)
    ))
}

fn tags(text: &str) -> Result<BTreeSet<Tag>, Refusal> {
    text.split([',', ' '])
        .filter(|tag| !tag.is_empty())
        .map(|tag| {
            tag.parse().map_err(|error: weir_overlay::NameError| {
                Refusal::new(ErrorCode::BadRequest, error.to_string())
            })
        })
        .collect()
}

/// Whether nothing says that another page sent this. The newer header decides where it is there;
/// this page's own policy has browsers leave out the older one, or send `null`.
fn is_from_here(headers: &HeaderMap, uri: &Uri) -> bool {
    let text = |value: &HeaderValue| value.to_str().unwrap_or_default().to_ascii_lowercase();
    if let Some(site) = headers.get(SEC_FETCH_SITE) {
        return text(site) == "same-origin";
    }
    let Some(origin) = headers.get(ORIGIN) else {
        return true;
    };
    // HTTP/2 has the name in the address of the request.
    let host = headers.get(HOST).map(text);
    let host = host.or_else(|| {
        uri.authority()
            .map(|host| host.as_str().to_ascii_lowercase())
    });
    host.is_some_and(|host| text(origin) == format!("https://{host}"))
}

/// What there is to see about a code that is unknown, decided or too old: always the same.
fn nobody() -> Response {
    message(
        StatusCode::NOT_FOUND,
        "No machine waits here",
        "It was let in or denied already, or waited too long, or the address is not whole. agent up, \
         on the machine, asks again and prints a new address.",
    )
}

fn refused(machine: &WaitingMachine, typed: &Decision, refusal: Refusal) -> Response {
    let problem = refusal.problem();
    let logged = refusal.into_response();
    if problem.code == ErrorCode::NotFound && problem.detail.starts_with("no machine waits") {
        return nobody();
    }
    // 401 would ask for credentials of another kind (RFC 9110, section 15.5.2).
    let status = match logged.status() {
        StatusCode::UNAUTHORIZED => StatusCode::FORBIDDEN,
        status => status,
    };
    let mut response = page(status, &form(machine, typed, Some(&problem.detail)));
    if let Some(after) = logged.headers().get(RETRY_AFTER) {
        response.headers_mut().insert(RETRY_AFTER, after.clone());
    }
    response
}

fn form(machine: &WaitingMachine, typed: &Decision, wrong: Option<&str>) -> String {
    let wrong = wrong.map_or_else(String::new, |wrong| {
        format!("<p class=wrong>{}</p>", Escaped(wrong))
    });
    let waits = jiff::Timestamp::now().duration_since(machine.asked);
    format!(
        "<h1>A machine asks to join</h1>{wrong}\
         <p>Approve it only if you know who started it, and if the fingerprint is the one that \
         <code>agent up</code> shows on that machine. The rest is what it says of itself.</p>\
         <table>\
         <tr><th>Fingerprint</th><td><code>{}</code></td></tr>\
         <tr><th>Host name</th><td>{}</td></tr>\
         <tr><th>System</th><td>{}, agent {}</td></tr>\
         <tr><th>Asks from</th><td>{}</td></tr>\
         <tr><th>Routes</th><td>{}</td></tr>\
         <tr><th>Tags</th><td>{}</td></tr>\
         <tr><th>Waits</th><td>since {} s, until {}</td></tr>\
         </table>\
         <form method=post autocomplete=off>\
         <label>Your name <input name=name autocomplete=username value=\"{}\"></label>\
         <label>Your password <input name=password type=password \
         autocomplete=current-password></label>\
         <label>Whose it is to be: a user (you, when this is empty) \
         <input name=user value=\"{}\"></label>\
         <label>or the tags that it is to carry instead, such as tag:relay \
         <input name=tags value=\"{}\"></label>\
         <button name=decision value=approve>Approve</button>\
         <button name=decision value=deny>Deny</button>\
         </form>",
        Escaped(&machine.fingerprint),
        Escaped(&machine.hostname),
        Escaped(&machine.os),
        Escaped(&machine.version),
        machine.address,
        Escaped(&list(&machine.routes)),
        Escaped(&list(&machine.tags)),
        waits.as_secs().max(0),
        machine.expires.strftime("%Y-%m-%d %H:%M:%S UTC"),
        Escaped(&typed.name),
        Escaped(&typed.user),
        Escaped(&typed.tags),
    )
}

fn list<T: ToString>(items: &BTreeSet<T>) -> String {
    let items: Vec<_> = items.iter().map(ToString::to_string).collect();
    match items.is_empty() {
        true => "none".to_owned(),
        false => items.join(", "),
    }
}

fn message(status: StatusCode, heading: &str, text: &str) -> Response {
    let (heading, text) = (Escaped(heading), Escaped(text));
    page(status, &format!("<h1>{heading}</h1><p>{text}</p>"))
}

fn page(status: StatusCode, body: &str) -> Response {
    let text = format!(
        "<!DOCTYPE html><html lang=en><head><meta charset=utf-8>\
         <meta name=viewport content=\"width=device-width\"><title>Weir</title>\
         <style>{STYLE}</style></head><body>{body}</body></html>\n"
    );
    let style = STANDARD.encode(Sha256::digest(STYLE));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{style}'; form-action 'self'; frame-ancestors \
         'none'; base-uri 'none'"
    );
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, policy.as_str()),
        (CACHE_CONTROL, "no-store"),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
    ];
    (status, headers, text).into_response()
}

/// A text within HTML, also within quotes, with what is no plain character written out.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in MachineName(self.0).to_string().chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_stranger_is_markup() {
        assert_eq!(
            Escaped("<b a='1' c=\"2\">&\u{202e}").to_string(),
            "&lt;b a=&#39;1&#39; c=&quot;2&quot;&gt;&amp;\\u{202e}"
        );
    }

    #[test]
    fn a_form_of_another_page_is_told_from_this_ones() {
        let uri = Uri::from_static("/register/c0de");
        let from = |headers: &[(HeaderName, &'static str)]| {
            let headers = headers.iter().cloned();
            let headers = headers.map(|(name, value)| (name, HeaderValue::from_static(value)));
            is_from_here(&headers.collect(), &uri)
        };
        let here = (HOST, "c.example:8443");
        assert!(
            from(std::slice::from_ref(&here)),
            "curl says nothing of the kind"
        );
        assert!(from(&[here.clone(), (ORIGIN, "https://c.example:8443")]));
        let same = (SEC_FETCH_SITE, "same-origin");
        assert!(from(&[here.clone(), (ORIGIN, "null"), same]));
        for other in [
            (ORIGIN, "https://evil.example"),
            (ORIGIN, "http://c.example:8443"),
            (ORIGIN, "https://c.example"),
            (ORIGIN, "null"),
            (SEC_FETCH_SITE, "cross-site"),
            (SEC_FETCH_SITE, "same-site"),
            (SEC_FETCH_SITE, "none"),
        ] {
            assert!(!from(&[here.clone(), other.clone()]), "{other:?}");
        }
        let other = (SEC_FETCH_SITE, "cross-site");
        let lies = [here, (ORIGIN, "https://c.example:8443"), other];
        assert!(!from(&lies));
    }
}
