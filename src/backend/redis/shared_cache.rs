//! The cache of records that a fleet shares.
//!
//! - A copy is as old as the miss after which it was loaded, and its age goes on in the process that
//!   reads it.
//! - A change leaves a fence: for [`FENCE_LIFE`], no copy of an older version is stored or read. One
//!   without a version fences off all copies that were read before.
//!   A load that takes longer than [`LONGEST_LOAD`] is not stored, so none outlives the fence.
//! - The absence of a key is not kept: presented junk would fill the memory of Redis.

use std::time::{Duration, SystemTime};

use redis::{Cmd, Value};

use super::call_error::CallError;
use super::copy::{Copy, LAYOUT, NoCopy};
use super::script::{GivenClock, Script, given_time};
use super::servers::Servers;
use crate::key::digest::KeyId;
use crate::key::record::KeyRecord;
use crate::key::verifier::PepperRing;
use crate::store::{AgedRecord, ChangedKey, Floor};
use crate::util::join_all::join_all;
use crate::util::log_throttle::LogOncePer;
use crate::util::trace;

/// The life of a fence: far longer than any load, and than the lag of any replica.
const FENCE_LIFE: Duration = Duration::from_secs(600);

/// The longest time from a miss until its load is stored, in microseconds.
const LONGEST_LOAD: u64 = 5_000_000;

/// The fences that are raised by one call.
const FENCES_OF_CALL: usize = 100;

/// The greatest version that a script can tell from others.
const MOST_VERSION: u64 = (1 << 53) - 1;

#[derive(Debug)]
pub(super) struct SharedCache {
    /// For reads and fills, in a hurry.
    servers: Servers,
    prefix: String,
    /// The life of a copy.
    life: Duration,
    pub(super) seal: Option<PepperRing>,
    /// For tests: the clock that stands for that of Redis.
    clock: Option<GivenClock>,
    scripts: Scripts,
    broken_seals: LogOncePer<60>,
    failures: LogOncePer<60>,
}

#[derive(Debug)]
struct Scripts {
    get: Script,
    fill: Script,
    fence: Script,
}

/// A fence of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fence {
    pub(super) id: KeyId,
    /// The least version of a copy; 0 if it is not known: then a copy must be read after the fence.
    pub(super) version: u64,
}

impl Fence {
    /// Returns the fence that a change needs. A key that was created has no older copies.
    pub(super) fn of(key: &ChangedKey) -> Option<Self> {
        let version = match key {
            // Also if the last version of the key is told, not the one after it.
            ChangedKey {
                is_deleted: true, ..
            } => key.version.saturating_add(1),
            ChangedKey { version: 1, .. } => return None,
            key => key.version,
        };
        Some(Self {
            id: key.id,
            version,
        })
    }
}

/// The result of a read.
#[derive(Debug)]
pub(super) enum Found {
    /// A copy that may serve.
    Copy(Box<AgedRecord>),
    /// There is none. The time of Redis before the load, in microseconds.
    Missed(u64),
}

impl SharedCache {
    pub(super) fn new(servers: Servers, prefix: &str, life: Duration) -> Self {
        let [get, fill, fence] = [
            include_str!("cache_get.lua"),
            include_str!("cache_fill.lua"),
            include_str!("cache_fence.lua"),
        ]
        .map(Script::new);
        Self {
            servers,
            prefix: prefix.to_owned(),
            life,
            seal: None,
            clock: None,
            scripts: Scripts { get, fill, fence },
            broken_seals: LogOncePer::default(),
            failures: LogOncePer::default(),
        }
    }

    /// Sets the clock that stands for that of Redis.
    pub(super) fn set_clock(&mut self, clock: GivenClock) {
        let Scripts { get, fill, fence } = &mut self.scripts;
        for script in [get, fill, fence] {
            *script = script.on_given_time();
        }
        self.clock = Some(clock);
    }

