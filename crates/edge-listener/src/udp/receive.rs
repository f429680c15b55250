//! Datagrams arrive: one task per static IP and port finds the flow of each and hands it on.

use std::{cell::RefCell, collections::HashMap, io, net::SocketAddr, rc::Rc, sync::Arc};

use endpoint_group::{EndpointId, Protocol};
use tokio::net::UdpSocket;

use super::flow::{self, Flow};
use crate::{account::Counters, bind::Bound, routes::Classifier, settings::UdpSettings, worker::Worker};

/// Datagrams from one socket before others get a turn.
const BURST: usize = 64;

/// One static IP and port, as one worker serves it.
pub(crate) struct Receiver {
    pub worker: Rc<Worker>,
    pub listener: usize,
    pub settings: UdpSettings,
    pub address: SocketAddr,
    pub socket: Arc<UdpSocket>,
    pub classifier: Classifier,
    pub counters: Arc<Counters>,
    /// The kernel hands all datagrams of one client to one worker, so the table is this worker's alone.
    pub flows: RefCell<HashMap<SocketAddr, Rc<Flow>>>,
}

pub(crate) fn spawn(worker: &Rc<Worker>, bound: Bound<std::net::UdpSocket>) {
    let Some(settings) = worker.shared.settings.listeners[bound.listener].udp.clone() else { return };
    let socket = match UdpSocket::from_std(bound.socket) {
        Ok(socket) => Arc::new(socket),
        Err(error) => {
            tracing::error!(address = %bound.address, %error, "cannot receive on a bound socket");
            return;
        }
    };
    worker.shared.books.overflow().watch(&socket, bound.listener, Protocol::Udp);
    let receiver = Rc::new(Receiver {
        worker: Rc::clone(worker),
        listener: bound.listener,
        settings,
        address: bound.address,
        socket,
        classifier: worker.classifier(bound.listener),
        counters: worker.counters(bound.listener, Protocol::Udp),
        flows: RefCell::default(),
    });
    worker.receivers.borrow_mut().insert(receiver.address, Rc::downgrade(&receiver));
    tokio::task::spawn_local(receiver.receive());
}

impl Receiver {
    async fn receive(self: Rc<Self>) {
        loop {
            if let Err(error) = self.socket.readable().await {
                tracing::error!(address = %self.address, %error, "cannot wait for datagrams");
                return;
            }
            for _ in 0..BURST {
                let mut buffer = self.worker.buffer.borrow_mut();
                match self.socket.try_recv_from(&mut buffer) {
                    Ok((length, client)) => self.deliver(client, &buffer[..length]),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // An ICMP error for an earlier reply: the client is gone, and its flow will idle out.
                    Err(error) => tracing::trace!(address = %self.address, %error, "error from an earlier datagram"),
                }
            }
            tokio::task::yield_now().await;
        }
    }

    /// Which endpoint the flow of `client` is pinned to.
    pub fn endpoint_of(&self, client: SocketAddr) -> Option<EndpointId> {
        self.flows.borrow().get(&client).map(|flow| flow.endpoint())
    }

    fn deliver(self: &Rc<Self>, client: SocketAddr, datagram: &[u8]) {
        let known = self.flows.borrow().get(&client).map(Rc::clone);
        let flow = match known {
            Some(flow) => flow,
            None => match flow::open(self, client) {
                Some(flow) => {
                    self.flows.borrow_mut().insert(client, Rc::clone(&flow));
                    flow
                }
                None => return,
            },
        };
        flow.forward(self, datagram);
    }
}
