//! An API key for the application beside a JWT for its user: how most mature APIs work.
//!
//! The key gives limits, metering and billing by application; the token gives the person. The layer
//! takes `X-API-Key` and leaves `Authorization: Bearer <JWT>` alone, since no key of ours begins as
//! a JWT does. `cargo run --example hybrid_jwt` prints a key, a token, and `curl` commands: the
//! second one shows the application its usage, whoever of its users asks.

#[path = "support/rfc3339.rs"]
#[expect(dead_code, reason = "nothing is parsed here")]
mod rfc3339;

use std::time::{Duration, SystemTime};

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::routing::get;
use axum::{Extension, Json, Router};
use jsonwebtoken::{DecodingKey, EncodingKey, Header, Validation};
use serde_json::{Value, json};
use tower_api_key::usage::Metering;
use tower_api_key::{ApiKeys, Caller, MemoryStore};

/// The state of the handlers: the key for tokens, and the [`ApiKeys`].
#[derive(Clone)]
struct Service {
    issuer: DecodingKey,
    keys: ApiKeys,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Counts are shown once they are recorded: here, within a second or two, so that the example
    // can be tried. With the default of 30 seconds, a busy store has less to write.
    let metering = Metering::new().record_every(Duration::from_secs(1));
    let keys = ApiKeys::builder(MemoryStore::new())
        .metering(metering)
        .build()?;
    tokio::spawn(keys.worker().into_future()); // records usage
    let key = keys.issue("acme").await?;

    // The identity provider issues a short-lived token for a person.
    let secret = *b"the identity provider's own secret";
    let expiry = SystemTime::now() + Duration::from_secs(15 * 60);
    let claims = json!({
        "sub": "alice",
        "exp": expiry.duration_since(SystemTime::UNIX_EPOCH)?.as_secs(),
    });
    let token = jsonwebtoken::encode(
        &Header::default(),
        &claims,
        &EncodingKey::from_secret(&secret),
    )?;

    let app = Router::new()
        .route("/", get(greet))
        .route("/usage", get(usage))
        .layer(keys.layer())
        .with_state(Service {
            issuer: DecodingKey::from_secret(&secret),
            keys,
        });
    let port: u16 = std::env::var("PORT").map_or(Ok(3000), |port| port.parse())?;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    let address = listener.local_addr()?;
    println!("active      {}", key.expose_secret());
    println!("token       {token}");
    println!("listening on http://{address}");
    for path in ["/", "/usage"] {
        let url = format!("http://{address}{path}");
        println!("  curl -i {url} -H 'X-API-Key: KEY' -H 'Authorization: Bearer TOKEN'");
    }
    axum::serve(listener, app).await?;
    Ok(())
}

/// The layer has proved the application; the user is this handler's business.
async fn greet(
    Extension(application): Extension<Caller>,
    State(service): State<Service>,
    headers: HeaderMap,
) -> Result<String, StatusCode> {
    let user = user(&service.issuer, &headers)?;
    let account = application.account();
    Ok(format!("{} through {account}\n", user["sub"]))
}

/// Shows an application its own usage of the last week, by day.
async fn usage(
    Extension(application): Extension<Caller>,
    State(service): State<Service>,
    headers: HeaderMap,
) -> Result<Json<Value>, StatusCode> {
    user(&service.issuer, &headers)?;
    // The account is that of the proved key, and nothing that the request names.
    let account = application.account();
    let report = service.keys.usage().of_account(account).last_days(7).await;
    let report = report.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    let days = report.by_period().into_iter().map(|(day, counts)| {
        json!({
            "day": rfc3339::format(day.begins_at())[..10],
            "allowed": counts.allowed,
            "limited": counts.limited,
            "refused": counts.refused,
            "units": counts.units,
        })
    });
    let days: Value = days.collect();
    Ok(Json(json!({ "account": account, "days": days })))
}

/// Returns the claims of the user's token.
fn user(issuer: &DecodingKey, headers: &HeaderMap) -> Result<Value, StatusCode> {
    let bearer = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "))
        .ok_or(StatusCode::UNAUTHORIZED)?;
    let token = jsonwebtoken::decode::<Value>(bearer, issuer, &Validation::default());
    Ok(token.map_err(|_| StatusCode::UNAUTHORIZED)?.claims)
}
