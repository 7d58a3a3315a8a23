//! Issuing: a new key, whose plaintext is seen once.

use std::collections::BTreeMap;
use std::future::IntoFuture;
use std::time::{Duration, SystemTime};

use crate::key::digest::{KeyDigest, KeyId};
use crate::key::environment::Environment;
use crate::key::format::{GenerateError, KeyFormat};
use crate::key::kind::KeyKind;
use crate::key::network::AllowedNetworks;
use crate::key::plaintext::PlaintextKey;
use crate::key::quota::Quota;
use crate::key::record::KeyRecord;
use crate::key::scope::{Scope, ScopeSet};
use crate::key::text::KeyRecordError;
use crate::key::web_origin::AllowedOrigins;
use crate::manage::{Manager, Managing};
use crate::store::{Origin, StoreError};

/// A key to be issued, when awaited: [`ApiKeys::issue`](crate::ApiKeys::issue).
///
/// By default a key of the environment `live`, without scopes, that works at once and never ends.
/// A key that ends is a leak that ends: say [`expires_in`](Self::expires_in).
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
#[derive(Debug)]
#[must_use = "nothing is issued until this is awaited"]
pub struct IssueKey {
    manager: Manager,
    origin: Origin,
    account: String,
    organization: Option<String>,
    name: Option<String>,
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
    end: Option<End>,
}

#[derive(Debug, Clone, Copy)]
enum End {
    At(SystemTime),
    In(Duration),
}

impl IssueKey {
    pub(crate) fn new(manager: Manager, account: String) -> Self {
        Self {
            manager,
            origin: Origin::default(),
            account,
            organization: None,
            name: None,
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
            end: None,
        }
    }

    /// Sets who asks for this, for the trail. Default: nobody is named.
    pub fn by(mut self, origin: impl Into<Origin>) -> Self {
        self.origin = origin.into();
        self
    }

    /// The organization that the account belongs to. Default: none.
    pub fn organization(mut self, organization: impl Into<String>) -> Self {
        self.organization = Some(organization.into());
        self
    }

    /// What the owner calls the key. Default: nothing.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// The environment that the key opens. Default: that of the format, and [`Environment::LIVE`]
    /// where no prefix was named.
    pub fn environment(mut self, environment: Environment) -> Self {
        self.environment = Some(environment);
        self
    }

    /// What the key begins with, such as `pk_live`. Default: the first secret format of the
    /// environment.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = Some(prefix.into());
        self
    }

    /// Sets the scopes. Default: none, which grants nothing.
    pub fn scopes(mut self, scopes: impl IntoIterator<Item = Scope>) -> Self {
        self.scopes = scopes.into_iter().collect();
        self
    }

    /// Where the key may be used from. Default: anywhere.
    pub fn networks(mut self, networks: AllowedNetworks) -> Self {
        self.networks = networks;
        self
    }

    /// Issues a key that may stand in a web page or an app, in the first
    /// [publishable](KeyFormat::publishable) format. Default: a secret key.
    pub fn publishable(mut self) -> Self {
        self.kind = Some(KeyKind::Publishable);
        self
    }

    /// The web origins that a publishable key may be used from. Default: any. A client that is no
    /// browser can claim any origin.
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

    /// The name of the account's plan. Default: none. Where this [`ApiKeys`](crate::ApiKeys) has
    /// plans, it must be one of them.
    pub fn plan(mut self, plan: impl Into<String>) -> Self {
        self.plan = Some(plan.into());
        self
    }

    /// Replaces the quota of a limit for this key. Default: those of the rules. Where this
    /// [`ApiKeys`](crate::ApiKeys) has limits, the name must be that of one of them.
    pub fn add_limit(mut self, name: impl Into<String>, quota: Quota) -> Self {
        self.limits.push((name.into(), quota));
        self
    }

    /// Adds something that the application wants to know about the key. No place for secrets.
    pub fn add_metadata(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(name.into(), value.into());
        self
    }

    /// The instant from which the key works. Default: at once.
    pub fn not_before(mut self, at: impl Into<Option<SystemTime>>) -> Self {
        self.not_before = at.into();
        self
    }

    /// The instant from which the key no longer works. Default: never. The last of this and
    /// [`expires_in`](Self::expires_in) holds.
    pub fn expires_at(mut self, at: impl Into<Option<SystemTime>>) -> Self {
        self.end = at.into().map(End::At);
        self
    }

    /// How long the key works, counted from its beginning: [`not_before`](Self::not_before), or
    /// the moment of issue. Default: it never ends.
    pub fn expires_in(mut self, life: impl Into<Option<Duration>>) -> Self {
        self.end = life.into().map(End::In);
        self
    }

    async fn issue(self) -> Result<IssuedKey, IssueError> {
        let keyring = &self.manager.keyring;
        let now = keyring.now();
        if self.account.trim().is_empty() {
            return Err(IssueError::NoAccount);
        }
        let begins = self.not_before.unwrap_or(now).max(now);
        let expires_at = match self.end {
            None => None,
            Some(End::At(at)) => Some(at),
            Some(End::In(life)) => Some(begins.checked_add(life).ok_or(IssueError::EndsTooLate)?),
        };
        if expires_at.is_some_and(|end| end <= begins) {
            return Err(IssueError::EndsBeforeItBegins);
        }
        let rules = keyring.metering.limiting.rules.current();
        if let Some(plan) = self.plan.as_ref().filter(|plan| !rules.knows_plan(plan)) {
            return Err(IssueError::UnknownPlan(plan.clone()));
        }
        for (limit, _) in &self.limits {
            if !rules.knows_limit(limit) {
                return Err(IssueError::UnknownLimit(limit.clone()));
            }
        }
        let format = self.format()?;
        if format.kind() == KeyKind::Publishable {
            let publishable = &keyring.publishable;
            let secret = self
                .scopes
                .iter()
                .find(|scope| !publishable.contains(scope));
            if let Some(scope) = secret {
                return Err(IssueError::NotPublishable(scope.clone()));
            }
        } else if self.origins.list().is_some() {
            return Err(IssueError::OriginsOfSecretKey);
        }
        let plaintext = format.generate()?;
        let digest = KeyDigest::of(plaintext.expose_secret());
        let mut record = KeyRecord::new(
            digest.id(),
            keyring.peppers.verifier(&digest),
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
        .with_name(self.name.as_deref())
        .with_plan(self.plan.as_deref());
        for (name, quota) in &self.limits {
            record = record.with_limit(name, *quota);
        }
        let record = self.manager.create(self.origin, record).await?;
        Ok(IssuedKey { plaintext, record })
    }

    /// The format to write the key in: the first one that has what was asked for.
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
        let format = self.manager.keyring.formats.iter().find(fits);
        format.ok_or_else(|| IssueError::NoFormat {
            environment: environment.cloned(),
            kind,
            prefix: self.prefix.clone(),
        })
    }
}

