//! Two ends of a TCP connection that note all they see, so that a direct connection and one through an edge can be compared.
//!
//! What each end says is a stream of its own, known in advance, so every byte that arrives is compared where it arrives: a byte that
//! is lost, doubled, changed or given to the wrong end is seen at once, however long the stream.

pub mod table;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use socket2::SockRef;

use crate::wait::{self, wait_until};
use crate::{Result, sockets};

/// How long one step of an end may take. Longer than any step does on a slow machine, shorter than a reader's patience.
pub const LIMIT: Duration = Duration::from_secs(10);
/// A prime, so that no power of two that a program loses or doubles goes unseen.
const PERIOD: usize = 1_048_573;
const CHUNK: usize = 256 << 10;

/// Whether the long version of a test is asked for: `LANDFALL_LONG_TESTS=1`, for a nightly run.
pub fn long() -> bool {
    std::env::var_os("LANDFALL_LONG_TESTS").is_some_and(|value| value == "1")
}

/// What an end sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// So many bytes, each as it was sent.
    Bytes(u64),
    /// Some bytes from the beginning, each as it was sent. How many is a matter of timing.
    Beginning,
    /// A byte that was not sent, at this place of the stream.
    Wrong(u64),
    /// The end of the stream (FIN).
    End,
    /// `ECONNRESET`.
    Reset,
    /// `EPIPE`.
    Broken,
    /// `ECONNREFUSED`.
    Refused,
    /// This urgent byte.
    Urgent(u8),
    /// The sender was held back.
    HeldBack,
    /// Nothing, for [`LIMIT`].
    Silence,
    /// Another error number.
    Error(i32),
}

impl From<&io::Error> for Seen {
    fn from(error: &io::Error) -> Self {
        match error.kind() {
            ErrorKind::ConnectionReset => Self::Reset,
            ErrorKind::BrokenPipe => Self::Broken,
            ErrorKind::ConnectionRefused => Self::Refused,
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Self::Silence,
            _ => Self::Error(error.raw_os_error().unwrap_or_default()),
        }
    }
}

/// All that one end saw: while speaking, where only troubles are noted, and while listening.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notes {
    /// Troubles of speaking.
    pub speaking: Vec<Seen>,
    /// What came.
    pub listening: Vec<Seen>,
}

/// Which of the two streams an end says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It connected.
    Client,
    /// It accepted.
    Server,
}

impl Role {
    fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }

    /// The next bytes of the role's stream from `offset` on, at most [`CHUNK`].
    fn words(self, offset: u64) -> &'static [u8] {
        static TEXT: OnceLock<Vec<u8>> = OnceLock::new();
        let text = TEXT.get_or_init(|| {
            let mut random = fastrand::Rng::with_seed(7);
            let mut text: Vec<u8> = (0..PERIOD).map(|_| random.u8(..)).collect();
            text.extend_from_within(..CHUNK);
            text
        });
        let shift = if self == Self::Client { 0 } else { 500_009 };
        let start = usize::try_from((offset + shift) % PERIOD as u64).unwrap_or_default();
        &text[start..start + CHUNK]
    }
}

/// One end. Its methods may be called from several threads: one that speaks and one that listens.
#[derive(Debug)]
pub struct Side {
    stream: TcpStream,
    role: Role,
    said: AtomicU64,
    heard: AtomicU64,
    notes: Mutex<Notes>,
}

