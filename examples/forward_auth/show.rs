//! Shows what each proxy asks, and what it is told.

use std::fmt::Write;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::request::Builder;
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use serde_json::{Value, json};
use tower::ServiceExt;
use tower_api_key::{ApiKeys, MemoryStore};

use crate::Error;
use crate::answer::{ENVOY_REMOVES, REFUSAL_BODY, REFUSAL_STATUS};
use crate::introspect::INTROSPECT;
use crate::service::{REPORTS_READ, REPORTS_WRITE, limits, service};

/// The headers of an answer that are shown.
const SHOWN: [&str; 9] = [
    "x-key-account",
    "x-key-id",
    "x-key-scopes",
    "x-key-status",
    "www-authenticate",
    "retry-after",
    "x-ratelimit-remaining",
    ENVOY_REMOVES,
    REFUSAL_STATUS,
];

pub(crate) async fn show() -> Result<(), Error> {
    let keys = ApiKeys::builder(MemoryStore::new())
        .limits(limits())
        .build()?;
    let key = keys
        .issue("Müller & Co")
        .scopes([REPORTS_READ, REPORTS_WRITE]);
    let key = key.await?;
    let asker = keys.issue("billing").scopes([INTROSPECT]).await?;
    let service = service(&keys.to_read_only());
    let (key, asker) = (key.expose_secret(), asker.expose_secret());

    println!("nginx asks about GET /v1/whoami of a client that says it is somebody else:");
    let told = Asking::nginx("GET", "/v1/whoami")
        .header("authorization", &format!("Bearer {key}"))
        .header("x-key-account", "root")
        .ask(&service)
        .await?;
    ensure(told.status == StatusCode::OK, "it is admitted")?;
    let account = told.header("x-key-account");
    ensure(
        account == "M%C3%BCller%20&%20Co",
        "the account is that of the key",
    )?;
    let is_left = told.headers.contains_key(header::AUTHORIZATION);
    ensure(!is_left, "the key is not passed on")?;

    println!("\nnginx asks about a request without a key. It passes on 403 or 401, and no body,");
    println!("so the response for the client is in headers:");
    let told = Asking::nginx("GET", "/v1/whoami").ask(&service).await?;
    ensure(told.status == StatusCode::FORBIDDEN, "it is refused")?;
    ensure(told.header(REFUSAL_STATUS) == "401", "the client gets 401")?;
    let body: Value = serde_json::from_str(told.header(REFUSAL_BODY))?;
    ensure(body["error"]["code"] == "missing_api_key", "with its code")?;

    println!("\nnginx asks about a path that could be read as /v1/reports:");
    let told = Asking::nginx("POST", "/v1/x/%2e%2e/reports")
        .header("x-api-key", key)
        .ask(&service)
        .await?;
    ensure(told.header(REFUSAL_STATUS) == "400", "it is refused")?;

    println!("\nTraefik asks about POST /v1/reports, which costs 25 of 60, until it is told 429:");
    let post = || Asking::traefik("POST", "/v1/reports").header("x-api-key", key);
    let mut admitted = 0;
    let limited = loop {
        let told = post().ask(&service).await?;
        if told.status != StatusCode::OK {
            break told;
        }
        admitted += 1;
    };
    ensure(
        admitted == 2,
        "59 were left, since the request of nginx took one",
    )?;
    ensure(
        limited.status == StatusCode::TOO_MANY_REQUESTS,
        "the limit is used up",
    )?;

    println!("\nEnvoy asks about GET /v1/reports/7 with a key and a user's token:");
    let told = Asking::envoy("GET", "/v1/reports/7")
        .header("x-api-key", key)
        .header("authorization", "Bearer e30.e30.c2ln")
        .ask(&service)
        .await?;
    ensure(told.status == StatusCode::OK, "it is admitted")?;
    let token = told.header("authorization");
    ensure(token == "Bearer e30.e30.c2ln", "the token is passed on")?;

    println!("\nA service introspects the key, and a key that does not exist:");
    let claims = introspect(&service, asker, key).await?;
    ensure(claims["active"] == true, "the key is active")?;
    ensure(claims["sub"] == "Müller & Co", "its account is told")?;
    let claims = introspect(&service, asker, "sk_live_nothing").await?;
    ensure(claims == json!({ "active": false }), "nothing is told")
}

/// A question of a proxy.
struct Asking {
    shown: String,
    request: Builder,
}

impl Asking {
    fn nginx(method: &str, uri: &str) -> Self {
        Self::new(Method::GET, "/nginx")
            .header("x-original-method", method)
            .header("x-original-uri", uri)
            .header("x-forwarded-for", "192.0.2.7")
    }

    fn traefik(method: &str, uri: &str) -> Self {
        Self::new(Method::GET, "/traefik")
            .header("x-forwarded-method", method)
            .header("x-forwarded-uri", uri)
            .header("x-forwarded-for", "192.0.2.7")
    }

    fn envoy(method: &str, uri: &str) -> Self {
        let method = Method::from_bytes(method.as_bytes()).unwrap_or_default();
        Self::new(method, &format!("/envoy{uri}")).header("x-client-address", "192.0.2.7")
    }

    fn new(method: Method, uri: &str) -> Self {
        Self {
            shown: format!("    > {method} {uri}"),
            request: Request::builder().method(method).uri(uri),
        }
    }

    fn header(mut self, name: &str, value: &str) -> Self {
        let is_secret = value.contains("sk_live_");
        let shown = if is_secret { "(the key)" } else { value };
        let _ = write!(self.shown, "\n    > {name}: {shown}");
        self.request = self.request.header(name, value);
        self
    }

    /// Prints the question and its answer.
    async fn ask(self, service: &Router) -> Result<Told, Error> {
        println!("{}", self.shown);
        let request = self.request.body(Body::empty())?;
        let response = service.clone().oneshot(request).await?;
        let told = Told {
            status: response.status(),
            headers: response.headers().clone(),
        };
        println!("    < {}", told.status);
        for name in SHOWN
            .iter()
            .filter(|name| told.headers.contains_key(**name))
        {
            println!("    < {name}: {}", told.header(name));
        }
        Ok(told)
    }
}

/// What a proxy was told.
struct Told {
    status: StatusCode,
    headers: HeaderMap,
}

impl Told {
    fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.and_then(|it| it.to_str().ok()).unwrap_or_default()
    }
}

async fn introspect(service: &Router, asker: &str, token: &str) -> Result<Value, Error> {
    let request = Request::post("/introspect")
        .header(header::AUTHORIZATION, format!("Bearer {asker}"))
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(Body::from(format!("token={token}")))?;
    let response = service.clone().oneshot(request).await?;
    let body = to_bytes(response.into_body(), 4096).await?;
    println!("    < {}", String::from_utf8_lossy(&body));
    Ok(serde_json::from_slice(&body)?)
}

fn ensure(holds: bool, claim: &str) -> Result<(), Error> {
    if !holds {
        return Err(format!("not so: {claim}").into());
    }
    Ok(())
}
