//! Processes that run one test of the same executable, and are killed with `kill -9`.
#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "each suite uses its part"
)]

use std::env;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// The beginning of a line that a process tells. The test harness writes lines of its own.
const TOLD: &str = "told: ";

/// The time within which a process must tell its next line.
const PATIENCE: Duration = Duration::from_secs(60);

/// Tells a line to the process that has started this one. If that one is gone, this one ends.
pub fn tell(line: &str) {
    let line = format!("{TOLD}{line}\n");
    let mut output = io::stdout().lock();
    output.write_all(line.as_bytes()).unwrap();
    output.flush().unwrap();
}

/// A process, which is killed when it is dropped.
pub struct Process {
    child: Child,
    lines: Receiver<String>,
    reader: Option<JoinHandle<()>>,
}

impl Process {
    /// Runs a test of this executable in a process of its own, with variables of the environment.
    pub fn start(test: &str, variables: &[(&str, &str)]) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args([test, "--exact", "--nocapture", "--test-threads=1"])
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        let reader = thread::spawn(move || {
            loop {
                let mut line = String::new();
                output.read_line(&mut line).unwrap();
                if line.is_empty() {
                    return;
                }
                // A line that is cut off was not told.
                let told = line
                    .strip_suffix('\n')
                    .and_then(|line| line.split_once(TOLD));
                if let Some((_, told)) = told {
                    let _ = sender.send(told.to_owned());
                }
            }
        });
        Self {
            child,
            lines,
            reader: Some(reader),
        }
    }

    /// Returns the next line.
    pub fn next(&self) -> String {
        let line = self.lines.recv_timeout(PATIENCE);
        line.expect("the process goes on")
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Kills the process, and returns the lines that were not read yet.
    pub fn kill(mut self) -> Vec<String> {
        self.child.kill().unwrap();
        let status = self.wait();
        assert_eq!(status.signal(), Some(9), "it ended by itself: {status}");
        self.lines.iter().collect()
    }

    /// Waits until the process ends by itself, and returns the lines that were not read yet.
    pub fn end(mut self) -> Vec<String> {
        let status = self.wait();
        assert!(status.success(), "{status}");
        self.lines.iter().collect()
    }

    fn wait(&mut self) -> ExitStatus {
        // Its output is read first: it could not end while the pipe is full.
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        self.child.wait().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