    /// Reads the copy of a record, if it is not below the floor.
    pub(super) async fn get(&self, id: &KeyId, floor: &Floor) -> Result<Found, CallError> {
        let sent = self.servers.now();
        let until = sent + self.servers.limit();
        let keys = [self.key(id)];
        let call = |name: &str, script: &str| self.command(name, script, &keys, |_| {});
        let get = &self.scripts.get;
        let answer = self.servers.run(&keys[0], get, until, call).await?;
        let missed = Found::Missed(u64::try_from(answer.time).unwrap_or_default());
        let written = match answer.rest() {
            [Value::BulkString(written)] => written,
            [Value::Nil] => return Ok(missed),
            _ => return Err(CallError::Malformed),
        };
        let copy = match Copy::read(*id, written, self.seal.as_ref()) {
            Ok(copy) => copy,
            Err(NoCopy::Unknown) => return Ok(missed),
            Err(NoCopy::Seal) => {
                if self.broken_seals.is_due(0, self.log_time()) {
                    trace::copy_without_seal(id);
                }
                return Ok(missed);
            }
        };
        let as_of = i64::try_from(copy.as_of).unwrap_or(i64::MAX);
        let Ok(age) = u64::try_from(answer.time.saturating_sub(as_of)) else {
            // The clock of Redis was set back: how old the copy is cannot be told.
            return Ok(missed);
        };
        let trip = self.servers.now().saturating_sub(sent);
        let age = Duration::from_micros(age).saturating_add(trip);
        if age >= floor.max_age || copy.record.version() < floor.version {
            return Ok(missed);
        }
        Ok(Found::Copy(Box::new(AgedRecord::new(copy.record, age))))
    }

    /// Stores a record that was loaded after a miss, and was this old then.
    pub(super) async fn fill(&self, missed: u64, loaded: &AgedRecord) -> Result<(), CallError> {
        let age = u64::try_from(loaded.age.as_micros()).unwrap_or(u64::MAX);
        let record: &KeyRecord = &loaded.record;
        let copy = Copy {
            record: record.clone(),
            as_of: missed.saturating_sub(age),
        };
        let Some(written) = copy.write(self.seal.as_ref()) else {
            return Ok(());
        };
        let until = self.servers.now() + self.servers.limit();
        let keys = [self.key(&record.id())];
        let call = |name: &str, script: &str| {
            self.command(name, script, &keys, |command| {
                command.arg(missed).arg(LONGEST_LOAD);
                command.arg(record.version()).arg(copy.as_of);
                command.arg(milliseconds(self.life)).arg(&written[..]);
            })
        };
        let fill = &self.scripts.fill;
        self.servers.run(&keys[0], fill, until, call).await?;
        Ok(())
    }

    /// Raises fences, over patient connections. Returns those that failed, and the last error.
    pub(super) async fn fence(
        &self,
        fences: &[Fence],
        servers: &Servers,
    ) -> (Vec<Fence>, Option<CallError>) {
        // Of a cluster, a call reaches one slot.
        let at_once = match servers {
            Servers::One(_) => FENCES_OF_CALL,
            Servers::Cluster(_) => 1,
        };
        let parts: Vec<&[Fence]> = fences.chunks(at_once).collect();
        let raised = join_all(parts.iter().map(|part| self.fence_part(part, servers))).await;
        let (mut failed, mut last) = (Vec::new(), None);
        for (part, raised) in parts.into_iter().zip(raised) {
            if let Err(error) = raised {
                failed.extend_from_slice(part);
                last = Some(error);
            }
        }
        (failed, last)
    }

    async fn fence_part(&self, part: &[Fence], servers: &Servers) -> Result<(), CallError> {
        let until = servers.now() + servers.limit();
        let keys: Vec<String> = part.iter().map(|fence| self.key(&fence.id)).collect();
        let call = |name: &str, script: &str| {
            self.command(name, script, &keys, |command| {
                command.arg(milliseconds(FENCE_LIFE));
                for fence in part {
                    command.arg(fence.version.min(MOST_VERSION));
                }
            })
        };
        let fence = &self.scripts.fence;
        servers.run(&keys[0], fence, until, call).await?;
        Ok(())
    }

    /// Logs a failure, at most once a minute. An outage is logged where it is noticed.
    pub(super) fn note_failure(&self, error: &CallError) {
        let is_answer = matches!(
            error,
            CallError::Redis(_) | CallError::OfCluster(_) | CallError::Malformed
        );
        if is_answer && self.failures.is_due(0, self.log_time()) {
            trace::shared_cache_fails(error);
        }
    }

    fn log_time(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.servers.now()
    }

    /// Returns the name of a copy.
    fn key(&self, id: &KeyId) -> String {
        format!("{}:c{LAYOUT}:{id}", self.prefix)
    }

    /// Writes a call of a script on the copies of keys.
    fn command(
        &self,
        name: &str,
        script: &str,
        keys: &[String],
        add_arguments: impl Fn(&mut Cmd),
    ) -> Cmd {
        let mut command = redis::cmd(name);
        command.arg(script).arg(keys.len()).arg(keys);
        add_arguments(&mut command);
        let given = self.clock.as_ref().map(|clock| given_time(&*clock.0));
        command.arg(given);
        command
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
