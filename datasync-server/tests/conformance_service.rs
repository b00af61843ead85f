//! The example `conformance-service` as the cases of others run it.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Command, Stdio},
};

#[test]
fn the_service_is_a_program_that_says_where_it_listens() {
    let Some(folder) = std::env::var_os("DATASYNC_CONFORMANCE_DIR") else {
        return println!("skipped: DATASYNC_CONFORMANCE_DIR is not set");
    };
    let test = std::env::current_exe().unwrap();
    let path = test.parent().unwrap().parent().unwrap().join("examples").join("conformance-service");
    let path = path.with_extension(std::env::consts::EXE_EXTENSION);
    assert!(path.exists(), "`cargo test` without `--test` builds the example first");
    let mut program = Command::new(path);
    program.arg("--data").arg(folder).args(["--listen", "127.0.0.1:0"]).stdout(Stdio::piped());
    let mut running = program.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(running.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("listening on http://").unwrap().to_owned();
    let send = |method: &str, path: &str| -> u16 {
        let mut stream = TcpStream::connect(&address).unwrap();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).unwrap();
        std::str::from_utf8(&answer[9..]).unwrap().parse().unwrap()
    };
    let answers = [
        ("GET", "/api/in-memory/movies/id-007"),
        ("DELETE", "/api/in-memory/movies/id-007"),
        ("GET", "/api/in-memory/movies/id-007"),
        ("POST", "/__reset"),
        ("GET", "/api/in-memory/movies/id-007"),
    ];
    let answers = answers.map(|(method, path)| send(method, path));
    running.kill().unwrap();
    running.wait().unwrap();
    assert!(matches!(answers, [200, 204, 404, 200 | 204, 200]), "{answers:?}");
}
