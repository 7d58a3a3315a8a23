//! What must hold in each schedule, whatever happens. The bounds are those of the documentation.
//!
//! - Admitted units, less those that were refunded, in any window (of the server's clock, when it
//!   decided) are at most the quota, and the charges that a server forgot: at most a quota for each
//!   restart, and what was not replicated at a failover. A clock that steps forwards makes time pass.
//! - A call is charged at most once. One that is told that it was denied is not charged. One that
//!   failed is not charged later than its deadline and the least trip to the server.
//! - A refund is carried out at most once.
//! - A denial is told again without a question only until its wait or the cap is over, and only
//!   while the server would say the same.
//! - A call ends within its time limit. Once five calls were not answered for that long, none waits
//!   until there is an answer.
//! - A node is admitted again within a second after a fault, and then no call fails.
//! - A node probes about ten times a second at most.

use std::time::Duration;

use super::budgets::DAY;
use super::ledger::{Call, End, Execution, FASTEST, Ledger, What};
use super::network::World;
use super::plan::{Shape, Source};
use super::server::Outcome;

/// What a call may take beyond its time limit.
const GRACE: Duration = Duration::from_millis(5);

/// The time within which a node is admitted again.
const RECOVERY: Duration = Duration::from_secs(1);

/// The most probes, and the most attempts to dial, in a second.
const PROBES: usize = 12;

/// The calls after which a server that does not answer is not asked.
const UNANSWERED: usize = 5;

/// What was seen in schedules, to know that they try something.
#[derive(Debug, Default, Clone)]
pub struct Figures {
    pub schedules: u64,
    pub calls: u64,
    pub allowed: u64,
    pub denied: u64,
    pub remembered: u64,
    pub failed: u64,
    pub failed_at_once: u64,
    pub charged_in_doubt: u64,
    pub refused_as_late: u64,
    pub refunds: u64,
    /// Budgets that were used up to the last unit, and beyond it by a bound that says so.
    pub used_up: u64,
    pub beyond: u64,
    pub slowest_call: Duration,
    pub slowest_recovery: Duration,
    pub latest_charge: Duration,
    pub most_probes: usize,
}

impl Figures {
    pub fn add(&mut self, other: &Self) {
        self.schedules += other.schedules;
        self.calls += other.calls;
        self.allowed += other.allowed;
        self.denied += other.denied;
        self.remembered += other.remembered;
        self.failed += other.failed;
        self.failed_at_once += other.failed_at_once;
        self.charged_in_doubt += other.charged_in_doubt;
        self.refused_as_late += other.refused_as_late;
        self.refunds += other.refunds;
        self.used_up += other.used_up;
        self.beyond += other.beyond;
        self.slowest_call = self.slowest_call.max(other.slowest_call);
        self.slowest_recovery = self.slowest_recovery.max(other.slowest_recovery);
        self.latest_charge = self.latest_charge.max(other.latest_charge);
        self.most_probes = self.most_probes.max(other.most_probes);
    }
}

impl World {
    /// Looks at a denial that was told without a question.
    pub fn look_at_denial(&mut self, call: usize, now: Duration) {
        let its = &self.ledger.calls[call];
        let What::Check { request } = its.what else {
            return;
        };
        if !matches!(its.end, Some(End::Denied(_))) || !its.messages.is_empty() {
            return;
        }
        let seen = self.ledger.remembered_denial(call);
        let wrong = match seen {
            Err(wrong) => Some(wrong),
            Ok((server, asked)) if asked > self.ledger.last_upset => {
                let command = self.ledger.command(request).unwrap();
                let denies = self.servers[server].denies(now, command);
                (!denies).then(|| {
                    format!("a denial of {asked:?} is told at {now:?}, and is over: {its:?}")
                })
            }
            Ok(_) => None,
        };
        if let Some(wrong) = wrong {
            let wrong = format!("call {call}: {wrong}");
            self.ledger.wrong.get_or_insert(wrong);
        }
    }
}

