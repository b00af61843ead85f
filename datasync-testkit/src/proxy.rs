//! A proxy on real sockets that stands between a client and a service, and does what networks and services do.

use std::{
    collections::VecDeque,
    fmt,
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::Receiver,
    },
    thread,
    time::Duration,
};

/// What happens to a request or its answer.
#[derive(Debug)]
pub enum Trouble {
    /// The request does not reach the service, and the connection is closed.
    Lose,
    /// The service gets the request; so many bytes of its answer arrive, then the connection is closed.
    Cut(usize),
    /// The answer comes so much later.
    Delay(Duration),
    /// The answer is held until something is sent on the channel, or its other end is dropped.
    Hold(Receiver<()>),
    /// Every byte of the answer's body is changed.
    Garble,
    /// The request does not reach the service; this is answered, as it stands, and the connection stays open.
    Answer(Vec<u8>),
    /// The request does not reach the service; a body without an end is answered.
    Endless,
}

type Wanted = Box<dyn Fn(&str) -> bool + Send>;

struct Shared {
    upstream: SocketAddr,
    script: Mutex<VecDeque<(Wanted, Trouble)>>,
    requests: AtomicUsize,
    ended: AtomicBool,
}

/// A proxy for HTTP/1.1, with a thread for each connection. It ends when it is dropped. A stream of events is passed on as
/// it comes, and meets no trouble but that of its request.
pub struct HostileProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl fmt::Debug for HostileProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostileProxy({} to {})", self.address, self.shared.upstream)
    }
}

impl HostileProxy {
    /// Listens on a free port of the loopback, and passes everything on to `upstream`.
    ///
    /// # Errors
    ///
    /// If no port can be listened on.
    pub fn start(upstream: SocketAddr) -> io::Result<HostileProxy> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let (script, requests, ended) = Default::default();
        let shared = Arc::new(Shared { upstream, script, requests, ended });
        let serving = Arc::clone(&shared);
        thread::Builder::new().name("hostile-proxy".to_owned()).spawn(move || {
            for stream in listener.incoming() {
                if serving.ended.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(stream), shared) = (stream, Arc::clone(&serving)) else { continue };
                // A connection that breaks is what this is for.
                thread::spawn(move || drop(serve(&shared, stream)));
            }
        })?;
        Ok(HostileProxy { address, shared })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many requests have come.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// The next request whose head (request line and headers) is wanted meets the trouble.
    pub fn next(&self, wanted: impl Fn(&str) -> bool + Send + 'static, trouble: Trouble) {
        self.shared.script().push_back((Box::new(wanted), trouble));
    }

    /// How much trouble has not happened yet.
    #[must_use]
    pub fn left(&self) -> usize {
        self.shared.script().len()
    }
}

impl Drop for HostileProxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        // Wakes the thread that listens; if nobody listens any more there is nobody to wake.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn script(&self) -> MutexGuard<'_, VecDeque<(Wanted, Trouble)>> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn trouble(&self, head: &str) -> Option<Trouble> {
        let mut script = self.script();
        let place = script.iter().position(|(wanted, _)| wanted(head))?;
        script.remove(place).map(|(_, trouble)| trouble)
    }
}

/// The head of a message; `None` if the connection ended before it.
fn head_of(stream: &mut TcpStream) -> io::Result<Option<String>> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte)? == 0 {
            return Ok(None);
        }
        head.push(byte[0]);
    }
    Ok(Some(String::from_utf8_lossy(&head).into_owned()))
}

/// The value of a header.
fn field<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    let mut lines = head.lines().filter_map(|line| line.split_once(':'));
    lines.find_map(|(known, value)| known.eq_ignore_ascii_case(name).then(|| value.trim()))
}

/// The body behind a head; `None` if the connection ended before it did.
fn body_of(stream: &mut TcpStream, head: &str) -> io::Result<Option<Vec<u8>>> {
    let mut byte = [0];
    let mut body = Vec::new();
    if field(head, "transfer-encoding").is_some() {
        while !body.ends_with(b"0\r\n\r\n") {
            if stream.read(&mut byte)? == 0 {
                return Ok(None);
            }
            body.push(byte[0]);
        }
    } else if let Some(length) = field(head, "content-length").and_then(|length| length.parse().ok()) {
        body.resize(length, 0);
        stream.read_exact(&mut body)?;
    }
    Ok(Some(body))
}

fn serve(shared: &Shared, mut client: TcpStream) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut service: Option<TcpStream> = None;
    while let Some(head) = head_of(&mut client)? {
        let Some(body) = body_of(&mut client, &head)? else { break };
        shared.requests.fetch_add(1, Ordering::SeqCst);
        let trouble = shared.trouble(&head);
        match trouble {
            Some(Trouble::Lose) => return client.shutdown(Shutdown::Both),
            Some(Trouble::Answer(answer)) => {
                client.write_all(&answer)?;
                continue;
            }
            Some(Trouble::Endless) => {
                client.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n")?;
                loop {
                    client.write_all(&[b' '; 65_536])?;
                }
            }
            _ => {}
        }
        let upstream = match &mut service {
            Some(upstream) => upstream,
            None => service.insert(TcpStream::connect(shared.upstream)?),
        };
        upstream.set_nodelay(true)?;
        upstream.write_all(&[head.as_bytes(), &body].concat())?;
        let Some(head) = head_of(upstream)? else { return client.shutdown(Shutdown::Both) };
        if field(&head, "content-type") == Some("text/event-stream") {
            // It has no end that could be waited for.
            client.write_all(head.as_bytes())?;
            io::copy(upstream, &mut client)?;
            return client.shutdown(Shutdown::Both);
        }
        let Some(mut body) = body_of(upstream, &head)? else { return client.shutdown(Shutdown::Both) };
        match trouble {
            Some(Trouble::Delay(length)) => thread::sleep(length),
            Some(Trouble::Hold(gate)) => {
                // A gate whose other end is gone is open.
                let _ = gate.recv();
            }
            Some(Trouble::Garble) => body.iter_mut().for_each(|byte| *byte ^= 0x15),
            Some(Trouble::Cut(length)) => {
                let answer = [head.as_bytes(), &body].concat();
                client.write_all(&answer[..length.min(answer.len())])?;
                return client.shutdown(Shutdown::Both);
            }
            _ => {}
        }
        client.write_all(&[head.as_bytes(), &body].concat())?;
    }
    Ok(())
}
