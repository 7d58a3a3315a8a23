//! Requests a second over real sockets: axum by itself, with the floor as a layer, and with this
//! library and one limit, in one run.
//!
//! `cargo bench --bench throughput`; `THROUGHPUT_ROUNDS` sets the rounds, 20 unless set, and
//! `THROUGHPUT_MILLISECONDS` the length of a case in a round, 500 unless set.
//!
//! Each server has a runtime and threads of its own. A client in the same process keeps 32
//! connections open to each, and sends the next request on a connection when the last one is
//! answered, with any of 10,000 keys. A round of a case is made of ten pieces, between which the
//! others have theirs, forwards and backwards in turn: what else goes on in a machine lasts for
//! longer than a piece.
//!
//! The CPU time is that of the server's threads alone, to the nanosecond, as Linux tells it: the
//! client's would hide the differences between the servers, as it does in a throughput that is
//! limited by the client. `ratio NAME VALUE` is the median of the ratios of the rounds.

mod support;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::AddAssign;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use axum::serve::ListenerExt;
use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};

use support::cases::ours_and_floor;
use support::keys::keys;
use support::random::Random;
use support::{median, median_of_pairs, setting};

const CONNECTIONS: u64 = 32;
const KEYS: usize = 10_000;
const PIECES: u32 = 10;

fn main() {
    let rounds = setting("THROUGHPUT_ROUNDS", 20);
    let milliseconds = setting("THROUGHPUT_MILLISECONDS", 500);
    let length = Duration::from_millis(milliseconds as u64);

    let keys = keys(1, KEYS);
    let requests: Vec<_> = keys.iter().map(|key| request(key)).collect();
    let (full, floor) = ours_and_floor(&keys);
    let app = || Router::new().route("/v1/facts", get(|| async { "a fact\n" }));
    let client = Builder::new_current_thread().enable_all().build();
    let client = client.expect("a runtime for the client");
    let mut cases = [
        Case::new("bare", app(), &client),
        Case::new("floor", app().layer(floor), &client),
        Case::new("full", app().layer(full), &client),
    ];
    for case in &mut cases {
        // Fills the tables, however short the rounds are, and is not counted.
        case.run(&client, &requests, length.max(Duration::from_secs(1)));
    }
    for _ in 0..rounds {
        let mut round = [(); 3].map(|()| Figures::default());
        for piece in 0..PIECES {
            for at in 0..cases.len() {
                let at = if piece % 2 == 0 {
                    at
                } else {
                    cases.len() - 1 - at
                };
                round[at] += cases[at].run(&client, &requests, length / PIECES);
            }
        }
        for (case, figures) in cases.iter_mut().zip(round) {
            case.per_second.push(figures.per_second());
            case.cpu.push(figures.cpu_each());
        }
    }
    report(&cases);
}

fn report([bare, floor, full]: &[Case; 3]) {
    println!(
        "{:<12}{:>16}{:>24}",
        "", "requests/s", "server CPU us/request"
    );
    for case in [bare, floor, full] {
        let (per_second, cpu) = (median(case.per_second.clone()), median(case.cpu.clone()));
        println!("{:<12}{per_second:>16.0}{:>24.2}", case.name, cpu / 1e3);
    }
    let ratio = |name, left: &[f64], right: &[f64]| {
        let value = median_of_pairs(left, right, |left, right| left / right);
        println!("ratio {name} {value:.3}");
    };
    ratio("throughput_full/floor", &full.per_second, &floor.per_second);
    ratio("throughput_full/bare", &full.per_second, &bare.per_second);
    ratio("throughput_floor/bare", &floor.per_second, &bare.per_second);
    ratio("cpu_full/floor", &full.cpu, &floor.cpu);
    ratio("cpu_full/bare", &full.cpu, &bare.cpu);
}

/// A server, the connections to it, and its figures in each round.
struct Case {
    name: &'static str,
    connections: Vec<Connection>,
    per_second: Vec<f64>,
    cpu: Vec<f64>,
    _server: Runtime,
}

#[derive(Default, Clone, Copy)]
struct Figures {
    answered: u32,
    elapsed: Duration,
    /// Of the server's threads.
    cpu: Duration,
}

