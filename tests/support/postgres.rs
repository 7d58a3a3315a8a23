//! Real `PostgreSQL` servers, which can be paused, killed and started again.
//!
//! They need Linux, since `/proc` tells who the children of a server are, and the programs of
//! `PostgreSQL`, which `tests/run.sh` installs.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a server may take to start, to recover or to go.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until its input ends, then stops the server and removes its directory.
///
/// The input is a pipe from the test, with the process id of each server that is started. It also
/// ends when the test's process is killed, or never drops the server since it is in a `static`.
/// Process ids are used again, so one counts only if its process works in the data directory.
const GUARD: &str = r#"
directory=$1 server=
while read -r line; do server=$line; done
runs() { [ -n "$server" ] && [ "/proc/$server/cwd" -ef "$directory/data" ]; }
if runs; then kill -s CONT "$server"; kill -s QUIT "$server"; fi
for _ in $(seq 200); do runs || break; sleep 0.05; done
if runs; then kill -s KILL "$server"; fi
# A server that was killed leaves its segment of shared memory, whose number is in line 7.
lock="$directory/data/postmaster.pid"
if [ -f "$lock" ]; then ipcrm -m "$(sed -n '7s/.* //p' "$lock")"; fi
rm -rf "$directory"
"#;

/// A server of its own, with data in a temporary directory.
///
/// When it is dropped, the server is stopped and the directory is removed.
#[derive(Debug)]
pub struct Postgres {
    programs: PathBuf,
    directory: PathBuf,
    port: u16,
    /// `None` after [`Postgres::kill`].
    server: Option<Child>,
    guard: Child,
}

impl Postgres {
    /// Starts a server that syncs to disk, as in production.
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// Starts a server that never syncs. It survives [`Postgres::kill`], but not a power failure.
    pub fn start_fast() -> Self {
        Self::start_with("fsync = off\n")
    }

    fn start_with(settings: &str) -> Self {
        let programs = find_programs();
        let directory = run(Command::new("mktemp").args(["-d", "-t", "postgres.XXXXXX"]));
        let guard = Command::new("sh")
            .args(["-c", GUARD, "guard", &directory])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0) // Ctrl-C ends the test, and not its guard
            .spawn()
            .expect("sh runs");
        let mut postgres = Self {
            programs,
            directory: fs::canonicalize(directory).expect("the directory exists"),
            port: 0,
            server: None,
            guard,
        };
        postgres.create_cluster(settings);
        for _ in 0..10 {
            postgres.port = free_port();
            if postgres.launch() {
                return postgres;
            }
        }
        panic!("ten free ports were taken before PostgreSQL could listen on them");
    }

    /// Creates an empty database, and returns its URL.
    pub fn create_database(&self) -> String {
        static CREATED: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", CREATED.fetch_add(1, Ordering::Relaxed));
        self.sql(&self.url("postgres"), &format!("create database {name}"));
        self.url(&name)
    }

    /// Runs SQL with psql, and returns the rows: a line each, with `|` between columns.
    ///
    /// Several statements are one transaction. An error is a panic.
    pub fn sql(&self, database_url: &str, sql: &str) -> String {
        run(&mut self.psql(database_url, sql))
    }

    /// Returns the URL of a database.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// Returns the TCP port, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Stops every process of the server until [`Postgres::resume`].
    ///
    /// Connections stay open, the operating system accepts new ones, and none is answered.
    pub fn pause(&self) {
        self.halt();
    }

    /// Lets a paused server go on. Does nothing to one that runs.
    pub fn resume(&self) {
        let server = self.pid();
        if is_stopped(server) {
            // A stopped server reaps no child, so the ids of its children are still theirs.
            signal("CONT", &family(server));
        }
    }

    /// Kills every process of the server at once, as a crash does, and waits until they are gone.
    pub fn kill(&mut self) {
        let processes = self.halt();
        signal("KILL", &processes);
        self.reap();
        wait_until("killed", || processes.iter().copied().all(is_gone));
    }

    /// Starts the server again on its data and its port, and waits until it has recovered. Kills it
    /// before, if it runs.
    pub fn restart(&mut self) {
        if self.server.is_some() {
            self.kill();
        }
        // Meanwhile, another program may have the port for a moment.
        wait_until("restarted on its port", || self.launch());
    }

    /// Stops the server and then its children, and returns all of them.
    fn halt(&self) -> Vec<u32> {
        let server = self.pid();
        signal("STOP", &[server]);
        wait_until("stopped", || is_stopped(server) || is_gone(server));
        // From here on, there are no new children.
        let processes = family(server);
        signal("STOP", &processes);
        wait_until("stopped", || {
            processes.iter().all(|&pid| is_stopped(pid) || is_gone(pid))
        });
        processes
    }

    /// Waits until the server has ended.
    fn reap(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.wait();
        }
    }

    fn pid(&self) -> u32 {
        let server = self.server.as_ref();
        server.expect("the server was killed: restart it").id()
    }

    fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    fn create_cluster(&self, settings: &str) {
        if is_root() {
            let mut chown = Command::new("chown");
            run(chown.arg("postgres:postgres").arg(&self.directory));
        }
        let mut initdb = self.command("initdb");
        initdb.args(["--username=postgres", "--auth=trust", "--no-sync"]);
        initdb.args(["--locale=C", "--encoding=UTF8", "-D"]);
        run(initdb.arg(self.data()));

        let mut file = OpenOptions::new()
            .append(true)
            .open(self.data().join("postgresql.conf"))
            .expect("initdb writes the settings");
        write!(
            file,
            "listen_addresses = '127.0.0.1'\n\
             unix_socket_directories = '{}'\n\
             max_connections = 200\n\
             shared_buffers = 128MB\n\
             dynamic_shared_memory_type = mmap # in the directory, and so removed with it\n\
             {settings}",
            self.directory.display()
        )
        .expect("the settings are written");
    }

    /// Starts the server, and waits until it answers. Returns false if its port is taken.
    fn launch(&mut self) -> bool {
        let log = self.directory.join("log");
        let output = File::create(&log).expect("the log is created");
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data());
        command.args(["-p", &self.port.to_string()]);
        let child = command
            .current_dir(self.data()) // by which the guard knows it
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("the log is open"))
            .stderr(output)
            .process_group(0) // Ctrl-C leaves it to the guard
            .spawn()
            .expect("the server starts");
        let guard = self.guard.stdin.as_mut().expect("its input is a pipe");
        writeln!(guard, "{}", child.id()).expect("the guard runs");
        let server = self.server.insert(child).id();

        let start = Instant::now();
        while !is_gone(server) && start.elapsed() < PATIENCE {
            if self.answers() {
                return true;
            }
            sleep(Duration::from_millis(20));
        }
        let log = fs::read_to_string(log).unwrap_or_default();
        if is_gone(server) && log.contains("Address already in use") {
            self.reap();
            return false;
        }
        panic!("PostgreSQL does not start. It says:\n{log}");
    }

    /// Returns whether the server answers, on the socket in its directory: there is no other there.
    fn answers(&self) -> bool {
        let (directory, port) = (self.directory.display(), self.port);
        let socket = format!("host='{directory}' port={port} user=postgres dbname=postgres");
        let answer = self.psql(&socket, "select 1").output();
        answer.expect("psql runs").status.success()
    }

    fn psql(&self, database: &str, sql: &str) -> Command {
        let mut command = Command::new(self.programs.join("psql"));
        command.args(["-XAtq", "-v", "ON_ERROR_STOP=1"]);
        command.args(["-d", database, "-c", sql]);
        command.env("PGCONNECT_TIMEOUT", "5").stdin(Stdio::null());
        command
    }

    /// Returns a command that runs a program as `postgres` for root, whom the server refuses.
    fn command(&self, program: &str) -> Command {
        let program = self.programs.join(program);
        let mut command = Command::new(&program);
        if is_root() {
            // It becomes the program, which so has the process id of the child.
            command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
            command.arg(program);
        }
        command.current_dir(&self.directory).env("LC_ALL", "C");
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if self.server.is_some() {
            self.resume();
        }
        // Ends the guard's input. The guard gives the server ten seconds.
        let _ = self.guard.wait();
        if let Some(server) = &mut self.server {
            let _ = server.kill(); // does nothing to one that has ended
        }
        self.reap();
    }
}