impl IntoFuture for IssueKey {
    type Output = Result<IssuedKey, IssueError>;
    type IntoFuture = Managing<IssuedKey, IssueError>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.issue())
    }
}

/// A key that was just issued: its record, and, this once, its plaintext.
#[derive(Debug)]
pub struct IssuedKey {
    plaintext: PlaintextKey,
    record: KeyRecord,
}

impl IssuedKey {
    /// The key itself. Show it to its owner now; nobody can later.
    pub fn expose_secret(&self) -> &str {
        self.plaintext.expose_secret()
    }

    /// The public id of the key: safe in logs.
    pub fn id(&self) -> KeyId {
        self.record.id()
    }

    /// What is kept of the key.
    pub fn record(&self) -> &KeyRecord {
        &self.record
    }

    /// The plaintext and the record, each on its own.
    pub fn into_parts(self) -> (PlaintextKey, KeyRecord) {
        (self.plaintext, self.record)
    }
}

/// A key could not be issued.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IssueError {
    /// The account has no name.
    #[error("a key is issued to an account: name it")]
    NoAccount,
    /// The key would end before it begins, or has ended already.
    #[error("the key would end before it begins: let it expire later")]
    EndsBeforeItBegins,
    /// The key would end later than time can be told.
    #[error("the key would end later than time can be told: let it expire earlier, or never")]
    EndsTooLate,
    /// A publishable key that would hold a scope which is not declared publishable.
    #[error("a publishable key cannot hold the scope {0}: see ApiKeysBuilder::publishable_scopes")]
    NotPublishable(Scope),
    /// A secret key that would be bound to web origins, which bind publishable keys only.
    #[error("web origins bind publishable keys only: issue a publishable key, or leave them out")]
    OriginsOfSecretKey,
    /// A plan that is not among those of this [`ApiKeys`](crate::ApiKeys).
    #[error("there is no plan {0:?}: name one of those in Limits")]
    UnknownPlan(String),
    /// A quota for a limit that this [`ApiKeys`](crate::ApiKeys) does not have.
    #[error("there is no limit {0:?}: name one of those in Limits, as headers and errors name it")]
    UnknownLimit(String),
    /// There is no format to write such a key in.
    #[error(
        "no format to issue a key in (environment: {}, kind: {}, prefix without its '_': {}): \
         add one with ApiKeysBuilder::formats",
        environment.as_ref().map_or("any", Environment::as_str),
        kind.map_or("any", KeyKind::as_str),
        prefix.as_deref().unwrap_or("any")
    )]
    NoFormat {
        /// The environment that was asked for.
        environment: Option<Environment>,
        /// The kind that was asked for.
        kind: Option<KeyKind>,
        /// The prefix that was asked for.
        prefix: Option<String>,
    },
    /// A text or an instant is one that no store keeps.
    #[error(transparent)]
    Invalid(#[from] KeyRecordError),
    /// The operating system gave no randomness.
    #[error("the key could not be generated")]
    Generate(#[from] GenerateError),
    /// The store failed. The key was not handed out, so whether it was kept does not matter.
    #[error("the key could not be kept")]
    Store(#[from] StoreError),
}
