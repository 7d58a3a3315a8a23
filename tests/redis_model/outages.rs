//! How nodes behave while a server does not answer, and how soon they use it again.

use std::time::Duration;

use super::figures::Figures;
use super::ledger::{Call, End, Ledger};
use super::plan::Source;

/// The time within which a node is admitted again.
const RECOVERY: Duration = Duration::from_secs(1);

/// The time limit of a call, and so of a probe, that this is meant of.
const LIMIT: Duration = Duration::from_millis(250);

/// The most probes, and the most attempts to dial, in a second.
const PROBES: usize = 12;

/// The calls after which a server that does not answer is not asked.
const UNANSWERED: usize = 5;

impl Ledger {
    pub fn check_node(&self, node: usize, figures: &mut Figures) -> Result<(), String> {
        self.check_attempts(node, figures)?;
        self.check_waits(node)?;
        self.check_recovery(node, figures)
    }

    fn of(&self, node: usize) -> impl Iterator<Item = &Call> + Clone {
        self.calls.iter().filter(move |it| it.node == node)
    }

    fn check_attempts(&self, node: usize, figures: &mut Figures) -> Result<(), String> {
        let log = &self.nodes[node];
        // An application's connection dials as it likes.
        let is_dialed = self.plan.nodes[node].source == Source::Dialed;
        let dials = if is_dialed { &log.dials[..] } else { &[] };
        for (name, times) in [("probes", &log.probes[..]), ("dials", dials)] {
            let most = most_in_a_second(times);
            if most > PROBES {
                return Err(format!("{most} {name} in a second"));
            }
            figures.most_probes = figures.most_probes.max(most);
        }
        Ok(())
    }

    /// Checks that no call waits for a server that does not answer.
    fn check_waits(&self, node: usize) -> Result<(), String> {
        // Calls that were dropped tell nothing about the server. An application's connection may
        // send a call twice, which is one call.
        let sends_again = self.plan.nodes[node].source == Source::Again;
        let most = if sends_again { 1 } else { usize::MAX };
        let waited_for = self.of(node).filter(|it| it.end != Some(End::Cancelled));
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
            let is_outage = |it: &&Call| it.begun > trips && it.begun < until;
            let mut outage = self.of(node).filter(is_outage);
            if let Some(waits) = outage.find(|it| !it.took().is_zero()) {
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
        let its = self.disturbances.iter().filter(|it| it.node == node);
        let mut its: Vec<_> = its.map(|it| (it.from, it.until)).collect();
        let length = self.plan.length();
        its.push((length, length));
        its.sort();
        let mut since = Duration::ZERO;
        for (from, until) in its {
            if from > since + RECOVERY {
                self.check_calm(node, since, from, figures)?;
            }
            since = since.max(until);
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
        let slower = self.plan.limit.saturating_sub(LIMIT);
        let recovery = RECOVERY + slower;
        let is_answer = |it: &&Call| {
            let is = matches!(it.end, Some(End::Allowed | End::Denied(_)));
            is && !it.messages.is_empty() && it.ended >= from
        };
        let first = self.of(node).filter(is_answer).map(|it| it.ended).min();
        let took = first.map_or(Duration::MAX, |it| it.saturating_sub(from));
        if took > recovery {
            return Err(format!("after {from:?}, it was used again after {took:?}"));
        }
        if slower.is_zero() {
            figures.slowest_recovery = figures.slowest_recovery.max(took);
        }
        let is_calm = |it: &&Call| it.begun >= from + recovery && it.ended < until;
        let mut calm = self.of(node).filter(is_calm);
        match calm.find(|it| matches!(it.end, Some(End::Failed(_)))) {
            Some(failed) => Err(format!("after {from:?}, a call fails: {failed:?}")),
            None => Ok(()),
        }
    }
}

fn most_in_a_second(times: &[Duration]) -> usize {
    let second = Duration::from_secs(1);
    let until = |at: Duration| times.partition_point(|it| *it < at + second);
    let counts = times.iter().enumerate().map(|(at, time)| until(*time) - at);
    counts.max().unwrap_or_default()
}
