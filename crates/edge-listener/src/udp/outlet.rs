//! The sockets that replies leave by: those on the static IPs, and one for each further port of a listener of many ports that has flows.
//!
//! A dispatcher takes what comes for such a port before any socket of that port could, errors included: these sockets only send. A socket
//! is opened with the first flow on its port and closed with the last.

use std::{io, net::SocketAddr, net::UdpSocket, sync::Arc};

use slotmap::new_key_type;

use super::{mail::Mail, table::Udp};
use crate::{account::Counters, bind};

new_key_type! {
    /// One such socket of a worker.
    pub(super) struct OutletId;
}

/// A socket and what is to leave by it.
#[derive(Debug)]
pub(super) struct Outlet {
    /// The place of the receiver whose flows it serves.
    pub receiver: usize,
    pub port: u16,
    pub socket: Arc<UdpSocket>,
    pub counters: Arc<Counters>,
    /// Replies that wait to be sent, in slots of [`Udp::replies`].
    pub mail: Mail,
    /// Flows that it serves. A socket on a static IP that also receives counts for one itself.
    flows: usize,
}

impl Outlet {
    /// Closed when its last flow ends.
    pub fn new(receiver: usize, port: u16, socket: Arc<UdpSocket>, counters: Arc<Counters>) -> Self {
        Self { receiver, port, socket, counters, mail: Mail::default(), flows: 1 }
    }
}

impl Udp {
    /// The socket that replies to a new flow leave by: from the port `to`, which is one of the receiver's. To be given back with
    /// [`Udp::leave_outlet`].
    pub(super) fn take_outlet(&mut self, at: usize, to: SocketAddr) -> io::Result<OutletId> {
        let receiver = &mut self.receivers[at];
        if let Some(&id) = receiver.outlets.get(&to.port())
            && let Some(outlet) = self.outlets.get_mut(id)
        {
            outlet.flows += 1;
            return Ok(id);
        }
        let socket = Arc::new(bind::bind_outlet(to)?);
        let id = self.outlets.insert(Outlet::new(at, to.port(), socket, Arc::clone(&receiver.counters)));
        receiver.outlets.insert(to.port(), id);
        Ok(id)
    }

    /// Gives back what a flow had of a socket. The last closes it, after what waits there has left.
    pub(super) fn leave_outlet(&mut self, id: OutletId) {
        let Some(outlet) = self.outlets.get_mut(id) else { return };
        outlet.flows -= 1;
        if outlet.flows > 0 {
            return;
        }
        if !outlet.mail.is_empty() {
            self.post();
        }
        if let Some(outlet) = self.outlets.remove(id) {
            self.receivers[outlet.receiver].outlets.remove(&outlet.port);
        }
    }
}
