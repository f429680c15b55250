//! The control socket: a Unix socket for the commands that change something, guarded by its file permissions (0600).
//!
//! One JSON object a line in, one a line out: `{"command":"reload"}` → `{"ok":true,"message":"…"}`.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use endpoint_group::{FlowKey, Protocol};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
};

use crate::{
    control::{
        handle::{Control, Order},
        status::Status,
    },
    explain::Explanation,
    flows::{self, FlowStatus, FlowsRequest},
};

/// Longest line taken, in bytes.
const LINE: u64 = 64 << 10;
/// Conversations at once; more wait to be accepted, so that they cannot eat the descriptors of flows.
const CONVERSATIONS: usize = 16;
/// The longest conversation.
const PATIENCE: Duration = Duration::from_secs(60);

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Request {
    /// Read the configuration file again.
    Reload,
    /// What `/status` says.
    Status,
    /// Where a flow goes, and where it is pinned if it exists.
    Explain {
        /// `tcp` or `udp`.
        protocol: String,
        /// Who asks.
        client: SocketAddr,
        /// What is asked.
        to: SocketAddr,
    },
    /// The live flows.
    Flows(FlowsRequest),
    /// Set an endpoint's weight.
    Weight {
        /// Its name.
        endpoint: String,
        /// 0 to 255.
        weight: u8,
    },
    /// Take no new flows: an endpoint, or without one the edge.
    Drain {
        /// Its name.
        #[serde(default)]
        endpoint: Option<String>,
        /// Milliseconds after which the flows that are left must leave the endpoint.
        #[serde(default)]
        reset_after_ms: Option<u64>,
    },
    /// Take new flows again: an endpoint, or without one the edge.
    Undrain {
        /// Its name.
        #[serde(default)]
        endpoint: Option<String>,
    },
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Whether it was done.
    pub ok: bool,
    /// What was done, or why not.
    pub message: String,
    /// The answer to [`Request::Status`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// The answer to [`Request::Explain`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explanation: Option<Explanation>,
    /// The answer to [`Request::Flows`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flows: Option<Vec<FlowStatus>>,
}

impl Answer {
    fn no(message: impl std::fmt::Display) -> Self {
        Self { ok: false, message: message.to_string(), status: None, explanation: None, flows: None }
    }

    fn yes(message: impl Into<String>) -> Self {
        Self { ok: true, message: message.into(), status: None, explanation: None, flows: None }
    }
}

impl<E: std::fmt::Display> From<Result<String, E>> for Answer {
    fn from(result: Result<String, E>) -> Self {
        match result {
            Ok(message) => Self::yes(message),
            Err(error) => Self::no(error),
        }
    }
}

