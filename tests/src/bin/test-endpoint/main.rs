//! An endpoint for tests: says its name, then echoes, counts, dawdles or aborts.
//!
//! `landfall_tests::endpoints` documents what it says on the wire. One line, `ready NAME ADDRESS`, is printed once it
//! listens.

mod tcp;
mod udp;

use std::io;
use std::net::SocketAddr;

use clap::{Parser, ValueEnum};

/// An endpoint for tests.
#[derive(Parser)]
struct Arguments {
    /// What it calls itself.
    #[arg(long)]
    name: String,
    /// The address to listen on; port 0 lets the kernel choose.
    #[arg(long)]
    listen: SocketAddr,
    /// What to serve.
    #[arg(long, value_enum, default_value = "tcp-udp")]
    protocol: Protocol,
    /// What to do on a TCP connection once the name is said.
    #[arg(long, value_enum, default_value = "echo")]
    mode: Mode,
    /// For the mode slow: bytes per second.
    #[arg(long, default_value_t = 65_536)]
    rate: u32,
    /// For the mode abort: bytes to read before the reset.
    #[arg(long, default_value_t = 0)]
    after: u64,
    /// Say no name.
    #[arg(long)]
    plain: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Protocol {
    Tcp,
    Udp,
    TcpUdp,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Mode {
    Echo,
    Identity,
    Slow,
    Count,
    Abort,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    rlimit::increase_nofile_limit(u64::MAX)?;
    let mut address = arguments.listen;
    let name = arguments.name.clone();
    let identity = if arguments.plain { Vec::new() } else { format!("{name}\n").into_bytes() };

    let listener = match arguments.protocol {
        Protocol::Udp => None,
        Protocol::Tcp | Protocol::TcpUdp => Some(tcp::listen(address, arguments.mode)?),
    };
    // A port that the kernel chose for TCP serves UDP too, so that one address names the endpoint.
    if let Some(listener) = &listener {
        address = listener.local_addr()?;
    }
    if arguments.protocol != Protocol::Tcp {
        let socket = udp::bind(address)?;
        address = socket.local_addr()?;
        let identity = identity.clone();
        std::thread::spawn(move || udp::answer(&socket, &identity));
    }
    println!("ready {name} {address}");
    match listener {
        Some(listener) => tcp::serve(&listener, &arguments, &identity).await,
        None => std::future::pending().await,
    }
}
