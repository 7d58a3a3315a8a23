//! A schedule, drawn from a seed: the nodes, their limits, and the faults.

use std::time::Duration;

use tower_api_key::Quota;
use tower_api_key::limit::LimitName;

use super::budgets::DAY;
use super::random::Random;
use super::server::Clock;

/// The whole seconds since 1970 at a midnight.
const MIDNIGHT: i64 = 1_790_035_200;

/// How long the nodes work before the first fault, and after the last one, in milliseconds.
const BEFORE: u64 = 400;
const AFTER: u64 = 1_500;

/// The time in which a dead connection is noticed.
pub const DEAD: Duration = Duration::from_secs(2);

/// The time in which an application's connection is told that its server is no master any more.
pub const TOLD: Duration = Duration::from_millis(300);

/// The time in which each node makes two calls.
const TWO_PULSES: Duration = Duration::from_millis(60);

#[derive(Debug)]
pub struct Plan {
    pub seed: u64,
    /// The time limit of calls.
    pub limit: Duration,
    pub clock: Clock,
    pub nodes: Vec<NodePlan>,
    pub budgets: Vec<BudgetPlan>,
    /// The budgets and costs of each request. The first one is never denied.
    pub requests: Vec<Vec<(usize, u64)>>,
    /// One call in so many is dropped before it ends, and one charge in so many is refunded.
    pub dropped: usize,
    pub refunded: usize,
    pub faults: Vec<(Duration, Fault)>,
    /// How long the nodes work after the last fault.
    pub after: Duration,
}

#[derive(Debug)]
pub struct NodePlan {
    pub source: Source,
    pub up: Duration,
    pub down: Duration,
    pub unsteady: Duration,
    /// The pause between two calls.
    pub pause: Duration,
    /// The longest time that denials are remembered.
    pub remembers: Duration,
}

/// Who makes the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The limiter.
    Dialed,
    /// The application: it reconnects, but notices no dead connection.
    Given,
    /// The application: it also sends again what was not answered.
    Again,
}

#[derive(Debug)]
pub struct BudgetPlan {
    pub name: LimitName,
    pub quota: Quota,
    pub shape: Shape,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// The period in microseconds.
    Window(i64),
    /// The interval in nanoseconds.
    Rate(i64),
    Day,
}

#[derive(Debug, Clone)]
pub enum Fault {
    /// The process is stopped, and goes on.
    Hang(Duration),
    /// Each command takes so long.
    Slow {
        each: Duration,
        lasts: Duration,
    },
    /// The process ends, and starts again with what it had written until a while before.
    Kill {
        is_silent: bool,
        keeps: Keeps,
        down: Duration,
        loads: Duration,
    },
    /// A replica becomes the master.
    Failover {
        lag: Duration,
        old: Old,
        /// The microseconds by which its clock is ahead of that of the old master.
        ahead: i64,
    },
    /// The clock is set, by microseconds.
    Step(i64),
    /// The scripts are forgotten, several times.
    Flush(u32),
    OutOfMemory(Duration),
    /// Connections are cut.
    Cut(Vec<usize>),
    /// Connections are cut instead of the next reply.
    CutAtReply(Vec<usize>),
    /// Connections are dead, and nobody is told.
    HalfOpen(Vec<usize>),
    /// Connections are cut, and none can be made.
    Refuse {
        nodes: Vec<usize>,
        lasts: Duration,
    },
    /// Nothing gets through.
    Block {
        nodes: Vec<usize>,
        up: bool,
        down: bool,
        lasts: Duration,
    },
    /// The way is long.
    Far {
        nodes: Vec<usize>,
        up: Duration,
        down: Duration,
        unsteady: Duration,
        lasts: Duration,
    },
    /// The process of a node is stopped.
    Pause {
        node: usize,
        lasts: Duration,
    },
    /// Many calls at once.
    Burst {
        node: usize,
        calls: usize,
    },
}

