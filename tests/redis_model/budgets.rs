//! Budgets as the fake server keeps them: what the scripts promise, written as simply as it can be.
//! A window is the list of its charges.

/// Microseconds of a day.
pub const DAY: i64 = 86_400_000_000;

/// A clock that is set back by more microseconds than this has been corrected.
const UNSTEADY: i64 = 1_000_000;

/// A budget as a script is told of it.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    kind: u8,
    a: i64,
    b: i64,
    pub cost: i64,
    need: i64,
}

/// A refund as the script is told of it.
#[derive(Debug, Clone, Copy)]
pub struct AskedRefund {
    budget: Asked,
    at: i64,
    counts_for: i64,
    before: i64,
    early: i64,
    age: i64,
}

/// A budget. Times are in microseconds of the server's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Budget {
    /// The time and the units of each charge that counts, oldest first.
    Window(Vec<(i64, i64)>),
    /// The used part in ticks at a time, and the units that were refunded early.
    Rate { last: i64, used: i64, early: i64 },
    /// The used units until the end of a day.
    Day { ends: i64, used: i64 },
}

/// What a script tells of a budget: the remaining units, the time until it is full, the time to
/// wait or -1, and the early refunds.
pub type Status = [i64; 4];

impl Asked {
    pub fn read(packed: &[u8]) -> Self {
        let number = |at: usize| little_endian(&packed[2 + 7 * at..9 + 7 * at]);
        assert_eq!(packed[1], 0, "no charge of the model is report-only");
        Self {
            kind: packed[0],
            a: number(0),
            b: number(1),
            cost: number(2),
            need: number(3),
        }
    }

    /// Ticks in a microsecond.
    fn per(&self) -> i64 {
        if self.kind == 2 { 1_000 } else { 125 }
    }

    fn capacity(&self) -> i64 {
        self.a * self.b
    }
}

impl AskedRefund {
    pub fn read(packed: &[u8]) -> Self {
        let number = |at: usize| little_endian(&packed[41 + 7 * at..48 + 7 * at]);
        Self {
            budget: Asked::read(&packed[..41]),
            at: number(0),
            counts_for: number(1),
            before: number(2),
            early: little_endian(&packed[62..66]),
            age: little_endian(&packed[66..]),
        }
    }

    /// Returns the refund with the time of its charge as the budget has it: if the clock was set
    /// back since, the charge has moved with it.
    fn moved(&self, now: i64) -> Self {
        let at = now - self.age;
        if self.at - at > UNSTEADY {
            return Self { at, ..*self };
        }
        *self
    }

    pub fn budget(&self) -> &Asked {
        &self.budget
    }
}

fn little_endian(bytes: &[u8]) -> i64 {
    bytes
        .iter()
        .rev()
        .fold(0, |number, byte| number << 8 | i64::from(*byte))
}

impl Budget {
    /// Returns a full budget.
    pub fn full(asked: &Asked, now: i64) -> Self {
        match asked.kind {
            1 => Self::Window(Vec::new()),
            2 | 3 => Self::Rate {
                last: now,
                used: 0,
                early: 0,
            },
            4 => Self::Day { ends: 0, used: 0 },
            other => panic!("the model has no quota of the kind {other}"),
        }
    }

    /// Brings the budget to a time.
    pub fn settle(&mut self, asked: &Asked, now: i64) {
        match self {
            Self::Window(charges) => {
                let newest = charges.last().map_or(now, |it| it.0);
                if newest > now + UNSTEADY {
                    for (at, _) in charges.iter_mut() {
                        *at -= newest - now;
                    }
                }
                charges.retain(|it| it.0 + asked.a > now);
            }
            Self::Rate { last, used, .. } => {
                if *last > now + UNSTEADY {
                    *last = now;
                } else if *last < now {
                    *used = (*used - (now - *last) * asked.per()).max(0);
                    *last = now;
                }
            }
            Self::Day { ends, used } => {
                if now >= *ends {
                    (*ends, *used) = (day_end(now), 0);
                } else if now < *ends - 2 * DAY {
                    *ends = day_end(now);
                }
            }
        }
    }

