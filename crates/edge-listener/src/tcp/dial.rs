//! A connection to the slot's endpoint, or to the next in rank, before the client notices.

use std::{io, net::SocketAddr, rc::Rc};

use endpoint_group::{EndpointId, Slot};
use socket2::SockRef;
use tokio::{
    net::{TcpSocket, TcpStream},
    time,
};

use super::leg::Leg;
use crate::{
    account::Counters,
    reasons::{CloseReason, is_local},
    settings::TcpSettings,
    worker::Worker,
};

pub(crate) struct Dial<'a> {
    pub worker: &'a Rc<Worker>,
    pub listener: usize,
    pub settings: &'a TcpSettings,
    pub counters: &'a Counters,
}

impl Dial<'_> {
    /// Tries the ranking of `slot` in order, each endpoint once, up to `connect_attempts`.
    pub async fn first_that_accepts(&self, slot: Slot, port: u16) -> Result<(Leg, EndpointId), CloseReason> {
        let mut tried = Vec::new();
        let mut lack = false;
        while tried.len() < self.settings.connect_attempts.get() {
            // Looked up anew for every attempt: the table may have learnt of the death meanwhile.
            let Some(id) = self.worker.shared.routes.next(self.listener, slot, &tried) else { break };
            tried.push(id);
            match self.connect(id, port).await {
                Ok(leg) => return Ok((leg, id)),
                // Every local port is in use towards this endpoint: not its fault, and another may have some left.
                Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                    tracing::debug!(endpoint = id.index(), "no local port is left towards the endpoint");
                    self.counters.connect_failed();
                    lack = true;
                }
                Err(error) if is_local(&error) => {
                    // The next endpoint would meet the same lack, and this one is not to blame.
                    tracing::debug!(%error, "cannot open a connection to an endpoint");
                    return Err(CloseReason::LocalError);
                }
                Err(error) => {
                    tracing::debug!(endpoint = id.index(), %error, "endpoint did not accept");
                    self.counters.connect_failed();
                    self.worker.shared.observer.failed(id);
                }
            }
        }
        Err(if lack { CloseReason::LocalError } else { CloseReason::ConnectFailed })
    }

    async fn open(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        if let Some(mss) = self.settings.mss {
            SockRef::from(&socket).set_tcp_mss(mss.into())?;
        }
        socket.connect(address).await
    }

    async fn connect(&self, id: EndpointId, port: u16) -> io::Result<Leg> {
        let target = {
            let table = self.worker.shared.routes.load();
            table.endpoint(id).map(|endpoint| endpoint.target.clone())
        };
        let Some(target) = target else { return Err(io::Error::from_raw_os_error(libc::ENXIO)) };
        let connecting = self.open(target.address(port));
        match time::timeout(self.settings.connect_timeout, connecting).await {
            Ok(connected) => connected.map(Leg::new),
            Err(_) => Err(io::Error::from_raw_os_error(libc::ETIMEDOUT)),
        }
    }
}
