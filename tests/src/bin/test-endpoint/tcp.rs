//! TCP: one task for each connection.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::{Arguments, Mode};

/// How often the slow mode reads.
const SLOW_TICK: Duration = Duration::from_millis(10);
const TICKS_PER_SECOND: u32 = 100;
/// A receive buffer that fills at once; the kernel doubles it.
const SLOW_BUFFER: u32 = 4096;
/// Thousands of clients may come in the same moment.
const BACKLOG: u32 = 4096;

/// Listens with a long queue, on a port that a predecessor may have left a moment ago.
pub(crate) fn listen(address: SocketAddr, mode: Mode) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    if mode == Mode::Slow {
        // Before listening, so that no connection ever offers a larger window.
        socket.set_recv_buffer_size(SLOW_BUFFER)?;
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Accepts for ever.
pub(crate) async fn serve(listener: &TcpListener, arguments: &Arguments, identity: &[u8]) -> io::Result<()> {
    let (mode, rate, after) = (arguments.mode, arguments.rate, arguments.after);
    loop {
        let (stream, _peer) = listener.accept().await?;
        let identity = identity.to_vec();
        tokio::spawn(async move {
            // A client that goes away in the middle is its own affair; the test looks at the client.
            let _ = talk(stream, mode, rate, after, &identity).await;
        });
    }
}

async fn talk(mut stream: TcpStream, mode: Mode, rate: u32, after: u64, identity: &[u8]) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(identity).await?;
    match mode {
        Mode::Echo => echo(stream).await,
        Mode::Identity => {
            stream.shutdown().await?;
            // Closing with unread bytes would reset the connection and might take the name with it.
            read_to_end(&mut stream).await.map(drop)
        }
        Mode::Slow => dawdle(stream, rate).await,
        Mode::Count => {
            let count = read_to_end(&mut stream).await?;
            stream.write_all(format!("{count}\n").as_bytes()).await?;
            stream.shutdown().await
        }
        Mode::Abort => {
            let mut unread = (&mut stream).take(after);
            tokio::io::copy(&mut unread, &mut tokio::io::sink()).await?;
            // Lingering for no time at all makes the close a reset.
            SockRef::from(&stream).set_linger(Some(Duration::ZERO))
        }
    }
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 8 << 10];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return stream.shutdown().await,
            read => stream.write_all(&buffer[..read]).await?,
        }
    }
}

async fn read_to_end(stream: &mut TcpStream) -> io::Result<u64> {
    tokio::io::copy(stream, &mut tokio::io::sink()).await
}

async fn dawdle(mut stream: TcpStream, rate: u32) -> io::Result<()> {
    let mut buffer = vec![0; (rate / TICKS_PER_SECOND).max(1) as usize];
    let mut ticks = tokio::time::interval(SLOW_TICK);
    loop {
        ticks.tick().await;
        if stream.read(&mut buffer).await? == 0 {
            return stream.shutdown().await;
        }
    }
}
