//! Announcements of expiries by several processes on one store, in trouble: each comes once, and none
//! is missing.
//!
//! An oracle notes when a look of a process began and when it was over, and which ends each key had
//! then. So it knows what must have been told, and what may have been told by a look that failed.
#![allow(clippy::unwrap_used, unreachable_pub, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use tokio::task::JoinHandle;
use tower_api_key::clock::{Clock, ManualClock};
use tower_api_key::store::{Cursor, Outbox, Start};
use tower_api_key::{ApiKeys, KeyId, ManagedKeyStore};

use crate::support::random::Random;
use crate::support::{DAY, today};
use crate::troubled_processes::{Shared, Troubled};

const MINUTE: Duration = Duration::from_secs(60);

/// The keys that come into the first window at once: more than two pages.
const KEYS: usize = 250;

/// The longest real time in which the processes come to rest.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process: its worker runs on a task.
struct Process(JoinHandle<()>);

/// An end that a key had for a time.
struct End {
    key: KeyId,
    created_at: SystemTime,
    at: SystemTime,
    /// It was in the past when it was set.
    is_past: bool,
    from: u64,
    until: u64,
}

/// A fact that is told once: a key, its end, and the days before it.
type Fact = (KeyId, SystemTime, u32);

const STAGES: [u32; 4] = [30, 7, 1, 0];

impl End {
    /// The days that are told of at a time, if this is the end of the key.
    fn stage(&self, at: SystemTime) -> Option<u32> {
        let reached = |days: &u32| at + DAY * *days >= self.at;
        STAGES.into_iter().filter(reached).min()
    }

    fn fact(&self, days: u32) -> Option<Fact> {
        let is_told = days == 0 || self.at > self.created_at + DAY * days;
        is_told.then_some((self.key, self.at, days))
    }
}

/// A store with processes, and the oracle.
struct World<S> {
    store: S,
    keys: ApiKeys,
    shared: Arc<Shared>,
    processes: Vec<Process>,
    started: usize,
    ends: Vec<End>,
    next: Option<Cursor>,
    /// How often each fact was told: with the end as the event says it.
    told: BTreeMap<(KeyId, String, u64), u32>,
}

impl<S: ManagedKeyStore + Outbox + Clone> World<S> {
    fn new(store: S, seed: u64) -> Self {
        let clock = ManualClock::at(today());
        let keys = ApiKeys::builder(store.clone()).clock(clock.clone());
        Self {
            keys: keys.build().unwrap(),
            store,
            shared: Arc::new(Shared {
                clock,
                notes: Mutex::default(),
                random: Mutex::new(Random::new(seed)),
                trouble: AtomicUsize::new(0),
                busy: AtomicUsize::new(0),
            }),
            processes: Vec::new(),
            started: 0,
            ends: Vec::new(),
            next: None,
            told: BTreeMap::new(),
        }
    }

    fn below(&self, bound: usize) -> usize {
        self.shared.random.lock().unwrap().below(bound)
    }

    fn now(&self) -> SystemTime {
        self.shared.clock.now()
    }

    fn note(&self) -> u64 {
        self.shared.notes.lock().unwrap().next()
    }

    fn start(&mut self) {
        self.started += 1;
        let store = Troubled {
            store: self.store.clone(),
            process: self.started,
            shared: Arc::clone(&self.shared),
        };
        let keys = ApiKeys::builder(store).clock(self.shared.clock.clone());
        let worker = keys.build().unwrap().worker();
        self.processes
            .push(Process(tokio::spawn(worker.into_future())));
    }

    fn kill(&mut self, process: usize) {
        self.processes.swap_remove(process).0.abort();
    }

