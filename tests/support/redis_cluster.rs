//! A cluster of real Redis servers, on free ports.
#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    dead_code,
    reason = "a test may panic, and uses its part"
)]

use std::net::TcpListener;
use std::ops::{Deref, DerefMut, RangeInclusive};
use std::time::{Duration, Instant};

use tower_api_key::limit::redis::{self, FromRedisValue, Value};

use crate::server::{self, Redis};

/// The slots of the three masters.
const SLOTS: [RangeInclusive<u16>; 3] = [0..=5_460, 5_461..=10_922, 10_923..=16_383];

/// Servers of a cluster, which end when they are dropped.
pub struct RedisCluster {
    pub nodes: Vec<Node>,
}

/// A server of a cluster.
pub struct Node {
    server: Redis,
    pub id: String,
}

impl RedisCluster {
    /// Starts three masters. One that is away does not keep the others from their work.
    pub fn start() -> Self {
        // A busy machine: nobody shall be taken for dead.
        Self::start_with_timeout(Duration::from_secs(15))
    }

    /// Starts three masters. After a time without an answer, the others take one for dead.
    pub fn start_with_timeout(timeout: Duration) -> Self {
        let nodes = (0..3).map(|_| Node::start(timeout, &[])).collect();
        let cluster = Self { nodes };
        for (at, slots) in SLOTS.into_iter().enumerate() {
            let node = &cluster.nodes[at];
            let epoch = (at + 1).to_string();
            node.run::<()>(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch]);
            node.add_slots(slots);
        }
        for node in &cluster.nodes[1..] {
            node.meet(&cluster.nodes[0]);
        }
        for node in &cluster.nodes {
            node.wait_until(|it| it.is_ready(3, 3));
        }
        cluster
    }

    /// Starts one master with all slots, which tells that it is reached by another port.
    pub fn start_one_behind(port: u16) -> Self {
        let port = port.to_string();
        let node = Node::start(Duration::from_secs(15), &["--cluster-announce-port", &port]);
        node.add_slots(0..=16_383);
        node.wait_until(|it| it.is_ready(1, 1));
        Self { nodes: vec![node] }
    }

    /// Adds a replica of a master.
    pub fn add_replica(&mut self, master: usize, timeout: Duration) {
        let node = Node::start(timeout, &[]);
        node.meet(&self.nodes[0]);
        node.wait_until(|it| it.is_ready(self.nodes.len() + 1, 3));
        node.run::<()>(&["CLUSTER", "REPLICATE", &self.nodes[master].id]);
        node.wait_until(|it| it.tell(&["INFO", "replication"]).contains("link_status:up"));
        self.nodes.push(node);
        for node in &self.nodes {
            node.wait_until(|it| it.tell(&["CLUSTER", "NODES"]).contains("slave "));
        }
    }

    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.url()).collect()
    }

    /// Returns the place of the master that has a home at first.
    pub fn master_of(home: &str) -> usize {
        let slot = slot_of(home);
        SLOTS.iter().position(|it| it.contains(&slot)).unwrap()
    }

    /// Returns the name of an account that is on a master at first. Each number is another account.
    pub fn account_on(master: usize, number: usize) -> String {
        let mut names = (0..).map(|at| format!("account{at}"));
        names
            .by_ref()
            .filter(|name| Self::master_of(&format!("a={name}")) == master)
            .nth(number)
            .unwrap()
    }

    /// Begins to move a slot to another master.
    pub fn begin_move(&self, slot: u16, from: usize, to: usize) {
        let (slot, from, to) = (slot.to_string(), &self.nodes[from], &self.nodes[to]);
        to.run::<()>(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from.id]);
        from.run::<()>(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to.id]);
    }

    /// Moves up to so many keys of a slot. Returns how many there were.
    pub fn move_keys(&self, slot: u16, from: usize, to: usize, most: usize) -> usize {
        let (from, to) = (&self.nodes[from], &self.nodes[to]);
        let get = [
            "CLUSTER",
            "GETKEYSINSLOT",
            &slot.to_string(),
            &most.to_string(),
        ];
        let keys: Vec<String> = from.run(&get);
        if !keys.is_empty() {
            let port = to.port().to_string();
            let migrate = ["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"].into_iter();
            let migrate: Vec<&str> = migrate.chain(keys.iter().map(String::as_str)).collect();
            from.run::<Value>(&migrate);
        }
        keys.len()
    }

    /// Ends the move of a slot.
    pub fn end_move(&self, slot: u16, from: usize, to: usize) {
        let slot = slot.to_string();
        let owner = self.nodes[to].id.clone();
        for at in [to, from, 0, 1, 2] {
            self.nodes[at].run::<()>(&["CLUSTER", "SETSLOT", &slot, "NODE", &owner]);
        }
    }

    /// Returns the sum of a counter of all servers, such as `errorstat_MOVED:count`.
    pub fn count(&self, section: &str, counter: &str) -> u64 {
        let counts = self.nodes.iter().map(|it| it.count(section, counter));
        counts.sum()
    }
}

