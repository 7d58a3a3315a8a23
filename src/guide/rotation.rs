//! Rotate keys on a schedule, and act after a leak.
//!
//! A rotation replaces a key by a new one, its successor. The old key works for a grace period, so
//! that its owner can deploy the successor without an interruption.
//!
//! # A schedule
//!
//! A leak that nobody notices lasts until the key expires. Regular rotation bounds this time, and
//! practises the procedure before a leak requires it.
//!
//! | key | life | rotate |
//! |---|---|---|
//! | of a service | 90 days to 1 year | when the key is deprecated |
//! | of a trial | the trial | when its owner asks, with `keep_expiry` |
//! | any | | when a person who knows the key leaves |
//! | any | | after a leak, at once: see the runbooks below |
//!
//! Give each key an expiry with [`IssueKey::expires_in`]. A key is deprecated for the last 30 days
//! of its life, or for the last quarter if that is shorter. The keys that are due are deprecated,
//! and have no successor:
//!
//! ```
//! # use std::time::Duration;
//! use tower_api_key::key::KeyStatus;
//! use tower_api_key::store::{KeyOrder, KeyQuery, KeyState, Paging};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let clock = tower_api_key::clock::ManualClock::at(std::time::SystemTime::now());
//! # let keys = tower_api_key::ApiKeys::builder(tower_api_key::MemoryStore::new())
//! #     .clock(clock.clone())
//! #     .build()?;
//! # let issued = keys.issue("globex").expires_in(Duration::from_secs(90 * 86_400)).await?;
//! # clock.advance(Duration::from_secs(80 * 86_400));
//! # let mut due = 0;
//! let query = KeyQuery::new()
//!     .with_state(KeyState::Live, keys.now())
//!     .with_order(KeyOrder::EndingSoon);
//! let page = keys.list(&query, &Paging::first(500)).await?; // read on after `page.next`
//! for key in page.items.iter().map(|key| &key.record) {
//!     let is_deprecated = keys.lifecycle(key).status() == KeyStatus::Deprecated;
//!     if is_deprecated && key.rotated_to().is_none() {
//!         println!("{} of {} is to be rotated", key.id(), key.account());
//! #       due += 1;
//!     }
//! }
//! # assert_eq!(due, 1);
//! # Ok(())
//! # }
//! ```
//!
//! Rotate a key before it expires. A key that is expired, suspended or revoked is
//! [`NotRotatable`]: issue a new key.
//!
//! # Rotate a key
//!
//! ```
//! use std::time::Duration;
//!
//! use tower_api_key::store::Actor;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let keys = tower_api_key::ApiKeys::in_memory();
//! # let id = keys.issue("globex").await?.id();
//! let rotated = keys
//!     .rotate(id)
//!     .owned_by("globex")
//!     .grace(Duration::from_secs(7 * 86_400))
//!     .by(Actor::user("alice@globex.example"))
//!     .await?;
//! println!("{}", rotated.expose_secret()); // show it to the owner, once
//! println!("the old key expires at {:?}", rotated.old().expires_at());
//! # Ok(())
//! # }
//! ```
//!
//! Both keys are written in one commit. If several calls rotate a key at the same time, one of them
//! succeeds.
//!
//! | setter of [`RotateKey`] | effect | default |
//! |---|---|---|
//! | `owned_by` | a key of another account is `NotFound` | any account |
//! | `grace` | the time for which the old key works | 30 days |
//! | `compromised` | the old key is revoked in the same commit | not revoked |
//! | `expires_at`, `keep_expiry` | the expiry of the successor | a life as long as the first |
//! | `name`, `scopes`, `plan`, … | override a field | inherited |
//! | `replacing_unused` | replaces a successor that nobody has used | an error |
//! | `notify` | stores an event `api_key.rotated` | `true` |
//!
//! - The grace period never lengthens the life of the old key. Rotate a key at least one grace
//!   period before its expiry.
//! - The two keys share their budgets, so a rotation grants no further quota.
//! - At most three old keys of a chain work at a time. A further rotation is
//!   [`TooManyPredecessors`] until [`ApiKeys::end_grace`] ends one of them.
//! - `owned_by` is the check for pages on which customers rotate their own keys. On such a page,
//!   identify a person by a session. If the old key itself were enough, a thief could rotate it,
//!   and receive the successor.
//!
//! ## Trials
//!
//! By default, the successor lives as long as the old key did from its issue to its expiry. A trial
//! key would never end. With `keep_expiry`, the successor expires when the old key would have. Set
//! `keep_expiry` in each rotation of a trial key.
//!
//! ```
//! # use std::time::Duration;
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let keys = tower_api_key::ApiKeys::in_memory();
//! let trial = keys.issue("initech").expires_in(Duration::from_secs(14 * 86_400)).await?;
//! let rotated = keys.rotate(trial.id()).owned_by("initech").keep_expiry().await?;
//! assert_eq!(rotated.record().expires_at(), trial.record().expires_at());
//! # Ok(())
//! # }
//! ```
//!
//! # Responses to clients
//!
//! During the grace period, each response to the old key announces the end:
//!
//! ```text
//! HTTP/1.1 200 OK
//! x-key-status: deprecated
//! x-key-expires-at: 2026-01-08T00:00:00Z
//! deprecation: @1767225600
//! sunset: Thu, 08 Jan 2026 00:00:00 GMT
//! link: <https://docs.example.com/keys>; rel="deprecation"; type="text/html"
//! ```
//!
//! | key | status | `X-Key-Status` | code |
//! |---|---|---|---|
//! | the old key during its grace period | as before | `deprecated` | |
//! | the successor | as before | `active` | |
//! | the old key after its grace period | 401 | `expired` | `api_key_expired` |
//! | a key that was revoked, or is `compromised` | 401 | `revoked` | `api_key_revoked` |
//!
//! `Deprecation` (RFC 9745) has the time of the rotation, and `Sunset` (RFC 8594) the expiry.
//! [`ApiKeyLayer::deprecation_link`] sets the link. The chapter [`key_holders`] shows how clients
//! read these headers.
//!
//! # Uses of the old key
//!
//! Before the grace period ends, check that nobody uses the old key. [`ApiKeys::find_listed`]
//! returns the time of the last use:
//!
//! ```
//! use std::time::Duration;
//!
//! use tower_api_key::store::Actor;
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let keys = tower_api_key::ApiKeys::in_memory();
//! # let old = keys.issue("globex").await?;
//! # let (key, old) = (keys.rotate(old.id()).await?, old.id());
//!
//! let listed = keys.find_listed(&old).await?.ok_or("no such key")?;
//! let three_days_ago = keys.now() - Duration::from_secs(3 * 86_400);
//! if listed.last_used_at.is_none_or(|at| at < three_days_ago) {
//!     keys.end_grace(old).by(Actor::user("ops@example.com")).await?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! - Uses are recorded by [workers](crate::ApiKeys::worker): run one in each process. Requests to a
//!   process without a worker are not recorded.
//! - The last use is recorded within 36 seconds. Wait for the rarest job of the owner, such as a
//!   monthly export.
//! - A store that records no usage refuses the call.
//! - [`KeyOrder::LeastRecentlyUsed`] lists all keys, beginning with those that were never used.
//! - The chapter [`issuing`](crate::guide::issuing) shows how to find old keys that are still in
//!   use, and how to end idle ones.
//! - The log has a `WARN` for a deprecated key in use, at most once an hour for each key.
//!
//! # Lost responses
//!
//! If the response of a rotation is lost, nobody has the successor. The old key still works, and
//! another rotation is [`AlreadyRotated`]. With `replacing_unused`, another successor is issued,
//! and the first one is revoked in the same commit:
//!
//! ```
//! use tower_api_key::manage::RotateError;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let keys = tower_api_key::ApiKeys::in_memory();
//! # let id = keys.issue("globex").await?.id();
//! # keys.rotate(id).await?;
//! match keys.rotate(id).replacing_unused().await {
//!     Ok(rotated) => println!("{}", rotated.expose_secret()),
//!     Err(RotateError::TooEarly { retry_after, .. }) => println!("repeat after {retry_after:?}"),
//!     Err(RotateError::SuccessorUsed { successor }) => println!("{successor} is in use"),
//!     Err(error) => return Err(error.into()),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! - [`TooEarly`]: in the first minute, a use of the successor may not be recorded yet.
//! - [`SuccessorUsed`]: somebody has the successor. Rotate the successor, or, if its user is not
//!   known, call [`ApiKeys::revoke_family`].
//! - After `compromised` or a grace period of zero, the old key has ended, and stays so. Only the
//!   successor is replaced.
//!
//! # Updates
//!
//! Scopes, networks, plan, quotas, metadata and expiry are changed without a new key.
//! [`ApiKeys::update`] takes the record that the caller has seen. If the key was changed since,
//! nothing is written, and the error has the current record:
//!
//! ```
//! use tower_api_key::Scope;
//! use tower_api_key::manage::UpdateError;
//! use tower_api_key::store::Actor;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let keys = tower_api_key::ApiKeys::in_memory();
//! # let id = keys.issue("globex").await?.id();
//! let seen = keys.find(&id).await?.ok_or("no such key")?; // show it on the page
//! let update = keys.update(&seen).scopes([Scope::from_static("reports:read")]);
//! match update.by(Actor::user("ops@example.com")).await {
//!     Ok(updated) => println!("version {}", updated.version()),
//!     Err(UpdateError::Changed(current)) => println!("show {current:?}, and ask again"),
//!     Err(error) => return Err(error.into()),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Runbook: a leaked key
//!
//! A key was found in a repository, a log or a chat.
//!
//! 1. Replace the key. The id is computed from the text of the key:
//!
//!    ```
//!    use tower_api_key::key::KeyDigest;
//!    use tower_api_key::store::Actor;
//!
//!    # #[tokio::main(flavor = "current_thread")]
//!    # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!    # let keys = tower_api_key::ApiKeys::in_memory();
//!    # let issued = keys.issue("globex").await?;
//!    # let found = issued.expose_secret();
//!    let id = KeyDigest::of(found).id();
//!    let rotated = keys
//!        .rotate(id)
//!        .compromised("found in a public repository")
//!        .by(Actor::user("ops@example.com"))
//!        .await?;
//!    println!("{}", rotated.expose_secret()); // to the owner, by a safe channel
//!    # Ok(())
//!    # }
//!    ```
//!
//!    If the owner cannot receive a key now, or the key is `NotRotatable`, call
//!    [`ApiKeys::revoke`]. If a person who found the key reports it, [`ApiKeys::revoke_own`] takes
//!    the key itself. If a leak is uncertain, call [`ApiKeys::suspend`].
//! 2. Check the trail of the account for changes that the owner does not know:
//!
//!    ```
//!    use tower_api_key::store::{Paging, TrailQuery};
//!
//!    # #[tokio::main(flavor = "current_thread")]
//!    # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!    # let keys = tower_api_key::ApiKeys::in_memory();
//!    # keys.issue("globex").await?;
//!    let query = TrailQuery::new().with_account("globex".to_owned()).newest_first();
//!    for record in keys.trail(&query, &Paging::first(50)).await?.items {
//!        let origin = &record.origin;
//!        println!("{} {} by {} {:?}", record.key, record.action, origin.actor, origin.address);
//!    }
//!    # Ok(())
//!    # }
//!    ```
//! 3. Check the last use with [`ApiKeys::find_listed`]: its time, and its address, unless the
//!    builder was told to [`log_without_addresses`].
//! 4. If somebody else may have rotated the key, revoke the whole chain, and issue a new key. If
//!    the account itself was taken over, revoke all of its keys:
//!
//!    ```
//!    # #[tokio::main(flavor = "current_thread")]
//!    # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!    # let keys = tower_api_key::ApiKeys::in_memory();
//!    # let id = keys.issue("globex").await?.id();
//!    let revoked = keys.revoke_family(id).reason("leaked").await?;
//!    println!("{} keys revoked", revoked.len());
//!
//!    let contained = keys.revoke_all().of_account("globex").reason("taken over").await?;
//!    println!("{} keys revoked", contained.revoked);
//!    # Ok(())
//!    # }
//!    ```
//!
//!    [`ApiKeys::revoke_family`] is one commit. [`ApiKeys::revoke_all`] commits 500 keys at a time:
//!    repeat it after an error.
//! 5. Watch the log. An attempt with the revoked key is a line `request refused` with its `key_id`
//!    and `client`.
//!
//! This process refuses the key at once. The chapter [`operating`](crate::guide::operating) tells
//! when other processes follow.
//!
//! # Runbook: a leaked table
//!
//! A backup, a replica or a dump of the keys got out. The table has a hash of each key. A key that
//! this library issued has at least 128 random bits, so no such key can be recovered, and none has
//! to be replaced. Accounts, names, scopes, metadata and addresses did leak.
//!
//! 1. Close the leak. Change the credentials of the database.
//! 2. If an intruder could also write, check the trail:
//!
//!    ```
//!    # #[cfg(feature = "sqlite")]
//!    # async fn check(
//!    #     store: tower_api_key::store::SqliteStore,
//!    # ) -> Result<(), tower_api_key::store::StoreError> {
//!    let report = store.verify_trail().await?;
//!    for broken in &report.broken {
//!        eprintln!("{broken}"); // a key that was planted has a fault as well
//!    }
//!    println!("{} keys and {} records", report.keys, report.records);
//!    # Ok(())
//!    # }
//!    ```
//!
//!    Revoke each key whose fault cannot be explained. The edit stays visible after the revocation.
//!    If all keys have faults, the audit key is another one. Compare the numbers with those of the
//!    last report: fewer keys or records are a deletion, or a purge.
//! 3. Replace imported keys that can be found from their hashes, with or without a pepper: those of
//!    a [`dangerous_guessable`] format, and those that are less random than they look, such as
//!    UUIDs of version 1. Rotate each such key with a short grace period. Then revoke all keys that
//!    were issued before the changeover to the new format, and all whose time of issue is unknown:
//!
//!    ```
//!    # use std::time::Duration;
//!    use tower_api_key::store::Actor;
//!
//!    # #[tokio::main(flavor = "current_thread")]
//!    # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!    # let keys = tower_api_key::ApiKeys::in_memory();
//!    # let changeover = keys.now() + Duration::from_secs(1);
//!    # keys.issue("globex").await?;
//!    let contained = keys
//!        .revoke_all()
//!        .issued_before(changeover)
//!        .by(Actor::user("ops@example.com"))
//!        .reason("the table leaked")
//!        .await?;
//!    # assert_eq!(contained.revoked, 1);
//!    # Ok(())
//!    # }
//!    ```
//! 4. Keep the audit key and the peppers, which are not in the table, unless these leaked as well.
//!
//! ## A leaked audit key
//!
//! A person with the audit key and the right to write can edit the trail without a fault. The audit
//! key of existing records cannot be exchanged: under another one, all of them count as edited.
//! Begin a new trail in new tables:
//!
//! 1. Stop all processes. Check and export the old trail, which proves nothing from now on.
//! 2. Import all keys into tables with another `table_prefix`, under the new audit key:
//!
//!    ```
//!    # #[cfg(feature = "sqlite")]
//!    # async fn renew(
//!    #     old: tower_api_key::ApiKeys,
//!    #     audit_key: tower_api_key::store::AuditKey,
//!    # ) -> Result<(), Box<dyn std::error::Error>> {
//!    use tower_api_key::ApiKeys;
//!    use tower_api_key::store::{KeyQuery, Paging, SqliteStore};
//!
//!    let store = SqliteStore::open("keys.db").await?.table_prefix("api_key_2_")?;
//!    let store = store.audit_key(audit_key);
//!    store.migrate().await?;
//!    let new = ApiKeys::builder(store).build()?;
//!
//!    let mut paging = Paging::first(500);
//!    loop {
//!        let page = old.list(&KeyQuery::new(), &paging).await?;
//!        new.import(page.items.into_iter().map(|key| key.record)).await?;
//!        let Some(next) = page.next else { break };
//!        paging = paging.after(next);
//!    }
//!    # Ok(())
//!    # }
//!    ```
//! 3. Start the processes on the new tables. Events, first and last uses are not moved.
//!
//! # Runbook: a leaked pepper
//!
//! A pepper prevents that a person with the right to write the table plants a key. The pepper alone
//! admits nobody, and recovers no key.
//!
//! 1. Add the new pepper as a retired one in all processes. A process that does not know the pepper
//!    of a record answers with 503.
//! 2. Make the new pepper the current one, and the leaked one retired:
//!
//!    ```
//!    use tower_api_key::key::PepperRing;
//!    use tower_api_key::{ApiKeys, MemoryStore};
//!
//!    # let (leaked, new) = ([1; 32], [2; 32]);
//!    // First, in all processes:
//!    let ring = PepperRing::new("2025-11", &leaked)?.add_retired("2026-11", &new)?;
//!    // Then:
//!    let ring = PepperRing::new("2026-11", &new)?.add_retired("2025-11", &leaked)?;
//!    let keys = ApiKeys::builder(MemoryStore::new()).peppers(ring).build()?;
//!    # Ok::<(), Box<dyn std::error::Error>>(())
//!    ```
//! 3. If an intruder could also write the table, check the trail as above, and revoke keys that you
//!    did not issue. A key that was planted under the leaked pepper works until the pepper is
//!    removed.
//! 4. Rotate the keys under the leaked pepper. An HMAC cannot be computed from another one, so a
//!    record cannot be converted, and an update keeps its pepper. The successor has the new pepper.
//!    The keys that are left:
//!
//!    ```
//!    use tower_api_key::key::PepperId;
//!    use tower_api_key::store::{KeyQuery, KeyState, Paging};
//!
//!    # #[tokio::main(flavor = "current_thread")]
//!    # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!    # let ring = tower_api_key::key::PepperRing::new("2025-11", &[1; 32])?;
//!    # let keys = tower_api_key::ApiKeys::builder(tower_api_key::MemoryStore::new());
//!    # let keys = keys.peppers(ring).build()?;
//!    # keys.issue("globex").await?;
//!    # let mut left = 0;
//!    let leaked = PepperId::from("2025-11");
//!    let query = KeyQuery::new().with_state(KeyState::Live, keys.now());
//!    let page = keys.list(&query, &Paging::first(500)).await?; // read on after `page.next`
//!    for key in page.items.iter().map(|key| &key.record) {
//!        if key.verifier().pepper() == Some(&leaked) && key.rotated_to().is_none() {
//!            println!("{} of {} is to be rotated", key.id(), key.account());
//!    #       left += 1;
//!        }
//!    }
//!    # assert_eq!(left, 1);
//!    # Ok(())
//!    # }
//!    ```
//! 5. Remove the leaked pepper when the last grace period is over. From then on, requests with a
//!    key under it get 503 `service_unavailable` and an `ERROR` line, even if the key is revoked or
//!    has expired.
//!
//! A record without a pepper can be converted, since its verifier is the digest of the key:
//! [`ApiKeys::import`] does so, and [`PepperRing::verifier`] computes the verifier.
//!
//! # Runbook: a leaked secret of checksums
//!
//! With a secret of a [`ChecksumRing`], a person can write keys that are looked up. None of them is
//! admitted, and no key has to be replaced. Watch the lookups of unknown keys, and set
//! [`failed_attempts`] if they become many.
//!
//! 1. Add a new secret as a retired one in all processes, and make it the current one when all have
//!    it: see [`ChecksumRing`].
//! 2. Rotate the keys at their usual pace. A successor has the new checksum.
//! 3. Remove the leaked secret when the keys under it have ended. A key that is left is from then on
//!    refused as malformed, with 401 `api_key_not_found`.
//!
//! The calls of this chapter are tried in `tests/runbooks.rs`.
//!
//! [`AlreadyRotated`]: crate::manage::RotateError::AlreadyRotated
//! [`ApiKeyLayer::deprecation_link`]: crate::ApiKeyLayer::deprecation_link
//! [`ApiKeys::end_grace`]: crate::ApiKeys::end_grace
//! [`ApiKeys::find_listed`]: crate::ApiKeys::find_listed
//! [`ApiKeys::import`]: crate::ApiKeys::import
//! [`ApiKeys::revoke`]: crate::ApiKeys::revoke
//! [`ApiKeys::revoke_all`]: crate::ApiKeys::revoke_all
//! [`ApiKeys::revoke_family`]: crate::ApiKeys::revoke_family
//! [`ApiKeys::revoke_own`]: crate::ApiKeys::revoke_own
//! [`ApiKeys::suspend`]: crate::ApiKeys::suspend
//! [`ApiKeys::update`]: crate::ApiKeys::update
//! [`ChecksumRing`]: crate::key::ChecksumRing
//! [`IssueKey::expires_in`]: crate::manage::IssueKey::expires_in
//! [`KeyOrder::LeastRecentlyUsed`]: crate::store::KeyOrder::LeastRecentlyUsed
//! [`NotRotatable`]: crate::manage::RotateError::NotRotatable
//! [`PepperRing::verifier`]: crate::key::PepperRing::verifier
//! [`RotateKey`]: crate::manage::RotateKey
//! [`SuccessorUsed`]: crate::manage::RotateError::SuccessorUsed
//! [`TooEarly`]: crate::manage::RotateError::TooEarly
//! [`TooManyPredecessors`]: crate::manage::RotateError::TooManyPredecessors
//! [`dangerous_guessable`]: crate::key::KeyFormat::dangerous_guessable
//! [`failed_attempts`]: crate::ApiKeysBuilder::failed_attempts
//! [`key_holders`]: crate::guide::key_holders
//! [`log_without_addresses`]: crate::ApiKeysBuilder::log_without_addresses
