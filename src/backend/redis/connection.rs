//! A connection to Redis: one of ours, or one of the application's.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use redis::aio::ConnectionLike;
use redis::{Cmd, RedisResult, Value};

/// A call in progress.
pub(super) type Call = Pin<Box<dyn Future<Output = RedisResult<Value>> + Send>>;

/// A connection that many calls share.
pub(super) trait Connection: Send + Sync {
    /// Sends a command, when awaited.
    fn call(&self, command: Cmd) -> Call;

    /// Sends a command for a slot of a cluster that this server is taking over, when awaited.
    fn call_asking(&self, command: Cmd) -> Call;
}

impl<C: ConnectionLike + Clone + Send + Sync + 'static> Connection for C {
    fn call(&self, command: Cmd) -> Call {
        let mut connection = self.clone();
        // An error of the server is an error of the call, too.
        Box::pin(async move { command.query_async(&mut connection).await })
    }

    fn call_asking(&self, command: Cmd) -> Call {
        let mut connection = self.clone();
        // Both at once: `ASKING` is about the next command of the connection.
        let mut both = redis::pipe();
        both.cmd("ASKING").add_command(command);
        Box::pin(async move {
            let mut answers = connection.req_packed_commands(&both, 0, 2).await?;
            let answer = answers.pop().unwrap_or(Value::Nil);
            answer.extract_error()
        })
    }
}

/// A function of a test that dials.
#[cfg(feature = "testing")]
pub(super) type Dial = Box<dyn Fn() -> Dialing + Send + Sync>;

#[cfg(feature = "testing")]
type Dialing = Pin<Box<dyn Future<Output = RedisResult<std::sync::Arc<dyn Connection>>> + Send>>;

/// Boxes a function of a test that dials.
#[cfg(feature = "testing")]
pub(super) fn boxed<C, F>(dial: impl Fn() -> F + Send + Sync + 'static) -> Dial
where
    C: ConnectionLike + Clone + Send + Sync + 'static,
    F: Future<Output = RedisResult<C>> + Send + 'static,
{
    Box::new(move || {
        let dialing = dial();
        Box::pin(async move { Ok(std::sync::Arc::new(dialing.await?) as _) })
    })
}

impl fmt::Debug for dyn Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connection")
    }
}
