//! The client of BIRD's control socket.
//!
//! A command is a line. A reply is lines that begin with a code of four digits: `NNNN-text` says that more follow, `NNNN text` is the
//! last, and a line that begins with a blank goes on with the code before. 0xxx to 2xxx are news and tables, 8xxx are failures, 9xxx
//! are commands that BIRD does not understand.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time,
};

use crate::reconcile::{Command, Protocols};

/// How long BIRD may take to answer. With the pause between two looks it is less than a second.
pub const PATIENCE: Duration = Duration::from_millis(450);
/// The longest reply taken, in bytes: thousands of protocols.
const LONGEST_REPLY: usize = 1 << 20;
/// The first code of failures.
const FAILURES: u16 = 8000;
/// The line of a protocol in the reply to `show protocols`.
const PROTOCOL_LINE: u16 = 1002;

/// A whole reply: its lines with their codes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply(pub Vec<(u16, String)>);

impl Reply {
    /// The failure that it tells of, if it is one.
    fn failure(&self) -> Option<&(u16, String)> {
        self.0.iter().find(|(code, _)| *code >= FAILURES)
    }

    /// The protocols in the reply to `show protocols`.
    pub fn protocols(&self) -> Protocols {
        let lines = self.0.iter().filter(|(code, _)| *code == PROTOCOL_LINE);
        let row = |(_, line): &(u16, String)| {
            let mut words = line.split_ascii_whitespace();
            let name = words.next()?;
            // Name, kind, table, state.
            let state = words.nth(2)?;
            Some((name.to_owned(), matches!(state, "up" | "start")))
        };
        lines.filter_map(row).collect()
    }
}

/// What is not a reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Garbled {
    /// No code where one belongs.
    #[error("the line {0:?} has no code")]
    Line(String),
    /// No end.
    #[error("the reply has no end")]
    Endless,
}

/// Takes bytes as they come, and gives replies.
#[derive(Debug, Default)]
pub struct Parser {
    bytes: Vec<u8>,
    lines: Vec<(u16, String)>,
    taken: usize,
}

impl Parser {
    /// Takes in what was read.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole reply, once all of it has come.
    pub fn next_reply(&mut self) -> Result<Option<Reply>, Garbled> {
        while let Some(end) = self.bytes.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.bytes.drain(..=end).collect();
            self.taken += line.len();
            let line = String::from_utf8_lossy(&line[..end]);
            if let Some(reply) = self.take(line.trim_end_matches('\r'))? {
                return Ok(Some(reply));
            }
            if self.taken > LONGEST_REPLY {
                return Err(Garbled::Endless);
            }
        }
        if self.bytes.len() > LONGEST_REPLY { Err(Garbled::Endless) } else { Ok(None) }
    }

    fn take(&mut self, line: &str) -> Result<Option<Reply>, Garbled> {
        // News that BIRD sends unasked, to a client that asked for an echo of its log.
        if line.starts_with('+') {
            return Ok(None);
        }
        let garbled = || Garbled::Line(line.chars().take(80).collect());
        if let Some(text) = line.strip_prefix(' ') {
            let &(code, _) = self.lines.last().ok_or_else(garbled)?;
            self.lines.push((code, text.to_owned()));
            return Ok(None);
        }
        let (code, rest) = line.split_at_checked(4).ok_or_else(garbled)?;
        let digits = code.bytes().all(|byte| byte.is_ascii_digit());
        let code = code.parse().ok().filter(|_| digits).ok_or_else(garbled)?;
        let (last, text) = match rest.as_bytes().first() {
            Some(b'-') => (false, &rest[1..]),
            Some(b' ') => (true, &rest[1..]),
            None => (true, rest),
            Some(_) => return Err(garbled()),
        };
        self.lines.push((code, text.to_owned()));
        if !last {
            return Ok(None);
        }
        self.taken = 0;
        Ok(Some(Reply(std::mem::take(&mut self.lines))))
    }
}

