//! Issuing of keys. The plaintext of a new key is visible only once.

use std::collections::BTreeMap;
use std::future::IntoFuture;
use std::time::{Duration, SystemTime};

use serde_json::json;

use crate::key::containment::Revocation;
use crate::key::digest::{KeyDigest, KeyId};
use crate::key::environment::Environment;
use crate::key::format::KeyFormat;
use crate::key::kind::KeyKind;
use crate::key::network::AllowedNetworks;
use crate::key::plaintext::PlaintextKey;
use crate::key::quota::Quota;
use crate::key::record::KeyRecord;
use crate::key::scope::{Scope, ScopeSet};
use crate::key::text::OptionalText;
use crate::key::web_origin::AllowedOrigins;
use crate::manage::edits::Edits;
use crate::manage::idempotency::RequestHashes;
use crate::manage::issue_error::IssueError;
use crate::manage::{ATTEMPTS, BoxFuture, Manager};
use crate::store::{Action, Change, IssueRequest, Origin, StoreErrorKind};
use crate::util::timestamp;

/// A key to be issued, when awaited: [`ApiKeys::issue`](crate::ApiKeys::issue).
///
/// By default, the key is of the environment `live`, has no scopes, works at once, and never
/// expires. An expiry limits the damage of a leak: set [`expires_in`](Self::expires_in), or an
/// [`IssuePolicy`](crate::manage::IssuePolicy) for all keys.
///
/// ```
/// # use std::time::Duration;
/// # use tower_api_key::key::AllowedNetworks;
/// # use tower_api_key::{ApiKeys, Environment, Scope};
/// const REPORTS_READ: Scope = Scope::from_static("reports:read");
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let keys = ApiKeys::in_memory();
/// let issued = keys
///     .issue("acme")
///     .organization("Acme Inc.")
///     .name("nightly export")
///     .scopes([REPORTS_READ])
///     .networks(AllowedNetworks::only(["192.0.2.0/24"])?)
///     .expires_in(Duration::from_secs(90 * 86_400))
///     .await?;
/// println!("{}", issued.expose_secret()); // to its owner, once
/// # Ok(())
/// # }
/// ```
///
/// # If the answer is lost
///
/// A client that gets no answer does not know whether it has a key. With an
/// [`idempotency_key`](Self::idempotency_key), it can ask again without getting a second key: the
/// error [`AlreadyIssued`](IssueError::AlreadyIssued) names the first one. Its plaintext is gone,
/// since the store has only hashes. After a minute, [`reissue`](Self::reissue) puts another key in
/// its place, unless it was used.
///
/// ```
/// # use tower_api_key::manage::IssueError;
/// # use tower_api_key::store::Actor;
/// # use tower_api_key::ApiKeys;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let keys = ApiKeys::in_memory();
/// let issue = || {
///     let by = Actor::user("alice@example.com");
///     keys.issue("acme").by(by).name("nightly export").idempotency_key("order 7")
/// };
/// let key = issue().await?; // and the answer is lost
/// match issue().await {
///     Err(IssueError::AlreadyIssued { key: id }) => assert_eq!(id, key.id()),
///     other => panic!("{other:?}"),
/// }
/// // A minute later: issue().reissue().await
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "nothing is issued until this is awaited"]
pub struct IssueKey {
    manager: Manager,
    origin: Origin,
    account: String,
    organization: Option<String>,
    name: OptionalText,
    environment: Option<Environment>,
    prefix: Option<String>,
    scopes: ScopeSet,
    networks: AllowedNetworks,
    kind: Option<KeyKind>,
    origins: AllowedOrigins,
    plan: Option<String>,
    limits: Vec<(String, Quota)>,
    metadata: BTreeMap<String, String>,
    not_before: Option<SystemTime>,
    expiry: Expiry,
    idempotency_key: Option<String>,
    reissues: bool,
}

/// The expiry that was asked for.
#[derive(Debug, Clone, Copy)]
enum Expiry {
    /// The default of the policy.
    Default,
    Never,
    At(SystemTime),
    After(Duration),
}

impl IssueKey {
    pub(crate) fn new(manager: Manager, account: String) -> Self {
        Self {
            manager,
            origin: Origin::default(),
            account,
            organization: None,
            name: OptionalText::default(),
            environment: None,
            prefix: None,
            scopes: ScopeSet::default(),
            networks: AllowedNetworks::any(),
            kind: None,
            origins: AllowedOrigins::any(),
            plan: None,
            limits: Vec::new(),
            metadata: BTreeMap::new(),
            not_before: None,
            expiry: Expiry::Default,
            idempotency_key: None,
            reissues: false,
        }
    }

