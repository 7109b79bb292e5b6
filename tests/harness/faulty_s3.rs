//! [`FaultyS3`]: a proxy in front of an S3 server that does what networks and busy stores do.
//!
//! It speaks plain HTTP and understands just enough of it: a head, a body whose length the head tells, one
//! request a connection. It hands everything on until it is [armed](FaultyS3::arm); then a [`Fault`] happens to
//! a bounded number of requests. Everything about it comes from [`Dice`], so a seed repeats it.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedRwLockWriteGuard, RwLock};
use tokio::task::JoinHandle;

const END_OF_HEAD: &[u8] = b"\r\n\r\n";
/// In how many pieces a slow body comes, and the pause before each.
const PIECES: usize = 8;
const PAUSE: Duration = Duration::from_millis(25);

/// What can happen to a request on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The connection breaks in the middle of the request.
    CutUp,
    /// The connection breaks in the middle of the answer.
    CutDown,
    /// 500, and nothing is done.
    Error,
    /// 503 SlowDown, and nothing is done.
    SlowDown,
    /// Both bodies come in small pieces.
    Slow,
    /// The server does it, and nobody hears of it.
    LostAnswer,
    /// The server does it, and 500 is what is heard of it.
    ErrorAfter,
    /// One bit of the request's body is another.
    FlipUp,
    /// One bit of the answer's body is another.
    FlipDown,
    /// 200 for the end of a multipart upload, with an error in the body; nothing is done.
    ErrorInOk,
}

/// Which requests a fault happens to.
#[derive(Clone, Copy, Debug)]
pub struct Trouble {
    pub fault: Fault,
    /// How many requests of its kind pass before the first.
    pub skip: u64,
    /// To how many it happens then, one after another.
    pub times: u64,
    /// Where in a body, of a thousand parts of it.
    pub at: u64,
}

/// The proxy. Dropping it ends it.
pub struct FaultyS3 {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    gate: Arc<Gate>,
    accepting: JoinHandle<()>,
}

/// Held, it lets no request through.
#[derive(Default)]
struct Gate {
    lock: Arc<RwLock<()>>,
    waiting: AtomicUsize,
}

#[derive(Default)]
struct State {
    trouble: Option<Trouble>,
    hits: u64,
}

impl FaultyS3 {
    /// Stands before the server at this URL, without any faults.
    pub async fn before(endpoint: &str) -> Self {
        let server: SocketAddr = endpoint.strip_prefix("http://").unwrap().parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let gate = Arc::<Gate>::default();
        let shared = (Arc::clone(&state), Arc::clone(&gate));
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (state, gate) = shared.clone();
                tokio::spawn(async move {
                    gate.waiting.fetch_add(1, Ordering::Relaxed);
                    drop(gate.lock.read().await);
                    gate.waiting.fetch_sub(1, Ordering::Relaxed);
                    // A broken connection is what it is for.
                    drop(pass(client, server, &state).await);
                });
            }
        });
        Self { address, state, gate, accepting }
    }

    /// Lets no request through until this is dropped.
    pub async fn hold(&self) -> OwnedRwLockWriteGuard<()> {
        Arc::clone(&self.gate.lock).write_owned().await
    }

    /// Whether a request waits to be let through.
    pub fn is_held_up(&self) -> bool {
        self.gate.waiting.load(Ordering::Relaxed) > 0
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on, until [`FaultyS3::calm`].
    pub fn arm(&self, trouble: Trouble) {
        *lock(&self.state) = State { trouble: Some(trouble), hits: 0 };
    }

    /// Ends the trouble, and tells how many requests it happened to.
    pub fn calm(&self) -> u64 {
        std::mem::take(&mut *lock(&self.state)).hits
    }
}

impl Drop for FaultyS3 {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// A sequence of numbers that a seed repeats.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64, round: u64) -> Self {
        Self(seed.wrapping_add(round.wrapping_mul(0xd134_2543_de82_ef95)))
    }

    /// A number below `sides`.
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }
}

/// A request or an answer, whole.
struct Message {
    /// With the empty line that ends it.
    head: Vec<u8>,
    body: Vec<u8>,
}

