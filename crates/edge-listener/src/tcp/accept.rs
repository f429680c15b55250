//! Connections arrive: one task per listening socket accepts, one task per connection serves.

use std::{net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use endpoint_group::{FlowKey, Protocol, Slot};
use tokio::net::{TcpListener, TcpStream};

use super::{dial, leg::Leg, relay};
use crate::{
    account::Counters,
    bind::Bound,
    flow::OpenFlow,
    reasons::{CloseReason, DropReason},
    routes::Classifier,
    worker::{Phase, Worker},
};

/// How long accepting pauses when the kernel refuses for lack of descriptors or memory: long enough not to spin, short enough that
/// connections wait in the accept queue rather than fail.
const PAUSE: Duration = Duration::from_millis(20);

/// One listening socket of one worker.
struct Acceptor {
    worker: Rc<Worker>,
    listener: usize,
    address: SocketAddr,
    classifier: Classifier,
    counters: Arc<Counters>,
}

pub(crate) fn spawn(worker: &Rc<Worker>, bound: Bound<std::net::TcpListener>) {
    let counters = worker.counters(bound.listener, Protocol::Tcp);
    let socket = match TcpListener::from_std(bound.socket) {
        Ok(socket) => Arc::new(socket),
        Err(error) => {
            tracing::error!(address = %bound.address, %error, "cannot accept on a bound socket");
            return;
        }
    };
    worker.shared.books.overflow().watch(&socket, bound.listener, Protocol::Tcp);
    let acceptor = Rc::new(Acceptor {
        worker: Rc::clone(worker),
        listener: bound.listener,
        address: bound.address,
        classifier: worker.classifier(bound.listener),
        counters,
    });
    tokio::task::spawn_local(accept_until_drained(acceptor, socket));
}

/// Accepts until the edge drains, then serves what the kernel has accepted already, then closes the socket.
async fn accept_until_drained(acceptor: Rc<Acceptor>, socket: Arc<TcpListener>) {
    // The drain is not over while this socket may still bring connections.
    let _live = acceptor.worker.live();
    let mut phase = acceptor.worker.shared.phase.clone();
    loop {
        tokio::select! {
            accepted = socket.accept() => match accepted {
                Ok((stream, client)) => acceptor.take(stream, client),
                Err(error) => acceptor.failed(&error).await,
            },
            _ = phase.wait_for(|&phase| phase >= Phase::Draining) => break,
        }
    }
    let mut queued = std::pin::pin!(async {
        while let Ok((stream, client)) = socket.accept().await {
            acceptor.take(stream, client);
        }
    });
    // One poll takes all that is queued: `accept` is only pending when the queue is empty.
    tokio::task::unconstrained(std::future::poll_fn(|cx| {
        let _ = queued.as_mut().poll(cx);
        std::task::Poll::Ready(())
    }))
    .await;
}

impl Acceptor {
    fn take(self: &Rc<Self>, stream: TcpStream, client: SocketAddr) {
        let leg = Leg::new(stream);
        let key = FlowKey { protocol: Protocol::Tcp, client, to: self.address };
        let slot = self.classifier.slot(&key);
        if self.worker.shared.routes.choose(self.listener, slot).is_none() {
            self.counters.count_drop(DropReason::NoEndpoint);
            return;
        }
        let Some(flow) = OpenFlow::admit(&self.worker, self.listener, Protocol::Tcp, &self.counters, client.ip()) else {
            return;
        };
        let acceptor = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let reason = acceptor.serve(leg, client, slot, &flow).await;
            tracing::debug!(%client, to = %acceptor.address, reason = reason.as_str(), "connection ended");
            flow.ends(reason);
        });
    }

    async fn failed(&self, error: &std::io::Error) {
        // A connection that its client aborted while it waited is nobody's loss.
        if error.raw_os_error() == Some(libc::ECONNABORTED) {
            return;
        }
        // Nothing is lost yet: the connection waits in the accept queue, whose overflow is counted.
        if self.worker.may_complain() {
            tracing::warn!(address = %self.address, %error, "cannot accept; connections wait");
        }
        tokio::time::sleep(PAUSE).await;
    }

    async fn serve(&self, mut client: Leg, from: SocketAddr, slot: Slot, flow: &OpenFlow) -> CloseReason {
        let Some(settings) = &self.worker.shared.settings.listeners[self.listener].tcp else {
            return CloseReason::LocalError;
        };
        let dial = dial::Dial { worker: &self.worker, listener: self.listener, settings, counters: &self.counters };
        let dialed = tokio::select! {
            dialed = dial.first_that_accepts(slot, self.address.port()) => dialed,
            () = client.aborted() => return CloseReason::ClientReset,
        };
        let (mut endpoint, id) = match dialed {
            Ok(dialed) => dialed,
            Err(reason) => return reason,
        };
        flow.pin(&self.worker, id);
        let mut registered = self.worker.connections.register((self.listener, id), (from, self.address));
        let routes = &self.worker.shared.routes;
        // The table may have changed between the choice and the registration, and the sweep passed by.
        if routes.must_leave(self.listener, id, settings.on_unhealthy) {
            return CloseReason::EndpointGone;
        }
        if let Some(header) = settings.client_ip.header(Protocol::Tcp, from, self.address)
            && !endpoint.begins_with(&header)
        {
            return CloseReason::EndpointReset;
        }
        let relay = relay::Relay {
            client: &client,
            endpoint: &endpoint,
            counters: &self.counters,
            buffer: &self.worker.buffer,
            idle_timeout: settings.idle_timeout,
        };
        let reason = tokio::select! {
            reason = relay.run() => reason,
            Ok(reason) = &mut registered.killed => reason,
        };
        if matches!(reason, CloseReason::Finished) {
            client.finish();
            endpoint.finish();
        }
        reason
    }
}