    /// Sets the origin of the change, for the audit trail. Default: unknown.
    pub fn by(mut self, origin: impl Into<Origin>) -> Self {
        self.origin = origin.into();
        self
    }

    /// Sets the organization that the account belongs to. Default: none.
    pub fn organization(mut self, organization: impl Into<String>) -> Self {
        self.organization = Some(organization.into());
        self
    }

    /// Sets the name that the owner gives the key. Default: none.
    pub fn name(mut self, name: impl Into<OptionalText>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets the environment of the key. Default: the environment of the format, or
    /// [`Environment::LIVE`] if no prefix is set.
    pub fn environment(mut self, environment: Environment) -> Self {
        self.environment = Some(environment);
        self
    }

    /// Sets the prefix of the key, such as `pk_live`. Default: the first format of the environment
    /// and kind.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = Some(prefix.into());
        self
    }

    /// Sets the scopes. Default: none, which grants nothing.
    pub fn scopes(mut self, scopes: impl IntoIterator<Item = Scope>) -> Self {
        self.scopes = scopes.into_iter().collect();
        self
    }

    /// Sets the networks that the key may be used from. Default: any.
    pub fn networks(mut self, networks: AllowedNetworks) -> Self {
        self.networks = networks;
        self
    }

    /// Issues a publishable key, for a web page or an app, in the first
    /// [publishable](KeyFormat::publishable) format. Default: a secret key.
    pub fn publishable(mut self) -> Self {
        self.kind = Some(KeyKind::Publishable);
        self
    }

    /// Sets the web origins that a publishable key may be used from. Default: any. Clients other
    /// than browsers can claim any origin.
    ///
    /// ```
    /// # use tower_api_key::key::AllowedOrigins;
    /// # use tower_api_key::ApiKeys;
    /// # fn issue(keys: &ApiKeys) -> Result<(), tower_api_key::key::WebOriginError> {
    /// let app = AllowedOrigins::only(["https://app.example.com"])?;
    /// let issue = keys.issue("acme").publishable().origins(app);
    /// # Ok(())
    /// # }
    /// ```
    pub fn origins(mut self, origins: AllowedOrigins) -> Self {
        self.origins = origins;
        self
    }

    /// Sets the name of the account's plan. Default: none. If this [`ApiKeys`](crate::ApiKeys) has
    /// plans, the name must be one of theirs.
    pub fn plan(mut self, plan: impl Into<String>) -> Self {
        self.plan = Some(plan.into());
        self
    }

    /// Replaces the quota of the limit with this [name](crate::limit::Limit) for this key.
    /// Default: the quotas of the rules. If this [`ApiKeys`](crate::ApiKeys) has limits, the name
    /// must be one of theirs.
    ///
    /// Each call adds a replacement for one limit; of two calls with the same name, the last one
    /// counts. The quota takes the place of the rule's and does not add to it: see
    /// [`KeyRecord::with_limit`] for its budget.
    pub fn add_limit(mut self, name: impl Into<String>, quota: Quota) -> Self {
        self.limits.push((name.into(), quota));
        self
    }

    /// Adds metadata of the application's own. Do not store secrets in it.
    pub fn add_metadata(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(name.into(), value.into());
        self
    }

    /// Sets the time from which the key works. Default: at once.
    pub fn not_before(mut self, at: impl Into<Option<SystemTime>>) -> Self {
        self.not_before = at.into();
        self
    }

    /// Sets the time when the key expires; `None` is never, whatever the default of the policy.
    /// Default: that of the
    /// [policy](crate::manage::IssuePolicy::default_lifetime), or else never. The last call of this
    /// and [`expires_in`](Self::expires_in) counts.
    pub fn expires_at(mut self, at: impl Into<Option<SystemTime>>) -> Self {
        self.expiry = at.into().map_or(Expiry::Never, Expiry::At);
        self
    }

    /// Sets the lifetime of the key, counted from [`not_before`](Self::not_before) or the time of
    /// issue, whichever is later; `None` is unlimited. Default: as for
    /// [`expires_at`](Self::expires_at).
    pub fn expires_in(mut self, life: impl Into<Option<Duration>>) -> Self {
        self.expiry = life.into().map_or(Expiry::Never, Expiry::After);
        self
    }

