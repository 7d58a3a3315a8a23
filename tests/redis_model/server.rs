//! A server in memory. It knows the commands that the limiter sends, and its own clock.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tower_api_key::limit::redis::{Script, Value, parse_redis_value};

use super::budgets::{Asked, AskedRefund, Budget};
use super::world::Request;

pub const TAKE: &str = include_str!("../../src/backend/redis/take.lua");
pub const REFUND: &str = include_str!("../../src/backend/redis/refund.lua");

/// The clock of a server.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// Microseconds since 1970 at the begin of the schedule, by this clock.
    pub begun: i64,
    /// How much faster it runs, in parts per million.
    pub ppm: i64,
}

impl Clock {
    pub fn at(&self, now: Duration) -> i64 {
        let passed = i64::try_from(now.as_micros()).unwrap();
        self.begun + passed + passed * self.ppm / 1_000_000
    }
}

/// A change of the data, as it is replicated and written to disk.
#[derive(Debug, Clone)]
enum Change {
    Budget(String, Budget),
    Note(String),
}

/// The process of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Process {
    Runs,
    /// It reads its data.
    Loads,
    /// It is stopped, and goes on later.
    Hangs,
    Ended,
    /// It ended, and nobody is told so: its machine is gone.
    Vanished,
}

#[derive(Debug)]
pub struct Server {
    pub clock: Clock,
    process: Process,
    /// Counts the ends of the process: connections do not survive one.
    run: u32,
    pub is_replica: bool,
    pub is_out_of_memory: bool,
    /// The time of each command.
    pub slowness: Duration,
    pub busy_until: Duration,
    /// What has arrived.
    pub inbox: VecDeque<Request>,
    budgets: BTreeMap<String, Budget>,
    notes: BTreeSet<String>,
    /// The scripts that it knows: that of charges, and that of refunds.
    knows: [bool; 2],
    history: Vec<(Duration, Change)>,
}

/// What became of a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All was taken, or refunded.
    Done,
    /// It was denied, or refunded before.
    NotDone,
    /// It came too late.
    Late,
}

/// A reply, and what became of the script, if one was run.
pub struct Executed {
    pub reply: Value,
    pub outcome: Option<Outcome>,
}

impl From<Value> for Executed {
    fn from(reply: Value) -> Self {
        Self {
            reply,
            outcome: None,
        }
    }
}

