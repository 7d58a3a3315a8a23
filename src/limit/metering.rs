//! What is left to do about a request's charges once it was let in.

use std::fmt;
use std::sync::Arc;

use crate::limit::limiter::LimiterError;
use crate::limit::limiting::Limiting;
use crate::limit::refund::Receipt;
use crate::limit::rulebook::{Bound, Holder};
use crate::util::clock::Clock;

/// The limits of one `ApiKeys`, and the clock that they go by.
pub(crate) struct Metering {
    pub(crate) limiting: Limiting,
    pub(crate) clock: Arc<dyn Clock>,
    /// How many observers may keep a value in each cached entry.
    pub(crate) observers: usize,
}

impl Metering {
    /// Gives back units of each charge of a request, but no more than are left of its cost.
    pub(crate) async fn refund(
        &self,
        key: Holder<'_>,
        bound: &Bound,
        receipt: &Receipt,
        units: u64,
    ) -> Result<(), LimiterError> {
        let limiting = &self.limiting;
        // Taken whatever the limiter answers: one that failed may have given back.
        let units = receipt.take(units);
        if units.0 == 0 {
            return Ok(());
        }
        let charges = limiting.rules.charges(Some(key), bound, self.clock.now());
        let refunds = receipt.refunds(&charges, units);
        limiting.refund(&*self.clock, &refunds).await
    }

    /// Takes units of each limit that bound a request, or what is left of it.
    pub(crate) async fn charge(
        &self,
        key: Holder<'_>,
        bound: &Bound,
        units: u64,
    ) -> Result<(), LimiterError> {
        let limiting = &self.limiting;
        let charges = limiting.rules.charges(Some(key), bound, self.clock.now());
        for charge in charges {
            limiting.take(&*self.clock, charge.with_cost(units)).await?;
        }
        Ok(())
    }
}

impl fmt::Debug for Metering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metering")
            .field("limiting", &self.limiting)
            .finish_non_exhaustive()
    }
}
