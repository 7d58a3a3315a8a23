//! Issue keys by a policy, and keep them tidy.
//!
//! # A policy
//!
//! An [`IssuePolicy`] bounds the keys that this process issues, rotates, updates and imports. Set
//! the same policy in all processes.
//!
//! ```
//! use std::time::Duration;
//!
//! use tower_api_key::manage::{IssueError, IssuePolicy, PolicyError, ScopeCeiling};
//! use tower_api_key::store::{Actor, ActorKind};
//! use tower_api_key::{ApiKeys, MemoryStore, Scope};
//!
//! const READ: Scope = Scope::from_static("reports:read");
//! const WRITE: Scope = Scope::from_static("reports:write");
//! const DAY: Duration = Duration::from_secs(86_400);
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let policy = IssuePolicy::new()
//!     .require_name()
//!     .max_lifetime(365 * DAY)
//!     .default_lifetime(90 * DAY)
//!     .max_keys_per_account(20)
//!     .scope_ceiling(|issuer| match issuer.kind {
//!         ActorKind::Service => ScopeCeiling::Unlimited,
//!         _ => ScopeCeiling::only([READ]), // users, and callers that are not named
//!     })
//!     .end_grace_when_idle(31 * DAY);
//! let keys = ApiKeys::builder(MemoryStore::new()).issue_policy(policy).build()?;
//!
//! let alice = Actor::user("alice@globex.example");
//! let issue = || keys.issue("globex").by(alice.clone()).name("nightly export");
//! let key = issue().scopes([READ]).await?;
//! let life = key.record().expires_at().ok_or("it expires")?.duration_since(keys.now())?;
//! assert!(life <= 90 * DAY); // no expiry was set
//!
//! let error = issue().scopes([READ, WRITE]).await.unwrap_err();
//! assert!(matches!(error, IssueError::Policy(PolicyError::ScopeAboveCeiling(it)) if it == WRITE));
//! let error = issue().expires_in(None).await.unwrap_err(); // never
//! assert!(matches!(error, IssueError::Policy(PolicyError::LivesTooLong { .. })));
//! # Ok(())
//! # }
//! ```
//!
//! | rule | reason | violation |
//! |---|---|---|
//! | [`require_name`] | the owner must know which key to rotate or revoke | [`NoName`] |
//! | [`max_lifetime`] | a leak that nobody notices ends with the key | [`LivesTooLong`] |
//! | [`default_lifetime`] | a key for which no expiry was set ends, too | none |
//! | [`max_keys_per_account`] | a loop or a thief gets no more keys | [`TooManyKeys`] |
//! | [`scope_ceiling`] | nobody gives a key more than they may do | [`ScopeAboveCeiling`] |
//! | [`end_when_idle`] | a key that nobody uses can only be stolen | none: the key expires |
//! | [`end_grace_when_idle`] | the same, for keys that were rotated | none: the key expires |
//!
//! A violation is a [`PolicyError`], and nothing is written. The errors of all four calls contain
//! it, for example [`IssueError::Policy`] and [`RotateError::Policy`].
//!
//! - The lifetime counts from the time of issue, or from `not_before` if that is later.
//! - In a rotation, the new key gets a life of at most `max_lifetime`, even if the old key never
//!   expired. Its scopes must be below the ceiling, since the caller receives a key with them.
//! - The cap counts a key and its successors once, while one of them is neither revoked nor
//!   expired. It is exact, even if several processes issue keys at the same time.
//! - Existing keys stay as they are. An update is checked only for its own additions: a scope that
//!   the key does not have yet, a later expiry, a new name.
//! - The ceiling depends on the actor of the call. Set the actor in each call with
//!   [`by`](crate::manage::IssueKey::by), and give a low ceiling to those who are not named.
//!
//! # Requests that are repeated
//!
//! If the response to a request for a key is lost, the client does not know whether it has a key.
//! If it just asks again, there are two keys, one of which nobody has. With an
//! [`idempotency_key`], the second request finds the first key, and issues none.
//!
//! The store has no secret, so the plaintext of the first key cannot be returned again: the answer
//! is the error [`AlreadyIssued`], which has its id. If the client did not receive the key, it asks
//! for another one with [`reissue`]. The first key is revoked, and the new one is issued, in one
//! commit.
//!
//! The service below takes the text from the header `Idempotency-Key`
//! ([draft-ietf-httpapi-idempotency-key-header]). Its value is a string of RFC 9651, such as
//! `"8e03978e-40d5"`, in quotes. Many clients send it without quotes, so both are accepted.
//!
//! ```
//! use std::time::Duration;
//!
//! use axum::extract::State;
//! use axum::http::header::{CACHE_CONTROL, RETRY_AFTER};
//! use axum::http::{HeaderMap, StatusCode};
//! use axum::response::{IntoResponse, Response};
//! use axum::routing::post;
//! use axum::{Extension, Router};
//! use tower_api_key::ApiKeys;
//! use tower_api_key::manage::{IssueError, IssueKey, PolicyError};
//! use tower_api_key::store::Actor;
//!
//! /// The person who is logged in, from the middleware for sessions.
//! #[derive(Clone)]
//! struct Session {
//!     user: String,
//!     account: String,
//! }
//!
//! fn service(keys: ApiKeys) -> Router {
//!     Router::new()
//!         .route("/keys", post(create))
//!         .route("/keys/reissue", post(reissue))
//!         .with_state(keys)
//! }
//!
//! async fn create(
//!     State(keys): State<ApiKeys>,
//!     Extension(session): Extension<Session>,
//!     headers: HeaderMap,
//!     name: String, // the body
//! ) -> Response {
//!     match request(&keys, &session, &headers, name) {
//!         Ok(issue) => respond(issue).await,
//!         Err(error) => (StatusCode::BAD_REQUEST, error).into_response(),
//!     }
//! }
//!
//! /// Takes the same request again.
//! async fn reissue(
//!     State(keys): State<ApiKeys>,
//!     Extension(session): Extension<Session>,
//!     headers: HeaderMap,
//!     name: String,
//! ) -> Response {
//!     match request(&keys, &session, &headers, name) {
//!         Ok(issue) => respond(issue.reissue()).await,
//!         Err(error) => (StatusCode::BAD_REQUEST, error).into_response(),
//!     }
//! }
//!
//! fn request(
//!     keys: &ApiKeys,
//!     session: &Session,
//!     headers: &HeaderMap,
//!     name: String,
//! ) -> Result<IssueKey, &'static str> {
//!     Ok(keys
//!         .issue(&session.account)
//!         .by(Actor::user(&session.user))
//!         .name(name)
//!         .expires_in(Duration::from_secs(90 * 86_400))
//!         .idempotency_key(idempotency_key(headers)?))
//! }
//!
//! async fn respond(issue: IssueKey) -> Response {
//!     let error = match issue.await {
//!         Ok(key) => {
//!             let secret = key.expose_secret().to_owned();
//!             return (StatusCode::CREATED, [(CACHE_CONTROL, "no-store")], secret).into_response();
//!         }
//!         Err(error) => error,
//!     };
//!     let status = match &error {
//!         IssueError::AlreadyIssued { .. }
//!         | IssueError::KeyUsed { .. }
//!         | IssueError::KeyChanged { .. } => StatusCode::CONFLICT,
//!         IssueError::TooEarly { retry_after, .. } => {
//!             let seconds = retry_after.as_secs() + 1; // rounded up
//!             let headers = [(RETRY_AFTER, seconds.to_string())];
//!             return (StatusCode::CONFLICT, headers, error.to_string()).into_response();
//!         }
//!         IssueError::Policy(PolicyError::TooManyKeys { .. }) => StatusCode::CONFLICT,
//!         IssueError::Policy(PolicyError::ScopeAboveCeiling(_)) => StatusCode::FORBIDDEN,
//!         IssueError::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
//!         IssueError::Generate(_) => StatusCode::INTERNAL_SERVER_ERROR,
//!         _ => StatusCode::UNPROCESSABLE_ENTITY, // such as OtherRequest, NoName, LivesTooLong
//!     };
//!     (status, error.to_string()).into_response()
//! }
//!
//! /// Returns the text of the one header `Idempotency-Key`, with or without quotes.
//! fn idempotency_key(headers: &HeaderMap) -> Result<String, &'static str> {
//!     const MALFORMED: &str = "the Idempotency-Key is malformed";
//!     let mut values = headers.get_all("idempotency-key").iter();
//!     let (Some(value), None) = (values.next(), values.next()) else {
//!         return Err("one Idempotency-Key is needed");
//!     };
//!     let text = value.to_str().map_err(|_| MALFORMED)?.trim();
//!     let mut key = String::new();
//!     match text.strip_prefix('"') {
//!         None => key.push_str(text),
//!         Some(quoted) => {
//!             let mut characters = quoted.strip_suffix('"').ok_or(MALFORMED)?.chars();
//!             while let Some(character) = characters.next() {
//!                 match character {
//!                     '"' => return Err(MALFORMED),
//!                     '\\' => match characters.next() {
//!                         Some(escaped @ ('"' | '\\')) => key.push(escaped),
//!                         _ => return Err(MALFORMED),
//!                     },
//!                     _ => key.push(character),
//!                 }
//!             }
//!         }
//!     }
//!     if key.is_empty() { Err(MALFORMED) } else { Ok(key) }
//! }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # use axum::body::Body;
//! # use axum::http::{HeaderValue, Request};
//! # use tower::ServiceExt;
//! # use tower_api_key::clock::ManualClock;
//! # use tower_api_key::manage::IssuePolicy;
//! # use tower_api_key::MemoryStore;
//! # let clock = ManualClock::at(std::time::SystemTime::now());
//! # let keys = ApiKeys::builder(MemoryStore::new())
//! #     .clock(clock.clone())
//! #     .issue_policy(IssuePolicy::new().require_name().max_keys_per_account(1))
//! #     .build()?;
//! # let session = Session { user: "alice".to_owned(), account: "globex".to_owned() };
//! # let service = service(keys).layer(Extension(session));
//! # let ask = async |path: &str, key: &'static str, name: &'static str| {
//! #     let request = Request::post(path).header("idempotency-key", key);
//! #     let request = request.body(Body::from(name)).expect("a request");
//! #     let response = service.clone().oneshot(request).await.expect("a response");
//! #     let wait = response.headers().get(RETRY_AFTER).cloned();
//! #     (response.status().as_u16(), wait)
//! # };
//! # assert_eq!(ask("/keys", "\"order 7\"", "export").await, (201, None));
//! # assert_eq!(ask("/keys", "\"order 7\"", "export").await, (409, None));
//! # assert_eq!(ask("/keys", "order 7", "export").await, (409, None));
//! # assert_eq!(ask("/keys", "order 7", "import").await, (422, None));
//! # assert_eq!(ask("/keys", "order 8", "").await, (422, None));
//! # assert_eq!(ask("/keys", "order 8", "export").await, (409, None));
//! # let (status, wait) = ask("/keys/reissue", "order 7", "export").await;
//! # assert!(status == 409 && wait.is_some());
//! # clock.advance(Duration::from_secs(60));
//! # assert_eq!(ask("/keys/reissue", "order 7", "export").await, (201, None));
//! # for (text, key) in [
//! #     ("abc", Ok("abc")),
//! #     ("\"abc\"", Ok("abc")),
//! #     (" \"a b\" ", Ok("a b")),
//! #     (r#""a\"\\b""#, Ok(r#"a"\b"#)),
//! # ] {
//! #     let headers = [("idempotency-key".parse()?, HeaderValue::from_static(text))];
//! #     let headers = HeaderMap::from_iter(headers);
//! #     assert_eq!(idempotency_key(&headers).as_deref(), key.as_deref());
//! # }
//! # for text in ["", "\"", "\"\"", "\"abc", r#""abc\""#, r#""a\b""#, r#""a"b""#] {
//! #     let headers = [("idempotency-key".parse()?, HeaderValue::from_static(text))];
//! #     assert!(idempotency_key(&HeaderMap::from_iter(headers)).is_err(), "{text}");
//! # }
//! # assert!(idempotency_key(&HeaderMap::new()).is_err());
//! # Ok(())
//! # }
//! ```
//!
//! | error | status | the client |
//! |---|---|---|
//! | [`AlreadyIssued`] | 409 | uses its key; if the key was lost, asks for another one |
//! | [`TooEarly`] | 409 with `Retry-After` | repeats the request for another one later |
//! | [`KeyUsed`] | 409 | finds out who has the key, and rotates it |
//! | [`KeyChanged`] | 409 | makes a new request, with another idempotency key |
//! | [`OtherRequest`] | 422 | corrects its program: each request needs a text of its own |
//!
//! - A request is the same if the idempotency key, the actor and the account are. Without
//!   [`by`](crate::manage::IssueKey::by), all callers of an account share their texts.
//! - A repeated request must have the same fields, or it is [`OtherRequest`]. Use [`expires_in`]: a
//!   time for `expires_at` that is computed from the clock differs in each request.
//! - Two hashes are stored with the id of the key: of the idempotency key with actor and account,
//!   and of the fields. They are deleted with the key, by a [purge](#deletion).
//! - [`reissue`] is [`TooEarly`] in the first minute, in which a use may not be recorded yet. It
//!   needs a [worker](crate::ApiKeys::worker) in each process, which records uses.
//! - A store of your own must implement [`ManagedKeyStore::find_request`]. Otherwise, a call with
//!   an idempotency key is refused.
//!
//! # Find keys to tidy up
//!
//! [`ApiKeys::pages`] reads a list page by page. The filters of [`KeyQuery`] can be combined:
//!
//! | keys | filter |
//! |---|---|
//! | that expire soon | [`expiring_within`] |
//! | that never expire | [`never_expires`] |
//! | that nobody uses | [`idle_since`] |
//! | that were rotated, and nobody uses | [`safe_to_remove`] |
//!
//! `never_expires` and `idle_since` list revoked keys as well, unless `with_state` selects live
//! ones. `expiring_within`, `idle_since` and `safe_to_remove` set the order of the list.
//!
//! Contact the owners of keys that expire soon, and rotate the keys: see the chapter [`rotation`].
//! Keys that never expire are often from before the policy. Give them an expiry, which their
//! responses then announce:
//!
//! ```
//! use std::time::Duration;
//!
//! use tower_api_key::manage::UpdateError;
//! use tower_api_key::store::{Actor, KeyQuery, KeyState};
//!
//! const DAY: Duration = Duration::from_secs(86_400);
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let keys = tower_api_key::ApiKeys::in_memory();
//! # let eternal = keys.issue("globex").await?.id();
//! # let revoked = keys.issue("globex").await?.id();
//! # keys.revoke(revoked).await?;
//! let query = KeyQuery::new().with_state(KeyState::Live, keys.now()).never_expires();
//! let mut pages = keys.pages(query);
//! while let Some(page) = pages.next().await? {
//!     for key in page {
//!         let update = keys.update(&key.record).expires_at(keys.now() + 90 * DAY);
//!         match update.by(Actor::user("ops@example.com")).await {
//!             Ok(_) | Err(UpdateError::Changed(_)) => {} // the next run finds it
//!             Err(error) => return Err(error.into()),
//!         }
//!     }
//! }
//! # let expires_at = keys.find(&eternal).await?.and_then(|key| key.expires_at());
//! # assert!(expires_at.is_some());
//! # let expires_at = keys.find(&revoked).await?.and_then(|key| key.expires_at());
//! # assert!(expires_at.is_none());
//! # Ok(())
//! # }
//! ```
//!
//! ## Old keys after a rotation
//!
//! If an old key is in use shortly before its grace period ends, its owner has forgotten a program.
//! The time and the address of the last use help to find it:
//!
//! ```
//! # use std::time::Duration;
//! use tower_api_key::store::KeyQuery;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # use tower_api_key::clock::ManualClock;
//! # use tower_api_key::store::{KeyUsage, UsageBatch, UsagePeriod};
//! # use tower_api_key::{ApiKeys, ManagedKeyStore, MemoryStore};
//! # const DAY: Duration = Duration::from_secs(86_400);
//! # let clock = ManualClock::at(std::time::SystemTime::now());
//! # let store = MemoryStore::new();
//! # let keys = ApiKeys::builder(store.clone()).clock(clock.clone()).build()?;
//! # let [old, other] = [keys.issue("globex").await?.id(), keys.issue("globex").await?.id()];
//! # keys.rotate(old).grace(40 * DAY).await?;
//! # keys.rotate(other).grace(40 * DAY).await?;
//! # clock.advance(35 * DAY);
//! # let mut usage = KeyUsage::new(old, "globex", UsagePeriod::Day(1)).used_at(keys.now());
//! # usage.used.as_mut().expect("it was used").last_address = Some("192.0.2.7".parse()?);
//! # store.record_usage(&UsageBatch::new([1; 16], 1, [usage])?).await?;
//! let listed = keys.find_listed(&old).await?.ok_or("no such key")?;
//! if let (Some(at), Some(address)) = (listed.last_used_at, listed.last_address) {
//!     println!("{old} was used at {at:?} from {address}");
//! }
//! # assert_eq!(listed.last_address, Some("192.0.2.7".parse()?));
//!
//! // The old keys that can be ended without harm:
//! let month = Duration::from_secs(31 * 86_400);
//! let mut pages = keys.pages(KeyQuery::new().safe_to_remove(month, keys.now()));
//! while let Some(page) = pages.next().await? {
//!     for key in page {
//!         println!("{} of {}", key.record.id(), key.record.account());
//! #       assert_eq!(key.record.id(), other);
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! [`last_address`] is `None` if the address is not known, for a key that is checked with
//! [`ApiKeys::verify`], and with [`log_without_addresses`]. Behind a proxy, it is the address of
//! the client only if the proxy is [trusted](crate::guide::proxies).
//!
//! # End idle keys
//!
//! [`ApiKeys::retire_idle`] ends all keys that were not used for a time. A key expires, and is not
//! revoked, so an update of its expiry brings it back:
//!
//! ```
//! use std::time::Duration;
//!
//! use tower_api_key::store::{Actor, KeyQuery};
//!
//! const DAY: Duration = Duration::from_secs(86_400);
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # use tower_api_key::clock::ManualClock;
//! # use tower_api_key::{ApiKeys, MemoryStore};
//! # let clock = ManualClock::at(std::time::SystemTime::now());
//! # let keys = ApiKeys::builder(MemoryStore::new()).clock(clock.clone()).build()?;
//! # let idle = keys.issue("globex").await?;
//! # clock.advance(200 * DAY);
//! # let young = keys.issue("globex").await?;
//! let ended = keys.retire_idle(180 * DAY).by(Actor::service("cron")).await?;
//! println!("{ended} keys were not in use any more");
//! # assert_eq!(ended, 1);
//! # let rejection = keys.verify(idle.expose_secret()).await.unwrap_err();
//! # assert_eq!(rejection.code(), "api_key_expired");
//! # keys.verify(young.expose_secret()).await?;
//! # let record = keys.find(&idle.id()).await?.ok_or("no such key")?;
//! # keys.update(&record).expires_at(keys.now() + DAY).await?;
//! # keys.verify(idle.expose_secret()).await?;
//! # Ok(())
//! # }
//! ```
//!
//! The policy does the same every hour with [`end_when_idle`], or with [`end_grace_when_idle`] for
//! keys that were rotated. Each key that is ended has an event and a record in the trail.
//!
//! Danger: a key looks idle if its uses are not recorded, and ends although it is in use. Before you
//! call this, or set it in the policy:
//!
//! - Run a [worker](crate::ApiKeys::worker) in each process that verifies keys. A process of
//!   [`ApiKeys::read_only`] records no uses: do not end idle keys if there is one.
//! - Let the workers run for the whole time first. Uses from before are not known.
//! - Choose a time longer than the rarest job of the owners, such as 400 days for a yearly report.
//! - Read the list of [`idle_since`] first, and contact the owners.
//!
//! The time is at least a day, so that a short outage of the store ends no keys. A key is also left
//! as it is if it was issued, began to work, or was changed within the time.
//!
//! # Deletion
//!
//! A key that is revoked or expired stays in the store, so that its owner is told the reason of a
//! refusal. [`ApiKeys::purge`] deletes such keys after a time:
//!
//! ```
//! use std::time::Duration;
//!
//! use tower_api_key::store::Actor;
//!
//! const DAY: Duration = Duration::from_secs(86_400);
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # use tower_api_key::clock::ManualClock;
//! # use tower_api_key::store::{Paging, TrailQuery};
//! # use tower_api_key::{ApiKeys, MemoryStore};
//! # let clock = ManualClock::at(std::time::SystemTime::now());
//! # let keys = ApiKeys::builder(MemoryStore::new()).clock(clock.clone()).build()?;
//! # let key = keys.issue("globex").await?;
//! # keys.revoke(key.id()).await?;
//! # clock.advance(800 * DAY);
//! let deleted = keys.purge(2 * 365 * DAY).by(Actor::service("cron")).await?;
//! # assert_eq!(deleted, 1);
//! # let rejection = keys.verify(key.expose_secret()).await.unwrap_err();
//! # assert_eq!(rejection.code(), "api_key_not_found");
//! # let trail = keys.trail(&TrailQuery::new().with_key(key.id()), &Paging::first(9)).await?;
//! # assert_eq!(trail.items.last().map(|it| it.action.as_str()), Some("api_key.purged"));
//! # Ok(())
//! # }
//! ```
//!
//! | data | is deleted |
//! |---|---|
//! | the record of a key, its first and last use, its request | by [`ApiKeys::purge`] |
//! | the trail | by `purge_trail` of the store, as the chapter [`stores`] shows |
//! | events | by `purge_events` of the stores in SQLite and PostgreSQL |
//! | usage | by `purge_usage` of the same stores |
//!
//! - After a purge, a request with the key is refused with `api_key_not_found`.
//! - A purge cannot be undone. The trail of the key ends with a record `api_key.purged`, and stays.
//! - The id of a deleted key cannot be imported again for as long as its trail is kept. Delete the
//!   key in the table that it was imported from, too.
//! - The role in the database needs the right to delete: see
//!   [the rights of a role](crate::guide::stores#without-the-right-to-create-tables).
//! - Events are deleted by `purge_events` of the store, after all readers have read them: a reader
//!   that has not is told of a gap.
//!
//! [draft-ietf-httpapi-idempotency-key-header]: https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/
//! [`AlreadyIssued`]: crate::manage::IssueError::AlreadyIssued
//! [`ApiKeys::pages`]: crate::ApiKeys::pages
//! [`ApiKeys::purge`]: crate::ApiKeys::purge
//! [`ApiKeys::read_only`]: crate::ApiKeys::read_only
//! [`ApiKeys::retire_idle`]: crate::ApiKeys::retire_idle
//! [`ApiKeys::verify`]: crate::ApiKeys::verify
//! [`IssueError::Policy`]: crate::manage::IssueError::Policy
//! [`IssuePolicy`]: crate::manage::IssuePolicy
//! [`KeyQuery`]: crate::store::KeyQuery
//! [`KeyChanged`]: crate::manage::IssueError::KeyChanged
//! [`KeyUsed`]: crate::manage::IssueError::KeyUsed
//! [`LivesTooLong`]: crate::manage::PolicyError::LivesTooLong
//! [`ManagedKeyStore::find_request`]: crate::ManagedKeyStore::find_request
//! [`NoName`]: crate::manage::PolicyError::NoName
//! [`OtherRequest`]: crate::manage::IssueError::OtherRequest
//! [`PolicyError`]: crate::manage::PolicyError
//! [`RotateError::Policy`]: crate::manage::RotateError::Policy
//! [`ScopeAboveCeiling`]: crate::manage::PolicyError::ScopeAboveCeiling
//! [`TooEarly`]: crate::manage::IssueError::TooEarly
//! [`TooManyKeys`]: crate::manage::PolicyError::TooManyKeys
//! [`default_lifetime`]: crate::manage::IssuePolicy::default_lifetime
//! [`end_grace_when_idle`]: crate::manage::IssuePolicy::end_grace_when_idle
//! [`end_when_idle`]: crate::manage::IssuePolicy::end_when_idle
//! [`expires_in`]: crate::manage::IssueKey::expires_in
//! [`expiring_within`]: crate::store::KeyQuery::expiring_within
//! [`idempotency_key`]: crate::manage::IssueKey::idempotency_key
//! [`idle_since`]: crate::store::KeyQuery::idle_since
//! [`last_address`]: crate::store::ListedKey::last_address
//! [`log_without_addresses`]: crate::ApiKeysBuilder::log_without_addresses
//! [`max_keys_per_account`]: crate::manage::IssuePolicy::max_keys_per_account
//! [`max_lifetime`]: crate::manage::IssuePolicy::max_lifetime
//! [`never_expires`]: crate::store::KeyQuery::never_expires
//! [`reissue`]: crate::manage::IssueKey::reissue
//! [`require_name`]: crate::manage::IssuePolicy::require_name
//! [`rotation`]: crate::guide::rotation
//! [`safe_to_remove`]: crate::store::KeyQuery::safe_to_remove
//! [`scope_ceiling`]: crate::manage::IssuePolicy::scope_ceiling
//! [`stores`]: crate::guide::stores#the-audit-trail