/// Returns the slot of what is in the braces of a key, bit by bit.
pub fn slot_of(tag: &str) -> u16 {
    let mut sum = 0_u16;
    for byte in tag.bytes() {
        sum ^= u16::from(byte) << 8;
        for _ in 0..8 {
            let carry = sum >> 15;
            sum = (sum << 1) ^ (carry * 0x1021);
        }
    }
    sum % 16_384
}

impl Node {
    fn start(timeout: Duration, more: &[&str]) -> Self {
        let timeout = timeout.as_millis().to_string();
        let arguments = [
            ["--cluster-enabled", "yes"],
            ["--cluster-config-file", "nodes.conf"],
            ["--cluster-node-timeout", &timeout],
            ["--cluster-require-full-coverage", "no"],
            ["--save", ""],
            ["--appendonly", "no"],
            ["--repl-diskless-sync-delay", "0"],
        ];
        let arguments = [arguments.as_flattened(), more].concat();
        let server = Redis::start_on(port_of_cluster, &arguments);
        let id = run(server.port(), &["CLUSTER", "MYID"]);
        Self { server, id }
    }

    fn add_slots(&self, slots: RangeInclusive<u16>) {
        let slots: Vec<String> = slots.map(|slot| slot.to_string()).collect();
        let add = ["CLUSTER", "ADDSLOTS"].into_iter();
        let add: Vec<&str> = add.chain(slots.iter().map(String::as_str)).collect();
        self.run::<()>(&add);
    }

    fn meet(&self, other: &Self) {
        let port = other.port().to_string();
        self.run::<()>(&["CLUSTER", "MEET", "127.0.0.1", &port]);
    }

    /// Runs a command.
    pub fn run<T: FromRedisValue>(&self, command: &[&str]) -> T {
        run(self.port(), command)
    }

    /// Runs a command that answers with a text.
    pub fn tell(&self, command: &[&str]) -> String {
        self.run(command)
    }

    /// Returns a counter, such as `cmdstat_evalsha:calls`.
    pub fn count(&self, section: &str, counter: &str) -> u64 {
        let stats = self.tell(&["INFO", section]);
        let Some((_, value)) = stats.split_once(&format!("{counter}=")) else {
            return 0;
        };
        let digits = value.split(|it: char| !it.is_ascii_digit()).next();
        digits.unwrap().parse().unwrap()
    }

    /// Waits until something is true of the server.
    pub fn wait_until(&self, is_true: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !is_true(self) {
            assert!(begun.elapsed() < Duration::from_secs(60), "it never is");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Returns whether it knows so many servers and masters, and takes requests.
    pub fn is_ready(&self, servers: usize, masters: usize) -> bool {
        let info = self.tell(&["CLUSTER", "INFO"]);
        let ranges: Vec<Value> = self.run(&["CLUSTER", "SLOTS"]);
        info.contains("cluster_state:ok")
            && info.contains(&format!("cluster_known_nodes:{servers}\r"))
            && ranges.len() >= masters
    }
}

impl Deref for Node {
    type Target = Redis;

    fn deref(&self) -> &Redis {
        &self.server
    }
}

impl DerefMut for Node {
    fn deref_mut(&mut self) -> &mut Redis {
        &mut self.server
    }
}

fn run<T: FromRedisValue>(port: u16, parts: &[&str]) -> T {
    let client = redis::Client::open(("127.0.0.1", port)).unwrap();
    let mut connection = client.get_connection().unwrap();
    let mut command = redis::cmd(parts[0]);
    command.arg(&parts[1..]);
    let answer = command.query(&mut connection);
    answer.unwrap_or_else(|error| panic!("{:?}: {error}", &parts[..parts.len().min(4)]))
}

/// Returns a free port of which the port of the cluster's own messages is free, too.
fn port_of_cluster() -> u16 {
    loop {
        let port = server::free_port();
        if port < 55_535 && TcpListener::bind(("127.0.0.1", port + 10_000)).is_ok() {
            return port;
        }
    }
}