    /// Returns the status of a budget that is settled.
    pub fn status(&self, asked: &Asked, now: i64) -> Status {
        match self {
            Self::Window(charges) => {
                let used = units(charges);
                let end = |at: i64| (at + asked.a - now).min(asked.a);
                let full = charges.last().map_or(0, |it| end(it.0));
                let mut wait = 0;
                let mut over = used + asked.need - asked.b;
                if asked.need > asked.b {
                    wait = -1;
                } else if over > 0 {
                    let enough = charges.iter().find(|it| {
                        over -= it.1;
                        over <= 0
                    });
                    wait = enough.map_or(full, |it| end(it.0));
                }
                [(asked.b - used).max(0), full, wait, 0]
            }
            Self::Rate { last, used, early } => {
                let full = (*used).min(asked.capacity());
                let over = used + asked.need * asked.a - asked.capacity();
                let wait = if asked.need > asked.b {
                    -1
                } else if asked.need > 0 && over > 0 {
                    let ticks = (over + (last - now) * asked.per()).min(asked.capacity());
                    (ticks + asked.per() - 1) / asked.per()
                } else {
                    0
                };
                [(asked.capacity() - full) / asked.a, full, wait, *early]
            }
            Self::Day { ends, used } => {
                let until_end = (ends - now).min(DAY);
                let wait = if asked.need > asked.b {
                    -1
                } else if used + asked.need > asked.b {
                    until_end
                } else {
                    0
                };
                let full = if *used > 0 { until_end } else { 0 };
                [(asked.b - used).max(0), full, wait, 0]
            }
        }
    }

    /// Takes the cost from a budget that is settled.
    pub fn take(&mut self, asked: &Asked, now: i64) {
        match self {
            Self::Window(charges) => {
                let newest = charges.last().map_or(now, |it| it.0);
                charges.push((now.max(newest), asked.cost));
            }
            Self::Rate { used, .. } => *used += asked.cost * asked.a,
            Self::Day { used, .. } => *used += asked.cost,
        }
    }

    /// Gives units of a charge back to a budget that is settled, as far as the charge counts: with
    /// charges that came later, if it is not there any more.
    pub fn refund(&mut self, refund: &AskedRefund, now: i64) {
        let per = match self {
            Self::Rate { .. } => refund.budget.per(),
            _ => 1,
        };
        let refund = match self {
            Self::Day { .. } => refund,
            _ => &refund.moved(now),
        };
        let asked = &refund.budget;
        if refund.at + (refund.counts_for + per - 1) / per <= now {
            return;
        }
        match self {
            Self::Window(charges) => {
                let mut left = asked.need;
                for (_, units) in charges.iter_mut().filter(|it| it.0 >= refund.at) {
                    let back = left.min(*units);
                    (*units, left) = (*units - back, left - back);
                }
                charges.retain(|it| it.1 > 0);
            }
            Self::Rate { last, used, early } => refund_rate(refund, now, (last, used, early)),
            Self::Day { ends, used } => {
                if refund.at >= *ends - DAY && refund.at < *ends {
                    *used = (*used - asked.need).max(0);
                }
            }
        }
    }
}

/// What follows from the end that the charge was told, and from what was refunded early since.
fn refund_rate(
    refund: &AskedRefund,
    now: i64,
    (last, used, early): (&mut i64, &mut i64, &mut i64),
) {
    let asked = &refund.budget;
    let early_refunds = *early - refund.early;
    if early_refunds < 0 {
        return;
    }
    let full_in = *used + (*last - now) * asked.per();
    let until = (refund.at - now) * asked.per() + refund.counts_for - early_refunds * asked.a;
    let own = asked.cost.min(asked.b) * asked.a;
    let soonest = (own - (now - refund.at) * asked.per()).max(0);
    let counts = until.max(0).min(own).max(soonest);
    let back = (asked.need * asked.a)
        .min(counts - refund.before * asked.a)
        .max(0);
    let is_last = until == full_in + (refund.before * asked.a).min(own);
    *used = (*used - back).max(0);
    if !is_last && back > 0 {
        *early += (back + asked.a - 1) / asked.a;
    }
}

fn units(charges: &[(i64, i64)]) -> i64 {
    charges.iter().map(|it| it.1).sum()
}

fn day_end(now: i64) -> i64 {
    (now.div_euclid(DAY) + 1) * DAY
}
