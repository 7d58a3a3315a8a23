//! Scripts, and how they are run.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use redis::{Cmd, ErrorKind, ServerErrorKind, Value};

use super::call_error::CallError;
use super::link::Link;
use crate::util::clock::Clock;

/// A script, and the hash that Redis knows it by.
#[derive(Debug)]
pub(super) struct Script {
    text: String,
    hash: String,
}

/// The answer of a script that is not carried out late: the outcome, the time of Redis in
/// microseconds, and the rest.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) outcome: i64,
    pub(super) time: i64,
    values: Vec<Value>,
}

impl Script {
    pub(super) fn new(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            hash: redis::Script::new(text).get_hash().to_owned(),
        }
    }

    /// Returns the script with its last argument as the time, for tests: see [`given_time`].
    pub(super) fn on_given_time(&self) -> Self {
        let given = "local time = {0, tonumber(ARGV[#ARGV])}";
        let text = ["call('TIME')", "redis.call('TIME')"]
            .iter()
            .fold(self.text.clone(), |text, call| {
                text.replace(&format!("local time = {call}"), given)
            });
        Self::new(&text)
    }

    /// Runs a script that refuses to be carried out late, until a time. `call` makes the command
    /// from its name, the script or its hash, and the time after which it is refused, in the time
    /// of Redis: 0 if that is not known.
    pub(super) async fn run_in_time(
        &self,
        link: &Link,
        until: Duration,
        call: impl Fn(&str, &str, i64) -> Cmd,
    ) -> Result<Answer, CallError> {
        for _ in 0..2 {
            let (sent, answer) = self.run(link, until, &call).await?;
            let answer = Answer::read(answer)?;
            if !answer.is_late() {
                link.note_time(answer.time, sent);
                return Ok(answer);
            }
            if link.now() >= until {
                // This process was stopped, and read the answer late.
                return Err(CallError::Late(link.limit()));
            }
            link.renew_time(answer.time, sent, until);
        }
        Err(CallError::Refused)
    }

    /// Runs a script by its hash, or, if Redis does not know it, in full. Returns when it was sent,
    /// and the answer. `call` is as in [`run_in_time`](Self::run_in_time).
    pub(super) async fn run(
        &self,
        link: &Link,
        until: Duration,
        call: impl Fn(&str, &str, i64) -> Cmd,
    ) -> Result<(Duration, Value), CallError> {
        let by_hash = |not_after| call("EVALSHA", &self.hash, not_after);
        match link.call(by_hash, until).await {
            Err(CallError::Redis(error))
                if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) =>
            {
                // Nothing was carried out.
                let in_full = |not_after| call("EVAL", &self.text, not_after);
                link.call(in_full, until).await
            }
            answer => answer,
        }
    }
}

/// A clock that stands for that of Redis, in tests.
#[derive(Clone)]
pub(super) struct GivenClock(pub(super) Arc<dyn Clock>);

impl fmt::Debug for GivenClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GivenClock")
    }
}

/// Returns the time of a clock in microseconds, for a script on a given time.
pub(super) fn given_time(clock: &dyn Clock) -> u64 {
    let now = clock.readings().wall();
    let since = now.duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_micros()).unwrap_or_default()
}

impl Answer {
    pub(super) fn read(value: Value) -> Result<Self, CallError> {
        let Value::Array(values) = value else {
            return Err(CallError::Malformed);
        };
        let [Value::Int(outcome), Value::Int(time), ..] = values[..] else {
            return Err(CallError::Malformed);
        };
        Ok(Self {
            outcome,
            time,
            values,
        })
    }

    fn is_late(&self) -> bool {
        self.outcome < 0
    }

    /// Returns the values after the time.
    pub(super) fn rest(&self) -> &[Value] {
        &self.values[2..]
    }
}
