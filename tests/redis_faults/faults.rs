//! Faults, of real servers and of the network before them.

use std::time::{Duration, Instant};

use tokio::task::block_in_place;
use tokio::time::sleep;

use super::fleet::{self, NODES};
use super::millis;
use super::proxy::{Proxy, Way};
use super::random::Random;
use super::server::Redis;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// SIGSTOP, for 1.5 s.
    Stop,
    /// SIGKILL, with all that was written on disk.
    KillKept,
    /// SIGKILL, with nothing on disk.
    KillEmpty,
    /// A replica becomes the master, while the old one is stopped.
    Promote,
    /// Connections are reset, several times.
    Reset,
    /// Connections are reset in the midst of a reply.
    CutInReply,
    /// Connections are dead, and nobody is told.
    HalfOpen,
    /// Nothing gets through in one direction, or in both.
    Block,
    /// No connection can be made.
    Refuse,
    /// The way is long.
    Far,
    /// The scripts are forgotten each few milliseconds.
    Flush,
    /// The clients are paused by the server.
    Pause,
    /// The master is a replica for a while.
    Demote,
    /// The memory is full.
    Full,
}

pub const KINDS: [Kind; 14] = [
    Kind::Stop,
    Kind::KillKept,
    Kind::KillEmpty,
    Kind::Promote,
    Kind::Reset,
    Kind::CutInReply,
    Kind::HalfOpen,
    Kind::Block,
    Kind::Refuse,
    Kind::Far,
    Kind::Flush,
    Kind::Pause,
    Kind::Demote,
    Kind::Full,
];

impl Kind {
    /// Returns whether nothing is answered.
    pub fn is_silent(self) -> bool {
        matches!(self, Self::Stop | Self::Pause | Self::Block)
    }
}

/// A fault that happened.
pub struct Happened {
    /// When it had begun, and when it was about to end.
    pub from: Instant,
    pub until: Instant,
    /// Calls were kept in between, and carried out then.
    pub keeps_calls: bool,
    /// The used units of each lasting budget that a replica knew when it became the master.
    pub kept: Vec<u64>,
}

impl Happened {
    /// A fault that began at a time, and ends now.
    fn since(from: Instant) -> Self {
        Self {
            from,
            until: Instant::now(),
            keeps_calls: false,
            kept: Vec::new(),
        }
    }
}

/// A server, perhaps a replica, and a proxy for each node.
pub struct Scene {
    kind: Kind,
    redis: Redis,
    replica: Option<Redis>,
    proxies: Vec<Proxy>,
}

impl Scene {
    pub async fn new(kind: Kind) -> Self {
        let redis = block_in_place(|| match kind {
            Kind::KillKept => {
                let durable = ["--appendonly", "yes", "--appendfsync", "always"];
                Redis::start_with(&durable)
            }
            Kind::Promote => Redis::start_with(&["--save", "", "--repl-diskless-sync-delay", "0"]),
            _ => Redis::start(),
        });
        let replica = (kind == Kind::Promote).then(|| block_in_place(|| replica_of(&redis)));
        let mut proxies = Vec::new();
        for _ in 0..NODES {
            proxies.push(Proxy::start(redis.port()).await);
        }
        Self {
            kind,
            redis,
            replica,
            proxies,
        }
    }

    pub fn proxies(&self) -> &[Proxy] {
        &self.proxies
    }

    /// Returns the URL of the server that is the master at the end.
    pub fn url(&self) -> String {
        self.replica.as_ref().unwrap_or(&self.redis).url()
    }

    /// Returns the URL of the master at the begin, which goes on.
    pub fn url_of_the_old_one(&self) -> String {
        self.redis.resume();
        self.redis.url()
    }

    pub async fn happen(&mut self, random: &mut Random) -> Happened {
        let lasts = millis(300 + random.below(1_200));
        match self.kind {
            Kind::Stop => self.stop().await,
            Kind::KillKept | Kind::KillEmpty => self.kill(lasts / 3).await,
            Kind::Promote => self.promote(lasts / 3).await,
            Kind::Reset | Kind::CutInReply => self.cut(random).await,
            Kind::HalfOpen => self.half_open().await,
            Kind::Block => self.block(random, lasts).await,
            Kind::Refuse => self.refuse(lasts).await,
            Kind::Far => {
                let mut takes = || Way::Takes(millis(20 + random.below(120)));
                let (up, down) = (takes(), takes());
                self.change_ways(up, down, lasts).await
            }
            Kind::Flush => self.flush(random, lasts).await,
            Kind::Pause => self.pause(lasts).await,
            Kind::Demote => {
                let (begin, end) = (["REPLICAOF", "127.0.0.1", "1"], ["REPLICAOF", "NO", "ONE"]);
                self.between(&begin, &end, lasts).await
            }
            Kind::Full => {
                let maxmemory = |bytes| ["CONFIG", "SET", "maxmemory", bytes];
                self.between(&maxmemory("1"), &maxmemory("0"), lasts).await
            }
        }
    }

