//! Advice for those who hold your keys.
//!
//! The rules below are for developers who call your API. Copy the rules into your documentation,
//! and replace `ACME_API_KEY` and the host name.
//!
//! # Keep the key secret
//!
//! A key is the password of an application: whoever has the key has all of its permissions. Keep
//! the key
//!
//! - in a secret manager, or
//! - in an environment variable of the process, which child processes inherit, or
//! - in the secrets of the build system.
//!
//! Never put the key into
//!
//! - a mobile app, a desktop app, or a web page;
//! - source code, a configuration file in a repository, or a container image;
//! - a URL, a bookmark, a ticket, a chat, or an e-mail;
//! - a log, an error report, or a screenshot.
//!
//! A key that was in one of the latter places has leaked, even if the commit was reverted. Request
//! a new key, and have the old key revoked.
//!
//! # One key for each application and environment
//!
//! - Use a separate key for each application and each environment. After a leak, only one key must
//!   be revoked.
//! - Request only the scopes that the application needs.
//! - If the application has fixed addresses, request an allow-list of networks.
//! - Use a test key for development. A live service refuses test keys.
//!
//! # Send the key
//!
//! Read the key from an environment variable at the start, and exit with a clear message if the
//! variable is not set:
//!
//! ```
//! use http::header::{AUTHORIZATION, HeaderValue};
//! use http::{Request, Uri};
//!
//! /// A client of the Acme API.
//! struct Acme {
//!     authorization: HeaderValue,
//! }
//!
//! impl Acme {
//!     fn from_env() -> Result<Self, Box<dyn std::error::Error>> {
//!         let key = std::env::var("ACME_API_KEY").map_err(|_| "set ACME_API_KEY")?;
//!         let mut authorization = HeaderValue::try_from(format!("Bearer {}", key.trim()))?;
//!         authorization.set_sensitive(true); // not printed by `Debug`
//!         Ok(Self { authorization })
//!     }
//!
//!     fn get(&self, path: &str) -> Result<Request<()>, http::Error> {
//!         let uri = Uri::builder()
//!             .scheme("https")
//!             .authority("api.acme.example")
//!             .path_and_query(path)
//!             .build()?;
//!         Request::get(uri).header(AUTHORIZATION, self.authorization.clone()).body(())
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let acme = Acme { authorization: HeaderValue::from_static("Bearer acme_live_example") };
//! # let _ = Acme::from_env;
//! // let acme = Acme::from_env()?;
//! let request = acme.get("/v1/reports")?; // send with hyper, reqwest, or another client
//! # assert_eq!(request.headers()[AUTHORIZATION], "Bearer acme_live_example");
//! # Ok(())
//! # }
//! ```
//!
//! - Send the key over HTTPS, in a header, to the host of the API alone. Many clients drop
//!   `Authorization` when a redirect leads to another host, and keep a header such as `X-API-Key`.
//! - Send one key only. A request with two different keys is refused.
//! - Send the key without quotes or brackets. `Bearer "KEY"` is refused.
//!
//! Other users of a machine can see the arguments of a command. Let `curl` read the header from
//! standard input instead:
//!
//! ```sh
//! printf 'Authorization: Bearer %s' "$ACME_API_KEY" | curl -H @- \
//!     https://api.acme.example/v1/reports
//! ```
//!
//! # Read the response headers
//!
//! | header | meaning | action |
//! |---|---|---|
//! | `X-Key-Status: active` | the key works | none |
//! | `X-Key-Status: deprecated` | the key works, but expires soon or was replaced | replace it |
//! | `X-Key-Expires-At` | the expiry of the key, in UTC | monitor the date |
//! | `Deprecation`, `Sunset` | the date of deprecation, and the expiry | log a warning |
//! | `Link: <…>; rel="deprecation"` | a page about replacing the key | follow the page |
//! | `X-RateLimit-Remaining` | the rest of the tightest limit | slow down before 0 |
//! | `Retry-After` | the seconds to wait, with 429 and 503 | wait |
//! | `X-Key-Expired-At` | the past expiry of the key, with 401 | get a new key |
//!
//! Log a warning about a deprecated key:
//!
//! ```
//! use http::HeaderMap;
//!
//! fn expiry_warning(headers: &HeaderMap) -> Option<String> {
//!     let text = |name| headers.get(name)?.to_str().ok();
//!     let is_deprecated = text("x-key-status") == Some("deprecated");
//!     let expiry = text("x-key-expires-at").unwrap_or("an unknown time");
//!     is_deprecated.then(|| format!("replace the API key: it expires at {expiry}"))
//! }
//!
//! let mut headers = HeaderMap::new();
//! headers.insert("x-key-status", "deprecated".parse()?);
//! headers.insert("x-key-expires-at", "2026-12-01T00:00:00Z".parse()?);
//! let warning = expiry_warning(&headers).unwrap();
//! assert_eq!(warning, "replace the API key: it expires at 2026-12-01T00:00:00Z");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Retries
//!
//! | status | retry | action |
//! |---|---|---|
//! | 400 | no | send one key |
//! | 401 | no | get another key: this one is unknown, expired or revoked |
//! | 403 | no | read `code`: for example a scope is missing |
//! | 429 | after `Retry-After` | distribute the requests over time |
//! | 503 | after `Retry-After`, then with backoff | keep the key: the service has an outage |
//!
//! ```
//! use std::time::Duration;
//!
//! use http::{HeaderMap, StatusCode, header};
//!
//! /// Returns the time to wait before a retry, or `None` if a retry cannot succeed.
//! fn retry_delay(status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
//!     if !matches!(status.as_u16(), 429 | 503) {
//!         return None;
//!     }
//!     let told = headers.get(header::RETRY_AFTER);
//!     let seconds = told.and_then(|seconds| seconds.to_str().ok()?.parse().ok());
//!     Some(Duration::from_secs(seconds.unwrap_or(5)))
//! }
//!
//! let mut headers = HeaderMap::new();
//! headers.insert(header::RETRY_AFTER, 42.into());
//! assert_eq!(retry_delay(StatusCode::TOO_MANY_REQUESTS, &headers), Some(Duration::from_secs(42)));
//! assert_eq!(retry_delay(StatusCode::UNAUTHORIZED, &headers), None);
//! ```
//!
//! Add random jitter to each delay, so that many clients do not retry at the same time.
//!
//! # Rotate keys
//!
//! 1. Get a new key for the same account, with the same scopes.
//! 2. Store the new key in the secret manager or the environment variable, and deploy.
//! 3. Check that all instances use the new key. The old key works in the meantime.
//! 4. Have the old key revoked.
//!
//! Rotate keys at a fixed interval, such as each quarter, and when somebody leaves the team. After
//! a leak, have the key revoked first.
//!
//! # Advice for those who issue keys
//!
//! - Show a key once, and say so on the page. Afterwards, show its prefix, name and expiry.
//! - Give each key an expiry ([`expires_in`]), and link to a page about rotation with
//!   [`ApiKeyLayer::deprecation_link`].
//! - Choose your own prefix, so that secret scanners can find your keys ([`KeyFormat::new`]).
//! - Let holders list and revoke their keys themselves. Before you revoke a key for a customer,
//!   compare the account of its record: [`ApiKeys::revoke`] does not check the account.
//!
//! [`ApiKeyLayer::deprecation_link`]: crate::ApiKeyLayer::deprecation_link
//! [`ApiKeys::revoke`]: crate::ApiKeys::revoke
//! [`KeyFormat::new`]: crate::key::KeyFormat::new
//! [`expires_in`]: crate::manage::IssueKey::expires_in
