//! The endpoints: child processes that can be killed in earnest, and never outlive this one.

use std::{io, net::SocketAddr, process::Stdio, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

use super::{
    DemoError,
    scene::{CAST, Role},
};

/// How long an endpoint may take to start, and to end when told to.
const PATIENCE: Duration = Duration::from_secs(10);

/// One endpoint, alive or dead.
#[derive(Debug)]
pub(super) struct Endpoint {
    role: Role,
    /// The same from its first start on.
    pub(super) address: SocketAddr,
    child: Child,
}

/// All of them, in the order of the cast.
pub(super) async fn start_all() -> Result<Vec<Endpoint>, DemoError> {
    let mut all = Vec::new();
    for role in CAST {
        all.push(Endpoint::start(role).await?);
    }
    Ok(all)
}

impl Endpoint {
    async fn start(role: Role) -> Result<Self, DemoError> {
        let (child, address) = spawn(role, SocketAddr::from((role.ip, 0))).await?;
        Ok(Self { role, address, child })
    }

    /// Its process, while it has one.
    pub(super) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Kills its process as `kill -9` does, and returns when no socket of it is left.
    pub(super) async fn kill(&mut self) -> Result<(), DemoError> {
        self.child.kill().await.map_err(|source| DemoError::Kill { name: self.role.name, source })
    }

    /// Whether its process has ended, whoever ended it.
    pub(super) fn is_dead(&mut self) -> bool {
        // Err: there is no process to ask about.
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Starts it again, on the port it had.
    pub(super) async fn restart(&mut self) -> Result<(), DemoError> {
        (self.child, self.address) = spawn(self.role, self.address).await?;
        Ok(())
    }

    /// Asks it to end, and sees to it.
    pub(super) async fn end(mut self) {
        drop(self.child.stdin.take());
        if timeout(PATIENCE, self.child.wait()).await.is_err() {
            // Err: it has ended just now.
            let _ = self.child.kill().await;
        }
    }
}

async fn spawn(role: Role, address: SocketAddr) -> Result<(Child, SocketAddr), DemoError> {
    let failed = |source| DemoError::Endpoint { name: role.name, source };
    let mut child = Command::new(std::env::current_exe().map_err(failed)?)
        .args(["echo", "--name", &format!("{}@{address}", role.name)])
        // It ends with the pipe, and the pipe ends with this process.
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // Ctrl-C is for this process, which ends them in order.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let address = timeout(PATIENCE, announced(&mut child)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    Ok((child, address.map_err(failed)?))
}

async fn announced(child: &mut Child) -> io::Result<SocketAddr> {
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line).await?;
    }
    line.trim().parse().map_err(|_| io::Error::other(format!("it wrote {line:?} where its address was expected")))
}