    async fn stop(&self) -> Happened {
        self.redis.pause();
        let from = Instant::now();
        sleep(millis(1_500)).await;
        let happened = Happened::since(from);
        self.redis.resume();
        Happened {
            keeps_calls: true,
            ..happened
        }
    }

    async fn kill(&mut self, down: Duration) -> Happened {
        let from = Instant::now();
        block_in_place(|| self.redis.kill());
        sleep(down).await;
        block_in_place(|| self.redis.restart());
        Happened::since(from)
    }

    async fn promote(&self, after: Duration) -> Happened {
        let from = Instant::now();
        self.redis.pause();
        sleep(after).await;
        let replica = self.replica.as_ref().unwrap();
        block_in_place(|| replica.command(&["REPLICAOF", "NO", "ONE"]));
        let kept = fleet::used(&replica.url()).await;
        for proxy in &self.proxies {
            proxy.move_to(replica.port());
        }
        Happened {
            kept,
            ..Happened::since(from)
        }
    }

    async fn cut(&self, random: &mut Random) -> Happened {
        let from = Instant::now();
        for _ in 0..=random.below(5) {
            for proxy in &self.proxies {
                if self.kind == Kind::Reset {
                    proxy.reset();
                } else {
                    proxy.cut_after(1 + random.below(200));
                }
            }
            sleep(millis(random.below(300))).await;
        }
        Happened::since(from)
    }

    async fn half_open(&self) -> Happened {
        let from = Instant::now();
        self.proxies.iter().for_each(Proxy::kill_silently);
        // The time in which it is noticed.
        sleep(millis(2_000)).await;
        Happened::since(from)
    }

    async fn block(&self, random: &mut Random, lasts: Duration) -> Happened {
        let (up, down) = *random.pick(&[
            (Way::Blocked, Way::Passes),
            (Way::Passes, Way::Blocked),
            (Way::Blocked, Way::Blocked),
        ]);
        Happened {
            keeps_calls: up == Way::Blocked,
            ..self.change_ways(up, down, lasts).await
        }
    }

    async fn change_ways(&self, up: Way, down: Way, lasts: Duration) -> Happened {
        for proxy in &self.proxies {
            proxy.set(up, down);
        }
        let from = Instant::now();
        sleep(lasts).await;
        let happened = Happened::since(from);
        for proxy in &self.proxies {
            proxy.set(Way::Passes, Way::Passes);
        }
        happened
    }

    async fn refuse(&mut self, lasts: Duration) -> Happened {
        let from = Instant::now();
        self.proxies.iter().for_each(Proxy::refuse);
        sleep(lasts).await;
        for proxy in &mut self.proxies {
            proxy.accept().await;
        }
        Happened::since(from)
    }

    async fn flush(&self, random: &mut Random, lasts: Duration) -> Happened {
        let from = Instant::now();
        while from.elapsed() < lasts {
            self.command(&["SCRIPT", "FLUSH"]);
            sleep(millis(random.below(10))).await;
        }
        Happened::since(from)
    }

    async fn pause(&self, lasts: Duration) -> Happened {
        let until = Instant::now() + lasts;
        let time = lasts.as_millis().to_string();
        self.command(&["CLIENT", "PAUSE", &time, "ALL"]);
        let from = Instant::now();
        sleep(lasts).await;
        Happened {
            until,
            keeps_calls: true,
            ..Happened::since(from)
        }
    }

    async fn between(&self, begin: &[&str], end: &[&str], lasts: Duration) -> Happened {
        let from = Instant::now();
        self.command(begin);
        sleep(lasts).await;
        self.command(end);
        Happened::since(from)
    }

    fn command(&self, parts: &[&str]) {
        let reply = block_in_place(|| self.redis.command(parts));
        assert!(reply.starts_with("+OK"), "{parts:?}: {reply}");
    }
}

/// Starts a replica, and waits until it has all.
fn replica_of(redis: &Redis) -> Redis {
    let port = redis.port().to_string();
    let replica = Redis::start_with(&["--save", "", "--replicaof", "127.0.0.1", &port]);
    let is_up = || {
        let text = replica.command(&["INFO", "replication"]);
        text.contains("master_link_status:up")
    };
    let begun = Instant::now();
    while !is_up() {
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "it is no replica"
        );
        std::thread::sleep(millis(10));
    }
    replica
}
