//! A real nginx with the configuration of the example `forward_auth`, and an application behind it
//! that notes what it receives.
#![allow(clippy::unwrap_used, unreachable_pub, reason = "a test may panic")]

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// The longest wait for another process.
const PATIENCE: Duration = Duration::from_secs(20);

const SHIPPED: &str = include_str!("../../examples/forward_auth/nginx.conf");

/// A location that an operator adds, with nothing but its own.
const OTHER_LOCATION: &str =
    "location /v1/reports { client_max_body_size 8m; proxy_pass http://$application; }";

/// nginx, in a folder of its own. It is stopped in the end.
pub struct Nginx {
    process: Child,
    address: SocketAddr,
    folder: PathBuf,
}

impl Nginx {
    /// Starts nginx with the shipped configuration, in which only the addresses and the log are
    /// replaced, and a location is added.
    pub fn start(forward_auth: SocketAddr, application: SocketAddr) -> Self {
        Self::start_with(forward_auth, application, &[])
    }

    /// Starts nginx with settings replaced, too.
    pub fn start_with(
        forward_auth: SocketAddr,
        application: SocketAddr,
        replaced: &[(&str, &str)],
    ) -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let name = format!("tower-api-key-nginx-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        for _ in 0..10 {
            let address = free_address();
            let mut shipped = SHIPPED.to_owned();
            for (before, after) in [
                ("server 127.0.0.1:4180;", format!("server {forward_auth};")),
                ("server 127.0.0.1:3000;", format!("server {application};")),
                (
                    "listen 127.0.0.1:8080;",
                    format!("listen {address};\n    {OTHER_LOCATION}"),
                ),
                (
                    "access_log /var/log/nginx/access.log",
                    format!("access_log {}", folder.join("access.log").display()),
                ),
            ]
            .into_iter()
            .chain(replaced.iter().map(|(it, by)| (*it, (*by).to_owned())))
            {
                assert_eq!(shipped.matches(before).count(), 1, "{before}");
                shipped = shipped.replace(before, &after);
            }
            fs::write(folder.join("forward_auth.conf"), shipped).unwrap();
            fs::write(folder.join("nginx.conf"), around(&folder)).unwrap();
            let _ = fs::remove_file(folder.join("pid"));
            let mut process = program(&folder).spawn().expect("nginx starts");
            if is_listening(&mut process, &folder) {
                return Self {
                    process,
                    address,
                    folder,
                };
            }
        }
        let log = fs::read_to_string(folder.join("error.log"));
        panic!("nginx could not listen on ten free ports: {log:?}");
    }

    /// The lines of the access log, once there are so many.
    pub fn log(&self, lines: usize) -> String {
        let begun = Instant::now();
        loop {
            let log = fs::read_to_string(self.folder.join("access.log")).unwrap();
            if log.lines().count() >= lines {
                return log;
            }
            assert!(begun.elapsed() < PATIENCE, "nginx logs too little: {log}");
            thread::sleep(Duration::from_millis(5)); // another process writes
        }
    }

    pub fn connect(&self) -> TcpStream {
        let connection = TcpStream::connect(self.address).unwrap();
        connection.set_read_timeout(Some(PATIENCE)).unwrap();
        connection
    }

    /// Sends a request on a connection of its own, and reads the answer.
    pub fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: api.example\r\n");
        for (name, value) in headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        if !body.is_empty() {
            let _ = write!(head, "content-length: {}\r\n", body.len());
        }
        let mut connection = self.connect();
        connection
            .write_all((head + "connection: close\r\n\r\n").as_bytes())
            .unwrap();
        connection.write_all(body).unwrap();
        let mut answer = Vec::new();
        connection.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|it| it == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no answer: {answer:?}"));
        let head = Head::parse(&answer[..end]);
        Answer {
            status: head.line[9..12].parse().unwrap(),
            headers: head.headers,
            body: answer[end + 4..].to_vec(),
        }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Its workers end with it only if it is asked to stop.
        let pid = self.process.id().to_string();
        let _ = Command::new("kill").args(["-QUIT", &pid]).status();
        let begun = Instant::now();
        while matches!(self.process.try_wait(), Ok(None)) && begun.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(5)); // another process ends
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The main configuration, with all files in the folder.
fn around(folder: &Path) -> String {
    let folder = folder.display();
    let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let temporary = kinds.map(|kind| format!("    {kind}_temp_path {folder}/{kind};\n"));
    format!(
        "worker_processes 1;\npid {folder}/pid;\nevents {{}}\nhttp {{\n{}    access_log off;\n    \
         include {folder}/forward_auth.conf;\n}}\n",
        temporary.concat()
    )
}