/// Returns the directory of the newest `PostgreSQL`: of Debian's packages, else the one in `PATH`.
fn find_programs() -> PathBuf {
    let installed = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let mut versions: Vec<u32> = installed
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    versions.sort_unstable_by(|a, b| b.cmp(a));
    let debian = versions
        .iter()
        .map(|version| PathBuf::from(format!("/usr/lib/postgresql/{version}/bin")));

    let path = std::env::var_os("PATH").unwrap_or_default();
    // The programs may be links to a directory that has all of them.
    let linked = std::env::split_paths(&path).filter_map(|directory| {
        let program = fs::canonicalize(directory.join("postgres")).ok()?;
        Some(program.parent()?.to_path_buf())
    });

    debian
        .chain(linked)
        .find(|directory| {
            ["initdb", "postgres", "psql"]
                .iter()
                .all(|program| directory.join(program).is_file())
        })
        .expect("PostgreSQL is not installed: run `bash tests/run.sh`, which installs it")
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port is free");
    let address = listener.local_addr();
    address.expect("a listener has an address").port()
}

fn is_root() -> bool {
    run(Command::new("id").arg("-u")) == "0"
}

/// Runs a command to its end, and returns what it prints. A failure is a panic with its errors.
fn run(command: &mut Command) -> String {
    let output = command.output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    let text = String::from_utf8(output.stdout).expect("the output is UTF-8");
    text.trim_end_matches('\n').to_owned()
}

/// Sends a signal. One that has just ended is no error.
fn signal(name: &str, pids: &[u32]) {
    // The `kill` of the shell, since not every system has the program.
    let mut command = Command::new("sh");
    command.args(["-c", r#"kill -s "$@""#, "kill", name]);
    command.args(pids.iter().map(u32::to_string));
    command.output().expect("sh runs");
}

fn wait_until(is: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "PostgreSQL is not {is} in time");
        sleep(Duration::from_millis(5));
    }
}

/// Returns a server and its children.
fn family(server: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").expect("/proc is mounted");
    let children = processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|&pid| status(pid).is_some_and(|(_, parent)| parent == server));
    [server].into_iter().chain(children).collect()
}

fn is_stopped(pid: u32) -> bool {
    status(pid).is_some_and(|(state, _)| state == 'T')
}

/// Returns whether a process has ended, even if its parent has not yet noticed.
fn is_gone(pid: u32) -> bool {
    status(pid).is_none_or(|(state, _)| matches!(state, 'Z' | 'X'))
}

/// Returns the state and the parent of a process.
fn status(pid: u32) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // What is before is the name, in which there may be anything.
    let (_, stat) = stat.rsplit_once(") ")?;
    let mut fields = stat.split(' ');
    let state = fields.next()?.parse().ok()?;
    Some((state, fields.next()?.parse().ok()?))
}
