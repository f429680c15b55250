//! Endpoints as processes of their own, so that killing or stopping one is real.
//!
//! The program is `test-endpoint`. What it says on the wire:
//! * TCP: on accept the line `NAME\n`, then what its [`Mode`] says.
//! * UDP: every datagram is answered by `NAME\n` and the datagram itself, cut to what one datagram can hold; with
//!   [`Spec::plain`] by the datagram alone. The datagram `ping` is answered by `pong`, for probes.

use std::net::SocketAddr;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use crate::lab::Namespace;
use crate::process::Process;
use crate::{Failure, Result, programs, wait};

/// How long an endpoint may take to listen.
const READY_LIMIT: Duration = Duration::from_secs(10);

/// What a TCP endpoint does once it has said its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Sends back what it reads; at the client's end of stream it ends its own.
    Echo,
    /// Ends its stream at once and waits for the client's end.
    Identity,
    /// Reads this many bytes a second, with small buffers, and answers nothing: the sender must be held back.
    Slow {
        /// Bytes per second.
        rate: u32,
    },
    /// Reads to the end of stream, then answers `COUNT\n`, the number of bytes read, and ends: needs a half-closed flow.
    Count,
    /// Reads this many bytes, answering nothing, then aborts by RST.
    Abort {
        /// Bytes read before the reset.
        after: u64,
    },
}

/// Which protocols an endpoint serves, on one port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// TCP only.
    Tcp,
    /// UDP only.
    Udp,
    /// Both.
    TcpUdp,
}

/// What to start.
#[derive(Debug, Clone)]
pub struct Spec {
    name: String,
    listen: SocketAddr,
    protocol: Protocol,
    mode: Mode,
    plain: bool,
}

impl Spec {
    /// An echo endpoint for TCP and UDP. With port 0 the kernel chooses one for each: see [`Endpoint::address`].
    pub fn echo(name: &str, listen: impl Into<SocketAddr>) -> Self {
        Self { name: name.to_owned(), listen: listen.into(), protocol: Protocol::TcpUdp, mode: Mode::Echo, plain: false }
    }

    /// Serves only `protocol`.
    pub fn protocol(self, protocol: Protocol) -> Self {
        Self { protocol, ..self }
    }

    /// Does `mode` on TCP.
    pub fn mode(self, mode: Mode) -> Self {
        Self { mode, ..self }
    }

    /// Says no name, neither on TCP nor in datagrams: a pure echo, for payloads of full size.
    pub fn plain(self) -> Self {
        Self { plain: true, ..self }
    }

    fn arguments(&self) -> Vec<String> {
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::TcpUdp => "tcp-udp",
        };
        let mut arguments =
            vec![format!("--name={}", self.name), format!("--listen={}", self.listen), format!("--protocol={protocol}")];
        arguments.extend(match self.mode {
            Mode::Echo => vec!["--mode=echo".into()],
            Mode::Identity => vec!["--mode=identity".into()],
            Mode::Slow { rate } => vec!["--mode=slow".into(), format!("--rate={rate}")],
            Mode::Count => vec!["--mode=count".into()],
            Mode::Abort { after } => vec!["--mode=abort".into(), format!("--after={after}")],
        });
        if self.plain {
            arguments.push("--plain".into());
        }
        arguments
    }
}

/// A running endpoint. Dropping it kills the process.
pub struct Endpoint {
    spec: Spec,
    process: Process,
    address: SocketAddr,
}

impl Endpoint {
    /// Starts an endpoint in `namespace`, or where the test runs when there is none, and waits until it listens.
    ///
    /// # Errors
    /// When the program is missing or the address cannot be bound.
    pub fn start(namespace: Option<&Namespace>, spec: Spec) -> Result<Self> {
        let program = programs::test_endpoint()?;
        let mut command = Command::new(&program);
        if namespace.is_some() {
            // Not delayed by other tests, as on a host of its own: an endpoint that answers late is dead to its probes.
            command = Command::new("nice");
            command.args(["-n", "-20"]).arg(&program);
        }
        command.args(spec.arguments());
        let process = Process::spawn(namespace, command)?;
        let line = process.wait_for_line("ready ", READY_LIMIT)?;
        let address = line.rsplit(' ').next().and_then(|address| address.parse().ok()).ok_or_else(|| {
            let cause = format!("it wrote {line:?}");
            Failure::new("learn", format_args!("the address of the endpoint {}", spec.name), cause, "rebuild test-endpoint")
        })?;
        Ok(Self { spec, process, address })
    }

    /// Its name, which it says on every flow.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// The address on which it listens. A TCP and UDP endpoint has one port for both.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Kills the process with SIGKILL. From then on TCP connects and datagrams are refused.
    ///
    /// # Errors
    /// When it does not end.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.process.kill()
    }

    /// Freezes the process with SIGSTOP, and waits until all of it stands still: the kernel still accepts connections,
    /// nobody answers on them.
    ///
    /// # Errors
    /// When it has ended.
    pub fn freeze(&self) -> Result<()> {
        self.process.signal(libc::SIGSTOP)?;
        wait::wait_until("the frozen endpoint", READY_LIMIT, || self.process.is_stopped()).map(drop)
    }

    /// Lets a frozen process go on.
    ///
    /// # Errors
    /// When it has ended.
    pub fn thaw(&self) -> Result<()> {
        self.process.signal(libc::SIGCONT)
    }

    /// Starts the endpoint anew on the same address, after a [`kill`](Self::kill).
    ///
    /// # Errors
    /// As [`Endpoint::start`].
    pub fn restart(&mut self, namespace: Option<&Namespace>) -> Result<()> {
        self.process.kill()?;
        *self = Self::start(namespace, Spec { listen: self.address, ..self.spec.clone() })?;
        Ok(())
    }

    /// The process behind it.
    pub fn process(&self) -> &Process {
        &self.process
    }
}
