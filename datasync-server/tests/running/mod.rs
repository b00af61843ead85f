//! The program `datasync-server` as a process of its own.
#![allow(dead_code, reason = "each test uses some of it")]

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

/// How long an answer may take on a machine that is busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A folder with a configuration.
pub(crate) fn folder(config: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("service.toml"), config).unwrap();
    folder
}

pub(crate) fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_datasync-server"));
    command.arg("--config").arg(folder.join("service.toml"));
    command
}

/// The arguments for any free port.
pub(crate) const ANY_PORT: [&str; 2] = ["--listen", "127.0.0.1:0"];

pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) address: String,
    log: PathBuf,
}

impl Running {
    /// On any free port.
    pub(crate) fn start(folder: &Path, more: &[&str]) -> Running {
        let mut command = command(folder);
        command.args(ANY_PORT).args(more);
        Running::of(command, folder)
    }

    pub(crate) fn of(mut command: Command, folder: &Path) -> Running {
        let log = folder.join("log");
        let mut child = command.stdout(Stdio::piped()).stderr(File::create(&log).unwrap()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on http://").unwrap().to_owned();
        Running { child, address, log }
    }

    /// A connection of its own.
    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// One request on a connection of its own; the head of the answer, and its body.
    pub(crate) fn send(&self, method: &str, path: &str, body: &str) -> (String, String) {
        let mut stream = self.connect();
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }

    /// The status and the JSON of an answer.
    pub(crate) fn json(&self, method: &str, path: &str, body: &str) -> (u16, serde_json::Value) {
        let (head, body) = self.send(method, path, body);
        let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
        assert!(!chunked, "{head}");
        (head[9..12].parse().unwrap(), serde_json::from_str(&body).unwrap_or_default())
    }

    pub(crate) fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap().success());
    }

    /// What it has said to the operator.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// The most memory that it has used so far, in MiB; 0 on a system that does not tell.
    pub(crate) fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        line.and_then(|kilobytes| kilobytes.trim().parse::<u64>().ok()).unwrap_or(0) / 1024
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
