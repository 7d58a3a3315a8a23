//! Rotation: a new key in the place of an old one, which works on for a grace period.

use std::future::IntoFuture;
use std::time::{Duration, SystemTime};

use crate::key::containment::Revocation;
use crate::key::digest::{KeyDigest, KeyId};
use crate::key::format::KeyFormat;
use crate::key::kind::KeyKind;
use crate::key::lifecycle::KeyStatus;
use crate::key::network::AllowedNetworks;
use crate::key::plaintext::PlaintextKey;
use crate::key::quota::Quota;
use crate::key::record::{KeyRecord, Rotation};
use crate::key::scope::Scope;
use crate::key::text::OptionalText;
use crate::key::web_origin::AllowedOrigins;
use crate::manage::edits::{Edits, edit_setters};
use crate::manage::lineage::Lineage;
use crate::manage::policy::PolicyError;
use crate::manage::rotate_error::RotateError;
use crate::manage::unused::Possession;
use crate::manage::{ATTEMPTS, BoxFuture, Manager};
use crate::store::{Action, ActorKind, Change, Event, Origin, StoreErrorKind};
use crate::util::timestamp;

/// The grace period, unless another one is set.
const GRACE: Duration = Duration::from_secs(30 * 86_400);

/// The most keys of a chain that are in their grace periods at once.
const MOST_PREDECESSORS: usize = 3;

/// A rotation, carried out when awaited: [`ApiKeys::rotate`](crate::ApiKeys::rotate).
///
/// The new key inherits all fields of the old one, its budgets and its lineage; setters override
/// fields. The old key works on until the end of the grace period, but never longer than it would
/// have anyway. Its answers say `Deprecation` and `Sunset` from now on.
///
/// Both keys are written in one commit, with an event `api_key.rotated`.
///
/// ```
/// # use std::time::Duration;
/// # use tower_api_key::ApiKeys;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let keys = ApiKeys::in_memory();
/// # let key = keys.issue("acme").await?;
/// let week = Duration::from_secs(7 * 86_400);
/// let rotated = keys.rotate(key.id()).owned_by("acme").grace(week).await?;
/// println!("{}", rotated.expose_secret()); // to its owner, once
/// println!("the old key works until {:?}", rotated.old().expires_at());
/// # Ok(())
/// # }
/// ```
///
/// # If the answer is lost
///
/// The old key still works, unless it was [compromised](Self::compromised) or has no grace period,
/// and rotating it again is refused: the error
/// [`AlreadyRotated`](RotateError::AlreadyRotated) names the new key. After a minute,
/// [`replacing_unused`](Self::replacing_unused) revokes that key, which nobody has, and issues
/// another one.
#[derive(Debug)]
#[must_use = "nothing is rotated until this is awaited"]
pub struct RotateKey {
    manager: Manager,
    id: KeyId,
    owner: Option<String>,
    grace: Duration,
    compromised: Option<String>,
    replaces_unused: bool,
    expiry: NewExpiry,
    edits: Edits,
    tells: bool,
    origin: Origin,
}

/// The expiry of the new key.
#[derive(Debug, Clone, Copy)]
enum NewExpiry {
    /// As long a life as the old key was issued with, from now on.
    Anew,
    /// That of the old key.
    Same,
    At(Option<SystemTime>),
}

/// A rotated key: the new one, whose plaintext is available only here, and the old one.
#[derive(Debug)]
pub struct RotatedKey {
    plaintext: PlaintextKey,
    record: KeyRecord,
    old: KeyRecord,
}

impl RotatedKey {
    /// Returns the plaintext of the new key. Show it to the owner now; it cannot be recovered
    /// later.
    pub fn expose_secret(&self) -> &str {
        self.plaintext.expose_secret()
    }

    /// Returns the public id of the new key.
    pub fn id(&self) -> KeyId {
        self.record.id()
    }

    /// Returns the record of the new key.
    pub fn record(&self) -> &KeyRecord {
        &self.record
    }

    /// Returns the record of the old key, with the end of its grace period.
    pub fn old(&self) -> &KeyRecord {
        &self.old
    }
}

impl RotateKey {
    pub(crate) fn new(manager: Manager, id: KeyId) -> Self {
        Self {
            manager,
            id,
            owner: None,
            grace: GRACE,
            compromised: None,
            replaces_unused: false,
            expiry: NewExpiry::Anew,
            edits: Edits::default(),
            tells: true,
            origin: Origin::default(),
        }
    }

