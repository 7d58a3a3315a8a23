//! Why a call to Redis failed.

use std::sync::Arc;
use std::time::Duration;

use redis::RedisError;

use super::breaker::NotSent;

/// An error of a call to Redis.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    #[error(transparent)]
    NotSent(#[from] NotSent),
    #[error("Redis did not answer in {0:?}")]
    Late(Duration),
    #[error("Redis answered with an error")]
    Redis(#[from] RedisError),
    #[error("Redis refuses a call as late, which is in time here: its clock does not run evenly")]
    Refused,
    #[error("Redis answered with something else")]
    Malformed,
    #[error("the server is one of a cluster: use connect_cluster ({0})")]
    OfCluster(RedisError),
    #[error("no server of the cluster tells which slots it has: {0}")]
    NoSlots(Arc<CallError>),
    #[error("no server of the cluster has the slot {0}")]
    NoOwner(u16),
}
