//! The control socket: a Unix socket for the commands that change something, guarded by its file permissions (0600).
//!
//! One JSON object a line in, one a line out: `{"command":"reload"}` → `{"ok":true,"message":"…"}`.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
};

use crate::control::{
    driver::{Control, Order},
    status::Status,
};

/// Longest line taken, in bytes.
const LINE: u64 = 64 << 10;

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Request {
    /// Read the configuration file again.
    Reload,
    /// What `/status` says.
    Status,
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
}

impl<E: std::fmt::Display> From<Result<String, E>> for Answer {
    fn from(result: Result<String, E>) -> Self {
        match result {
            Ok(message) => Self { ok: true, message, status: None },
            Err(error) => Self { ok: false, message: error.to_string(), status: None },
        }
    }
}

/// The control socket could not be had, or not asked.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another edge answers on it.
    #[error("another edge answers on the control socket {}; stop it, or give this one another with edge.control", .0.display())]
    InUse(PathBuf),
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
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // Err: somebody has removed it already.
        let _ = fs::remove_file(&self.path);
    }
}

impl ControlSocket {
    /// Binds `path`, over a file that a dead edge left behind.
    pub async fn bind(path: &Path) -> Result<Self, SocketError> {
        if UnixStream::connect(path).await.is_ok() {
            return Err(SocketError::InUse(path.to_owned()));
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
        let socket = listen().map_err(|source| SocketError::Listen { path: path.to_owned(), source })?;
        Ok(Self { socket, path: path.to_owned() })
    }

    /// Serves until dropped.
    pub async fn serve(self, control: Control) {
        loop {
            match self.socket.accept().await {
                Ok((stream, _)) => {
                    tokio::spawn(converse(stream, control.clone()));
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
    let mut lines = BufReader::new(read.take(LINE)).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let answer = match serde_json::from_str(&line) {
            Ok(request) => answer(request, &control).await,
            Err(error) => Err::<String, _>(format!("not a command: {error}")).into(),
        };
        let Ok(mut text) = serde_json::to_vec(&answer) else { return };
        text.push(b'\n');
        if write.write_all(&text).await.is_err() {
            return;
        }
    }
}

async fn answer(request: Request, control: &Control) -> Answer {
    let order = match request {
        Request::Reload => return control.reload().await.into(),
        Request::Status => {
            let status = control.status().await;
            let message = if status.is_some() { "" } else { "the edge is stopping" };
            return Answer { ok: status.is_some(), message: message.to_owned(), status };
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
