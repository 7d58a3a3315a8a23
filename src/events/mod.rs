//! Events: what happens to keys, told to their owners and to the application.
//!
//! A store keeps each event in the transaction of the change that it tells of, and the
//! [worker](crate::ApiKeys::worker) delivers it to every [endpoint](crate::store::Endpoint) that
//! takes it: to a sink of the application ([`ApiKeysBuilder::sink`](crate::ApiKeysBuilder::sink)),
//! and with the feature `webhook` to webhooks. A delivery that fails is made again, up to ten times
//! in three to four days, and an event may come twice, with the same id.
//!
//! | kind | about |
//! |---|---|
//! | `api_key.issued`, `api_key.updated`, `api_key.suspended`, `api_key.resumed`, `api_key.throttled`, `api_key.unthrottled`, `api_key.revoked` | a change of a key |
//! | `api_key.rotated` | a rotation, with the id of the successor |
//! | `api_key.retired` | the end of a key that was not used for long |
//! | `api_key.revoked_all` | a revocation of many keys, with their number |
//! | `api_key.first_used` | the first use of a key |
//! | `api_key.expiring` | a key that expires in 30, 7 or 1 `days` |
//! | `api_key.expired` | a key that has expired |
//! | `api_key.rotated_key_in_use` | an old key that is still used 7 or 1 `days` before its grace ends |
//! | `anomaly.low`, `anomaly.medium`, `anomaly.high`, `anomaly.critical` | an [anomaly](crate::anomaly) in the use of a key; the first two belong to no account, so that only operators get them |
//! | `limit.nearly_used` | a budget of which the share that [`Limit::tell_at`](crate::limit::Limit::tell_at) names is used |
//! | `webhook.disabled` | a webhook that was disabled since its receiver answered 410, with `endpoint_id` and `reason` |
//! | `webhook.test` | nothing: a test of an endpoint |
//!
//! Right after a rotation, every client still uses the old key. So its uses are told only in a grace
//! that is longer than the days: 7 days before the end of a grace of more than a week, and a day
//! before the end of a grace of more than a day. In a shorter grace, only the end is told.
//!
//! Imports and deletions are not told; the [trail](crate::ApiKeys::trail) has them. An event never
//! contains a key, and neither a reason nor metadata.

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
