//! A UDP flow: one socket, a datagram every now and then, its answer whenever it comes.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    net::UdpSocket,
    time::{Instant, sleep_until},
};

use super::{Clients, endpoint};

/// From datagram to datagram, in milliseconds.
const SPACING: std::ops::RangeInclusive<u64> = 10..=20;

/// A socket with a source port of its own. Needs a runtime.
pub(super) fn socket(target: SocketAddr) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect(target)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

pub(super) async fn flow(index: usize, socket: UdpSocket, mut clients: Clients) {
    let mut buffer = [0; 128];
    let mut next = Instant::now() + spacing();
    let mut seq = 0;
    loop {
        let running = clients.is_running();
        tokio::select! {
            received = socket.recv(&mut buffer) => {
                // Err: the accelerator is gone, or the answer is not one; either way none has come.
                if let Ok(Ok((seq, endpoint))) = received.map(|length| parse(&buffer[..length])) {
                    clients.tally().answered(index, seq, endpoint);
                }
            }
            () = sleep_until(next), if running => {
                let now = clients.clock.now();
                clients.tally().sent(index, seq, now);
                // Err: it is not answered then, which is what counts.
                let _ = socket.send(seq.to_string().as_bytes()).await;
                seq += 1;
                next = Instant::now() + spacing();
            }
            () = clients.run(), if !running => next = Instant::now() + spacing(),
        }
    }
}

fn spacing() -> Duration {
    Duration::from_millis(fastrand::u64(SPACING))
}

/// `NAME SEQ`.
fn parse(answer: &[u8]) -> io::Result<(u64, usize)> {
    let mut words = answer.splitn(2, |&byte| byte == b' ');
    let (name, seq) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let seq = std::str::from_utf8(seq).ok().and_then(|seq| seq.parse().ok());
    Ok((seq.ok_or(io::ErrorKind::InvalidData)?, endpoint(name)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_name_of_the_cast_and_a_number() {
        assert_eq!(parse(b"eu-2 17").unwrap(), (17, 1));
        for bad in ["", "eu-1", "eu-1 ", "eu-1 x", "xx-1 17", " 17"] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
