//! Requests whose budgets are in several slots of a cluster.
//!
//! A call reaches one slot. So there is a call for each, all at the same time, and each of them takes
//! all or none. If one of them takes nothing, what the others took is refunded at once. Whatever is
//! admitted was therefore charged before, everywhere, and no budget admits more than its quota.
//! Until the refund, a trip later, a budget has fewer units than it should: another request may be
//! denied meanwhile that would have fit.

use super::call_error::CallError;
use super::refunds::Refunds;
use super::request::{Budgets, PackedRefund, Places};
use super::take::{Take, Taken, TakenBudget};
use crate::util::join_all::join_all;

/// Takes from all budgets of a request, or from none. Returns how they stand, in their order.
pub(super) async fn take(
    call: Take<'_>,
    budgets: &Budgets,
    parts: &[Places],
    refunds: Refunds,
) -> Result<Vec<TakenBudget>, CallError> {
    // Nothing is taken anywhere if a server is known to be away.
    let servers = call.servers;
    for part in parts {
        servers.ready(key_of(part, budgets), call.until).await?;
    }
    let calls = parts.iter().map(|part| {
        let budgets = part.iter().map(|at| &budgets.budgets[*at]);
        call.run_as_part(budgets)
    });
    let answers = join_all(calls).await;
    let is_admitted = answers.iter().all(|answer| taken(answer).is_some());
    if !is_admitted {
        for (part, answer) in parts.iter().zip(&answers) {
            if let Some(taken) = taken(answer) {
                give_back(part, taken, budgets, &refunds);
            }
        }
    }
    let mut told = Vec::with_capacity(budgets.budgets.len());
    for (part, answer) in parts.iter().zip(answers) {
        told.extend(part.iter().copied().zip(answer?.budgets));
    }
    told.sort_unstable_by_key(|(at, _)| *at);
    let told = told.into_iter().map(|(_, budget)| budget);
    if is_admitted {
        return Ok(told.collect());
    }
    Ok(told.map(TakenBudget::as_before).collect())
}

/// Returns what was taken, if anything was.
fn taken(answer: &Result<Taken, CallError>) -> Option<&Taken> {
    answer.as_ref().ok().filter(|taken| taken.is_taken)
}

/// Refunds what was taken from a part of the budgets, on a task: nobody waits for that, and the
/// caller may go away.
fn give_back(part: &Places, taken: &Taken, budgets: &Budgets, refunds: &Refunds) {
    let all = part.iter().map(|at| &budgets.budgets[*at]);
    let charged = all.zip(&taken.budgets).filter(|(it, _)| it.is_charged());
    let packed: Vec<PackedRefund> = charged.map(|(it, taken)| taken.refund(it)).collect();
    if packed.is_empty() {
        return;
    }
    let task = refunds.clone();
    let task = async move {
        // What cannot be refunded stays charged.
        let _ = task.run(&packed).await;
    };
    refunds.servers.spawn(key_of(part, budgets), task);
}

fn key_of<'b>(part: &Places, budgets: &'b Budgets) -> &'b str {
    &budgets.budgets[part[0]].key
}
