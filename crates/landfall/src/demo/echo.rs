//! An endpoint of the demonstration: TCP and UDP on one port, every line and every datagram answered with its name in front.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    time::{Instant, sleep},
};

/// The largest datagram, and as much of a stream as is answered at once.
const BUFFER: usize = 64 << 10;
/// Datagrams may wait while other processes have the processor, in bytes; the kernel caps it at `net.core.rmem_max`.
const UDP_BUFFER: usize = 4 << 20;
/// How long a fixed port may be somebody else's for a moment: one that an endpoint had until it was killed is wanted back.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two attempts to have a port.
const PAUSE: Duration = Duration::from_millis(20);

/// The endpoint could not serve.
#[derive(Debug, thiserror::Error)]
pub enum EchoError {
    /// What follows the `@` is no address.
    #[error("cannot read the address in the name {0:?}; write NAME, or NAME@ADDRESS:PORT such as eu-1@127.0.0.11:7001")]
    Name(String),
    /// No runtime.
    #[error("cannot start the endpoint: {0}; check the limits on threads and descriptors")]
    Runtime(io::Error),
    /// No sockets.
    #[error("cannot listen on {address} with TCP and UDP: {source}; choose another address, or port 0 for any")]
    Bind {
        /// As asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Whoever wanted the address has gone.
    #[error("cannot write the endpoint's address to standard output: {0}; leave it open until the address has been read")]
    Announce(io::Error),
    /// Standard input tells when to end.
    #[error("cannot wait for the end of standard input: {0}; give the endpoint one that stays open as long as it is to run")]
    Input(io::Error),
}

/// Runs the endpoint `name` until standard input ends, which it does with the process that holds its other end, however that dies.
///
/// `NAME@ADDRESS:PORT` says where to listen; the default is a free port of 127.0.0.1. The address goes to standard output, on a line.
pub fn run(name: &str) -> Result<(), EchoError> {
    let (name, address) = parse(name)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(EchoError::Runtime)?;
    runtime.block_on(serve(name, address))
}

/// `NAME` or `NAME@ADDRESS:PORT`.
fn parse(argument: &str) -> Result<(&str, SocketAddr), EchoError> {
    match argument.split_once('@') {
        None => Ok((argument, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))),
        Some((name, address)) => Ok((name, address.parse().map_err(|_| EchoError::Name(argument.to_owned()))?)),
    }
}

async fn serve(name: &str, address: SocketAddr) -> Result<(), EchoError> {
    let (tcp, udp, address) = bind(address).await.map_err(|source| EchoError::Bind { address, source })?;
    let mut stdout = io::stdout();
    writeln!(stdout, "{address}").and_then(|()| stdout.flush()).map_err(EchoError::Announce)?;
    let prefix: Arc<[u8]> = format!("{name} ").into_bytes().into();
    tokio::spawn(datagrams(udp, Arc::clone(&prefix)));
    tokio::spawn(async move {
        loop {
            match tcp.accept().await {
                Ok((stream, _)) => drop(tokio::spawn(lines(stream, Arc::clone(&prefix)))),
                // Descriptors are short, and some connection will give one back.
                Err(_) => sleep(PAUSE).await,
            }
        }
    });
    let ended = tokio::task::spawn_blocking(end_of_input).await;
    ended.unwrap_or_else(|panicked| Err(io::Error::other(panicked))).map_err(EchoError::Input)
}

fn end_of_input() -> io::Result<()> {
    let mut byte = [0; 1];
    while io::stdin().read(&mut byte)? > 0 {}
    Ok(())
}

/// Both protocols on one port. If the port is to be any, one that TCP may have can be another's for UDP.
async fn bind(address: SocketAddr) -> io::Result<(TcpListener, UdpSocket, SocketAddr)> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let bound = async {
            let tcp = TcpListener::bind(address).await?;
            let address = tcp.local_addr()?;
            let udp = UdpSocket::bind(address).await?;
            SockRef::from(&udp).set_recv_buffer_size(UDP_BUFFER)?;
            io::Result::Ok((tcp, udp, address))
        };
        match bound.await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => sleep(PAUSE).await,
            bound => return bound,
        }
    }
}

async fn datagrams(socket: UdpSocket, prefix: Arc<[u8]>) {
    let mut buffer = vec![0; BUFFER];
    loop {
        // Err: what became of an earlier answer; its receiver has gone.
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else { continue };
        let answer = [&prefix, &buffer[..length]].concat();
        let _ = socket.send_to(&answer, client).await;
    }
}

async fn lines(mut stream: TcpStream, prefix: Arc<[u8]>) {
    let mut buffer = vec![0; BUFFER];
    let mut at_start = true;
    // Err: the client has gone, and with it the reason to answer.
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        let answer = answer(&prefix, &buffer[..length], &mut at_start);
        if stream.write_all(&answer).await.is_err() {
            return;
        }
    }
}

/// `chunk` with `prefix` before each line that begins in it. Streams may be cut anywhere, so `at_start` is kept from chunk to chunk.
fn answer(prefix: &[u8], chunk: &[u8], at_start: &mut bool) -> Vec<u8> {
    let mut answer = Vec::with_capacity(chunk.len() + prefix.len());
    for piece in chunk.split_inclusive(|&byte| byte == b'\n') {
        if *at_start {
            answer.extend_from_slice(prefix);
        }
        answer.extend_from_slice(piece);
        *at_start = piece.ends_with(b"\n");
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_may_carry_an_address() {
        assert_eq!(parse("eu-1").unwrap(), ("eu-1", "127.0.0.1:0".parse().unwrap()));
        assert_eq!(parse("eu-1@127.0.0.11:7001").unwrap(), ("eu-1", "127.0.0.11:7001".parse().unwrap()));
        assert!(matches!(parse("eu-1@home"), Err(EchoError::Name(_))));
    }

    #[test]
    fn each_line_is_answered_once_however_it_arrives() {
        let mut at_start = true;
        let mut all = Vec::new();
        for chunk in ["on", "e\ntw", "o\n", "three\nfour\n"] {
            all.extend(answer(b"us-2 ", chunk.as_bytes(), &mut at_start));
        }
        assert_eq!(String::from_utf8(all).unwrap(), "us-2 one\nus-2 two\nus-2 three\nus-2 four\n");
    }
}
