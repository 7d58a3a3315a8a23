//! The charges of a request, as arguments of a script.

use std::time::Duration;

use smallvec::SmallVec;

use super::budget_key::Placement;
use super::slots::slot_of;
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
    fn new(placement: &Placement, charge: &Charge<'_>) -> Self {
        let limit = charge.quota().limit();
        let budget = Self {
            key: placement.key(charge),
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
        self.pack_with(self.need)
    }

    fn pack_with(&self, need: u64) -> [u8; PACKED] {
        let mut packed = [0; PACKED];
        packed[0] = self.kind;
        packed[1] = u8::from(self.reports);
        let numbers = [self.a, self.b, self.cost, need, self.slot];
        for (place, number) in packed[2..37].chunks_mut(7).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes()[..7]);
        }
        packed[37..].copy_from_slice(&self.tick.to_le_bytes()[..4]);
        packed
    }
}

impl Budgets {
    /// Merges charges against one budget: they count together.
    pub(super) fn new(placement: &Placement, charges: &[Charge<'_>]) -> Self {
        let mut merged = Self {
            budgets: SmallVec::new(),
            of_charges: SmallVec::new(),
        };
        for charge in charges {
            let budget = Budget::new(placement, charge);
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

    /// Returns the places of the budgets of each slot of a cluster.
    pub(super) fn by_slot(&self) -> SmallVec<[Places; 2]> {
        let mut slots = SmallVec::<[(u16, Places); 2]>::new();
        for (at, budget) in self.budgets.iter().enumerate() {
            let slot = slot_of(&budget.key);
            match slots.iter_mut().find(|(known, _)| *known == slot) {
                Some((_, places)) => places.push(at),
                None => slots.push((slot, SmallVec::from_slice(&[at]))),
            }
        }
        slots.into_iter().map(|(_, places)| places).collect()
    }
}

/// The places of some of the budgets of a request.
pub(super) type Places = SmallVec<[usize; 2]>;

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

/// What is known of a charge that is refunded.
struct Refunded {
    /// The units to refund.
    units: u64,
    /// The time of the server at the charge, in microseconds.
    charged_at: u64,
    /// The time for which the charge counts, in the unit of the kind of budget.
    counts_for: u64,
    /// The units that were refunded before.
    before: u64,
    early_refunds: u32,
    /// The time since the charge, by the clock of this process.
    age: Duration,
}

/// Units of a charge that are refunded, as an argument of a script.
#[derive(Debug)]
pub(super) struct PackedRefund {
    pub(super) key: String,
    pub(super) packed: Vec<u8>,
}

impl PackedRefund {
    /// Packs a refund of a charge of this age.
    pub(super) fn new(placement: &Placement, refund: &Refund<'_>, age: Duration) -> Self {
        let budget = Budget::new(placement, &refund.charge());
        let taken = refund.taken();
        let counts_for = refund.counts_for().as_nanos();
        let counts_for = u64::try_from(counts_for).unwrap_or(u64::MAX);
        let counts_for = counts_for.div_ceil(budget.nanoseconds(1));
        let note = taken.refund_note;
        Self {
            packed: budget.pack_refund(&Refunded {
                units: refund.units(),
                charged_at: note.limiter_time,
                counts_for,
                before: taken.before,
                early_refunds: note.early_refunds,
                age,
            }),
            key: budget.key,
        }
    }
}

impl Budget {
    /// Returns whether something is taken from the budget.
    pub(super) const fn is_charged(&self) -> bool {
        self.cost > 0
    }

    /// Packs the refund of what was just taken from the budget, at a time of the server. The budget
    /// was to be full after a time in the unit of its kind.
    pub(super) fn refund_of_all(
        &self,
        time: u64,
        full_in: u64,
        early_refunds: u32,
    ) -> PackedRefund {
        let packed = self.pack_refund(&Refunded {
            units: self.cost,
            charged_at: time,
            counts_for: full_in,
            before: 0,
            early_refunds,
            age: Duration::ZERO,
        });
        PackedRefund {
            key: self.key.clone(),
            packed,
        }
    }

    /// Packs a refund: the budget, with the cost of the charge and the units to refund, and what is
    /// known of the charge.
    fn pack_refund(&self, refund: &Refunded) -> Vec<u8> {
        let mut packed = self.pack_with(refund.units.min(MOST_UNITS)).to_vec();
        let push = |packed: &mut Vec<u8>, number: u64| {
            packed.extend_from_slice(&number.min(1 << 53).to_le_bytes()[..7]);
        };
        push(&mut packed, refund.charged_at);
        push(&mut packed, refund.counts_for);
        push(&mut packed, refund.before.min(MOST_UNITS));
        packed.extend_from_slice(&refund.early_refunds.to_le_bytes());
        let age = u64::try_from(refund.age.as_micros()).unwrap_or(u64::MAX);
        push(&mut packed, age);
        packed
    }
}
