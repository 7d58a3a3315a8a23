//! The services that a caller needs after its request was admitted: refunds, further charges, and
//! the status of limits.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use crate::key::quota::Quota;
use crate::limit::charge::Charge;
use crate::limit::compiled_rules::{ChargedKey, Charges, RequestLimits};
use crate::limit::enforcer::{self, Enforcer};
use crate::limit::limiter::LimiterError;
use crate::limit::refund::Receipt;
use crate::limit::verdict::BudgetStatus;
use crate::util::clock::Clock;
use crate::util::log_throttle::LineBudget;

/// The enforcer, the clock and the settings of one `ApiKeys`, as cached keys and callers need them.
pub(crate) struct KeyServices {
    pub(crate) enforcer: Enforcer,
    pub(crate) clock: Arc<dyn Clock>,
    /// The number of observers, which may each keep a value in a cached entry.
    pub(crate) observers: usize,
    /// The rate limit of log lines about refusals, which handlers and the middleware share.
    pub(crate) refusals: Arc<LineBudget>,
}

impl KeyServices {
    /// Refunds units of each charge in `unit`, or of all charges if `unit` is `None`. At most the
    /// cost of a charge is refunded in total.
    pub(crate) async fn refund(
        &self,
        key: ChargedKey<'_>,
        request_limits: &RequestLimits,
        receipt: &Receipt,
        unit: Option<&str>,
        units: u64,
    ) -> Result<(), LimiterError> {
        let enforcer = &self.enforcer;
        let charges = self.charges(key, request_limits);
        // The receipt is reduced even if the limiter fails: the limiter may have refunded.
        let refunds = receipt.refunds(&charges, unit, units);
        if refunds.is_empty() {
            return Ok(());
        }
        enforcer.refund(&*self.clock, &refunds).await
    }

    /// Returns the charges of a request, under the rules that it began with.
    fn charges<'a>(
        &'a self,
        key: ChargedKey<'a>,
        request_limits: &'a RequestLimits,
    ) -> Charges<'a> {
        let rules = self.enforcer.rules.of(request_limits);
        rules.charges(Some(key), request_limits, self.clock.now())
    }

    /// Returns the status of each limit that applies to a request.
    pub(crate) async fn peek(
        &self,
        key: ChargedKey<'_>,
        request_limits: &RequestLimits,
    ) -> Result<Vec<LimitStatus>, LimiterError> {
        let enforcer = &self.enforcer;
        let charges = self.charges(key, request_limits);
        if charges.is_empty() {
            return Ok(Vec::new());
        }
        let peeked = enforcer.peek(&*self.clock, &charges).await;
        let verdict = enforcer::verdict(&charges, &peeked)?;
        let now = self.clock.now();
        let status = |(charge, status): (&Charge<'_>, &BudgetStatus)| LimitStatus {
            name: charge.name().to_string(),
            unit: charge.unit().to_owned(),
            quota: charge.quota(),
            remaining: status.remaining(),
            full_at: now.checked_add(status.full_in()).unwrap_or(now),
            is_report_only: charge.is_report_only(),
        };
        Ok(charges.iter().zip(verdict.statuses()).map(status).collect())
    }

    /// Takes units of each limit in `unit` that applies to a request. If fewer units remain, takes
    /// those.
    pub(crate) async fn charge(
        &self,
        key: ChargedKey<'_>,
        request_limits: &RequestLimits,
        unit: &str,
        units: u64,
    ) -> Result<(), LimiterError> {
        let enforcer = &self.enforcer;
        let charges = self.charges(key, request_limits);
        for charge in charges.into_iter().filter(|it| it.unit() == unit) {
            // After a failure, the limiter is not asked again.
            enforcer.take(&*self.clock, charge.with_cost(units)).await?;
        }
        Ok(())
    }
}

/// The status of one limit that applies to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LimitStatus {
    /// The name of the limit, as in headers and errors.
    pub name: String,
    /// The unit that it counts, such as `requests`.
    pub unit: String,
    /// The quota of the limit.
    pub quota: Quota,
    /// The number of units that are admissible now.
    pub remaining: u64,
    /// The time at which the budget is full again, if nothing more is used.
    pub full_at: SystemTime,
    /// Set if the limit is [report-only](crate::limit::Limit::report_only).
    pub is_report_only: bool,
}

/// The failure of a charge or a refund after a request was admitted.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ChargeError {
    /// No limit counts the unit: its name is wrong, or a
    /// [`Limit::unit`](crate::limit::Limit::unit) is missing.
    #[error("no limit counts {0:?}: see Limit::unit")]
    UnknownUnit(String),
    /// The limiter failed.
    #[error(transparent)]
    Limiter(#[from] LimiterError),
}

impl fmt::Debug for KeyServices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyServices")
            .field("enforcer", &self.enforcer)
            .finish_non_exhaustive()
    }
}
