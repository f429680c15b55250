//! What a flow holds while it lives, and gives back when it ends, however it ends.

use std::{net::IpAddr, sync::Arc};

use endpoint_group::{EndpointId, Protocol};

use crate::{
    account::{Counters, EndpointFlow},
    limits::Permit,
    reasons::{CloseReason, DropReason},
    worker::{Context, Phase, Shared},
};

/// An admitted flow. Dropping it closes the books on it, under [`CloseReason::Shutdown`] unless another reason was given.
#[derive(Debug)]
pub(crate) struct OpenFlow {
    counters: Arc<Counters>,
    reason: CloseReason,
    pinned: Option<EndpointFlow>,
    _permit: Permit,
}

impl OpenFlow {
    /// Admits one more flow of `client`, or says why not, which is for the caller to count. When the listener is full, and nothing else is
    /// in the way, `make_room` may end a flow in its favour.
    pub fn admit(
        context: &Context,
        listener: usize,
        protocol: Protocol,
        counters: &Arc<Counters>,
        client: IpAddr,
        make_room: &mut dyn FnMut() -> bool,
    ) -> Result<Self, DropReason> {
        let permit = match (context.phase(), protocol) {
            // A TCP connection that the kernel had accepted before the drain is served.
            (Phase::Serving, _) | (Phase::Draining, Protocol::Tcp) => {
                let Shared { limits, .. } = &*context.shared;
                limits[listener].admit(client, context.now(), make_room)?
            }
            (Phase::Draining | Phase::Stopping, _) => return Err(DropReason::Draining),
        };
        counters.open();
        Ok(Self { counters: Arc::clone(counters), reason: CloseReason::Shutdown, pinned: None, _permit: permit })
    }

    /// Counts the flow at `endpoint` from now on, and at no other.
    pub fn pin(&mut self, context: &Context, endpoint: EndpointId) {
        let Shared { routes, books, .. } = &*context.shared;
        self.pinned = routes.load().endpoint(endpoint).map(|e| books.endpoint_flow(&e.target.group, &e.target.name));
    }

    /// Why the flow will have ended when it is dropped.
    pub fn ends(&mut self, reason: CloseReason) {
        self.reason = reason;
    }
}

impl Drop for OpenFlow {
    fn drop(&mut self) {
        self.counters.close(self.reason);
    }
}
