//! What was admitted of each quota.

use std::time::Duration;

use super::budgets::DAY;
use super::figures::Figures;
use super::ledger::{End, Ledger, What};
use super::plan::Shape;

/// A charge that was admitted.
struct Admitted {
    at: Duration,
    passed: i64,
    day: i64,
    /// Without those that were refunded.
    units: i64,
    cost: i64,
    lost: Option<usize>,
}

/// A refund of a charge that was given back before.
struct GivenBack {
    at: Duration,
    /// The refund was forgotten.
    is_lost: bool,
    charged: Duration,
    units: i64,
}

impl Ledger {
    /// Checks that no more was admitted than a quota and what is stated, between any two charges.
    pub fn check_budget(&self, budget: usize, figures: &mut Figures) -> Result<(), String> {
        let limit = i64::try_from(self.plan.budgets[budget].quota.limit()).unwrap();
        let shape = self.plan.budgets[budget].shape;
        // The refund of a charge that was given back before gives back units of others: no more than
        // that charge, but later.
        let given_back = self.given_back(budget);
        let admitted = self.admitted(budget);
        let mut most = 0;
        let mut is_beyond = false;
        for (last, end) in admitted.iter().enumerate() {
            let mut sum = 0;
            let mut lost = vec![0; self.losses.len()];
            for begin in admitted[..=last].iter().rev() {
                let Some(refilled) = refilled(shape, begin, end) else {
                    break;
                };
                sum += begin.units;
                if let Some(loss) = begin.lost {
                    lost[loss] += begin.cost;
                }
                // Of charges at the same instant, some come first here.
                let is_within =
                    |it: &&GivenBack| it.at <= end.at && (it.is_lost || it.charged <= begin.at);
                let given_back = given_back.iter().filter(is_within);
                let given_back: i64 = given_back.map(|it| it.units).sum();
                let forgotten = self.forgotten(limit, &lost) + given_back;
                let over = sum - refilled - limit;
                if over > forgotten {
                    return Err(format!(
                        "{sum} were admitted between {:?} and {:?}, with {forgotten} forgotten and \
                         {refilled} refilled",
                        begin.at, end.at
                    ));
                }
                is_beyond |= over > 0;
                most = most.max(over + limit);
            }
        }
        figures.used_up += u64::from(most >= limit);
        figures.beyond += u64::from(is_beyond);
        Ok(())
    }

    /// Returns what may be admitted because so many units were lost in each loss.
    fn forgotten(&self, limit: i64, lost: &[i64]) -> i64 {
        let each = lost.iter().zip(&self.losses);
        let forgotten = each.map(|(lost, loss)| {
            let most = if loss.is_failover { i64::MAX } else { limit };
            most.min(*lost)
        });
        forgotten.sum()
    }

    /// Returns the refunds of charges that were given back before: the server forgot them, or its
    /// clock was set back and forwards.
    fn given_back(&self, budget: usize) -> Vec<GivenBack> {
        let mut given_back = Vec::new();
        for call in &self.calls {
            let What::Refund { of, units } = &call.what else {
                continue;
            };
            let Some(charge) = self.calls[*of].done().next_back() else {
                continue;
            };
            let units = units.iter().filter(|it| it.0 == budget);
            let units = units.map(|it| it.1).sum::<u64>();
            for refund in call.done() {
                if charge.lost.is_some() || self.is_set_twice(charge.at, refund.at) {
                    given_back.push(GivenBack {
                        at: refund.at,
                        is_lost: refund.lost.is_some(),
                        charged: charge.at,
                        units: i64::try_from(units).unwrap(),
                    });
                }
            }
        }
        given_back
    }

    /// Returns whether the clock was set back and forwards.
    fn is_set_twice(&self, from: Duration, until: Duration) -> bool {
        let steps = self.clock_changes.iter();
        let mut steps = steps.filter(|it| it.at >= from && it.at <= until);
        steps.clone().any(|it| it.ahead < 0) && steps.any(|it| it.ahead > 0)
    }

    /// Returns what was admitted of a budget, in order.
    fn admitted(&self, budget: usize) -> Vec<Admitted> {
        let mut refunded = vec![0; self.calls.len()];
        for call in &self.calls {
            let What::Refund { of, units } = &call.what else {
                continue;
            };
            if call.done().count() > 0 {
                let its = units.iter().filter(|it| it.0 == budget);
                refunded[*of] += its.map(|it| it.1).sum::<u64>();
            }
        }
        let mut admitted = Vec::new();
        for (number, call) in self.calls.iter().enumerate() {
            let What::Check { request } = call.what else {
                continue;
            };
            let cost = self.plan.cost(request, budget);
            if call.end != Some(End::Allowed) || cost == 0 {
                continue;
            }
            let charge = call.done().next_back().unwrap();
            admitted.push(Admitted {
                at: charge.at,
                passed: charge.passed,
                day: charge.time / DAY,
                units: i64::try_from(cost - refunded[number]).unwrap(),
                cost: i64::try_from(cost).unwrap(),
                lost: charge.lost,
            });
        }
        // A day that has begun does not begin again, also if a clock is set back.
        admitted.sort_by_key(|it| it.at);
        let mut day = 0;
        for it in &mut admitted {
            day = day.max(it.day);
            if day - it.day < 2 {
                it.day = day;
            }
        }
        admitted
    }
}

/// Returns the units that are refilled from one charge to another. `None` if the first one does not
/// count any more.
fn refilled(shape: Shape, begin: &Admitted, end: &Admitted) -> Option<i64> {
    let passed = end.passed - begin.passed;
    // Clocks are read in whole microseconds.
    let unsteady = 2;
    match shape {
        Shape::Window(period) => (passed - unsteady < period).then_some(0),
        Shape::Rate(interval) => Some((passed + unsteady) * 1_000 / interval),
        Shape::Day => (begin.day == end.day).then_some(0),
    }
}