impl Ledger {
    /// Returns which server denied what was now denied without a question, and when.
    fn remembered_denial(&self, call: usize) -> Result<(usize, Duration), String> {
        let its = &self.calls[call];
        let What::Check { request } = its.what else {
            return Err("no check".to_owned());
        };
        let cap = self.plan.nodes[its.node].remembers;
        let before = self.calls[..call].iter().rev();
        let mut same = before.filter(|it| {
            it.node == its.node
                && matches!(it.what, What::Check { request: known } if known == request)
        });
        let asked = same.find_map(|it| match it.end {
            Some(End::Denied(wait)) if !it.executions.is_empty() => {
                let until = it.begun + wait.unwrap_or(cap).min(cap);
                let last = it.executions.last().unwrap();
                (its.begun < until).then_some((it.begun, (last.server, last.at)))
            }
            _ => None,
        });
        let Some((begun, asked)) = asked else {
            return Err("a denial is remembered for too long".to_owned());
        };
        // Of all its budgets, and so of the one that denied it: a refund of another one is no reason
        // to ask again.
        let budgets = &self.plan.requests[request];
        let is_refund = |it: &&Call| {
            let What::Refund { units, .. } = &it.what else {
                return false;
            };
            let is_of = |budget: usize| units.iter().any(|it| it.0 == budget);
            let is = it.node == its.node && budgets.iter().all(|(budget, _)| is_of(*budget));
            is && it.end.is_some() && it.ended > begun && it.ended < its.begun
        };
        match self.calls.iter().find(is_refund) {
            Some(_) => Err("a denial is remembered after a refund".to_owned()),
            None => Ok(asked),
        }
    }

