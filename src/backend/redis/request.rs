//! The charges of a request, as arguments of a script.

use smallvec::SmallVec;

use super::budget_key;
use crate::key::quota::{Calendar, Quota, QuotaKind};
use crate::limit::charge::Charge;
use crate::limit::refund::Refund;
use crate::limit::sliding_window::SLOTS;

/// The most units of a charge that are told: above any quota, and exact in a script.
const MOST_UNITS: u64 = Quota::MAX + 1;

/// The longest capacity of a rate that is counted in nanoseconds: twice of it is exact in a script.
const LONGEST_IN_NANOSECONDS: u64 = 1 << 52;

/// The size of a budget in [`Budget::pack`].
pub(super) const PACKED: usize = 41;

/// A budget that a request is charged against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Budget {
    pub(super) key: String,
    kind: u8,
    reports: bool,
    a: u64,
    b: u64,
    cost: u64,
    need: u64,
    slot: u64,
    tick: u64,
}

/// The budgets of a request, each once, and which budget is that of each charge.
#[derive(Debug)]
pub(super) struct Budgets {
    pub(super) budgets: SmallVec<[Budget; 2]>,
    /// The budget of each charge, and whether the charge only reports.
    pub(super) of_charges: SmallVec<[(usize, bool); 2]>,
}

impl Budget {
    fn new(prefix: &str, charge: &Charge<'_>) -> Self {
        let home = budget_key::home(charge);
        let limit = charge.quota().limit();
        let budget = Self {
            key: budget_key::key(prefix, &home, charge),
            kind: 0,
            reports: charge.is_report_only(),
            a: 0,
            b: limit,
            cost: charge.cost().min(MOST_UNITS),
            need: charge.need().min(MOST_UNITS),
            slot: 0,
            tick: 0,
        };
        match charge.quota().kind() {
            QuotaKind::Window { period } => Self {
                kind: 1,
                // Longer rather than shorter.
                a: period.div_ceil(1_000),
                slot: period.div_ceil(SLOTS),
                tick: (period >> 31) + 1,
                ..budget
            },
            QuotaKind::Rate { interval } => {
                let is_short = interval.saturating_mul(limit) <= LONGEST_IN_NANOSECONDS / 2;
                Self {
                    kind: if is_short { 2 } else { 3 },
                    a: if is_short {
                        interval
                    } else {
                        interval.div_ceil(8)
                    },
                    ..budget
                }
            }
            QuotaKind::Calendar(Calendar::Day) => Self { kind: 4, ..budget },
            QuotaKind::Calendar(Calendar::Month) => Self { kind: 5, ..budget },
        }
    }

    /// Returns the nanoseconds of a number in the unit of the kind's time until it is full.
    pub(super) const fn nanoseconds(&self, time: u64) -> u64 {
        let unit = match self.kind {
            2 => 1,
            3 => 8,
            _ => 1_000,
        };
        time.saturating_mul(unit)
    }

    /// Writes the budget as the scripts read it: little endian, numbers of seven bytes.
    pub(super) fn pack(&self) -> [u8; PACKED] {
        let mut packed = [0; PACKED];
        packed[0] = self.kind;
        packed[1] = u8::from(self.reports);
        let numbers = [self.a, self.b, self.cost, self.need, self.slot];
        for (place, number) in packed[2..37].chunks_mut(7).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes()[..7]);
        }
        packed[37..].copy_from_slice(&self.tick.to_le_bytes()[..4]);
        packed
    }
}

impl Budgets {
    /// Merges charges against one budget: they count together.
    pub(super) fn new(prefix: &str, charges: &[Charge<'_>]) -> Self {
        let mut merged = Self {
            budgets: SmallVec::new(),
            of_charges: SmallVec::new(),
        };
        for charge in charges {
            let budget = Budget::new(prefix, charge);
            let known = merged.budgets.iter().position(|it| it.key == budget.key);
            let at = known.unwrap_or(merged.budgets.len());
            match merged.budgets.get_mut(at) {
                None => merged.budgets.push(budget),
                Some(known) => known.add(&budget),
            }
            merged.of_charges.push((at, charge.is_report_only()));
        }
        for budget in &mut merged.budgets {
            budget.need = budget.need.max(budget.cost);
        }
        merged
    }
}

impl Budget {
    /// Adds another charge against this budget. Of different quotas, the lower one counts.
    fn add(&mut self, other: &Self) {
        let (cost, need) = (
            self.cost.saturating_add(other.cost).min(MOST_UNITS),
            self.need.max(other.need),
        );
        let reports = self.reports && other.reports;
        if other.b < self.b {
            *self = other.clone();
        }
        (self.cost, self.need, self.reports) = (cost, need, reports);
    }
}

/// Packs a refund: its budget, with the cost of the charge and the units to refund, and the instant
/// of the charge.
pub(super) fn pack_refund(prefix: &str, refund: &Refund<'_>) -> (String, Vec<u8>) {
    let mut budget = Budget::new(prefix, &refund.charge());
    let taken = refund.taken();
    budget.need = refund.units().min(MOST_UNITS);
    let unit = budget.nanoseconds(1);
    let counts_for = refund.counts_for().as_nanos();
    let counts_for = u64::try_from(counts_for).unwrap_or(u64::MAX).div_ceil(unit);
    let mut packed = budget.pack().to_vec();
    let numbers = [
        taken.refund_note.limiter_time,
        counts_for.min(1 << 53),
        taken.before.min(MOST_UNITS),
    ];
    for number in numbers {
        packed.extend_from_slice(&number.to_le_bytes()[..7]);
    }
    packed.extend_from_slice(&taken.refund_note.early_refunds.to_le_bytes());
    (budget.key, packed)
}
