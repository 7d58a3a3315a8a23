//! A real Redis server, on a free port, in a folder of its own.
#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    dead_code,
    reason = "a test may panic, and uses its part"
)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A server, which ends when it is dropped.
pub struct Redis {
    child: Child,
    port: u16,
    folder: PathBuf,
    arguments: Vec<String>,
}

impl Redis {
    /// Starts a server that keeps nothing on disk.
    pub fn start() -> Self {
        Self::start_with(&["--save", "", "--appendonly", "no"])
    }

    pub fn start_with(arguments: &[&str]) -> Self {
        Self::start_on(free_port, arguments)
    }

    /// Starts a server on a port that is free.
    pub fn start_on(free_port: fn() -> u16, arguments: &[&str]) -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let name = format!("tower-api-key-redis-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let arguments: Vec<String> = arguments.iter().map(|it| (*it).to_owned()).collect();
        // Another process may take a free port before the server does.
        for _ in 0..20 {
            let port = free_port();
            let mut child = spawn(port, &folder, &arguments);
            if is_up(&mut child, port) {
                return Self {
                    child,
                    port,
                    folder,
                    arguments,
                };
            }
        }
        panic!("no Redis server could be started");
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Sends a command, and returns the reply as it comes.
    pub fn command(&self, parts: &[&str]) -> String {
        command(self.port, parts)
    }

    /// Stops the process, as a machine that hangs.
    pub fn pause(&self) {
        self.signal("-STOP");
    }

    pub fn resume(&self) {
        self.signal("-CONT");
    }

    /// Kills the process.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts the server again, on the same port.
    pub fn restart(&mut self) {
        for _ in 0..50 {
            let mut child = spawn(self.port, &self.folder, &self.arguments);
            if is_up(&mut child, self.port) {
                self.child = child;
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the Redis server could not be started again");
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args([signal, &pid])
                .status()
                .unwrap()
                .success()
        );
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may be dead already
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn spawn(port: u16, folder: &std::path::Path, arguments: &[String]) -> Child {
    let mut server = Command::new("redis-server");
    server.args(["--port", &port.to_string(), "--bind", "127.0.0.1"]);
    server.arg("--dir").arg(folder).args(arguments);
    server.stdout(Stdio::null()).stderr(Stdio::null());
    server
        .spawn()
        .expect("redis-server is missing: bash tests/run.sh installs it")
}

fn is_up(child: &mut Child, port: u16) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(20) {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) {
            let mut reply = [0; 7];
            let asked = stream.write_all(b"PING\r\n");
            if asked.is_ok() && stream.read_exact(&mut reply).is_ok() && reply.starts_with(b"+PONG")
            {
                return true;
            }
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

/// Sends a command to a server, and returns the reply as it comes.
pub fn command(port: u16, parts: &[&str]) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "*{}\r\n", parts.len()).unwrap();
    for part in parts {
        write!(stream, "${}\r\n{part}\r\n", part.len()).unwrap();
    }
    stream
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    let mut reply = Vec::new();
    let mut chunk = [0; 4_096];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => {
                reply.extend_from_slice(&chunk[..read]);
                // Other replies may go on.
                if reply.starts_with(b"+") || reply.starts_with(b":") {
                    break;
                }
            }
            Err(_) if !reply.is_empty() => break,
            Err(_) => {}
        }
    }
    String::from_utf8_lossy(&reply).into_owned()
}
