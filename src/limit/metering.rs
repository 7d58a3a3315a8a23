//! What is left to do about a request's charges once it was let in.

use std::fmt;
use std::sync::Arc;

use crate::clock::Clock;
use crate::limit::LimiterError;
use crate::limit::limiting::Limiting;
use crate::limit::rulebook::{Bound, Charges, Holder, Rulebook};

/// The limits of one `ApiKeys`, and the clock that they go by.
pub(crate) struct Metering {
    pub(crate) limiting: Option<Limiting>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Metering {
    /// Gives back units of each limit that bound a request, but no more than it cost.
    pub(crate) async fn refund(
        &self,
        key: Holder<'_>,
        bound: &Bound,
        units: u64,
    ) -> Result<(), LimiterError> {
        let Some(limiting) = self.limiting.as_ref().filter(|_| !bound.is_let_off()) else {
            return Ok(());
        };
        let units = units.min(limiting.rules.cost_of(bound));
        let charges = charges(&limiting.rules, key, bound, units);
        limiting.refund(&*self.clock, &charges).await
    }

    /// Takes units of each limit that bound a request, or what is left of it.
    pub(crate) async fn charge(
        &self,
        key: Holder<'_>,
        bound: Option<&Bound>,
        units: u64,
    ) -> Result<(), LimiterError> {
        let Some(limiting) = &self.limiting else {
            return Ok(());
        };
        let nowhere = limiting.rules.bind_nowhere(None);
        for charge in charges(&limiting.rules, key, bound.unwrap_or(&nowhere), units) {
            limiting.take(&*self.clock, charge).await?;
        }
        Ok(())
    }
}

/// What a request is charged, at another cost.
fn charges<'a>(rules: &'a Rulebook, key: Holder<'a>, bound: &Bound, units: u64) -> Charges<'a> {
    let mut charges = Charges::new();
    rules.charge(Some(key), bound, &mut charges);
    for charge in &mut charges {
        *charge = charge.with_cost(units);
    }
    charges
}

impl fmt::Debug for Metering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metering")
            .field("limiting", &self.limiting)
            .finish_non_exhaustive()
    }
}
