//! Events: what happens to keys, told to their owners and to the application.
//!
//! A store keeps each event in the transaction of the change that it tells of, and the
//! [worker](crate::ApiKeys::worker) delivers it to every [endpoint](crate::store::Endpoint) that
//! takes it: to a sink of the application ([`ApiKeysBuilder::sink`](crate::ApiKeysBuilder::sink)),
//! and with the feature `webhook` to webhooks. A delivery that fails is repeated: ten attempts at
//! most, in three to four days. An event may come twice, with the same id.
//!
//! The [kinds] are constants. The data is a JSON object. The data of an event about a key has
//! `key_id`, `account`, `name`, `prefix`, `environment`, `version` and `expires_at`, and more by
//! its kind; a change also has `actor_kind`, such as `user`. Further fields and kinds may be added.
//!
//! | kind | about | data |
//! |---|---|---|
//! | `api_key.issued`, `.resumed`, `.unthrottled`, `.revoked` | a change of a key | that of a change |
//! | `api_key.updated` | a change of a key, or an early end of its grace | and `changed`: the names of fields |
//! | `api_key.suspended` | a suspension | and `suspended_until`, or null |
//! | `api_key.throttled` | a throttling | and `throttled_until` |
//! | `api_key.rotated` | a rotation; no `api_key.issued` tells of the new key | and `successor_id`, `successor_expires_at`, `is_revoked` |
//! | `api_key.retired` | the end of a key that was not used for long | and `last_used_at`, `idle_days` |
//! | `api_key.revoked_all` | a revocation of many keys by one call | `actor_kind`, `account`, `prefix`, `issued_before`, `revoked`: the number of keys |
//! | `api_key.first_used` | the first use of a key | `key_id`, `account`, `environment` only |
//! | `api_key.expiring` | a key that expires in 30, 7 or 1 days, and was not rotated; not in the days that it was issued for | and `days` |
//! | `api_key.expired` | a key that has expired | that of a key |
//! | `api_key.rotated_key_in_use` | an old key that is still used 7 or 1 days before its grace ends | and `days`, `successor_id`, `last_used_at` |
//! | `anomaly.low`, `.medium`, `.high`, `.critical` | an [anomaly](crate::anomaly) in the use of a key; the first two belong to no account, so that only operators get them | and `severity`, `findings`, `action`, `dry_run` |
//! | `limit.nearly_used` | a budget of which the share that [`Limit::tell_at`](crate::limit::Limit::tell_at) names is used | `account`, `limit`, `unit`, `quota`, `remaining`, `percent`; by key `key_id`, and by environment `environment` |
//! | `webhook.disabled` | a webhook that was disabled since its receiver answered 410 | `endpoint_id`, `reason` |
//! | `webhook.test` | nothing: a test of an endpoint | `endpoint_id` |
//!
//! A rotation of a compromised key tells `api_key.revoked` as well. A key that a change ends at
//! once tells `api_key.expired` with it. In a new database, expiries are announced from the first
//! start of a worker on.
//!
//! Right after a rotation, every client still uses the old key. So its uses are told only in a
//! grace that is longer than the days: 7 days before the end of a grace of more than a week, and a
//! day before the end of a grace of more than a day. In a shorter grace, only the end is told.
//!
//! Imports and deletions are not told; the [trail](crate::ApiKeys::trail) has them. An event never
//! contains a key, metadata, or the reason of a change.
//!
//! [kinds]: crate::events::kinds

mod attempt;
mod schedule;
mod sink;

pub(crate) use attempt::{Attempt, DynWebhooks, Failure, Next};
pub(crate) use schedule::next_attempt;
pub(crate) use sink::DynEventSink;
pub use sink::{EventSink, SinkError};

pub use crate::manage::endpoint_error::EndpointError;
pub use crate::manage::endpoints::Endpoints;
pub use crate::manage::register_webhook::RegisterWebhook;
pub use crate::manage::registered_webhook::RegisteredWebhook;
pub use crate::store::{
    DeliveryRecord, DeliveryState, Disabled, Endpoint, Event, KeptEvent, SecretName, Target,
    WebhookTarget, kinds,
};
