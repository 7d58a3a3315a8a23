//! What is left to do about a request's charges once it was let in.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use crate::key::quota::Quota;
use crate::limit::charge::Charge;
use crate::limit::limiter::LimiterError;
use crate::limit::limiting::{self, Limiting};
use crate::limit::refund::Receipt;
use crate::limit::rulebook::{Bound, Holder};
use crate::limit::verdict::BudgetStatus;
use crate::util::clock::Clock;
use crate::util::notice::Lines;

/// The limits of one `ApiKeys`, and the clock that they go by.
pub(crate) struct Metering {
    pub(crate) limiting: Limiting,
    pub(crate) clock: Arc<dyn Clock>,
    /// How many observers may keep a value in each cached entry.
    pub(crate) observers: usize,
    /// The room for lines about refusals, which handlers and the path share.
    pub(crate) refusals: Arc<Lines>,
}

impl Metering {
    /// Gives back units of each charge of a request that counts `unit`, or of all, but no more than
    /// are left of their cost.
    pub(crate) async fn refund(
        &self,
        key: Holder<'_>,
        bound: &Bound,
        receipt: &Receipt,
        unit: Option<&str>,
        units: u64,
    ) -> Result<(), LimiterError> {
        let limiting = &self.limiting;
        let charges = limiting
            .rules
            .of(bound)
            .charges(Some(key), bound, self.clock.now());
        // Taken whatever the limiter answers: one that failed may have given back.
        let refunds = receipt.refunds(&charges, unit, units);
        if refunds.is_empty() {
            return Ok(());
        }
        limiting.refund(&*self.clock, &refunds).await
    }

    /// Asks how the limits of a request stand.
    pub(crate) async fn peek(
        &self,
        key: Holder<'_>,
        bound: &Bound,
    ) -> Result<Vec<LimitStatus>, LimiterError> {
        let limiting = &self.limiting;
        let charges = limiting
            .rules
            .of(bound)
            .charges(Some(key), bound, self.clock.now());
        if charges.is_empty() {
            return Ok(Vec::new());
        }
        let peeked = limiting.peek(&*self.clock, &charges).await;
        let verdict = limiting::verdict(&charges, &peeked)?;
        let now = self.clock.now();
        let standing = |(charge, standing): (&Charge<'_>, &BudgetStatus)| LimitStatus {
            name: charge.name().to_string(),
            unit: charge.unit().to_owned(),
            quota: charge.quota(),
            remaining: standing.remaining(),
            whole_at: now.checked_add(standing.whole_in()).unwrap_or(now),
            is_report_only: charge.is_report_only(),
        };
        Ok(charges
            .iter()
            .zip(verdict.standings())
            .map(standing)
            .collect())
    }

    /// Takes units of each limit that bound a request and counts `unit`, or what is left of it.
    pub(crate) async fn charge(
        &self,
        key: Holder<'_>,
        bound: &Bound,
        unit: &str,
        units: u64,
    ) -> Result<(), LimiterError> {
        let limiting = &self.limiting;
        let charges = limiting
            .rules
            .of(bound)
            .charges(Some(key), bound, self.clock.now());
        for charge in charges.into_iter().filter(|it| it.unit() == unit) {
            // A limiter that fails is not waited for once more.
            limiting.take(&*self.clock, charge.with_cost(units)).await?;
        }
        Ok(())
    }
}

/// How one limit of a request stands.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LimitStatus {
    /// The name of the limit, as headers and errors have it.
    pub name: String,
    /// The unit that it counts, such as `requests`.
    pub unit: String,
    /// How much it grants in how much time.
    pub quota: Quota,
    /// How many units are admissible now.
    pub remaining: u64,
    /// When all of the quota is admissible again, if nothing more is used.
    pub whole_at: SystemTime,
    /// Whether the limit only reports.
    pub is_report_only: bool,
}

/// Units that a request could not be charged, or could not be given back.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ChargeError {
    /// No limit counts the unit: a typo, or a [`Limit::unit`](crate::limit::Limit::unit) that is missing.
    #[error("no limit counts {0:?}: see Limit::unit")]
    UnknownUnit(String),
    /// The limiter failed.
    #[error(transparent)]
    Limiter(#[from] LimiterError),
}

impl fmt::Debug for Metering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metering")
            .field("limiting", &self.limiting)
            .finish_non_exhaustive()
    }
}