/// The control socket could not be had, or not asked.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another edge answers on it.
    #[error("another edge answers on the control socket {}; stop it, or give this one another with edge.control", .0.display())]
    InUse(PathBuf),
    /// Something else than a socket is there.
    #[error("the control socket {} would replace a file that is no socket; choose another path with edge.control", .0.display())]
    NotASocket(PathBuf),
    /// The path cannot be made or bound.
    #[error("cannot listen on the control socket {}: {source}; create its directory for this user, or choose another with edge.control", path.display())]
    Listen {
        /// As configured.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Nobody answers.
    #[error("cannot ask the edge at {}: {source}; is it running, and may this user write to its socket?", path.display())]
    Ask {
        /// As given.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A bound control socket; its file goes with it.
#[derive(Debug)]
pub struct ControlSocket {
    socket: UnixListener,
    path: PathBuf,
    file: (u64, u64),
}

/// Device and inode of the file at `path`.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // Another edge may have put its own there meanwhile.
        if identity(&self.path).is_ok_and(|file| file == self.file) {
            // Err: somebody has removed it this very moment.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl ControlSocket {
    /// Binds `path`, over a file that a dead edge left behind.
    pub async fn bind(path: &Path) -> Result<Self, SocketError> {
        match UnixStream::connect(path).await {
            Ok(_) => return Err(SocketError::InUse(path.to_owned())),
            // Only these say that nobody is there any more.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {}
            Err(source) => return Err(SocketError::Listen { path: path.to_owned(), source }),
        }
        if fs::symlink_metadata(path).is_ok_and(|file| !file.file_type().is_socket()) {
            return Err(SocketError::NotASocket(path.to_owned()));
        }
        let listen = || {
            if let Some(directory) = path.parent() {
                fs::create_dir_all(directory)?;
            }
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let socket = UnixListener::bind(path)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
            Ok(socket)
        };
        let bound = listen().and_then(|socket| Ok((socket, identity(path)?)));
        let (socket, file) = bound.map_err(|source| SocketError::Listen { path: path.to_owned(), source })?;
        Ok(Self { socket, path: path.to_owned(), file })
    }

    /// Serves until dropped.
    pub async fn serve(self, control: Control) {
        let room = Arc::new(Semaphore::new(CONVERSATIONS));
        loop {
            // Err: the semaphore is never closed.
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
            match self.socket.accept().await {
                Ok((stream, _)) => {
                    let control = control.clone();
                    tokio::spawn(async move {
                        // Err: the other end was silent for too long, and makes room.
                        let _ = tokio::time::timeout(PATIENCE, converse(stream, control)).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept on the control socket");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

async fn converse(stream: UnixStream, control: Control) {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    loop {
        let mut line = Vec::new();
        match (&mut read).take(LINE).read_until(b'\n', &mut line).await {
            Ok(length) if length > 0 => {}
            _ => return,
        }
        let whole = line.ends_with(b"\n") || (line.len() as u64) < LINE;
        let answer = match serde_json::from_slice(&line) {
            _ if !whole => Answer::no(format!("a command has at most {LINE} bytes")),
            Ok(request) => answer(request, &control).await,
            Err(error) => Answer::no(format!("not a command: {error}")),
        };
        let Ok(mut text) = serde_json::to_vec(&answer) else { return };
        text.push(b'\n');
        if write.write_all(&text).await.is_err() || !whole {
            return;
        }
    }
}

async fn answer(request: Request, control: &Control) -> Answer {
    let order = match request {
        Request::Reload => return control.reload().await.into(),
        Request::Status => {
            return match control.status().await {
                Some(status) => Answer { status: Some(status), ..Answer::yes("") },
                None => Answer::no("the edge is stopping"),
            };
        }
        Request::Explain { protocol, client, to } => {
            let protocol = match protocol.as_str() {
                "tcp" => Protocol::Tcp,
                "udp" => Protocol::Udp,
                other => return Answer::no(format!("there is no protocol {other:?}; ask about \"tcp\" or \"udp\"")),
            };
            return match control.explain(FlowKey { protocol, client, to }).await {
                Ok(explanation) => Answer { explanation: Some(explanation), ..Answer::yes("") },
                Err(error) => Answer::no(error),
            };
        }
        Request::Flows(request) => {
            let wanted = match request.wanted() {
                Ok(wanted) => wanted,
                Err(reason) => return Answer::no(reason),
            };
            return match control.flows(wanted, request.limit.min(flows::MOST)).await {
                Ok(flows) => Answer { flows: Some(flows), ..Answer::yes("") },
                Err(error) => Answer::no(error),
            };
        }
        Request::Weight { endpoint, weight } => Order::Weight { endpoint, weight },
        Request::Drain { endpoint: Some(endpoint), reset_after_ms } => {
            Order::DrainEndpoint { endpoint, reset_after: reset_after_ms.map(Duration::from_millis) }
        }
        Request::Drain { endpoint: None, .. } => Order::DrainEdge,
        Request::Undrain { endpoint: Some(endpoint) } => Order::UndrainEndpoint { endpoint },
        Request::Undrain { endpoint: None } => Order::UndrainEdge,
    };
    control.order(order).await.into()
}

/// Asks the edge whose control socket is at `path`.
pub async fn ask(path: &Path, request: &Request) -> Result<Answer, SocketError> {
    let conversation = async {
        let mut stream = UnixStream::connect(path).await?;
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).await?;
        Ok(serde_json::from_str(&answer)?)
    };
    conversation.await.map_err(|source| SocketError::Ask { path: path.to_owned(), source })
}
