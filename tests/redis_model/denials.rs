//! Denials that are told without a question.

use std::time::Duration;

use super::ledger::{Call, End, Ledger, What};
use super::world::World;

impl World {
    /// Looks at a call that has just ended, whether it was denied without a question, and rightly.
    pub fn look_at_denial(&mut self, call: usize, now: Duration) {
        let its = &self.ledger.calls[call];
        let What::Check { request } = its.what else {
            return;
        };
        if !matches!(its.end, Some(End::Denied(_))) || !its.messages.is_empty() {
            return;
        }
        let wrong = match self.ledger.remembered_denial(call) {
            Err(wrong) => Some(wrong),
            Ok((server, asked)) if asked > self.ledger.last_upset => {
                let command = self.ledger.command(request).unwrap();
                let denies = self.servers[server].denies(now, command);
                (!denies).then(|| format!("a denial of {asked:?} is told at {now:?}, and is over"))
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
        let is_same = |it: &&Call| {
            let is = matches!(it.what, What::Check { request: known } if known == request);
            is && it.node == its.node
        };
        let asked = self.calls[..call].iter().rev().filter(is_same);
        let asked = asked.filter_map(|it| match it.end {
            Some(End::Denied(wait)) => {
                let until = it.begun + wait.unwrap_or(cap).min(cap);
                let last = it.executions.last()?;
                (its.begun < until).then_some((it.begun, last.server, last.at))
            }
            _ => None,
        });
        let Some((begun, server, asked)) = { asked }.next() else {
            return Err("a denial is remembered for too long".to_owned());
        };
        // Of all its budgets, and so of the one that denied it: a refund of another one is no reason
        // to ask again.
        let budgets = &self.plan.requests[request];
        let is_refund = |it: &Call| {
            let What::Refund { units, .. } = &it.what else {
                return false;
            };
            let is_of = |budget: usize| units.iter().any(|it| it.0 == budget);
            let is = it.node == its.node && budgets.iter().all(|(budget, _)| is_of(*budget));
            is && it.end.is_some() && it.ended > begun && it.ended < its.begun
        };
        if self.calls.iter().any(is_refund) {
            return Err("a denial is remembered after a refund".to_owned());
        }
        Ok((server, asked))
    }
}
