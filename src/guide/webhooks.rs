//! Events and webhooks: telling the owners of keys what happens to them.
//!
//! # Events
//!
//! The store keeps an event in the transaction of the change that it tells of, so an event is told
//! if and only if the change was made ([`notify(false)`](crate::manage::RotateKey::notify) leaves
//! that of a rotation out). The [worker](crate::ApiKeys::worker) adds events that no change makes:
//! expiries, old keys in use, limits, first uses, anomalies, disabled webhooks.
//!
//! The module [`events`](crate::events) lists the kinds and their data. An event never has the key,
//! the reason of a revocation, or metadata. Order the events of changes by `version`, since they
//! may arrive in another order.
//!
//! An event is announced once, also by many processes that look at the same time: the store keeps a
//! mark of each announcement. If a key's expiry is changed, the new one is announced at those of
//! the 30, 7 and 1 days that are still to come. Keep the clocks right: a process whose clock is
//! ahead announces early, and what was announced is not announced again.
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
//! were handled, if handling an event twice does harm. A sink must not block, since the worker's
//! task polls it, for up to four events at a time.
//!
//! The events are kept for the sink from the moment on at which a worker with it has run for the
//! first time. To end the delivery to a sink, take the sink out of all processes, and delete its
//! endpoint ([`dangerous_all_endpoints`]): a worker that still has the sink creates the endpoint
//! again within a minute.
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
//! The body is `{"type": "api_key.rotated", "timestamp": "2026-11-28T09:00:00Z", "data": {…}}`, and
//! is the same at each attempt. `examples/webhooks.rs` has both sides.
//!
//! **Secrets.** The secret of an endpoint is derived from a master secret of yours, the names of
//! the tables, the endpoint's id and a generation. No secret is stored. Keep the master (32 random
//! bytes or more) where you keep the [audit key](crate::store::AuditKey), the same in all
//! processes. To replace it in a running fleet, add the new one to all processes as retired
//! (`WebhookMasters::with_retired`) first; then make it the current one, and the old one retired;
//! give each endpoint a new secret with [`rotate_secret`]; and remove the old master when no
//! endpoint names it: [`rotate_secret`] shows how to find those that do. During the overlap both
//! secrets sign. A process that does not know the master of the current secret leaves the delivery
//! to another one; if no process knows it, the delivery waits, and the log says so at `INFO`.
//!
//! The names of the tables are part of each secret: another schema or prefix of tables, or a move
//! to another kind of store, changes the secrets of all endpoints. Tell the receivers the new ones,
//! which [`webhook`] returns.
//!
//! **Attempts.** At once, then after 5 seconds, 5 and 30 minutes, 2, 5, 10, 14, 20 and 24 hours,
//! each with up to a fifth added by chance. `Retry-After` makes a pause longer, up to a day. 2xx is
//! a success; a redirection is a failure, and is not followed. After ten attempts in three to four
//! days the delivery has failed: [`deliveries`] lists it, and [`replay_failed`] sends it again. An
//! owner who has repaired a receiver need not wait: [`retry_now`] sends what waits. A delivery is
//! also given up if twenty attempts had no outcome, since it may be what kills the processes.
//!
//! Among answers, only 410 disables the endpoint. The log has a warning then, and sinks and other
//! endpoints of the account get the event `webhook.disabled`. An endpoint that is disabled takes no
//! new events. Pending deliveries wait until [`enable`]. The one that was answered 410 has failed:
//! [`replay_failed`] repeats it.
//!
//! **Addresses.** A URL is a way into your network. The client resolves the name once, connects to
//! public addresses only, checks the address it is connected to, uses no proxy of the environment,
//! and gives up after 20 seconds, or 128 KiB, in all. An owner is told that a host was not reached,
//! and not why; the log has the reason, which may name addresses of yours. The client cannot know
//! which public addresses are yours: if your own services have some, put the workers where they
//! cannot reach them, or send through a proxy of yours with a `WebhookClient` of your own.
//!
//! **Processes.** Any number of them deliver, without a leader. A process claims a delivery for
//! three minutes; if it dies, another one takes the delivery over, with the same id. The clocks of
//! processes may differ by a minute. At most four deliveries to an endpoint, and 64 in all, are in
//! progress in a process, so that a slow endpoint holds up no other.
//!
//! # In development
//!
//! By default, nothing is sent to a receiver on your own machine. Three setters of the client allow
//! it, each by itself: `http`, other ports than 443 (and 80 for `http`), and addresses that are not
//! public.
//!
//! ```
//! # #[cfg(feature = "webhook")]
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use tower_api_key::webhook::{HttpsClient, WebhookMasters, Webhooks};
//!
//! let client = HttpsClient::new()
//!     .dangerous_allow_http()
//!     .allow_ports([3000])
//!     .dangerous_allow_private_addresses();
//! let webhooks = Webhooks::new(WebhookMasters::new("dev", &[7; 32])?).client(client);
//! # let _ = webhooks;
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "webhook"))]
//! # fn main() {}
//! ```
//!
//! Nothing is resolved when an endpoint is registered. So `https://localhost/` is taken without
//! these setters, and each delivery to it fails with `host_not_reached`.
//!
//! # Retention
//!
//! [`MemoryStore`](crate::MemoryStore) keeps 10,000 pending deliveries, or as many as fit into 16
//! MiB, and drops the oldest beyond that. The other stores keep all.
//!
//! In SQLite and PostgreSQL, events stay until `purge_events` deletes them with their deliveries,
//! pending ones included. Marks of events that are told once are kept 62 days longer. Keep events
//! for at least four days, and for two weeks if receivers ask for longer pauses.
//!
//! [`dangerous_all_endpoints`]: crate::ApiKeys::dangerous_all_endpoints
//! [`deliveries`]: crate::events::Endpoints::deliveries
//! [`enable`]: crate::events::Endpoints::enable
//! [`replay_failed`]: crate::events::Endpoints::replay_failed
//! [`retry_now`]: crate::events::Endpoints::retry_now
//! [`rotate_secret`]: crate::events::Endpoints::rotate_secret
//! [`webhook`]: crate::events::Endpoints::webhook
//! [Standard Webhooks]: https://www.standardwebhooks.com
