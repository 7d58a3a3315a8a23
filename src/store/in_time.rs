use std::future::Future;
use std::time::Duration;

use crate::store::StoreError;
use crate::util::clock::{Clock, within};

/// Makes a call of a store within a time limit. A call that takes longer is dropped, and fails
/// as [unavailable](crate::store::StoreErrorKind::Unavailable).
pub(crate) async fn in_time<T>(
    clock: &dyn Clock,
    limit: Duration,
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let answer = within(clock, limit, call).await;
    answer.unwrap_or_else(|| Err(StoreError::unavailable(format!("no answer in {limit:?}"))))
}