/// BIRD could not be asked or told.
#[derive(Debug, thiserror::Error)]
pub enum BirdError {
    /// There is no connection.
    #[error("cannot connect to BIRD at {}: {source}; {}", path.display(), connect_cure(source))]
    Connect {
        /// The control socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// BIRD does not answer.
    #[error("BIRD at {} has not answered {asked:?} within {PATIENCE:?}; if it is not merely busy, restart it", path.display())]
    Silent {
        /// The control socket.
        path: PathBuf,
        /// What it was asked.
        asked: String,
    },
    /// The connection is gone.
    #[error("BIRD at {} has closed the control connection: {cause}; see its log", path.display())]
    Lost {
        /// The control socket.
        path: PathBuf,
        /// How that was noticed.
        cause: String,
    },
    /// The other end does not speak as BIRD does.
    #[error("what answers at {} does not speak as BIRD 2 does: {source}; set anycast.bird_socket to the socket of BIRD 2", path.display())]
    Garbled {
        /// The control socket.
        path: PathBuf,
        /// What it said.
        source: Garbled,
    },
    /// BIRD refuses a command.
    #[error("BIRD refuses {asked:?}: {code:04} {text}; {}", refusal_cure(*code))]
    Refused {
        /// The command.
        asked: String,
        /// BIRD's code.
        code: u16,
        /// BIRD's words.
        text: String,
    },
}

impl BirdError {
    /// Whether BIRD is certainly not running, so that there are no routes of it.
    pub fn is_dead(&self) -> bool {
        match self {
            Self::Connect { source, .. } => matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused),
            Self::Lost { .. } => true,
            Self::Silent { .. } | Self::Garbled { .. } | Self::Refused { .. } => false,
        }
    }

    /// Whether the connection is of no more use.
    pub fn is_fatal(&self) -> bool {
        !matches!(self, Self::Refused { .. })
    }
}

fn connect_cure(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "start BIRD, or set anycast.bird_socket to its control socket (`bird -s`)",
        io::ErrorKind::ConnectionRefused => "start BIRD: it has died and left its socket behind",
        io::ErrorKind::PermissionDenied => {
            "put the user of landfall into the group of BIRD's control socket (SupplementaryGroups=bird)"
        }
        _ => "check BIRD and anycast.bird_socket",
    }
}

fn refusal_cure(code: u16) -> &'static str {
    match code {
        9000.. => "add the protocol to BIRD's config; deploy/bird has an example",
        _ => "see BIRD's log; its socket must not be restricted",
    }
}

/// A connection to BIRD.
#[derive(Debug)]
pub struct Bird {
    path: PathBuf,
    stream: UnixStream,
    parser: Parser,
}

impl Bird {
    /// Connects, and waits for the greeting.
    pub async fn connect(path: &Path) -> Result<Self, BirdError> {
        let connecting = time::timeout(PATIENCE, UnixStream::connect(path)).await;
        let connected = connecting.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let stream = connected.map_err(|source| BirdError::Connect { path: path.to_owned(), source })?;
        let mut bird = Self { path: path.to_owned(), stream, parser: Parser::default() };
        bird.reply("a greeting").await?;
        Ok(bird)
    }

    /// All protocols.
    pub async fn protocols(&mut self) -> Result<Protocols, BirdError> {
        Ok(self.ask("show protocols").await?.protocols())
    }

    /// Enables or disables a protocol. That it was so already is no error.
    pub async fn command(&mut self, command: &Command<'_>) -> Result<(), BirdError> {
        self.ask(&command.to_string()).await.map(drop)
    }

    /// Resolves when BIRD closes the connection, or speaks unasked.
    pub async fn closed(&mut self) -> BirdError {
        let mut bytes = [0; 64];
        let cause = match self.stream.read(&mut bytes).await {
            Ok(0) => "end of file".to_owned(),
            Ok(_) => "it spoke unasked".to_owned(),
            Err(error) => error.to_string(),
        };
        BirdError::Lost { path: self.path.clone(), cause }
    }

    async fn ask(&mut self, line: &str) -> Result<Reply, BirdError> {
        // A line of a few bytes fits into any socket buffer.
        if let Err(error) = self.stream.write_all(format!("{line}\n").as_bytes()).await {
            return Err(BirdError::Lost { path: self.path.clone(), cause: error.to_string() });
        }
        let reply = self.reply(line).await?;
        match reply.failure() {
            Some((code, text)) => Err(BirdError::Refused { asked: line.to_owned(), code: *code, text: text.clone() }),
            None => Ok(reply),
        }
    }

    async fn reply(&mut self, asked: &str) -> Result<Reply, BirdError> {
        let reading = async {
            let mut bytes = [0; 4096];
            loop {
                let whole = self.parser.next_reply();
                if let Some(reply) = whole.map_err(|source| BirdError::Garbled { path: self.path.clone(), source })? {
                    return Ok(reply);
                }
                let lost = |cause: &str| BirdError::Lost { path: self.path.clone(), cause: cause.to_owned() };
                match self.stream.read(&mut bytes).await {
                    Ok(0) => return Err(lost("end of file")),
                    Ok(read) => self.parser.feed(&bytes[..read]),
                    Err(error) => return Err(lost(&error.to_string())),
                }
            }
        };
        let silent = || BirdError::Silent { path: self.path.clone(), asked: asked.to_owned() };
        match time::timeout(PATIENCE, reading).await {
            Ok(reply) => reply,
            Err(_) => Err(silent()),
        }
    }
}