    /// Sets a text that identifies the request, such as the `Idempotency-Key` of an HTTP request. A
    /// second request with the same text, actor and account issues no key. Default: each request
    /// issues a key.
    ///
    /// The request with the same text must be the same in all fields, so set an expiry with
    /// [`expires_in`](Self::expires_in), not with a time that is later in each attempt. The store
    /// remembers hashes of the request for as long as the key exists. Set the actor with
    /// [`by`](Self::by): requests of all actors that are not named share one scope.
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.idempotency_key = Some(key.into());
        self
    }

    /// If a key was issued for the same [`idempotency_key`](Self::idempotency_key) before, and was
    /// never used, revokes that key and issues another one, in one commit. Call it when the answer
    /// to the first request was lost.
    ///
    /// This is refused if the key was used, changed or has expired, or was issued less than a
    /// minute ago: a use may not be recorded yet. Uses are recorded by
    /// [workers](crate::ApiKeys::worker), so one must run in each process.
    pub fn reissue(mut self) -> Self {
        self.reissues = true;
        self
    }

    async fn issue(self) -> Result<IssuedKey, IssueError> {
        let mut attempt = 1;
        loop {
            match self.attempt().await {
                // A rival with the same request was first: look what became of it.
                Err(IssueError::Store(error))
                    if self.idempotency_key.is_some()
                        && attempt < ATTEMPTS
                        && matches!(
                            error.kind(),
                            StoreErrorKind::AlreadyExists | StoreErrorKind::Conflict
                        ) =>
                {
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    async fn attempt(&self) -> Result<IssuedKey, IssueError> {
        let shared = &self.manager.shared;
        let now = timestamp::microseconds_down(shared.now());
        if self.account.trim().is_empty() {
            return Err(IssueError::NoAccount);
        }
        let policy = &self.manager.policy;
        let begins = self.not_before.unwrap_or(now).max(now);
        let expires_at = self.end_from(begins)?;
        policy.check_life(begins, expires_at)?;
        policy.check_name(self.name.0.as_deref())?;
        policy.check_scopes(&self.origin.actor, self.scopes.iter())?;
        let format = self.format()?;
        let edits = Edits {
            plan: self.plan.as_ref().map(OptionalText::from),
            scopes: Some(self.scopes.clone()),
            origins: Some(self.origins.clone()),
            limits: self
                .limits
                .iter()
                .map(|(name, quota)| (name.clone(), Some(*quota)))
                .collect(),
            ..Edits::default()
        };
        edits.check(shared, format.kind())?;
        let request = self.request()?;
        let replaced = match &request {
            None => None,
            Some(request) => {
                let before = self.manager.issued_before(request, self.reissues, now);
                before.await?
            }
        };
        let plaintext = format.generate()?;
        let digest = KeyDigest::of(plaintext.expose_secret());
        let mut record = KeyRecord::new(
            digest.id(),
            shared.peppers.verifier(&digest),
            self.account.as_str(),
        )
        .with_prefix(format.prefix())
        .with_environment(format.environment().clone())
        .with_scopes(self.scopes.clone())
        .with_networks(self.networks.clone())
        .with_origins(self.origins.clone())
        .with_metadata(self.metadata.clone())
        .with_created_at(now)
        .with_not_before(self.not_before)
        .with_expires_at(expires_at)
        .with_organization(self.organization.as_deref())
        .with_name(self.name.clone())
        .with_plan(self.plan.as_deref());
        for (name, quota) in &self.limits {
            record = record.with_limit(name, *quota);
        }
        let record = record.rounded();
        let change = Change::new(self.origin.clone(), now);
        let mut change = change.create(Action::ISSUED, record.clone())?;
        if let Some(replaced) = &replaced {
            let reason = "replaced by another key for the same request".to_owned();
            let revocation = Revocation::new(now).with_reason(reason);
            let revoked = replaced.clone().with_revoked(revocation);
            change = change.update(Action::REVOKED, replaced, revoked)?;
        }
        if let Some(RequestHashes { id, fingerprint }) = request {
            let request = IssueRequest::new(id, fingerprint, record.id(), now);
            let replaced = replaced.as_ref().map(KeyRecord::id);
            change = change.add_request(request, replaced)?;
        }
        if let Some(cap) = policy.cap(&self.account, now) {
            change = change.add_cap(cap)?;
        }
        match self.manager.commit(change).await {
            Ok(()) => Ok(IssuedKey { plaintext, record }),
            Err(error) if error.kind() == StoreErrorKind::CapReached => {
                Err(policy.too_many_keys(&self.account).into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the end of the key.
    fn end_from(&self, begins: SystemTime) -> Result<Option<SystemTime>, IssueError> {
        let life = match self.expiry {
            Expiry::Default => self.manager.policy.default_life(),
            Expiry::Never => None,
            Expiry::After(life) => Some(life),
            Expiry::At(at) if at <= begins => return Err(IssueError::EndsBeforeItBegins),
            Expiry::At(at) => return Ok(Some(at)),
        };
        match life {
            None => Ok(None),
            Some(Duration::ZERO) => Err(IssueError::EndsBeforeItBegins),
            Some(life) => match begins.checked_add(life) {
                Some(end) => Ok(Some(end)),
                None => Err(IssueError::EndsTooLate),
            },
        }
    }

    /// Returns what stands for the request, if it has an idempotency key.
    fn request(&self) -> Result<Option<RequestHashes>, IssueError> {
        let Some(idempotency_key) = &self.idempotency_key else {
            if self.reissues {
                return Err(IssueError::NoIdempotencyKey);
            }
            return Ok(None);
        };
        if idempotency_key.is_empty() {
            return Err(IssueError::NoIdempotencyKey);
        }
        let time = |at: Option<SystemTime>| at.map(timestamp::rfc3339);
        let limits = self.limits.iter();
        let limits: BTreeMap<_, _> = limits.map(|(name, it)| (name, it.to_string())).collect();
        let fields = json!({
            "organization": self.organization,
            "name": self.name.0.as_deref(),
            "environment": self.environment.as_ref().map(Environment::as_str),
            "prefix": self.prefix,
            "scopes": self.scopes.to_string(),
            "networks": written(self.networks.list()),
            "kind": self.kind.map(KeyKind::as_str),
            "origins": written(self.origins.list()),
            "plan": self.plan,
            "limits": limits,
            "metadata": self.metadata,
            "not_before": time(self.not_before),
            "expiry": match self.expiry {
                Expiry::Default => "default".to_owned(),
                Expiry::Never => "never".to_owned(),
                Expiry::At(at) => timestamp::rfc3339(at),
                Expiry::After(life) => format!("{} ns", life.as_nanos()),
            },
        });
        let actor = &self.origin.actor;
        let hashes = RequestHashes::new(idempotency_key, actor, &self.account, &fields.to_string());
        Ok(Some(hashes))
    }

    /// Returns the first format with the requested environment, kind and prefix.
    fn format(&self) -> Result<&KeyFormat, IssueError> {
        let environment = match (&self.environment, &self.prefix) {
            (None, None) => Some(&Environment::LIVE),
            (asked, _) => asked.as_ref(),
        };
        let kind = match (self.kind, &self.prefix) {
            (None, None) => Some(KeyKind::Secret),
            (asked, _) => asked,
        };
        let fits = |format: &&KeyFormat| {
            format.is_issued()
                && kind.is_none_or(|asked| format.kind() == asked)
                && environment.is_none_or(|asked| format.environment() == asked)
                && self
                    .prefix
                    .as_deref()
                    .is_none_or(|asked| format.prefix() == asked)
        };
        let format = self.manager.shared.formats.iter().find(fits);
        format.ok_or_else(|| IssueError::NoFormat {
            environment: environment.cloned(),
            kind,
            prefix: self.prefix.clone(),
        })
    }
}

/// Writes a list for a hash.
fn written(list: Option<&[impl ToString]>) -> Option<Vec<String>> {
    list.map(|list| list.iter().map(ToString::to_string).collect())
}

impl IntoFuture for IssueKey {
    type Output = Result<IssuedKey, IssueError>;
    type IntoFuture = BoxFuture<Result<IssuedKey, IssueError>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.issue())
    }
}

/// A newly issued key: its record, and its plaintext, which is available only here.
#[derive(Debug)]
pub struct IssuedKey {
    plaintext: PlaintextKey,
    record: KeyRecord,
}

impl IssuedKey {
    /// Returns the plaintext of the key. Show it to the owner now; it cannot be recovered later.
    pub fn expose_secret(&self) -> &str {
        self.plaintext.expose_secret()
    }

    /// Returns the public id of the key, which is safe in logs.
    pub fn id(&self) -> KeyId {
        self.record.id()
    }

    /// Returns the record of the key, as stored.
    pub fn record(&self) -> &KeyRecord {
        &self.record
    }

    /// Returns the plaintext and the record separately.
    pub fn into_parts(self) -> (PlaintextKey, KeyRecord) {
        (self.plaintext, self.record)
    }
}
