//! One end of a proxied connection.

use std::{io, net::Shutdown, ops::Deref, os::fd::AsRawFd};

use socket2::SockRef;
use tokio::{io::Interest, net::TcpStream};

/// A TCP stream that is reset when dropped, unless it was [`Leg::finish`]ed: whatever cuts a connection short, the far end is told.
#[derive(Debug)]
pub(crate) struct Leg {
    stream: TcpStream,
    finished: bool,
}

impl Leg {
    pub fn new(stream: TcpStream) -> Self {
        // Small writes are the far end's choice: hand them on as they come. Err: the peer is gone already, which the first read tells.
        let _ = stream.set_nodelay(true);
        Self { stream, finished: false }
    }

    /// Sends `header` as the very first bytes; whether the connection took it.
    ///
    /// Straight to the kernel, whose send buffer is empty: the runtime holds a new socket for not writable until its next turn.
    pub fn begins_with(&self, header: &[u8]) -> bool {
        SockRef::from(&self.stream).send(header).is_ok_and(|sent| sent == header.len())
    }

    /// Says that no more bytes will come (FIN).
    pub fn end_of_stream(&self) -> io::Result<()> {
        SockRef::from(&self.stream).shutdown(Shutdown::Write)
    }

    /// Lets the kernel deliver what is still queued and close in order.
    pub fn finish(&mut self) {
        self.finished = true;
    }

    /// Bytes sent that the far end has not acknowledged yet, by `SIOCOUTQ`; 0 if the kernel does not say.
    pub fn unacknowledged(&self) -> i32 {
        let mut bytes: libc::c_int = 0;
        // SAFETY: the request writes one int to `bytes`, which outlives the call.
        let result = unsafe { libc::ioctl(self.stream.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
        if result == 0 { bytes } else { 0 }
    }

    /// Waits until the far end has aborted.
    pub async fn aborted(&self) {
        loop {
            match self.stream.ready(Interest::ERROR).await {
                Ok(ready) if !ready.is_error() => {}
                Ok(_) | Err(_) => return,
            }
        }
    }
}

impl Deref for Leg {
    type Target = TcpStream;

    fn deref(&self) -> &TcpStream {
        &self.stream
    }
}

impl Drop for Leg {
    fn drop(&mut self) {
        if !self.finished {
            // Err: the socket is dead already.
            let _ = SockRef::from(&self.stream).set_linger(Some(std::time::Duration::ZERO));
        }
    }
}