impl Message {
    /// Reads a request; `None` when the client has none.
    async fn request(client: &mut TcpStream) -> io::Result<Option<Self>> {
        let mut bytes = Vec::new();
        let head = loop {
            if let Some(end) = bytes.windows(4).position(|window| window == END_OF_HEAD) {
                break end + 4;
            }
            if client.read_buf(&mut bytes).await? == 0 {
                return Ok(None);
            }
        };
        let body = bytes.split_off(head);
        let mut request = Self { head: bytes, body };
        if request.header("expect").is_some() {
            client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        let length = request.header("content-length").map_or(0, |text| text.parse().unwrap());
        while request.body.len() < length {
            if client.read_buf(&mut request.body).await? == 0 {
                return Ok(None);
            }
        }
        // So the end of the connection is the end of the answer.
        request.head.truncate(head - 2);
        request.head.extend_from_slice(b"connection: close\r\n\r\n");
        Ok(Some(request))
    }

    /// Reads an answer to the end of the connection.
    async fn answer(server: &mut TcpStream) -> io::Result<Self> {
        let mut bytes = Vec::new();
        server.read_to_end(&mut bytes).await?;
        loop {
            let end = bytes.windows(4).position(|window| window == END_OF_HEAD);
            let end = end.ok_or(io::ErrorKind::UnexpectedEof)? + 4;
            let body = bytes.split_off(end);
            if !bytes.starts_with(b"HTTP/1.1 100") {
                return Ok(Self { head: bytes, body });
            }
            bytes = body;
        }
    }

    fn header(&self, name: &str) -> Option<String> {
        let head = String::from_utf8_lossy(&self.head);
        head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    }

    /// `POST /bucket/key?uploadId=…`
    fn ends_an_upload(&self) -> bool {
        let line = self.head.split(|byte| *byte == b'\r').next().unwrap();
        let line = String::from_utf8_lossy(line);
        line.starts_with("POST ") && line.contains("uploadId=")
    }

    /// Whether this is a request that such a fault can happen to.
    fn can_have(&self, fault: Fault) -> bool {
        match fault {
            Fault::FlipUp => !self.body.is_empty(),
            Fault::FlipDown => self.head.starts_with(b"GET "),
            Fault::ErrorInOk => self.ends_an_upload(),
            _ => true,
        }
    }

    fn flip(&mut self, at: u64) {
        let index = self.position(at);
        if let Some(byte) = self.body.get_mut(index) {
            *byte ^= 1;
        }
    }

    fn position(&self, at: u64) -> usize {
        self.body.len() * usize::try_from(at).unwrap() / 1000
    }

    async fn send(&self, to: &mut TcpStream, slowly: bool) -> io::Result<()> {
        to.write_all(&self.head).await?;
        let piece = if slowly { self.body.len() / PIECES + 1 } else { usize::MAX };
        for piece in self.body.chunks(piece) {
            if slowly {
                tokio::time::sleep(PAUSE).await;
            }
            to.write_all(piece).await?;
        }
        Ok(())
    }

    async fn send_part(&self, to: &mut TcpStream, at: u64) -> io::Result<()> {
        to.write_all(&self.head).await?;
        to.write_all(&self.body[..self.position(at)]).await?;
        to.shutdown().await
    }
}

/// Hands one request on, and its answer back, unless something happens to them.
async fn pass(mut client: TcpStream, server: SocketAddr, state: &Mutex<State>) -> io::Result<()> {
    let Some(mut request) = Message::request(&mut client).await? else { return Ok(()) };
    let trouble = trouble_of(state, &request);
    let (fault, at) = trouble.map_or((None, 0), |trouble| (Some(trouble.fault), trouble.at));
    match fault {
        Some(Fault::Error) => return refuse(&mut client, "500 Internal Server Error").await,
        Some(Fault::SlowDown) => return refuse(&mut client, "503 Slow Down").await,
        Some(Fault::ErrorInOk) => return refuse(&mut client, "200 OK").await,
        Some(Fault::FlipUp) => request.flip(at),
        _ => {}
    }
    let mut upstream = TcpStream::connect(server).await?;
    if fault == Some(Fault::CutUp) {
        return request.send_part(&mut upstream, at).await;
    }
    request.send(&mut upstream, fault == Some(Fault::Slow)).await?;
    let mut answer = Message::answer(&mut upstream).await?;
    match fault {
        Some(Fault::LostAnswer) => Ok(()),
        Some(Fault::ErrorAfter) => refuse(&mut client, "500 Internal Server Error").await,
        Some(Fault::CutDown) => answer.send_part(&mut client, at).await,
        fault => {
            if fault == Some(Fault::FlipDown) {
                answer.flip(at);
            }
            answer.send(&mut client, fault == Some(Fault::Slow)).await?;
            client.shutdown().await
        }
    }
}

/// The trouble that is to happen to this request.
fn trouble_of(state: &Mutex<State>, request: &Message) -> Option<Trouble> {
    let mut state = lock(state);
    let trouble = state.trouble.as_mut().filter(|trouble| request.can_have(trouble.fault))?;
    if trouble.skip > 0 {
        trouble.skip -= 1;
        return None;
    }
    trouble.times = trouble.times.checked_sub(1)?;
    let trouble = *trouble;
    state.hits += 1;
    Some(trouble)
}

/// Answers as S3 does: the code of the error stands in the body, whatever the status.
async fn refuse(client: &mut TcpStream, status: &str) -> io::Result<()> {
    let code = if status.starts_with("503") { "SlowDown" } else { "InternalError" };
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <Error><Code>{code}</Code><Message>Please try again.</Message></Error>"
    );
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/xml\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n",
        body.len()
    );
    Message { head: head.into_bytes(), body: body.into_bytes() }.send(client, false).await?;
    client.shutdown().await
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
