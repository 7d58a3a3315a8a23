//! What must hold in each schedule, whatever happens. The bounds are those of the documentation.
//!
//! - Admitted units, less those that were refunded, in any window (of the server's clock, when it
//!   decided) are at most the quota, and the charges that a server forgot: at most a quota for each
//!   restart, and what was not replicated at a failover. A clock that steps forwards makes time
//!   pass. What was given back in such a way may be given back again by its refund.
//! - A call is charged at most once. One that was denied is not charged. One that failed is not
//!   charged later than its deadline and the least trip to the server, or what a clock is set back
//!   by while it waits there. None that is in time is refused as late, unless a clock was set
//!   forwards.
//! - A refund is carried out at most once.
//! - A denial is told again without a question only until its wait or the cap is over, and only
//!   while the server would say the same.
//! - A call ends within its time limit. Once five calls were not answered for that long, none waits
//!   until there is an answer.
//! - A node is admitted again within a second after a fault, and then no call fails.
//! - A node probes, or dials, about ten times a second at most.
//!
//! This file has what can be said of one call; `quotas`, `denials` and `outages` have the rest.

use std::time::Duration;

use super::figures::Figures;
use super::ledger::{Call, End, Execution, FASTEST, Ledger, What};
use super::plan::{Fault, Source};
use super::server::Outcome;

/// What a call may take beyond its time limit.
const GRACE: Duration = Duration::from_millis(5);

impl Ledger {
    /// Checks all that must hold.
    pub fn check(&self) -> Result<Figures, String> {
        if let Some(wrong) = &self.wrong {
            return Err(wrong.clone());
        }
        let mut figures = Figures::of_one();
        for (number, call) in self.calls.iter().enumerate() {
            let checked = self.check_call(call, &mut figures);
            checked.map_err(|wrong| format!("call {number}: {wrong}: {call:?}"))?;
        }
        for budget in 0..self.plan.budgets.len() {
            let checked = self.check_budget(budget, &mut figures);
            checked.map_err(|wrong| format!("{wrong}: {:?}", self.plan.budgets[budget]))?;
        }
        for node in 0..self.nodes.len() {
            let checked = self.check_node(node, &mut figures);
            checked.map_err(|wrong| format!("node {node}: {wrong}"))?;
        }
        Ok(figures)
    }

    fn check_call(&self, call: &Call, figures: &mut Figures) -> Result<(), String> {
        let Some(end) = &call.end else {
            return Err("it never ended".to_owned());
        };
        let took = call.took();
        if !self.is_paused(call) {
            if took > self.plan.limit + GRACE {
                return Err(format!("it took {took:?}"));
            }
            figures.slowest_call = figures.slowest_call.max(took);
        }
        let is_refund = matches!(call.what, What::Refund { .. });
        // An application's connection may send a call again.
        let sends_again = self.plan.nodes[call.node].source == Source::Again;
        let charges = || call.done();
        let survived = charges().filter(|it| it.lost.is_none()).count();
        if survived > 1 && (is_refund || !sends_again) {
            return Err(format!("it was carried out {survived} times"));
        }
        self.check_refusals(call)?;
        let count = charges().count();
        figures.add_call(call, end);
        match end {
            End::Allowed if count == 0 && !is_refund => Err("it was not charged".to_owned()),
            // The second time, it may be denied because of the first.
            End::Denied(_) if count > 0 && !sends_again => Err("it was charged".to_owned()),
            End::Allowed | End::Denied(_) => Ok(()),
            End::Failed(_) | End::Cancelled => {
                for charge in charges() {
                    self.check_deadline(call, charge, figures)?;
                }
                Ok(())
            }
        }
    }

    /// Checks that a call was not refused as late that was in time, unless a clock was set forwards.
    fn check_refusals(&self, call: &Call) -> Result<(), String> {
        let in_time = |it: &&Execution| it.at <= call.begun + self.plan.limit;
        let mut refused = call.executions.iter().filter(in_time);
        let Some(refused) = refused.find(|it| it.outcome == Outcome::Late) else {
            return Ok(());
        };
        let mut steps = self.clock_changes.iter();
        if steps.any(|it| it.ahead > 0 && it.at <= refused.at) {
            return Ok(());
        }
        Err("it was refused as late, and was in time".to_owned())
    }

    /// Checks that a call that failed was not carried out later than its deadline and a trip.
    fn check_deadline(
        &self,
        call: &Call,
        charge: &Execution,
        figures: &mut Figures,
    ) -> Result<(), String> {
        let deadline = call.begun + self.plan.limit;
        let Some(late) = charge.at.checked_sub(deadline) else {
            return Ok(());
        };
        let Some(trip) = self.least_trip(call, charge) else {
            return Err(format!(
                "it was charged {late:?} after its deadline, and knew no time"
            ));
        };
        if late > trip {
            return Err(format!(
                "it was charged {late:?} after its deadline, and the least trip is {trip:?}"
            ));
        }
        if !self.clock_changes.iter().any(|it| it.ahead < 0) {
            figures.latest_charge = figures.latest_charge.max(late);
        }
        Ok(())
    }

    /// Returns the least trip to the server that a node knew of when it sent a call, and by how much
    /// the clocks may have moved since.
    fn least_trip(&self, call: &Call, charge: &Execution) -> Option<Duration> {
        let log = &self.nodes[call.node];
        let sent = call.messages.iter().rev().find(|it| **it <= charge.at);
        let sent = *sent?;
        // What it was told on this connection, since the first answer that told of a step forwards.
        // It does not know when an application's connection is another one.
        let told = self.clock_changes.iter().filter_map(|step| {
            let mut late = log.answers.iter().filter(|it| it.is_late);
            let first = late.find(|it| step.ahead > 0 && it.arrived >= step.at)?;
            Some(first.at)
        });
        let is_dialed = self.plan.nodes[call.node].source == Source::Dialed;
        let connects = log.connects.iter().filter(|_| is_dialed).copied();
        let since = told.chain(connects).filter(|it| *it <= sent).max();
        let since = since.unwrap_or_default();
        let known = log.answers.iter();
        let known = known.filter(|it| it.tells_time && it.at >= since && it.at <= sent);
        let bounds = known.map(|it| {
            // A clock that is set back meanwhile is not known to be.
            let steps = self.clock_changes.iter();
            let steps = steps.filter(|step| step.at >= it.arrived && step.at <= charge.at);
            let back: i64 = steps.map(|step| step.ahead.min(0).abs()).sum();
            let back = Duration::from_micros(back.unsigned_abs());
            let passed = charge.at.saturating_sub(it.sent);
            let drift = passed * 2 / u32::try_from(FASTEST).unwrap();
            it.arrived.saturating_sub(it.sent) + drift + back
        });
        bounds.min()
    }

    fn is_paused(&self, call: &Call) -> bool {
        self.plan.faults.iter().any(|(at, fault)| match fault {
            Fault::Pause { node, lasts } => {
                *node == call.node && *at <= call.ended && *at + *lasts >= call.begun
            }
            _ => false,
        })
    }
}