    /// Waits until no process has anything to do.
    async fn rest(&self) {
        let begin = Instant::now();
        let mut quiet = 0;
        while quiet < 20 {
            assert!(begin.elapsed() < PATIENCE, "the processes never rest");
            let is_busy = self.shared.busy.load(Ordering::SeqCst) > 0;
            quiet = if is_busy { 0 } else { quiet + 1 };
            if is_busy {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            tokio::task::yield_now().await;
        }
        for process in &self.processes {
            assert!(!process.0.is_finished(), "a worker never ends");
        }
    }

    async fn issue(&mut self, life: Duration) {
        let issued = self.keys.issue("acme").expires_in(life).await.unwrap();
        let (from, now) = (self.note(), self.now());
        self.ends.push(End {
            key: issued.id(),
            created_at: now,
            at: now + life,
            is_past: false,
            from,
            until: u64::MAX,
        });
    }

    /// Sets another end for a key that has one, or none.
    async fn update(&mut self, index: usize, end: Option<SystemTime>) {
        let (key, created_at) = (self.ends[index].key, self.ends[index].created_at);
        if self.ends[index].until < u64::MAX {
            return;
        }
        let seen = self.keys.find(&key).await.unwrap().unwrap();
        self.keys.update(&seen).expires_at(end).await.unwrap();
        let noted = self.note();
        self.ends[index].until = noted;
        if let Some(end) = end {
            self.ends.push(End {
                key,
                created_at,
                at: end,
                is_past: end <= self.now() && end != self.ends[index].at,
                from: noted,
                until: u64::MAX,
            });
        }
    }

    async fn revoke(&mut self, index: usize) {
        let key = self.ends[index].key;
        self.keys.revoke(key).await.unwrap();
        let at = self.note();
        for end in &mut self.ends {
            if end.key == key {
                end.until = end.until.min(at);
            }
        }
    }

    /// Reads what was told since.
    async fn read(&mut self) {
        loop {
            let start = self.next.clone().map_or(Start::Beginning, Start::After);
            let read = self.store.events(&start, 1_000).await.unwrap();
            self.next = Some(read.next);
            for kept in read.items {
                let data: serde_json::Value = serde_json::from_str(&kept.event.data).unwrap();
                let days = match &*kept.event.kind {
                    "api_key.expiring" => data["days"].as_u64().unwrap(),
                    "api_key.expired" => 0,
                    "api_key.issued" | "api_key.updated" | "api_key.revoked" => continue,
                    other => panic!("{other}: {data}"),
                };
                let end = data["expires_at"].as_str().unwrap().to_owned();
                let fact = (kept.event.key.unwrap(), end, days);
                *self.told.entry(fact).or_default() += 1;
            }
            if read.is_end {
                return;
            }
        }
    }

    /// What must have been told, and what may have been.
    fn expected(&self) -> (BTreeSet<Fact>, BTreeSet<Fact>) {
        let notes = self.shared.notes.lock().unwrap();
        let (mut must, mut may) = (BTreeSet::new(), BTreeSet::new());
        for end in self.ends.iter().filter(|end| end.is_past) {
            must.extend(end.fact(0));
        }
        for look in &notes.looks {
            // All that was told before some look ended need not be told by this one.
            let since = look.ended.and_then(|ended| {
                let earlier = notes.looks.iter().filter(|other| other.ended < Some(ended));
                let earlier = earlier.filter(|other| other.ended.is_some());
                earlier.map(|other| other.at).max()
            });
            for end in self.ends.iter().filter(|end| end.until > look.began) {
                let Some(days) = end.stage(look.at) else {
                    continue;
                };
                may.extend(end.fact(days));
                let (Some(ended), Some(since)) = (look.ended, since) else {
                    continue;
                };
                let is_seen = end.from < look.began && ended < end.until;
                if is_seen && end.at > since + DAY * days {
                    must.extend(end.fact(days));
                }
            }
        }
        may.extend(must.iter().copied());
        (must, may)
    }

    fn check(&self, seed: u64) -> usize {
        let (must, may) = self.expected();
        for (fact, times) in &self.told {
            assert_eq!(*times, 1, "seed {seed}: {fact:?}");
        }
        let told = self.told.keys();
        let told: BTreeSet<Fact> = told
            .map(|(key, end, days)| (*key, read_time(end), u32::try_from(*days).unwrap()))
            .collect();
        let missing: Vec<_> = must.difference(&told).collect();
        let too_many: Vec<_> = told.difference(&may).collect();
        assert!(missing.is_empty(), "seed {seed}: missing are {missing:?}");
        assert!(too_many.is_empty(), "seed {seed}: nobody saw {too_many:?}");
        told.len()
    }

    async fn step(&mut self) {
        let running = self.processes.len();
        match self.below(16) {
            0 if running < 3 => self.start(),
            // In the middle of what it does.
            1 if running > 0 => {
                self.shared.clock.advance(MINUTE);
                for _ in 0..self.below(20) {
                    tokio::task::yield_now().await;
                }
                let one = self.below(running);
                self.kill(one);
            }
            // Nobody looks for days.
            2 => {
                while !self.processes.is_empty() {
                    self.kill(0);
                }
                let days = u32::try_from(self.below(9)).unwrap();
                self.shared.clock.advance(DAY * days);
                for _ in 0..=self.below(3) {
                    self.start();
                }
            }
            3 | 4 => {
                let trouble = [0, 0, 10, 30, 60][self.below(5)];
                self.shared.trouble.store(trouble, Ordering::SeqCst);
            }
            5 | 6 => {
                let index = self.below(self.ends.len());
                let now = self.now();
                let hours = u32::try_from(self.below(40 * 24)).unwrap();
                let end = match self.below(6) {
                    0 => None,
                    1 => Some(now - MINUTE),
                    2 => Some(self.ends[index].at),
                    _ => Some(now + MINUTE * 60 * hours),
                };
                self.update(index, end).await;
            }
            7 => {
                let index = self.below(self.ends.len());
                self.revoke(index).await;
            }
            8 => {
                let days = u32::try_from(self.below(45)).unwrap();
                self.issue(DAY * (1 + days)).await;
            }
            _ => {
                let times = [
                    MINUTE,
                    MINUTE * 10,
                    MINUTE * 60,
                    DAY / 4,
                    DAY / 2,
                    DAY,
                    DAY * 3,
                ];
                let time = times[self.below(times.len())];
                self.shared.clock.advance(time);
            }
        }
        self.rest().await;
        self.read().await;
    }
}

/// Reads a time such as `2026-01-01T00:00:00Z`.
fn read_time(text: &str) -> SystemTime {
    let mut parts = text.split(['-', 'T', ':', 'Z', '.']);
    let mut next = || parts.next().unwrap().parse::<u64>().unwrap();
    let [year, month, day, hours, minutes, seconds] = [(); 6].map(|()| next());
    // Until the year 2100.
    let is_leap = |year: u64| year.is_multiple_of(4);
    let days_of_year = |year| if is_leap(year) { 366 } else { 365 };
    let february = if is_leap(year) { 29 } else { 28 };
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let months = &months[..usize::try_from(month - 1).unwrap()];
    let years: u64 = (1970..year).map(days_of_year).sum();
    let days = years + months.iter().sum::<u64>() + day - 1;
    let seconds = ((days * 24 + hours) * 60 + minutes) * 60 + seconds;
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// Lets processes look, fail, die and start again, so many times, and compares what was told with
/// what the oracle knows.
pub async fn each_comes_once<S: ManagedKeyStore + Outbox + Clone>(
    store: S,
    purge: impl AsyncFn(&S, SystemTime),
    seed: u64,
    steps: usize,
) {
    let mut world = World::new(store, seed);
    world.start();
    world.start();
    world.rest().await;
    for _ in 0..KEYS {
        world.issue(DAY * 40).await;
    }
    world.shared.clock.advance(DAY * 9 + DAY / 2);
    world.rest().await;
    world.shared.trouble.store(30, Ordering::SeqCst);
    world.shared.clock.advance(DAY);
    world.rest().await;
    for number in 0..steps {
        world.step().await;
        if number % 7 == 0 {
            purge(&world.store, world.now()).await;
        }
    }
    // All is well again, and all keys end.
    world.shared.trouble.store(0, Ordering::SeqCst);
    world.start();
    for _ in 0..90 {
        world.shared.clock.advance(DAY / 2);
        world.rest().await;
        world.read().await;
    }
    let told = world.check(seed);
    assert!(told > KEYS, "seed {seed}: {told} facts were told");
    println!(
        "seed {seed}: {told} announcements of {} ends",
        world.ends.len()
    );
}

/// A record that nobody can read stops the announcements of no other key.
pub async fn an_unreadable_record_stops_no_other<S: ManagedKeyStore + Outbox + Clone>(
    store: S,
    make_unreadable: impl AsyncFn(KeyId),
) {
    let mut world = World::new(store, 1);
    world.start();
    world.rest().await;
    for _ in 0..KEYS {
        world.issue(DAY * 40).await;
    }
    // In the middle of a page, and at the ends of pages.
    let mut by_id: Vec<KeyId> = world.ends.iter().map(|end| end.key).collect();
    by_id.sort_by_key(|id| *id.as_bytes());
    for index in [0, 50, 99, 100, 199, 249] {
        make_unreadable(by_id[index]).await;
        world.ends.retain(|end| end.key != by_id[index]);
    }
    for _ in 0..90 {
        world.shared.clock.advance(DAY / 2);
        world.rest().await;
        world.read().await;
    }
    assert_eq!(world.check(0), (KEYS - 6) * STAGES.len());
    let looks = world.shared.notes.lock().unwrap();
    assert!(looks.looks.iter().all(|look| look.ended.is_some()));
}