fn program(folder: &Path) -> Command {
    // Debian's is in /usr/sbin, which is not in everybody's PATH.
    let debian = Path::new("/usr/sbin/nginx");
    let nginx = if debian.is_file() {
        debian
    } else {
        Path::new("nginx")
    };
    let mut command = Command::new(nginx);
    let log = folder.join("error.log");
    command
        .arg("-p")
        .arg(folder)
        .arg("-c")
        .arg(folder.join("nginx.conf"));
    command.arg("-e").arg(log).args(["-g", "daemon off;"]);
    command.stdin(Stdio::null()).stderr(Stdio::null());
    command
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

/// Waits until nginx has written its pid, which it does once it listens. Returns `false` if it ends
/// before that: another program has taken the port.
fn is_listening(process: &mut Child, folder: &Path) -> bool {
    let begun = Instant::now();
    loop {
        if process.try_wait().unwrap().is_some() {
            return false;
        }
        let pid = fs::read_to_string(folder.join("pid")).unwrap_or_default();
        if pid.trim() == process.id().to_string() {
            return true;
        }
        assert!(begun.elapsed() < PATIENCE, "nginx does not listen");
        thread::sleep(Duration::from_millis(5)); // another process begins
    }
}

/// An answer of nginx.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    /// The value of a header that stands there at most once.
    pub fn header(&self, name: &str) -> Option<&str> {
        the_one(&self.headers, name)
    }

    /// The code of an error.
    pub fn error(&self) -> String {
        let body: Value = serde_json::from_slice(&self.body).unwrap();
        body["error"]["code"].as_str().unwrap().to_owned()
    }
}

/// A request that the application received.
#[derive(Debug)]
pub struct Received {
    pub line: String,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Received {
    /// The value of a header that stands there at most once.
    pub fn header(&self, name: &str) -> Option<&str> {
        the_one(&self.headers, name)
    }

    pub fn text(&self) -> String {
        format!("{self:?}")
    }
}

fn the_one<'h>(headers: &'h [(String, String)], name: &str) -> Option<&'h str> {
    let mut values = headers.iter().filter(|(it, _)| it == name);
    let value = values.next().map(|(_, value)| value.as_str());
    assert!(values.next().is_none(), "{name} is repeated: {headers:?}");
    value
}

/// An application that trusts what nginx says.
pub struct Application {
    pub address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
}

impl Application {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let received = Arc::<Mutex<Vec<Received>>>::default();
        let noted = Arc::clone(&received);
        thread::spawn(move || {
            for connection in listener.incoming() {
                let noted = Arc::clone(&noted);
                thread::spawn(move || serve(&connection.unwrap(), &noted));
            }
        });
        Self { address, received }
    }

    /// Takes what was received so far.
    pub fn requests(&self) -> Vec<Received> {
        std::mem::take(&mut self.received.lock().unwrap())
    }
}

/// Serves one request, as nginx sends one on each connection.
fn serve(mut connection: &TcpStream, noted: &Mutex<Vec<Received>>) {
    let mut reader = BufReader::new(connection);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if reader.read_until(b'\n', &mut head).unwrap_or(0) == 0 {
            return;
        }
    }
    let head = Head::parse(&head);
    let length = the_one(&head.headers, "content-length").map(|it| it.parse().unwrap());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).unwrap();
    let is_upgrade = the_one(&head.headers, "upgrade").is_some();
    let is_deprecated = head.line.contains("/v1/reports/deprecated");
    let is_head = head.line.starts_with("HEAD ");
    noted.lock().unwrap().push(Received {
        line: head.line,
        headers: head.headers,
        body,
    });
    if is_upgrade {
        let upgraded = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\
                        upgrade: websocket\r\n\r\n";
        connection.write_all(upgraded.as_bytes()).unwrap();
        let mut bytes = [0; 4];
        reader.read_exact(&mut bytes).unwrap();
        connection.write_all(&bytes).unwrap();
        return;
    }
    let own = "deprecation: @1688169599\r\ncache-control: max-age=60\r\nx-key-status: forged\r\n";
    let own = if is_deprecated { own } else { "" };
    let body = if is_head { "" } else { "made" };
    let answer =
        format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 4\r\n{own}\r\n{body}");
    connection.write_all(answer.as_bytes()).unwrap();
}

/// The first line of a message, and its headers with names in lower case.
struct Head {
    line: String,
    headers: Vec<(String, String)>,
}

impl Head {
    fn parse(head: &[u8]) -> Self {
        let head = String::from_utf8(head.to_vec()).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let line = lines.next().unwrap().to_owned();
        let headers = lines.map(|line| {
            let (name, value) = line.split_once(':').unwrap();
            (name.to_lowercase(), value.trim().to_owned())
        });
        let headers = headers.collect();
        Self { line, headers }
    }
}