impl Figures {
    fn per_second(self) -> f64 {
        f64::from(self.answered) / self.elapsed.as_secs_f64()
    }

    /// Nanoseconds a request.
    fn cpu_each(self) -> f64 {
        self.cpu.as_secs_f64() * 1e9 / f64::from(self.answered)
    }
}

impl AddAssign for Figures {
    fn add_assign(&mut self, other: Self) {
        self.answered += other.answered;
        self.elapsed += other.elapsed;
        self.cpu += other.cpu;
    }
}

impl Case {
    fn new(name: &'static str, app: Router, client: &Runtime) -> Self {
        let server = Builder::new_multi_thread()
            .enable_all()
            .thread_name(name)
            .build();
        let server = server.expect("a runtime for the server");
        let listener = server.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
        let listener = listener.expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        server.spawn(async move {
            let listener = listener.tap_io(|connection| {
                let _ = connection.set_nodelay(true);
            });
            axum::serve(listener, app).await
        });
        let connections = (0..CONNECTIONS).map(|seed| Connection::to(address, seed));
        Self {
            name,
            connections: client.block_on(join_all(connections)),
            per_second: Vec::new(),
            cpu: Vec::new(),
            _server: server,
        }
    }

    fn run(&mut self, client: &Runtime, requests: &[Vec<u8>], length: Duration) -> Figures {
        let (cpu, started) = (cpu_time(self.name), Instant::now());
        let end = started + length;
        let connections = self.connections.iter_mut();
        let answered = connections.map(|connection| connection.use_until(end, requests));
        let answered: u32 = client.block_on(join_all(answered)).into_iter().sum();
        Figures {
            answered,
            elapsed: started.elapsed(),
            cpu: cpu_time(self.name).saturating_sub(cpu),
        }
    }
}

/// The least that a client can be: it writes bytes, and reads until an answer is complete.
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    random: Random,
}

impl Connection {
    async fn to(address: SocketAddr, seed: u64) -> Self {
        let stream = TcpStream::connect(address).await.expect("a server listens");
        stream.set_nodelay(true).expect("a setting of TCP");
        Self {
            stream,
            buffer: Vec::with_capacity(4096),
            random: Random::new(seed),
        }
    }

    /// Sends requests one after the other; returns how many were answered.
    async fn use_until(&mut self, end: Instant, requests: &[Vec<u8>]) -> u32 {
        let mut answered = 0;
        while Instant::now() < end {
            let request = self.random.pick(requests);
            self.stream
                .write_all(request)
                .await
                .expect("the server reads");
            self.buffer.clear();
            while !is_complete(&self.buffer) {
                let read = self.stream.read_buf(&mut self.buffer).await;
                assert_ne!(read.expect("the server answers"), 0, "the server hung up");
            }
            answered += 1;
        }
        answered
    }
}

/// Whether this is all of an answer, which must be 200 and tell its length.
fn is_complete(answer: &[u8]) -> bool {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
        return false;
    };
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "refused");
    let head = std::str::from_utf8(&answer[..end]).expect("headers in ASCII");
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length
        .and_then(|length| length.parse().ok())
        .expect("a length");
    answer.len() == end + 4 + length
}

fn request(key: &str) -> Vec<u8> {
    let request = format!(
        "GET /v1/facts HTTP/1.1\r\nhost: api.example.com\r\nuser-agent: acme-sync/2.1\r\n\
         accept: application/json\r\nauthorization: Bearer {key}\r\n\r\n"
    );
    request.into_bytes()
}

/// How long the threads of this name have been on a CPU.
fn cpu_time(name: &str) -> Duration {
    let tasks = fs::read_dir("/proc/self/task").expect("Linux tells of itself");
    let of = |task: fs::DirEntry| {
        let read = |file| fs::read_to_string(task.path().join(file));
        // A thread may end in between.
        let (Ok(comm), Ok(statistics)) = (read("comm"), read("schedstat")) else {
            return 0;
        };
        let on_cpu = statistics
            .split(' ')
            .next()
            .and_then(|number| number.parse().ok());
        if comm.trim() == name {
            on_cpu.unwrap_or(0)
        } else {
            0
        }
    };
    Duration::from_nanos(tasks.flatten().map(of).sum())
}
