//! The UDP probe: a datagram out, then follow a script until an answer decides.

use std::net::{IpAddr, SocketAddr};

use super::{
    BadReason, Failure,
    socket::{connect_udp, receive},
};
use crate::script::{Dialogue, Script, Step};

/// Follows the script; sets `heard` once any datagram came. Waits for ever if no answer decides.
pub(super) async fn ask(target: SocketAddr, source: Option<IpAddr>, script: &Script, heard: &mut bool) -> Result<(), Failure> {
    let socket = connect_udp(target, source).await?;
    let mut dialogue = Dialogue::new(script, script.nonce.draw()?, socket.local_addr()?, target);
    socket.send(&dialogue.opening()).await?;
    loop {
        let answer = receive(&socket).await?;
        *heard = true;
        if !dialogue.awaits() {
            return Ok(());
        }
        match dialogue.hear(&answer) {
            Step::Wait => {}
            Step::Send(message) => {
                socket.send(&message).await?;
            }
            // No datagram protocol has a farewell.
            Step::Good(_) => return Ok(()),
            Step::Bad => return Err(Failure::Reason(BadReason::Unexpected)),
        }
    }
}
