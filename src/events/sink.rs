//! The port to sinks of the application.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;

use crate::store::KeptEvent;

/// A sink of the application that events are delivered to: to write a mail, for example.
///
/// Each event is delivered to one process of those that have a sink with the same name. An event
/// may be delivered more than once, with the same [id](KeptEvent::id): after the sink has failed,
/// or the process died before the outcome was recorded. Events may come in another order than they
/// happened.
///
/// The task of the [worker](crate::ApiKeys::worker) polls `take`, for up to four events at a time.
/// `take` must not block: a blocked task holds up all background work. The future is dropped after
/// 60 seconds, which counts as a failure, and so does a panic.
///
/// ```
/// use tower_api_key::events::{EventSink, KeptEvent, SinkError};
/// use tower_api_key::{ApiKeys, MemoryStore};
///
/// struct Mail;
///
/// impl EventSink for Mail {
///     async fn take(&self, kept: &KeptEvent) -> Result<(), SinkError> {
///         println!("{}: {} {}", kept.id, kept.event.kind, kept.event.data);
///         Ok(())
///     }
/// }
///
/// let keys = ApiKeys::builder(MemoryStore::new()).sink("mail", Mail).build()?;
/// # Ok::<(), tower_api_key::BuildError>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an `EventSink`",
    note = "implement `EventSink::take`"
)]
pub trait EventSink: Send + Sync + 'static {
    /// Takes an event.
    fn take(&self, event: &KeptEvent) -> impl Future<Output = Result<(), SinkError>> + Send;
}

impl<S: EventSink> EventSink for Arc<S> {
    async fn take(&self, event: &KeptEvent) -> Result<(), SinkError> {
        EventSink::take(&**self, event).await
    }
}

/// An error for an event that a sink has not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{cause}")]
pub struct SinkError {
    cause: String,
    is_final: bool,
}

impl SinkError {
    /// Creates an error after which the event is delivered again: after 5 seconds, 5 and 30
    /// minutes, and so on, with ten attempts in all, in three to four days. The cause is recorded,
    /// cut to 255 bytes, and logged: leave secrets out.
    pub fn retry(cause: impl fmt::Display) -> Self {
        Self {
            cause: cause.to_string(),
            is_final: false,
        }
    }

    /// Creates an error after which the event is not delivered again.
    pub fn give_up(cause: impl fmt::Display) -> Self {
        Self {
            cause: cause.to_string(),
            is_final: true,
        }
    }

    pub(crate) fn is_final(&self) -> bool {
        self.is_final
    }
}

/// The object-safe version of [`EventSink`].
#[async_trait]
pub(crate) trait DynEventSink: Send + Sync {
    async fn take(&self, event: &KeptEvent) -> Result<(), SinkError>;
}

#[async_trait]
impl<S: EventSink> DynEventSink for S {
    async fn take(&self, event: &KeptEvent) -> Result<(), SinkError> {
        EventSink::take(self, event).await
    }
}
