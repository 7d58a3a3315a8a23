//! What happened in a schedule, as somebody sees it who sees everything.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::plan::Plan;
use super::server::Outcome;

/// Clocks of servers are faster than the time of the schedule by at most one part in so many.
pub const FASTEST: i64 = 5_000;

/// An execution of a script.
#[derive(Debug, Clone)]
pub struct Execution {
    pub server: usize,
    pub at: Duration,
    /// By the server's clock, in microseconds.
    pub time: i64,
    pub outcome: Outcome,
    /// The microseconds that have passed for budgets since the begin, at most: with all steps
    /// forwards.
    pub passed: i64,
    /// The loss that took it.
    pub lost: Option<usize>,
}

#[derive(Debug)]
pub enum What {
    Check {
        request: usize,
    },
    /// A refund of units of a call, for some of its budgets.
    Refund {
        of: usize,
        units: Vec<(usize, u64)>,
    },
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    Allowed,
    Denied(Option<Duration>),
    Failed(String),
    /// Nobody waited for it any more.
    Cancelled,
}

#[derive(Debug)]
pub struct Call {
    pub node: usize,
    pub what: What,
    pub begun: Duration,
    pub ended: Duration,
    pub end: Option<End>,
    /// When its messages were sent.
    pub messages: Vec<Duration>,
    pub executions: Vec<Execution>,
}

impl Call {
    pub fn took(&self) -> Duration {
        self.ended.saturating_sub(self.begun)
    }

    /// Returns the executions that took or refunded something.
    pub fn done(&self) -> impl DoubleEndedIterator<Item = &Execution> {
        let all = self.executions.iter();
        all.filter(|it| it.outcome == Outcome::Done)
    }
}

/// Charges that a server forgot.
#[derive(Debug)]
pub struct Loss {
    /// Another server had its place, and both may have granted for a while.
    pub is_failover: bool,
}

/// A reply that was waited for.
#[derive(Debug)]
pub struct Answer {
    pub at: Duration,
    pub sent: Duration,
    /// When the message arrived at the server.
    pub arrived: Duration,
    pub tells_time: bool,
    /// It came too late for the server, and so tells that its clock was set.
    pub is_late: bool,
}

#[derive(Debug, Default)]
pub struct NodeLog {
    pub dials: Vec<Duration>,
    pub connects: Vec<Duration>,
    pub probes: Vec<Duration>,
    pub answers: Vec<Answer>,
}

/// A time in which calls of a node may fail.
#[derive(Debug)]
pub struct Disturbance {
    pub node: usize,
    pub from: Duration,
    pub until: Duration,
}

/// A change of the clock of the master, by microseconds.
#[derive(Debug)]
pub struct ClockChange {
    pub at: Duration,
    pub ahead: i64,
}

#[derive(Debug)]
pub struct Ledger {
    pub plan: Arc<Plan>,
    pub calls: Vec<Call>,
    pub nodes: Vec<NodeLog>,
    pub losses: Vec<Loss>,
    pub disturbances: Vec<Disturbance>,
    /// When the clock of the master was another one than before.
    pub clock_changes: Vec<ClockChange>,
    /// When denials may have become wrong.
    pub last_upset: Duration,
    /// The first wrong thing that was seen at once.
    pub wrong: Option<String>,
    /// The microseconds of all steps forwards.
    steps: i64,
    /// Servers whose changes are lost.
    discarded: BTreeMap<usize, usize>,
    /// The last commands for each request.
    commands: BTreeMap<usize, Vec<Vec<u8>>>,
}

impl Ledger {
    pub fn new(plan: Arc<Plan>) -> Self {
        Self {
            calls: Vec::new(),
            nodes: plan.nodes.iter().map(|_| NodeLog::default()).collect(),
            plan,
            losses: Vec::new(),
            disturbances: Vec::new(),
            clock_changes: Vec::new(),
            last_upset: Duration::ZERO,
            wrong: None,
            steps: 0,
            discarded: BTreeMap::new(),
            commands: BTreeMap::new(),
        }
    }

    pub fn begin(&mut self, node: usize, what: What, now: Duration) -> usize {
        self.calls.push(Call {
            node,
            what,
            begun: now,
            ended: now,
            end: None,
            messages: Vec::new(),
            executions: Vec::new(),
        });
        self.calls.len() - 1
    }

    pub fn end(&mut self, call: usize, end: End, now: Duration) {
        let call = &mut self.calls[call];
        (call.end, call.ended) = (Some(end), now);
    }

    pub fn dials(&mut self, node: usize, now: Duration) {
        self.nodes[node].dials.push(now);
    }

    pub fn connected(&mut self, node: usize, now: Duration) {
        self.nodes[node].connects.push(now);
    }

    pub fn sent(&mut self, node: usize, call: Option<usize>, now: Duration, command: &[Vec<u8>]) {
        if command[0] == b"TIME" {
            self.nodes[node].probes.push(now);
        }
        if let Some(call) = call {
            self.calls[call].messages.push(now);
        }
    }

    pub fn answered(&mut self, node: usize, answer: Answer) {
        self.nodes[node].answers.push(answer);
    }

    pub fn executed(&mut self, call: usize, execution: Execution, command: &[Vec<u8>]) {
        let mut execution = execution;
        execution.passed = self.passed(execution.at);
        execution.lost = self.discarded.get(&execution.server).copied();
        if let What::Refund { .. } = self.calls[call].what {
            self.last_upset = execution.at;
        }
        if let What::Check { request } = self.calls[call].what {
            let known = self.commands.entry(request);
            known.or_insert_with(|| command.to_vec());
        }
        self.calls[call].executions.push(execution);
    }

    pub fn command(&self, request: usize) -> Option<&Vec<Vec<u8>>> {
        self.commands.get(&request)
    }

    fn passed(&self, now: Duration) -> i64 {
        let passed = i64::try_from(now.as_micros()).unwrap();
        passed + passed / FASTEST + self.steps
    }

    /// Notes that the clock of the master is ahead of what it was.
    pub fn clock_changes(&mut self, ahead: i64, now: Duration) {
        self.steps += ahead.max(0);
        self.clock_changes.push(ClockChange { at: now, ahead });
        self.last_upset = now;
    }

    /// Notes that what was written after a time is lost, and what a server will still write.
    pub fn lose(&mut self, after: Duration, now: Duration, discarded: Option<usize>) {
        let loss = self.losses.len();
        self.losses.push(Loss {
            is_failover: discarded.is_some(),
        });
        let executions = self.calls.iter_mut().flat_map(|it| &mut it.executions);
        for execution in executions.filter(|it| it.at > after && it.lost.is_none()) {
            execution.lost = Some(loss);
        }
        if let Some(server) = discarded {
            self.discarded.insert(server, loss);
        }
        self.last_upset = now;
    }

    pub fn disturb(&mut self, node: usize, from: Duration, until: Duration) {
        self.disturbances.push(Disturbance { node, from, until });
    }

    /// Prints what happened.
    pub fn tell(&self) {
        for (number, call) in self.calls.iter().enumerate() {
            println!("call {number}: {call:?}");
        }
        for (number, node) in self.nodes.iter().enumerate() {
            println!("node {number}: {node:?}");
        }
        println!("{:#?} {:#?}", self.disturbances, self.clock_changes);
    }
}