    /// Checks all that must hold.
    pub fn check(&self) -> Result<Figures, String> {
        if let Some(wrong) = &self.wrong {
            return Err(wrong.clone());
        }
        let mut figures = Figures {
            schedules: 1,
            ..Figures::default()
        };
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
        let took = call.ended.checked_sub(call.begun).unwrap();
        let is_paused = self.is_paused(call.node, call.begun, call.ended);
        if took > self.plan.limit + GRACE && !is_paused {
            return Err(format!("it took {took:?}"));
        }
        let done = |it: &&Execution| it.outcome == Outcome::Done;
        let charges = call.executions.iter().filter(done);
        let is_refund = matches!(call.what, What::Refund { .. });
        let sends_again = self.plan.nodes[call.node].source == Source::Again;
        let survived = charges.clone().filter(|it| it.lost.is_none()).count();
        if survived > 1 && (is_refund || !sends_again) {
            return Err(format!("it was carried out {survived} times"));
        }
        figures.calls += 1;
        figures.refunds += u64::from(is_refund);
        figures.refused_as_late += call
            .executions
            .iter()
            .filter(|it| it.outcome == Outcome::Late)
            .count() as u64;
        if !is_paused {
            figures.slowest_call = figures.slowest_call.max(took);
        }
        let in_time = |it: &&Execution| it.at <= call.begun + self.plan.limit;
        let mut refused = call.executions.iter().filter(in_time);
        if let Some(refused) = refused.find(|it| it.outcome == Outcome::Late) {
            let mut steps = self.clock_changes.iter();
            if !steps.any(|it| it.ahead > 0 && it.at <= refused.at) {
                return Err("it was refused as late, and was in time".to_owned());
            }
        }
        let count = charges.clone().count();
        match end {
            End::Allowed if count == 0 && !is_refund => Err("it was not charged".to_owned()),
            End::Allowed => {
                figures.allowed += 1;
                Ok(())
            }
            // One that is sent again may be denied because it was charged the first time.
            End::Denied(_) if count > 0 && !sends_again => Err("it was charged".to_owned()),
            End::Denied(_) => {
                figures.denied += 1;
                figures.remembered += u64::from(call.messages.is_empty());
                Ok(())
            }
            End::Failed(_) | End::Cancelled => {
                figures.failed += 1;
                figures.failed_at_once += u64::from(took.is_zero());
                figures.charged_in_doubt += u64::from(count > 0);
                for charge in charges {
                    self.check_deadline(call, charge, figures)?;
                }
                Ok(())
            }
        }
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
        let sent = call.messages.iter().rev().find(|it| **it <= charge.at);
        let sent = *sent.unwrap();
        let log = &self.nodes[call.node];
        // What it knew of the clock of this server then: what it was told on this connection, since
        // the first answer that told of a step forwards. It does not know when an application's
        // connection is another one.
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
        let drift = |passed: Duration| passed * 2 / u32::try_from(FASTEST).unwrap();
        let bounds = known.map(|it| {
            // A clock that is set back meanwhile is not known to be.
            let steps = self.clock_changes.iter();
            let steps = steps.filter(|step| step.at >= it.arrived && step.at <= charge.at);
            let back: i64 = steps.map(|step| step.ahead.min(0).abs()).sum();
            let back = Duration::from_micros(back.unsigned_abs());
            it.arrived.checked_sub(it.sent).unwrap()
                + drift(charge.at.checked_sub(it.sent).unwrap())
                + back
        });
        let Some(trip) = bounds.min() else {
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

    /// Returns whether the clock was set back and forwards.
    fn is_set_twice(&self, from: Duration, until: Duration) -> bool {
        let steps = self.clock_changes.iter();
        let mut steps = steps.filter(|it| it.at >= from && it.at <= until);
        steps.clone().any(|it| it.ahead < 0) && steps.any(|it| it.ahead > 0)
    }

    fn is_paused(&self, node: usize, from: Duration, until: Duration) -> bool {
        use super::plan::Fault;
        self.plan.faults.iter().any(|(at, fault)| match fault {
            Fault::Pause { node: its, lasts } => {
                *its == node && *at <= until && *at + *lasts >= from
            }
            _ => false,
        })
    }

    /// Checks that no more was admitted than a quota and what is stated.
    fn check_budget(&self, budget: usize, figures: &mut Figures) -> Result<(), String> {
        let mut admitted = self.admitted(budget);
        admitted.sort_by_key(|it| it.passed);
        let (limit, shape) = (
            i64::try_from(self.plan.budgets[budget].quota.limit()).unwrap(),
            self.plan.budgets[budget].shape,
        );
        // The refund of a charge that was given back before gives back units of others: no more than
        // that charge, but later.
        let given_back = self.given_back(budget);
        let mut most = 0;
        let mut is_beyond = false;
        for (last, end) in admitted.iter().enumerate() {
            let mut sum = 0;
            let mut lost = vec![0; self.losses.len()];
            for begin in admitted[..=last].iter().rev() {
                // A clock is read in whole microseconds.
                let passed = end.passed - begin.passed + 2;
                let refilled = match shape {
                    Shape::Window(period) if passed - 4 >= period => break,
                    Shape::Day if begin.day != end.day => break,
                    Shape::Window(_) | Shape::Day => 0,
                    Shape::Rate(interval) => passed * 1_000 / interval,
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
                let each = lost.iter().zip(&self.losses);
                let forgotten = each.map(|(lost, loss)| {
                    let most = if loss.is_failover { i64::MAX } else { limit };
                    most.min(*lost)
                });
                let forgotten: i64 = forgotten.sum::<i64>() + given_back;
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

    /// Returns the refunds of charges that were given back before: the server forgot them, or its
    /// clock was set back and forwards.
    fn given_back(&self, budget: usize) -> Vec<GivenBack> {
        let mut given_back = Vec::new();
        for call in &self.calls {
            let What::Refund { of, units } = &call.what else {
                continue;
            };
            let charges = self.calls[*of].executions.iter();
            let Some(charge) = charges.rev().find(|it| it.outcome == Outcome::Done) else {
                continue;
            };
            let units = units.iter().filter(|it| it.0 == budget);
            let units = units.map(|it| it.1).sum::<u64>();
            let refunds = call.executions.iter();
            for refund in refunds.filter(|it| it.outcome == Outcome::Done) {
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

    /// Returns what was admitted of a budget.
    fn admitted(&self, budget: usize) -> Vec<Admitted> {
        let mut refunded = vec![0; self.calls.len()];
        for call in &self.calls {
            let What::Refund { of, units } = &call.what else {
                continue;
            };
            if call.executions.iter().any(|it| it.outcome == Outcome::Done) {
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
            let charges = call.executions.iter();
            let charge = charges.rev().find(|it| it.outcome == Outcome::Done);
            let charge = charge.unwrap();
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

    fn check_node(&self, node: usize, figures: &mut Figures) -> Result<(), String> {
        let log = &self.nodes[node];
        for (name, times) in [("probes", &log.probes), ("dials", &log.dials)] {
            let most = most_in_a_second(times);
            // The application's connection dials for each call.
            let is_ours = self.plan.nodes[node].source == Source::Dialed || name == "probes";
            if is_ours {
                figures.most_probes = figures.most_probes.max(most);
            }
            if is_ours && most > PROBES {
                return Err(format!("{most} {name} in a second"));
            }
        }
        self.check_outages(node)?;
        self.check_recovery(node, figures)
    }

    /// Checks that no call waits for a server that does not answer.
    fn check_outages(&self, node: usize) -> Result<(), String> {
        let its = self.calls.iter().filter(|it| it.node == node);
        // Those that were dropped tell nothing about the server. An application's connection may
        // send a call twice, which is one call.
        let sends_again = self.plan.nodes[node].source == Source::Again;
        let most = if sends_again { 1 } else { usize::MAX };
        let waited_for = its.clone().filter(|it| it.end != Some(End::Cancelled));
        let mut sent: Vec<Duration> = waited_for
            .flat_map(|it| it.messages.iter().take(most))
            .copied()
            .collect();
        sent.sort();
        let mut answers: Vec<Duration> = self.nodes[node].answers.iter().map(|it| it.at).collect();
        answers.sort();
        answers.push(Duration::MAX);
        let mut from = Duration::ZERO;
        for until in answers {
            let begin = sent.partition_point(|it| *it <= from);
            let end = sent.partition_point(|it| *it < until);
            let silent = &sent[begin..end.max(begin)];
            from = until;
            let Some(fifth) = silent.get(UNANSWERED - 1) else {
                continue;
            };
            let trips = (*fifth).max(silent[0] + self.plan.limit);
            let waits = its
                .clone()
                .find(|it| it.begun > trips && it.begun < until && it.ended > it.begun);
            if let Some(waits) = waits {
                return Err(format!(
                    "no answer from {:?} to {until:?}, and a call waits: {waits:?}",
                    silent[0]
                ));
            }
        }
        Ok(())
    }

    /// Checks that calls succeed when all is well.
    fn check_recovery(&self, node: usize, figures: &mut Figures) -> Result<(), String> {
        let all = self.disturbances.iter();
        let its = all.filter(|it| it.node.is_none_or(|it| it == node));
        let mut its: Vec<_> = its.map(|it| (it.from, it.until)).collect();
        its.push((self.plan.length(), self.plan.length()));
        its.sort();
        let mut calm = Duration::ZERO;
        for (from, until) in its {
            if from > calm + RECOVERY {
                self.check_calm(node, calm, from, figures)?;
            }
            calm = calm.max(until);
        }
        Ok(())
    }

    fn check_calm(
        &self,
        node: usize,
        from: Duration,
        until: Duration,
        figures: &mut Figures,
    ) -> Result<(), String> {
        let slower = self.plan.limit.saturating_sub(Duration::from_millis(250));
        let calm = from + RECOVERY + slower;
        let its = self.calls.iter().filter(|it| it.node == node);
        let is_answer = |it: &&Call| {
            let is = matches!(it.end, Some(End::Allowed | End::Denied(_)));
            is && !it.messages.is_empty() && it.ended >= from
        };
        let first = its.clone().filter(is_answer).map(|it| it.ended).min();
        let took = first.map_or(Duration::MAX, |it| it.checked_sub(from).unwrap());
        if took > RECOVERY + slower {
            return Err(format!("after {from:?}, it was used again after {took:?}"));
        }
        if slower.is_zero() {
            figures.slowest_recovery = figures.slowest_recovery.max(took);
        }
        let failed = its.clone().find(|it| {
            matches!(it.end, Some(End::Failed(_))) && it.begun >= calm && it.ended < until
        });
        match failed {
            Some(it) => Err(format!("after {from:?}, a call fails: {it:?}")),
            None => Ok(()),
        }
    }
}

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

fn most_in_a_second(times: &[Duration]) -> usize {
    let second = Duration::from_secs(1);
    let until = |at: Duration| times.partition_point(|it| *it < at + second);
    let counts = times.iter().enumerate().map(|(at, time)| until(*time) - at);
    counts.max().unwrap_or_default()
}