impl Side {
    /// An end that is connected.
    ///
    /// # Errors
    /// When the kernel refuses the socket's settings.
    pub fn new(stream: TcpStream, role: Role) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        Ok(Self { stream, role, said: AtomicU64::new(0), heard: AtomicU64::new(0), notes: Mutex::default() })
    }

    /// Which end it is.
    pub fn role(&self) -> Role {
        self.role
    }

    /// What it has seen so far.
    pub fn notes(&self) -> Notes {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note_speaking(&self, seen: Seen) {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).speaking.push(seen);
    }

    fn note(&self, seen: Seen) {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).listening.push(seen);
    }

    /// Says the next `bytes` of its stream, and notes an error if there is one.
    pub fn says(&self, bytes: u64) {
        let end = self.said.load(Ordering::Relaxed) + bytes;
        loop {
            let said = self.said.load(Ordering::Relaxed);
            let words = self.role.words(said);
            let left = usize::try_from(end - said).unwrap_or(usize::MAX);
            if left == 0 {
                return;
            }
            match (&self.stream).write(&words[..left.min(words.len())]) {
                Ok(written) => self.said.store(said + written as u64, Ordering::Relaxed),
                Err(error) => return self.note_speaking(Seen::from(&error)),
            };
        }
    }

    /// Sends one urgent byte.
    pub fn says_urgently(&self, byte: u8) {
        if let Err(error) = sockets::send_urgent(&self.stream, byte) {
            self.note_speaking(Seen::from(&error));
        }
    }

    /// Says that nothing more will come (FIN).
    pub fn ends(&self) {
        if let Err(error) = self.stream.shutdown(Shutdown::Write) {
            self.note_speaking(Seen::from(&error));
        }
    }

    /// Resets the connection when the end is dropped.
    pub fn aborts(self) -> Notes {
        if let Err(error) = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)) {
            self.note_speaking(Seen::from(&error));
        }
        self.notes()
    }

    /// As the process would by ending: FIN, or RST if something was left unread.
    pub fn closes(self) -> Notes {
        self.notes()
    }

    /// Hears exactly `bytes`, or notes why not.
    pub fn hears(&self, bytes: u64) {
        let (heard, trouble) = self.listen(bytes);
        self.note(Seen::Bytes(heard));
        if let Some(trouble) = trouble {
            self.note(trouble);
        }
    }

    /// Hears all up to the end, of whatever kind.
    pub fn hears_all(&self) {
        let (heard, end) = self.listen(u64::MAX);
        if heard > 0 {
            self.note(Seen::Bytes(heard));
        }
        end.into_iter().for_each(|end| self.note(end));
    }

    /// As [`Side::hears_all`], where how much comes before the end is a matter of timing.
    pub fn hears_what_comes(&self) {
        let (_, end) = self.listen(u64::MAX);
        self.note(Seen::Beginning);
        end.into_iter().for_each(|end| self.note(end));
    }

    /// Waits for an urgent byte and takes it.
    pub fn hears_urgently(&self) {
        let told = sockets::wait_event(&self.stream, libc::POLLPRI, LIMIT / 5);
        self.note(match told.and_then(|told| if told { sockets::receive_urgent(&self.stream) } else { Err(silence()) }) {
            Ok(byte) => Seen::Urgent(byte),
            Err(error) => Seen::from(&error),
        });
    }

    fn listen(&self, bytes: u64) -> (u64, Option<Seen>) {
        let begin = self.heard.load(Ordering::Relaxed);
        let mut buffer = vec![0; usize::try_from(bytes).unwrap_or(usize::MAX).clamp(1, CHUNK)];
        loop {
            let at = self.heard.load(Ordering::Relaxed);
            let left = bytes - (at - begin);
            if left == 0 {
                return (at - begin, None);
            }
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let seen = match (&self.stream).read(&mut buffer[..most]) {
                Ok(0) => Seen::End,
                Ok(read) => {
                    let expected = &self.role.other().words(at)[..read];
                    if buffer[..read] == *expected {
                        self.heard.store(at + read as u64, Ordering::Relaxed);
                        continue;
                    }
                    let place = expected.iter().zip(&buffer).take_while(|(expected, read)| expected == read).count();
                    Seen::Wrong(at + place as u64)
                }
                Err(error) => Seen::from(&error),
            };
            return (at - begin, Some(seen));
        }
    }

    /// Waits until `bytes` have arrived and lie unread.
    ///
    /// # Errors
    /// When they do not.
    pub fn has_unread(&self, bytes: usize) -> Result<()> {
        wait_until("bytes that lie unread", LIMIT, || sockets::unread(&self.stream).is_ok_and(|unread| unread == bytes)).map(drop)
    }

    /// Waits until the kernel has been told that the connection is over, and leaves the error for the next call to report. Notes
    /// silence if it never is.
    pub fn is_told(&self) {
        let ask = || sockets::wait_event(&self.stream, 0, Duration::ZERO).unwrap_or(false);
        if wait_until("the end of a connection", LIMIT / 2, ask).is_err() {
            self.note(Seen::Silence);
        }
    }

    /// Waits until it has heard `bytes`: another thread listens.
    ///
    /// # Errors
    /// When it has not.
    pub fn has_heard(&self, bytes: u64) -> Result<()> {
        wait_until("bytes that were heard", LIMIT, || self.heard.load(Ordering::Relaxed) >= bytes).map(drop)
    }

    /// Waits until it is held back, with bytes in its queue that are not acknowledged and no progress for `span`, and notes it.
    ///
    /// # Errors
    /// When it is never held back.
    pub fn is_held_back(&self, span: Duration) -> Result<()> {
        let state = || (self.said.load(Ordering::Relaxed), sockets::unacknowledged(&self.stream).unwrap_or_default());
        let (mut last, mut since) = (state(), wait::now());
        wait_until("a sender that is held back", span + LIMIT, || {
            let now = state();
            if now != last || now.1 == 0 {
                (last, since) = (now, wait::now());
            }
            since.elapsed() >= span
        })?;
        println!("held back for {span:?} after {} bytes, of which {} are not acknowledged", last.0, last.1);
        self.note_speaking(Seen::HeldBack);
        Ok(())
    }

    /// How long it may wait in one read or write from now on.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn is_patient(&self, limit: Duration) -> io::Result<()> {
        self.stream.set_read_timeout(Some(limit))?;
        self.stream.set_write_timeout(Some(limit))
    }

    /// The socket.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }
}

fn silence() -> io::Error {
    ErrorKind::TimedOut.into()
}