/// What a server knows after it is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeps {
    All,
    /// All but what was written in this time before.
    AllBut(Duration),
    Nothing,
}

/// What becomes of a master when a replica takes its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Old {
    /// It ends, and the replica is the master after a while.
    Ends(Duration),
    /// It goes on for a while, and then is a replica.
    GoesOn(Duration),
}

impl Plan {
    pub fn draw(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut draw = Draw(&mut random);
        let nodes: Vec<_> = (0..draw.from(1, 3)).map(|_| draw.node()).collect();
        let budgets = draw.budgets();
        let requests = draw.requests(budgets.len());
        let limit = Duration::from_millis(draw.one_of(&[50, 100, 250, 250, 250, 600]));
        let clock = draw.clock();
        // Sometimes while they connect.
        let mut at = if draw.one_in(6) {
            draw.from(0, 30)
        } else {
            BEFORE + draw.from(0, 300)
        };
        let mut faults = Vec::new();
        for _ in 0..draw.from(1, 3) {
            faults.push((Duration::from_millis(at), draw.fault(&nodes)));
            if draw.one_in(2) {
                // What is under way when a fault begins is as interesting as the fault.
                let (node, calls) = (draw.node_of(&nodes), draw.count(10, 60));
                let begins = Duration::from_millis(at.saturating_sub(draw.from(0, 20)));
                faults.push((begins, Fault::Burst { node, calls }));
            }
            at += draw.from(0, 1_500);
        }
        faults.sort_by_key(|it| it.0);
        let after = if draw.one_in(6) { 3 * AFTER } else { AFTER };
        let after = Duration::from_millis(after);
        let (dropped, refunded) = (draw.one_of(&[3, 20, 20]), draw.one_of(&[2, 5, 5]));
        Self {
            seed,
            limit,
            clock,
            nodes,
            budgets,
            requests,
            dropped,
            refunded,
            faults,
            after,
        }
    }

    /// Returns how long the nodes work.
    pub fn length(&self) -> Duration {
        let ends = self.faults.iter().map(|(at, fault)| *at + fault.lasts());
        ends.max().unwrap_or_default() + self.after
    }

    /// Returns the units of a budget in a request.
    pub fn cost(&self, request: usize, budget: usize) -> u64 {
        let charges = self.requests[request].iter();
        charges.filter(|it| it.0 == budget).map(|it| it.1).sum()
    }
}

impl Fault {
    /// Returns the time until it is over, for whoever dials by itself.
    pub fn lasts(&self) -> Duration {
        match self {
            Self::Hang(lasts)
            | Self::OutOfMemory(lasts)
            | Self::Slow { lasts, .. }
            | Self::Refuse { lasts, .. }
            | Self::Block { lasts, .. }
            | Self::Pause { lasts, .. } => *lasts,
            Self::Kill { down, loads, .. } => *down + *loads,
            Self::Failover { old, .. } => match old {
                Old::Ends(time) | Old::GoesOn(time) => *time + TOLD,
            },
            // What is on its way when it ends arrives late.
            Self::Far {
                up,
                down,
                unsteady,
                lasts,
                ..
            } => *lasts + *up + *down + 2 * *unsteady,
            Self::HalfOpen(_) => DEAD,
            Self::CutAtReply(_) => TWO_PULSES,
            Self::Step(_) | Self::Flush(_) | Self::Cut(_) | Self::Burst { .. } => Duration::ZERO,
        }
    }

    /// Returns the nodes, of so many, whose calls may fail.
    pub fn nodes(&self, all: usize) -> Vec<usize> {
        match self {
            Self::Cut(nodes)
            | Self::CutAtReply(nodes)
            | Self::HalfOpen(nodes)
            | Self::Refuse { nodes, .. }
            | Self::Block { nodes, .. }
            | Self::Far { nodes, .. } => nodes.clone(),
            Self::Pause { node, .. } => vec![*node],
            Self::Flush(_) | Self::Burst { .. } => Vec::new(),
            Self::Hang(_)
            | Self::Slow { .. }
            | Self::Kill { .. }
            | Self::Failover { .. }
            | Self::Step(_)
            | Self::OutOfMemory(_) => (0..all).collect(),
        }
    }
}

