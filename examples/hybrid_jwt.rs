//! An API key for the application beside a JWT for its user: how most mature APIs work.
//!
//! The key gives limits, metering and billing by application; the token gives the person. The layer
//! takes `X-API-Key` and leaves `Authorization: Bearer <JWT>` alone, since no key of ours begins as
//! a JWT does. `cargo run --example hybrid_jwt` prints a key, a token, and a `curl` command.

use std::time::{Duration, SystemTime};

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::routing::get;
use axum::{Extension, Router};
use jsonwebtoken::{DecodingKey, EncodingKey, Header, Validation};
use serde_json::{Value, json};
use tower_api_key::{ApiKeys, Caller};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let keys = ApiKeys::in_memory();
    let key = keys.issue("acme").await?;

    // What an identity provider does: a short-lived token for a person.
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
        .layer(keys.layer())
        .with_state(DecodingKey::from_secret(&secret));
    let port: u16 = std::env::var("PORT").map_or(Ok(3000), |port| port.parse())?;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    let address = listener.local_addr()?;
    println!("active      {}", key.expose_secret());
    println!("token       {token}");
    println!("listening on http://{address}");
    println!("  curl -i http://{address}/ -H 'X-API-Key: KEY' -H 'Authorization: Bearer TOKEN'");
    axum::serve(listener, app).await?;
    Ok(())
}

/// The layer has proved the application; the user is this handler's business.
async fn greet(
    Extension(application): Extension<Caller>,
    State(issuer): State<DecodingKey>,
    headers: HeaderMap,
) -> Result<String, StatusCode> {
    let bearer = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "))
        .ok_or(StatusCode::UNAUTHORIZED)?;
    let user = jsonwebtoken::decode::<Value>(bearer, &issuer, &Validation::default())
        .map_err(|_| StatusCode::UNAUTHORIZED)?
        .claims;
    Ok(format!(
        "{} through {}\n",
        user["sub"],
        application.account()
    ))
}