    /// Sets the origin of the change, for the audit trail. Default: unknown.
    pub fn by(mut self, origin: impl Into<Origin>) -> Self {
        self.origin = origin.into();
        self
    }

    /// Rotates the key only if it belongs to this account. Set it where customers rotate their own
    /// keys. Default: any account.
    pub fn owned_by(mut self, account: impl Into<String>) -> Self {
        self.owner = Some(account.into());
        self
    }

    /// Sets the time for which the old key works on. Default: 30 days. With zero, it ends at once.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Revokes the old key at once, since somebody else may have it. There is no grace period.
    pub fn compromised(mut self, reason: impl Into<String>) -> Self {
        self.compromised = Some(reason.into());
        self
    }

    /// Rotates a key again whose successor nobody has: the answer of the first rotation was lost.
    /// The successor is revoked in the same commit. The old key may have ended meanwhile, or have
    /// been revoked as [compromised](Self::compromised); that stays as it is.
    ///
    /// This is refused if the successor was used, or was issued less than a minute ago: a use may
    /// not be recorded yet. Uses are recorded by [workers](crate::ApiKeys::worker), so one must run
    /// in each process.
    pub fn replacing_unused(mut self) -> Self {
        self.replaces_unused = true;
        self
    }

    edit_setters!();

    /// Sets the time when the new key expires; `None` is never. Default: as long a life as the old
    /// key was issued with, from now on, but not longer than the
    /// [policy](crate::manage::IssuePolicy) allows. The last call of this and
    /// [`keep_expiry`](Self::keep_expiry) counts.
    pub fn expires_at(mut self, at: impl Into<Option<SystemTime>>) -> Self {
        self.expiry = NewExpiry::At(at.into());
        self
    }

    /// Lets the new key expire when the old one would have. Set it where holders of trial keys
    /// rotate them by themselves, or a trial never ends.
    pub fn keep_expiry(mut self) -> Self {
        self.expiry = NewExpiry::Same;
        self
    }

    /// Sets whether an event `api_key.rotated` is stored. Default: `true`. Without it, nothing tells
    /// of the new key. That the old one was revoked or has expired is told in any case.
    pub fn notify(mut self, tells: bool) -> Self {
        self.tells = tells;
        self
    }