impl Server {
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            process: Process::Runs,
            run: 0,
            is_replica: false,
            is_out_of_memory: false,
            slowness: Duration::ZERO,
            busy_until: Duration::ZERO,
            inbox: VecDeque::new(),
            budgets: BTreeMap::new(),
            notes: BTreeSet::new(),
            knows: [false; 2],
            history: Vec::new(),
        }
    }

    /// Returns a server with what this one had written until a time.
    pub fn replica(&self, until: Duration, clock: Clock) -> Self {
        let mut replica = Self::new(clock);
        replica.history.clone_from(&self.history);
        replica.recall(until);
        replica
    }

    pub fn run(&self) -> u32 {
        self.run
    }

    /// Returns whether it accepts connections.
    pub fn is_up(&self) -> bool {
        !matches!(self.process, Process::Ended | Process::Vanished)
    }

    /// Returns whether it receives nothing, and nobody is told so.
    pub fn is_silent(&self) -> bool {
        self.process == Process::Vanished
    }

    /// Stops the process, or lets it go on.
    pub fn hang(&mut self, hangs: bool) {
        self.process = match (self.process, hangs) {
            (Process::Runs, true) => Process::Hangs,
            (Process::Hangs, false) => Process::Runs,
            (other, _) => other,
        };
    }

    /// Ends the process.
    pub fn kill(&mut self, is_silent: bool) {
        self.process = if is_silent {
            Process::Vanished
        } else {
            Process::Ended
        };
        self.run += 1;
        self.inbox.clear();
    }

    /// Starts the process, which reads what was written until a time.
    pub fn restart(&mut self, until: Duration) {
        self.process = Process::Loads;
        self.flush_scripts();
        self.recall(until);
    }

    /// Ends the reading.
    pub fn serve(&mut self) {
        if self.process == Process::Loads {
            self.process = Process::Runs;
        }
    }

    /// Returns what is to be carried out now.
    pub fn next(&mut self, now: Duration) -> Option<Request> {
        if self.process == Process::Hangs || self.busy_until > now {
            return None;
        }
        let next = self.inbox.pop_front()?;
        self.busy_until = now + self.slowness;
        Some(next)
    }

    pub fn flush_scripts(&mut self) {
        self.knows = [false; 2];
    }

    fn recall(&mut self, until: Duration) {
        self.history.retain(|it| it.0 <= until);
        self.budgets.clear();
        self.notes.clear();
        for (_, change) in self.history.clone() {
            self.apply(change);
        }
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::Budget(key, budget) => {
                self.budgets.insert(key, budget);
            }
            Change::Note(note) => {
                self.notes.insert(note);
            }
        }
    }

    fn change(&mut self, now: Duration, change: Change) {
        self.history.push((now, change.clone()));
        self.apply(change);
    }

    pub fn execute(&mut self, now: Duration, arguments: &[Vec<u8>]) -> Executed {
        if self.process == Process::Loads {
            return error("LOADING Redis is loading the dataset in memory").into();
        }
        match &arguments[0][..] {
            b"TIME" => self.time(now).into(),
            b"INFO" => Value::BulkString(b"maxmemory:0\r\n".to_vec()).into(),
            b"CLIENT" => Value::Okay.into(),
            b"EVALSHA" | b"EVAL" => self.run_script(now, arguments),
            other => panic!("the limiter sends {}", String::from_utf8_lossy(other)),
        }
    }

    fn time(&self, now: Duration) -> Value {
        let time = self.clock.at(now);
        let text = |number: i64| Value::BulkString(number.to_string().into_bytes());
        Value::Array(vec![text(time / 1_000_000), text(time % 1_000_000)])
    }

    fn run_script(&mut self, now: Duration, arguments: &[Vec<u8>]) -> Executed {
        let Some(is_take) = self.script(&arguments[0], &arguments[1]) else {
            return error("NOSCRIPT No matching script. Please use EVAL.").into();
        };
        let text = |argument: &Vec<u8>| String::from_utf8(argument.clone()).unwrap();
        let count: usize = text(&arguments[2]).parse().unwrap();
        let keys: Vec<String> = arguments[3..3 + count].iter().map(text).collect();
        let rest = &arguments[3 + count..];
        let not_after: i64 = text(&rest[0]).parse().unwrap();
        let time = self.clock.at(now);
        if not_after > 0 && time > not_after {
            return Executed {
                reply: Value::Array(vec![Value::Int(-1), Value::Int(time)]),
                outcome: Some(Outcome::Late),
            };
        }
        if is_take {
            self.take(now, &keys, &rest[1..])
        } else {
            self.refund(now, &keys, &rest[2..])
        }
    }

    /// Returns whether a script is that of charges. `None` if it is not known.
    fn script(&mut self, name: &[u8], script: &[u8]) -> Option<bool> {
        if name == b"EVAL" {
            let at = [TAKE, REFUND].iter().position(|it| it.as_bytes() == script);
            self.knows[at.expect("a script of the limiter")] = true;
            return at.map(|at| at == 0);
        }
        let at = hashes(|all| all.iter().position(|it| it.as_bytes() == script));
        let at = at.expect("the hash of a script of the limiter");
        self.knows[at].then_some(at == 0)
    }

    /// Returns whether charges would be denied now.
    pub fn denies(&self, now: Duration, arguments: &[Vec<u8>]) -> bool {
        let count: usize = str::from_utf8(&arguments[2]).unwrap().parse().unwrap();
        let (keys, rest) = arguments[3..].split_at(count);
        let time = self.clock.at(now);
        keys.iter().zip(&rest[1..]).any(|(key, packed)| {
            let key = str::from_utf8(key).unwrap();
            let asked = Asked::read(packed);
            self.settled(key, &asked, time).status(&asked, time)[2] != 0
        })
    }

    fn take(&mut self, now: Duration, keys: &[String], packed: &[Vec<u8>]) -> Executed {
        let time = self.clock.at(now);
        let asked: Vec<Asked> = packed.iter().map(|it| Asked::read(it)).collect();
        let each = keys.iter().zip(&asked);
        let mut budgets: Vec<Budget> = each
            .map(|(key, asked)| self.settled(key, asked, time))
            .collect();
        let mut statuses: Vec<_> = budgets
            .iter()
            .zip(&asked)
            .map(|(budget, asked)| budget.status(asked, time))
            .collect();
        let fits = statuses.iter().all(|it| it[2] == 0);
        if fits {
            if let Some(refusal) = self.refusal() {
                return refusal.into();
            }
            for (at, budget) in budgets.iter_mut().enumerate() {
                budget.take(&asked[at], time);
                let [left, full, _, early] = budget.status(&asked[at], time);
                statuses[at] = [left, full, 0, early];
            }
        }
        // Also if it was denied: a clock that was set back has moved the charges.
        for (key, budget) in keys.iter().zip(budgets) {
            if self.budgets.get(key) != Some(&budget) && !self.is_replica {
                self.change(now, Change::Budget(key.clone(), budget));
            }
        }
        let mut reply = vec![Value::Int(i64::from(fits)), Value::Int(time)];
        reply.extend(statuses.into_iter().flatten().map(Value::Int));
        Executed {
            reply: Value::Array(reply),
            outcome: Some(if fits {
                Outcome::Done
            } else {
                Outcome::NotDone
            }),
        }
    }

    fn refund(&mut self, now: Duration, keys: &[String], packed: &[Vec<u8>]) -> Executed {
        let time = self.clock.at(now);
        if let Some(refusal) = self.refusal() {
            return refusal.into();
        }
        let (note, keys) = keys.split_first().unwrap();
        let is_new = !self.notes.contains(note);
        if is_new {
            self.change(now, Change::Note(note.clone()));
            for (key, packed) in keys.iter().zip(packed) {
                let refund = AskedRefund::read(packed);
                let mut budget = self.settled(key, refund.budget(), time);
                budget.refund(&refund, time);
                self.change(now, Change::Budget(key.clone(), budget));
            }
        }
        Executed {
            reply: Value::Array(vec![Value::Int(i64::from(is_new)), Value::Int(time)]),
            outcome: Some(if is_new {
                Outcome::Done
            } else {
                Outcome::NotDone
            }),
        }
    }

    /// Returns why nothing can be written.
    fn refusal(&self) -> Option<Value> {
        if self.is_replica {
            return Some(error(
                "READONLY You can't write against a read only replica.",
            ));
        }
        let text = "OOM command not allowed when used memory > 'maxmemory'.";
        self.is_out_of_memory.then(|| error(text))
    }

    fn settled(&self, key: &str, asked: &Asked, time: i64) -> Budget {
        let known = self.budgets.get(key).cloned();
        let mut budget = known.unwrap_or_else(|| Budget::full(asked, time));
        budget.settle(asked, time);
        budget
    }
}

/// Calls a function with the hashes of both scripts.
fn hashes<T>(look: impl FnOnce(&[String; 2]) -> T) -> T {
    thread_local! {
        static HASHES: [String; 2] = [TAKE, REFUND].map(|it| Script::new(it).get_hash().to_owned());
    }
    HASHES.with(look)
}

/// An error, as the client reads it.
fn error(text: &str) -> Value {
    parse_redis_value(format!("-{text}\r\n").as_bytes()).unwrap()
}
