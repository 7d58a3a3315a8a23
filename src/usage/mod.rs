//! Usage: the requests and units of each key, counted exactly and in bounded memory.
//!
//! Each decision of the layer about a key whose secret was right, and each successful `verify`, is
//! counted in the cached entry of the key. The
//! [worker](crate::ApiKeys::worker) takes the counts, and records them in numbered batches, so that
//! a batch that is sent twice counts once. A process that is killed loses what it counted since its
//! last batch, and nothing is ever counted twice.

mod batches;
mod meter;
mod metering;
mod table;

pub(crate) use batches::{Batches, random_id};
pub(crate) use meter::{Counted, Meter};
pub use metering::Metering;
pub use table::UsageHealth;
pub(crate) use table::UsageTable;

pub use crate::manage::usage::{ReadUsage, UsageReport};
pub use crate::store::{UsageCounts, UsageDetail, UsagePeriod, UsageQuery, UsageRow};