    async fn rotate(self) -> Result<RotatedKey, RotateError> {
        let mut attempt = 1;
        loop {
            match self.attempt().await {
                Err(RotateError::Store(error))
                    if error.kind() == StoreErrorKind::Conflict && attempt < ATTEMPTS =>
                {
                    // Somebody has changed one of the keys: a rival rotation, for example.
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    async fn attempt(&self) -> Result<RotatedKey, RotateError> {
        let manager = &self.manager;
        let shared = &manager.shared;
        let lineage = manager.lineage_of(&self.id).await?;
        let is_owned = |old: &KeyRecord| self.owner.as_ref().is_none_or(|it| it == old.account());
        let lineage = lineage.filter(|lineage| is_owned(&lineage.key));
        let lineage = lineage.ok_or(RotateError::NotFound(self.id))?;
        let old = &lineage.key;
        let now = timestamp::microseconds_down(shared.now());
        let status = old.lifecycle(now, shared.warning).status();
        let replaced = self.replaced(&lineage, now).await?;
        // A key that has ended is rotated again only if its successor, which nobody has, lives on.
        let has_ended = matches!(status, KeyStatus::Expired | KeyStatus::Revoked);
        if status.is_refused() && !(has_ended && replaced.is_some()) {
            return Err(RotateError::NotRotatable(self.id, status));
        }
        if !has_ended {
            self.check_predecessors(&lineage, now)?;
        }

        // What was changed of the successor since is kept.
        let model = replaced.unwrap_or(old);
        let kind = manager.kind_of(old);
        self.edits.check(shared, kind)?;
        let format = self.format(old, kind)?;
        let plaintext = format.generate()?;
        // A key that was rotated before has the end of its grace, and not of its life.
        let expires_at = self.end_of(lineage.successor().unwrap_or(old), now)?;
        let digest = KeyDigest::of(plaintext.expose_secret());
        let new = self.new_record(model, &digest, format);
        let new = new
            .with_rotated_from(old.id())
            .with_created_at(now)
            .with_expires_at(expires_at);
        self.check_policy(&new, now)?;
        let ended = self.ended(old, new.id(), has_ended, now);
        let change = Change::new(self.origin.clone(), now);
        let mut change = change
            .create(Action::ISSUED, new)?
            .update(Action::ROTATED, old, ended)?;
        // Also those that have expired: an update might bring them back, as a second line.
        for other in lineage.after.iter().filter(|it| it.revoked().is_none()) {
            let reason = "replaced by another successor".to_owned();
            let revocation = Revocation::new(now).with_reason(reason);
            let revoked = other.clone().with_revoked(revocation);
            change = change.update(Action::REVOKED, other, revoked)?;
        }
        if let Some(cap) = manager.policy.cap(old.account(), now) {
            change = change.add_cap(cap)?;
        }
        let mut records = change.records().cloned();
        let (Some(record), Some(ended)) = (records.next(), records.next()) else {
            return Err(RotateError::NotFound(self.id));
        };
        drop(records);
        if self.tells {
            let actor = self.origin.actor.kind;
            change = change.add_event(event(&record, &ended, actor, now))?;
        }
        match manager.commit(change).await {
            Ok(()) => Ok(RotatedKey {
                plaintext,
                record,
                old: ended,
            }),
            Err(error) if error.kind() == StoreErrorKind::CapReached => {
                Err(manager.policy.too_many_keys(old.account()).into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the successor that this rotation replaces, if nobody has it. An error if a key that
    /// replaces the old one lives, and may be somebody's.
    async fn replaced<'l>(
        &self,
        lineage: &'l Lineage,
        now: SystemTime,
    ) -> Result<Option<&'l KeyRecord>, RotateError> {
        let mut alive = lineage.after.iter().filter(|key| is_alive(key, now));
        let Some(other) = alive.next() else {
            return Ok(None);
        };
        let direct = lineage.successor().filter(|it| it.id() == other.id());
        let (Some(direct), None) = (direct, alive.next()) else {
            return Err(RotateError::AlreadyRotated {
                successor: other.id(),
            });
        };
        self.check_unused(&lineage.key, direct, now).await?;
        Ok(Some(direct))
    }

    /// Returns the old record as it is after the rotation. The end of a key that has ended stays.
    fn ended(&self, old: &KeyRecord, new: KeyId, has_ended: bool, now: SystemTime) -> KeyRecord {
        let ended = old.clone().with_rotated_to(Rotation::new(new, now));
        if let Some(reason) = &self.compromised {
            if old.revoked().is_some() {
                return ended;
            }
            return ended.with_revoked(Revocation::new(now).with_reason(reason.clone()));
        }
        match now.checked_add(self.grace).filter(|_| !has_ended) {
            // The grace period never lengthens the life of a key.
            Some(end) => {
                let end = old.expires_at().map_or(end, |expiry| expiry.min(end));
                ended.with_expires_at(end)
            }
            None => ended,
        }
    }

    /// Checks that nobody has a successor that lives.
    async fn check_unused(
        &self,
        old: &KeyRecord,
        successor: &KeyRecord,
        now: SystemTime,
    ) -> Result<(), RotateError> {
        let id = successor.id();
        if !self.replaces_unused {
            return Err(RotateError::AlreadyRotated { successor: id });
        }
        let status = successor
            .lifecycle(now, self.manager.shared.warning)
            .status();
        if status == KeyStatus::Suspended {
            return Err(RotateError::NotRotatable(id, status));
        }
        let issued_at = old.rotated_to().map_or(now, |rotation| rotation.at);
        match self.manager.possession(&id, issued_at, now).await? {
            Possession::Nobody => Ok(()),
            Possession::Somebody => Err(RotateError::SuccessorUsed { successor: id }),
            Possession::Unknown(retry_after) => Err(RotateError::TooEarly {
                successor: id,
                retry_after,
            }),
        }
    }

    /// Checks that not too many predecessors of the new key work.
    fn check_predecessors(&self, lineage: &Lineage, now: SystemTime) -> Result<(), RotateError> {
        let before = lineage.before.iter().filter(|key| is_alive(key, now));
        let mut alive: Vec<&KeyRecord> = before.collect();
        if self.compromised.is_none() && !self.grace.is_zero() {
            alive.push(&lineage.key);
        }
        if alive.len() > MOST_PREDECESSORS {
            let alive = alive.into_iter().rev().map(KeyRecord::id);
            return Err(RotateError::TooManyPredecessors(alive.collect()));
        }
        Ok(())
    }

    /// Returns the format of the new key: that of the old one, if keys are issued in it, or else
    /// the first one of the environment and kind.
    fn format(&self, old: &KeyRecord, kind: KeyKind) -> Result<&KeyFormat, RotateError> {
        let formats = &self.manager.shared.formats;
        let fits = |format: &&KeyFormat| {
            let environment = old.environment();
            format.is_issued()
                && format.kind() == kind
                && environment.is_none_or(|it| it == format.environment())
        };
        let same = |format: &&KeyFormat| old.prefix() == Some(format.prefix());
        let same = formats.iter().filter(fits).find(same);
        same.or_else(|| formats.iter().find(fits))
            .ok_or(RotateError::NoFormat)
    }

    /// Returns the end of the new key.
    fn end_of(
        &self,
        model: &KeyRecord,
        now: SystemTime,
    ) -> Result<Option<SystemTime>, RotateError> {
        let expires_at = match self.expiry {
            NewExpiry::At(at) => at,
            NewExpiry::Same => model.expires_at(),
            NewExpiry::Anew => {
                // A life from before the policy is cut down to it.
                let lives = [lifetime(model), self.manager.policy.longest_life()];
                match lives.into_iter().flatten().min() {
                    Some(life) => Some(now.checked_add(life).ok_or(RotateError::Expiry)?),
                    None => model.expires_at(),
                }
            }
        };
        if expires_at.is_some_and(|end| end <= now) {
            return Err(RotateError::Expiry);
        }
        Ok(expires_at)
    }

    /// Checks the new key. The caller gets it, and so must be allowed to give all its scopes. A
    /// name that stays as it is may be from before the policy.
    fn check_policy(&self, new: &KeyRecord, now: SystemTime) -> Result<(), PolicyError> {
        let policy = &self.manager.policy;
        policy.check_life(now, new.expires_at())?;
        policy.check_scopes(&self.origin.actor, new.scopes().iter())?;
        match self.edits.name {
            Some(_) => policy.check_name(new.name()),
            None => Ok(()),
        }
    }

    /// Returns the record of the new key as a copy of another one, without its life and its links.
    fn new_record(&self, old: &KeyRecord, digest: &KeyDigest, format: &KeyFormat) -> KeyRecord {
        let verifier = self.manager.shared.peppers.verifier(digest);
        let record = KeyRecord::new(digest.id(), verifier, old.account())
            .with_prefix(format.prefix())
            .with_environment(format.environment().clone())
            .with_organization(old.organization())
            .with_name(old.name())
            .with_plan(old.plan())
            .with_scopes(old.scopes().clone())
            .with_networks(old.networks().clone())
            .with_origins(old.origins().clone())
            .with_limits(old.limits().clone())
            .with_metadata(old.metadata().clone())
            .with_throttled(old.throttled().cloned())
            .with_budget(old.budget())
            .with_lineage(old.lineage());
        self.edits.apply(record)
    }
}

/// Returns whether a key works, or may work again.
fn is_alive(key: &KeyRecord, now: SystemTime) -> bool {
    key.revoked().is_none() && key.expires_at().is_none_or(|end| end > now)
}

/// Returns the lifetime that a key was issued with.
fn lifetime(key: &KeyRecord) -> Option<Duration> {
    let begins = key.not_before().or(key.created_at())?;
    key.expires_at()?.duration_since(begins).ok()
}

fn event(new: &KeyRecord, old: &KeyRecord, actor: ActorKind, now: SystemTime) -> Event {
    let more = [
        ("actor_kind", actor.as_str().into()),
        ("successor_id", new.id().to_string().into()),
        ("is_revoked", old.revoked().is_some().into()),
        (
            "successor_expires_at",
            new.expires_at().map(timestamp::rfc3339).into(),
        ),
    ];
    Event::of_key(Action::ROTATED.as_str(), old, now, more)
}

impl IntoFuture for RotateKey {
    type Output = Result<RotatedKey, RotateError>;
    type IntoFuture = BoxFuture<Result<RotatedKey, RotateError>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.rotate())
    }
}