struct Draw<'r>(&'r mut Random);

impl Draw<'_> {
    /// A number from the first to the last.
    fn from(&mut self, first: u64, last: u64) -> u64 {
        first + self.0.next() % (last - first + 1)
    }

    fn count(&mut self, first: u64, last: u64) -> usize {
        usize::try_from(self.from(first, last)).unwrap()
    }

    fn one_in(&mut self, times: u64) -> bool {
        self.from(1, times) == 1
    }

    fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        *self.0.pick(of)
    }

    fn millis(&mut self, first: u64, last: u64) -> Duration {
        Duration::from_millis(self.from(first, last))
    }

    /// One of these milliseconds, or less than the last.
    fn least_of(&mut self, of: &[u64], last: u64) -> Duration {
        Duration::from_millis(self.one_of(of).min(self.from(0, last)))
    }

    /// Microseconds, forwards or back.
    fn step(&mut self) -> i64 {
        let most = self.one_of(&[10_000, 800_000, 3_000_000, 3_600_000_000, 30 * DAY]);
        let step = i64::try_from(self.from(1, most.unsigned_abs())).unwrap();
        if self.one_in(2) { step } else { -step }
    }

    fn clock(&mut self) -> Clock {
        let seconds = MIDNIGHT + self.one_of(&[-2, -1, 3_600, 40_000]);
        Clock {
            begun: seconds * 1_000_000 + i64::try_from(self.from(0, 999_999)).unwrap(),
            ppm: i64::try_from(self.from(0, 200)).unwrap() - 100,
        }
    }

    fn node(&mut self) -> NodePlan {
        NodePlan {
            source: self.one_of(&[
                Source::Dialed,
                Source::Dialed,
                Source::Dialed,
                Source::Dialed,
                Source::Given,
                Source::Again,
            ]),
            up: self.millis(1, 4),
            down: self.millis(1, 4),
            unsteady: self.millis(0, 3),
            pause: self.millis(4, 40),
            remembers: Duration::from_millis(self.one_of(&[0, 200, 1_000, 1_000])),
        }
    }

    fn budgets(&mut self) -> Vec<BudgetPlan> {
        let endless = BudgetPlan {
            name: LimitName::new("endless"),
            quota: Quota::per_minute(1_000_000_000),
            shape: Shape::Window(60_000_000),
        };
        let count = if self.one_in(12) { 15 } else { self.from(1, 3) };
        let scarce = (0..count).map(|number| {
            let (quota, shape) = self.quota();
            BudgetPlan {
                name: LimitName::new(format!("l{number}")),
                quota,
                shape,
            }
        });
        let scarce: Vec<_> = scarce.collect();
        [endless].into_iter().chain(scarce).collect()
    }

    fn quota(&mut self) -> (Quota, Shape) {
        let limit = self.one_of(&[1, 2, 5, 10, 30]);
        let seconds = self.one_of(&[1, 1, 2, 5, 60]);
        let window = Quota::per(limit, Duration::from_secs(seconds)).unwrap();
        let nanoseconds = i64::try_from(seconds * 1_000_000_000).unwrap();
        match self.from(0, 5) {
            0..3 => (window, Shape::Window(nanoseconds / 1_000)),
            3 | 4 => {
                let rate = window.smooth();
                let quota = if self.one_in(2) {
                    rate.burst(self.one_of(&[1, 4, 20]))
                } else {
                    rate
                };
                // An interval is rounded up.
                let per_unit = nanoseconds / i64::try_from(limit).unwrap();
                (quota, Shape::Rate(per_unit))
            }
            _ => (Quota::per_utc_day(10 * limit), Shape::Day),
        }
    }

    fn requests(&mut self, budgets: usize) -> Vec<Vec<(usize, u64)>> {
        let drawn = (0..self.from(1, 3)).map(|number| {
            let mut charges = Vec::new();
            // Of sixteen budgets, once all.
            if number == 0 && budgets == 16 {
                charges.push((0, 1));
            }
            for budget in 1..budgets {
                if self.one_in(2)
                    || !charges.is_empty() && charges[0].0 == 0
                    || budget + 1 == budgets && charges.is_empty()
                {
                    charges.push((budget, self.one_of(&[1, 1, 1, 2, 3])));
                }
            }
            charges
        });
        let mut drawn: Vec<_> = drawn.collect();
        drawn.sort();
        drawn.dedup();
        [vec![(0, 1)]].into_iter().chain(drawn).collect()
    }

    fn node_of(&mut self, nodes: &[NodePlan]) -> usize {
        self.0.below(nodes.len())
    }

    /// Some nodes, or all.
    fn some(&mut self, nodes: &[NodePlan]) -> Vec<usize> {
        if self.one_in(2) {
            return (0..nodes.len()).collect();
        }
        vec![self.node_of(nodes)]
    }

    fn fault(&mut self, nodes: &[NodePlan]) -> Fault {
        // Only who dials by itself notices that a connection is dead.
        let dials = |node: &usize| nodes[*node].source == Source::Dialed;
        loop {
            let mut fault = self.any_fault(nodes);
            let is_possible = match &mut fault {
                Fault::HalfOpen(those) | Fault::Block { nodes: those, .. } => {
                    those.retain(dials);
                    !those.is_empty()
                }
                Fault::Kill { is_silent, .. } => {
                    !*is_silent || (0..nodes.len()).all(|it| dials(&it))
                }
                _ => true,
            };
            if is_possible {
                return fault;
            }
        }
    }

    fn any_fault(&mut self, nodes: &[NodePlan]) -> Fault {
        let lasts = self.one_of(&[200, 800, 1_600, 2_900]);
        let lasts = self.millis(lasts / 4, lasts);
        match self.from(0, 17) {
            0..3 => Fault::Hang(lasts),
            3 => Fault::Slow {
                each: self.millis(1, 60),
                lasts,
            },
            4..6 => Fault::Kill {
                is_silent: self.one_in(3),
                keeps: match self.from(0, 2) {
                    0 => Keeps::All,
                    1 => Keeps::AllBut(self.millis(1, 1_000)),
                    _ => Keeps::Nothing,
                },
                down: self.millis(0, 1_200),
                loads: self.least_of(&[0, 0, 100], 300),
            },
            6..8 => Fault::Failover {
                lag: self.least_of(&[0, 1, 300], 600),
                old: if self.one_in(2) {
                    Old::Ends(self.millis(0, 1_000))
                } else {
                    Old::GoesOn(self.least_of(&[0, 50, 900], 900))
                },
                ahead: if self.one_in(2) { self.step() } else { 0 },
            },
            8 => Fault::Step(self.step()),
            9 => Fault::Flush(u32::try_from(self.from(1, 5)).unwrap()),
            10 => Fault::OutOfMemory(lasts),
            11 => Fault::Cut(self.some(nodes)),
            12 => Fault::CutAtReply(self.some(nodes)),
            13 => Fault::HalfOpen(self.some(nodes)),
            14 => Fault::Refuse {
                nodes: self.some(nodes),
                lasts,
            },
            15 => {
                let (up, down) = self.one_of(&[(true, false), (false, true), (true, true)]);
                Fault::Block {
                    nodes: self.some(nodes),
                    up,
                    down,
                    lasts,
                }
            }
            16 => Fault::Far {
                nodes: self.some(nodes),
                up: self.millis(1, 300),
                down: self.millis(1, 300),
                unsteady: self.millis(0, 100),
                lasts,
            },
            _ => Fault::Pause {
                node: self.node_of(nodes),
                lasts,
            },
        }
    }
}
