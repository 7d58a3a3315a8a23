//! What must hold after a fault, by what the nodes were told and what the server says at the end.
//!
//! - No more was admitted than the quota, and what the server forgot: a quota if it came back empty,
//!   what was not replicated if a replica took its place, else nothing.
//! - All that was admitted is charged. What else is charged are calls that failed, but were carried
//!   out in time.
//! - A call ends within its time limit, and none waits while the server does not answer.
//! - All nodes are admitted again within a second.
//!
//! Times have room for a busy machine: what is promised can be seen in the figures.

use std::fmt;
use std::time::Duration;

use super::faults::{Happened, Kind};
use super::fleet::{self, Call, End, NODES};

/// The time limit of a call, as it is by default.
const LIMIT: Duration = Duration::from_millis(250);

/// What a busy machine may add to a time.
const BUSY: Duration = Duration::from_secs(9);

/// The least trip to a server, with the pauses of a busy machine.
const TRIP: Duration = Duration::from_millis(500);

/// All that is known after a schedule.
pub struct Proof<'a> {
    pub kind: Kind,
    pub calls: &'a [Call],
    pub happened: &'a Happened,
    /// The used units of each lasting budget, and what was forgotten of it at most.
    pub used: &'a [u64],
    pub lost: &'a [u64],
}

/// What was seen in a schedule.
#[derive(Debug)]
pub struct Figures {
    kind: Kind,
    calls: usize,
    failed: usize,
    /// Units that were admitted beyond a quota, as the server forgot as many.
    beyond: u64,
    /// Units that were charged for calls that failed.
    in_doubt: u64,
    /// Calls that waited although the server had not answered for long.
    waited: usize,
    slowest_call: Duration,
    slowest_recovery: Duration,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?}: {} calls, {} failed, {} waited, {} units beyond a quota, {} in doubt, the \
             slowest call took {:?}, used again after {:?}",
            self.kind,
            self.calls,
            self.failed,
            self.waited,
            self.beyond,
            self.in_doubt,
            self.slowest_call,
            self.slowest_recovery
        )
    }
}

impl Proof<'_> {
    pub fn check(&self) -> Result<Figures, String> {
        let (beyond, in_doubt) = self.check_budgets()?;
        self.check_seconds()?;
        let slowest_call = self.calls.iter().map(Call::took).max().unwrap();
        if slowest_call > LIMIT + BUSY {
            return Err(format!("a call took {slowest_call:?}"));
        }
        Ok(Figures {
            kind: self.kind,
            calls: self.calls.len(),
            failed: self.calls.iter().filter(|it| it.failed()).count(),
            beyond,
            in_doubt,
            waited: self.check_waits()?,
            slowest_call,
            slowest_recovery: self.check_recovery()?,
        })
    }

    /// Checks the budgets whose units stay taken. Returns what was admitted beyond a quota, and what
    /// was charged without being admitted.
    fn check_budgets(&self) -> Result<(u64, u64), String> {
        let (mut beyond, mut all_in_doubt) = (0, 0);
        let known = self.used.iter().zip(self.lost);
        for ((number, budget), (used, lost)) in fleet::lasting().iter().enumerate().zip(known) {
            let its = || self.calls.iter().filter(|it| it.budget == number);
            let allowed = its().filter(|it| it.end == End::Allowed);
            let admitted: u64 = allowed.clone().map(|it| it.units - it.refunded).sum();
            let not_refunded: u64 = allowed.map(|it| it.not_refunded).sum();
            let (name, limit) = (budget.name.as_str(), budget.quota.limit());
            if admitted > limit + lost {
                return Err(format!("{name}: {admitted} were admitted, and {lost} lost"));
            }
            if used + lost < admitted {
                return Err(format!(
                    "{name}: {admitted} were admitted, and {used} charged"
                ));
            }
            let may_be_charged = its().filter(|it| it.failed() && self.may_be_charged(it));
            let in_doubt: u64 = may_be_charged.map(|it| it.units).sum();
            if *used > admitted + not_refunded + in_doubt {
                return Err(format!(
                    "{name}: {used} were charged, {admitted} admitted, {not_refunded} not refunded, \
                     and {in_doubt} may be charged"
                ));
            }
            beyond += admitted.saturating_sub(limit);
            all_in_doubt += used.saturating_sub(admitted);
        }
        Ok((beyond, all_in_doubt))
    }

    /// Returns whether a call that failed may be charged: it was sent, and carried out in time.
    fn may_be_charged(&self, call: &Call) -> bool {
        let (from, until) = (self.happened.from, self.happened.until);
        let is_late = call.begun > from && call.begun + LIMIT + TRIP < until;
        call.was_sent() && !(self.happened.keeps_calls && is_late)
    }

    /// Checks the window that slides: of calls that were begun and ended within a second, no more
    /// than the quota was admitted.
    fn check_seconds(&self) -> Result<(), String> {
        let (number, limit) = (fleet::lasting().len(), fleet::sliding().quota.limit());
        let forgets = matches!(self.kind, Kind::KillEmpty | Kind::Promote);
        let most = if forgets { 2 * limit } else { limit };
        let its = self.calls.iter().filter(|it| it.budget == number);
        let mut its: Vec<_> = its.filter(|it| it.end == End::Allowed).collect();
        its.sort_by_key(|it| it.begun);
        for (at, first) in its.iter().enumerate() {
            let end = first.begun + Duration::from_secs(1);
            let within = its[at..].iter().take_while(|it| it.begun < end);
            let within = within.filter(|it| it.ended <= end);
            let admitted: u64 = within.map(|it| it.units - it.refunded).sum();
            if admitted > most {
                return Err(format!("{admitted} were admitted in a second"));
            }
        }
        Ok(())
    }

    /// Returns how many calls waited while the server did not answer for long.
    fn check_waits(&self) -> Result<usize, String> {
        if !self.kind.is_silent() {
            return Ok(0);
        }
        let (from, until) = (self.happened.from + 2 * LIMIT, self.happened.until);
        let outage = self
            .calls
            .iter()
            .filter(|it| it.begun > from && it.ended < until);
        let waited = outage.clone().filter(|it| it.took() >= LIMIT / 2);
        let (waited, all) = (waited.count(), outage.count());
        // The machine may have stopped us.
        if waited > 3 && waited * 20 > all {
            return Err(format!("{waited} of {all} calls waited in the outage"));
        }
        Ok(waited)
    }

    /// Returns how long it took until the last node was admitted again.
    fn check_recovery(&self) -> Result<Duration, String> {
        let until = self.happened.until;
        let mut slowest = Duration::ZERO;
        for node in 0..NODES {
            // A denial may have been remembered.
            let its = self.calls.iter();
            let its = its.filter(|it| it.node == node && it.begun >= until);
            let admitted = its.filter(|it| it.end == End::Allowed);
            let Some(first) = admitted.map(|it| it.ended).min() else {
                return Err(format!("node {node} is not used again"));
            };
            slowest = slowest.max(first - until);
        }
        Ok(slowest)
    }
}
