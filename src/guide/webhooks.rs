//! Events and webhooks: telling the owners of keys what happens to them.
//!
//! # Events
//!
//! The store keeps an event in the transaction of the change that it tells of, so an event is told if
//! and only if the change was made. The [worker](crate::ApiKeys::worker) adds those that no change
//! makes: expiries, limits, first uses. The module [`events`](crate::events) lists all kinds.
//!
//! The data of an event about a key has its id, account, name, prefix, environment, version and
//! expiry, and a few facts of its kind; that of a first use has the id and the environment only. It
//! never has the key, the reason of a revocation, or metadata. Order the events of changes by
//! `version`, since they may arrive in another order.
//!
//! An event is announced once, also by many processes that look at the same time: the store keeps a
//! mark of each announcement. If a key's expiry is changed, the new one is announced at those of the
//! 30, 7 and 1 days that are still to come. Keep the clocks right: a process whose clock is ahead
//! announces early, and what was announced is not announced again.
//!
//! # A sink of the application
//!
//! ```
//! use tower_api_key::events::{EventSink, KeptEvent, SinkError};
//! use tower_api_key::{ApiKeys, MemoryStore};
//!
//! struct Mail { /* a client of your mail service */ }
//!
//! impl EventSink for Mail {
//!     async fn take(&self, kept: &KeptEvent) -> Result<(), SinkError> {
//!         if kept.event.kind != "api_key.expiring" {
//!             return Ok(());
//!         }
//!         // send(…).await.map_err(SinkError::retry)?;
//!         Ok(())
//!     }
//! }
//!
//! let keys = ApiKeys::builder(MemoryStore::new()).sink("mail", Mail {}).build()?;
//! # Ok::<(), tower_api_key::BuildError>(())
//! ```
//!
//! Add the sink in every process that runs a worker, or in some: each event goes to one of them. An
//! event comes again, with the same id, if the sink failed or the process died. Keep the ids that
//! were handled, if handling an event twice does harm.
//!
//! # Webhooks
//!
//! With the feature `webhook`, customers register URLs of their own. The requests follow [Standard
//! Webhooks] 1.0.0, for which there are libraries in all common languages.
//!
//! ```
//! # #[cfg(feature = "webhook")]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use tower_api_key::webhook::{WebhookMasters, Webhooks};
//! use tower_api_key::{ApiKeys, MemoryStore};
//!
//! # let from_a_secret_store = [7; 32];
//! let masters = WebhookMasters::new("2026-11", &from_a_secret_store)?;
//! let keys = ApiKeys::builder(MemoryStore::new()).webhooks(Webhooks::new(masters)).build()?;
//!
//! // In your dashboard, for the account of the session:
//! let endpoints = keys.endpoints("acme")?;
//! let hook = endpoints.register("https://hooks.acme.example/keys").await?;
//! println!("verify with {}", hook.expose_secret());
//! endpoints.send_test(&hook.endpoint().id).await?;
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "webhook"))]
//! # fn main() {}
//! ```
//!
//! The body is `{"type": "api_key.rotated", "timestamp": "2026-11-28T09:00:00Z", "data": {…}}`, and is
//! the same at each attempt. `examples/webhooks.rs` has both sides.
//!
//! **Secrets.** The secret of an endpoint is derived from a master secret of yours, the names of the
//! tables, the endpoint's id and a generation. None is stored. Keep the master (32 random bytes or
//! more) where you keep the [audit key](crate::store::AuditKey), the same in all processes. To replace
//! it in a running fleet, add the new one to all processes as
//! retired (`WebhookMasters::with_retired`) first; then make it the current one, and the
//! old one retired; give each endpoint a new secret with [`rotate_secret`]; and remove the old master
//! when no endpoint names it. During the overlap both secrets sign. A process that does not know a
//! master leaves the delivery to another one.
//!
//! **Attempts.** At once, then after 5 seconds, 5 and 30 minutes, 2, 5, 10, 14, 20 and 24 hours, each
//! with up to a fifth added by chance. `Retry-After` makes a pause longer. 2xx is a success; a
//! redirection is a failure, and is not followed; 410 disables the endpoint. After ten attempts in
//! three days the delivery has failed: [`deliveries`] lists it, and [`replay_failed`] sends it again.
//!
//! **Addresses.** A URL is a way into your network. The client resolves the name once, connects to
//! public addresses only, checks the address it is connected to, uses no proxy of the environment, and
//! gives up after 20 seconds in all. It cannot know which public addresses are yours: if your own
//! services have some, put the workers where they cannot reach them, or send through a proxy of yours
//! with a `WebhookClient` of your own.
//!
//! **Processes.** Any number of them deliver, without a leader. A process claims a delivery for two
//! minutes; if it dies, another one takes the delivery over, with the same id. At most four deliveries
//! to an endpoint, and 32 in all, are in progress in a process, so that a slow endpoint holds up no
//! other.
//!
//! # Retention
//!
//! Events stay until you delete them, with `purge_events` of the store, and their deliveries with
//! them: those that are still pending, too. Keep events for at least four days, and for two weeks if
//! receivers ask for longer pauses.
//!
//! [`deliveries`]: crate::events::Endpoints::deliveries
//! [`replay_failed`]: crate::events::Endpoints::replay_failed
//! [`rotate_secret`]: crate::events::Endpoints::rotate_secret
//! [Standard Webhooks]: https://www.standardwebhooks.com
