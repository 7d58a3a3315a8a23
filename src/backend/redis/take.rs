//! The call that takes charges, its answer, and the verdict that it makes.

use std::time::Duration;

use redis::Value;

use super::call_error::CallError;
use super::request::{Budget, Budgets, PackedRefund};
use super::script::{Answer, Script};
use super::servers::Servers;
use crate::limit::refund_note::RefundNote;
use crate::limit::verdict::{BudgetStatus, Verdict};

/// What a call needs that takes charges.
#[derive(Debug, Clone, Copy)]
pub(super) struct Take<'l> {
    pub(super) servers: &'l Servers,
    pub(super) script: &'l Script,
    /// The time limit.
    pub(super) until: Duration,
    /// For tests: the time of the caller.
    pub(super) time: Option<u64>,
}

impl Take<'_> {
    /// Takes from budgets that one call can reach, or from none of them.
    pub(super) async fn run<'b>(
        self,
        budgets: impl ExactSizeIterator<Item = &'b Budget> + Clone,
    ) -> Result<Taken, CallError> {
        self.run_and_tell(budgets, None).await
    }

    /// Does the same, and tells how the budgets stood before.
    pub(super) async fn run_as_part<'b>(
        self,
        budgets: impl ExactSizeIterator<Item = &'b Budget> + Clone,
    ) -> Result<Taken, CallError> {
        self.run_and_tell(budgets, Some("before")).await
    }

    async fn run_and_tell<'b>(
        self,
        budgets: impl ExactSizeIterator<Item = &'b Budget> + Clone,
        before: Option<&str>,
    ) -> Result<Taken, CallError> {
        let count = budgets.len();
        let first = budgets.clone().next().map_or("", |it| it.key.as_str());
        let call = |name: &str, script: &str, not_after: i64| {
            let mut command = redis::cmd(name);
            command.arg(script).arg(count);
            for budget in budgets.clone() {
                command.arg(&budget.key);
            }
            command.arg(self.time.map_or(not_after, |_| 0));
            for budget in budgets.clone() {
                command.arg(&budget.pack()[..]);
            }
            command.arg(before).arg(self.time);
            command
        };
        let servers = self.servers;
        let answer = servers.run_in_time(first, self.script, self.until, call);
        Taken::read(&answer.await?, count)
    }
}

/// The answer of `take.lua` about some of the budgets of a request: all are taken, or none.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) is_taken: bool,
    pub(super) budgets: Vec<TakenBudget>,
}

/// How a budget stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct TakenBudget {
    /// The time of its server, in microseconds.
    time: u64,
    remaining: u64,
    /// The time until it is full, in the unit of its kind.
    full_in: u64,
    wait: Option<Duration>,
    early_refunds: u32,
    /// What remained, and the time until it was full, before it was taken: if that was asked for.
    before: Option<(u64, u64)>,
}

impl Taken {
    /// Reads the answer about so many budgets.
    pub(super) fn read(answer: &Answer, count: usize) -> Result<Self, CallError> {
        let (statuses, rest) = answer
            .rest()
            .split_at_checked(4 * count)
            .ok_or(CallError::Malformed)?;
        let (statuses, _) = statuses.as_chunks::<4>();
        let (before, odd) = rest.as_chunks::<2>();
        if !(before.is_empty() || before.len() == count) || !odd.is_empty() {
            return Err(CallError::Malformed);
        }
        let time = unsigned(answer.time);
        let read = |(at, status): (usize, &[Value; 4])| {
            let [remaining, full_in, wait, early] = status;
            let wait = number(wait)?;
            let before = before.get(at).map(|[remaining, full_in]| {
                Ok::<_, CallError>((unsigned(number(remaining)?), unsigned(number(full_in)?)))
            });
            Ok(TakenBudget {
                time,
                remaining: unsigned(number(remaining)?),
                full_in: unsigned(number(full_in)?),
                wait: (wait >= 0).then(|| Duration::from_micros(unsigned(wait))),
                early_refunds: u32::try_from(number(early)?).unwrap_or_default(),
                before: before.transpose()?,
            })
        };
        let budgets = statuses.iter().enumerate().map(read);
        Ok(Self {
            is_taken: answer.outcome == 1,
            budgets: budgets.collect::<Result<_, CallError>>()?,
        })
    }
}

fn number(value: &Value) -> Result<i64, CallError> {
    match value {
        Value::Int(number) => Ok(*number),
        _ => Err(CallError::Malformed),
    }
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

impl TakenBudget {
    /// Returns how the budget stood before it was taken.
    pub(super) fn as_before(mut self) -> Self {
        if let Some(before) = self.before {
            (self.remaining, self.full_in) = before;
        }
        self
    }

    /// Returns the refund of all that was taken from the budget.
    pub(super) fn refund(&self, budget: &Budget) -> PackedRefund {
        budget.refund_of_all(self.time, self.full_in, self.early_refunds)
    }
}

/// Returns the verdict about a request, from how its budgets stand, in their order.
pub(super) fn verdict(taken: &[TakenBudget], budgets: &Budgets) -> Verdict {
    let status = |(at, is_report_only): &(usize, bool)| {
        let taken = taken[*at];
        let full_in = budgets.budgets[*at].nanoseconds(taken.full_in);
        let full_in = Duration::from_nanos(full_in);
        let note = RefundNote {
            early_refunds: taken.early_refunds,
            limiter_time: taken.time,
            ..Default::default()
        };
        let status = BudgetStatus::new(taken.remaining, full_in, taken.wait);
        let status = status.with_refund_note(note);
        if *is_report_only {
            return status.of_report_only();
        }
        status
    };
    budgets.of_charges.iter().map(status).collect()
}
