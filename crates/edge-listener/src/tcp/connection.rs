//! One connection, from its acceptance to its end: dialled, then relayed both ways as if client and endpoint were connected directly.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use endpoint_group::{EndpointId, Protocol, Slot};

use super::{
    accept::Acceptor,
    dial::{Attempt, Dial},
    leg::Leg,
    way::{Lost, Tools, Way},
};
use crate::{
    account::Direction,
    flow::OpenFlow,
    poll::{ConnectionId, EventFlags, Source},
    reasons::CloseReason,
    worker::Context,
};

/// What a connection is told.
#[derive(Debug, Clone, Copy)]
pub(super) enum Event {
    /// It has begun.
    Accepted,
    /// Something happened at the client's end, or at the endpoint's.
    Client(EventFlags),
    Endpoint(EventFlags),
    /// Its time has come.
    Due,
    /// The routing table has changed.
    Table,
}

#[derive(Debug)]
pub(super) struct Connection {
    /// The place of its acceptor.
    pub acceptor: usize,
    pub from: SocketAddr,
    /// The static IP and port that the client addressed.
    pub to: SocketAddr,
    slot: Slot,
    client: Leg,
    endpoint: Option<Leg>,
    /// While no endpoint has accepted.
    dial: Option<Box<Dialling>>,
    /// The endpoint that has accepted.
    pub pinned: Option<EndpointId>,
    up: Way,
    down: Way,
    /// When bytes last moved.
    last: Instant,
    /// What stood unacknowledged towards client and endpoint when nothing had moved for the idle timeout.
    unacknowledged: (i32, i32),
    /// When it is to be looked at in any case.
    pub due: Instant,
    open: OpenFlow,
}

#[derive(Debug, Default)]
struct Dialling {
    dial: Dial,
    endpoint: Option<EndpointId>,
}

impl Connection {
    /// How long no byte has moved.
    pub fn quiet(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.last)
    }

    pub fn new(
        acceptor: usize,
        (from, to): (SocketAddr, SocketAddr),
        slot: Slot,
        client: Leg,
        open: OpenFlow,
        now: Instant,
    ) -> Self {
        Self {
            acceptor,
            from,
            to,
            slot,
            client,
            endpoint: None,
            dial: Some(Box::default()),
            pinned: None,
            up: Way::new(Direction::ToEndpoint),
            down: Way::new(Direction::ToClient),
            last: now,
            unacknowledged: (0, 0),
            due: now,
            open,
        }
    }

    /// Acts on `event`; an error is the reason to end.
    pub fn handle(
        &mut self,
        context: &Context,
        acceptor: &Acceptor,
        id: ConnectionId,
        event: Event,
        tools: &mut Tools<'_>,
    ) -> Result<(), CloseReason> {
        match event {
            Event::Accepted => {
                self.client.watch(&context.poll, Source::Client(id)).map_err(|_| CloseReason::LocalError)?;
                return self.dial(context, acceptor, id, tools);
            }
            Event::Client(flags) => self.client.reported(flags),
            Event::Endpoint(flags) => {
                if let Some(endpoint) = &mut self.endpoint {
                    endpoint.reported(flags);
                }
                if self.dial.is_some() {
                    return self.answered(context, acceptor, id, tools);
                }
            }
            Event::Due => return self.due(context, acceptor, id, tools),
            Event::Table => return self.check_table(context, acceptor),
        }
        if self.dial.is_some() {
            return if self.client.failed { Err(CloseReason::ClientReset) } else { Ok(()) };
        }
        self.relay(context, id, tools)
    }

    /// Tries the next endpoint in rank.
    fn dial(
        &mut self,
        context: &Context,
        acceptor: &Acceptor,
        id: ConnectionId,
        tools: &mut Tools<'_>,
    ) -> Result<(), CloseReason> {
        let Some(dialling) = &mut self.dial else { return Ok(()) };
        let attempt = dialling.dial.next(context, acceptor, self.slot, (self.from, self.to), id)?;
        let Attempt { leg, endpoint, due, connected } = attempt;
        dialling.endpoint = Some(endpoint);
        // One that was tried before is reset.
        self.endpoint = Some(leg);
        self.due = due;
        if connected { self.establish(context, acceptor, id, tools) } else { Ok(()) }
    }

    /// The endpoint that is tried has accepted, or refused.
    fn answered(
        &mut self,
        context: &Context,
        acceptor: &Acceptor,
        id: ConnectionId,
        tools: &mut Tools<'_>,
    ) -> Result<(), CloseReason> {
        let Some(leg) = &self.endpoint else { return Ok(()) };
        let error = if leg.failed { leg.error() } else { None };
        match error {
            Some(error) => self.failed(context, acceptor, id, &error, tools),
            None if leg.writable => self.establish(context, acceptor, id, tools),
            None => Ok(()),
        }
    }

    fn failed(
        &mut self,
        context: &Context,
        acceptor: &Acceptor,
        id: ConnectionId,
        error: &io::Error,
        tools: &mut Tools<'_>,
    ) -> Result<(), CloseReason> {
        if let Some(Dialling { dial, endpoint: Some(endpoint) }) = self.dial.as_deref_mut() {
            dial.failed(context, acceptor, *endpoint, error)?;
        }
        self.dial(context, acceptor, id, tools)
    }

    /// From here on bytes go both ways.
    fn establish(
        &mut self,
        context: &Context,
        acceptor: &Acceptor,
        id: ConnectionId,
        tools: &mut Tools<'_>,
    ) -> Result<(), CloseReason> {
        let Some(endpoint) = self.dial.take().and_then(|dialling| dialling.endpoint) else { return Ok(()) };
        let Some(leg) = &mut self.endpoint else { return Ok(()) };
        leg.writable = true;
        self.pinned = Some(endpoint);
        self.open.pin(context, endpoint);
        self.last = context.now();
        self.due = self.last + acceptor.settings.idle_timeout;
        if let Some(header) = acceptor.settings.client_ip.header(Protocol::Tcp, self.from, self.to) {
            // The send buffer is empty and takes it whole, or the connection is gone.
            if !leg.write(&header).is_ok_and(|written| written == header.len()) {
                return Err(CloseReason::EndpointReset);
            }
        }
        // The table may have changed since the choice, and the sweep passed by.
        self.check_table(context, acceptor)?;
        self.relay(context, id, tools)
    }

    fn check_table(&self, context: &Context, acceptor: &Acceptor) -> Result<(), CloseReason> {
        let Some(endpoint) = self.pinned else { return Ok(()) };
        if context.shared.routes.must_leave(acceptor.listener, endpoint, acceptor.settings.on_unhealthy) {
            return Err(CloseReason::EndpointGone);
        }
        Ok(())
    }

    /// Moves what can be moved, both ways. An abort at one end ends it, as soon as what came before it has been handed on or cannot be.
    fn relay(&mut self, context: &Context, id: ConnectionId, tools: &mut Tools<'_>) -> Result<(), CloseReason> {
        let Self { client, endpoint: Some(endpoint), up, down, .. } = self else { return Ok(()) };
        let lost_up = |lost| match lost {
            Lost::Source => CloseReason::ClientReset,
            Lost::Sink => CloseReason::EndpointReset,
        };
        let lost_down = |lost| match lost {
            Lost::Source => CloseReason::EndpointReset,
            Lost::Sink => CloseReason::ClientReset,
        };
        let above = up.pump(client, endpoint, down.done(), tools).map_err(lost_up)?;
        let below = down.pump(endpoint, client, up.done(), tools).map_err(lost_down)?;
        if above.moved || below.moved {
            self.last = context.now();
        }
        if up.done() && down.done() {
            return Err(CloseReason::Finished);
        }
        if above.more || below.more {
            context.again(Source::Client(id));
            return Ok(());
        }
        if client.failed {
            return Err(CloseReason::ClientReset);
        }
        if endpoint.failed {
            return Err(CloseReason::EndpointReset);
        }
        let watched = client
            .watch_room(&context.poll, Source::Client(id))
            .and_then(|()| endpoint.watch_room(&context.poll, Source::Endpoint(id)));
        watched.map_err(|_| CloseReason::LocalError)
    }

    /// An endpoint has not accepted in time, or nothing has moved for the idle timeout.
    ///
    /// A slow reader may take longer than that to make the kernel's send buffer writable again, while it takes in byte after byte:
    /// acknowledgements are traffic too. Data that nobody acknowledges ends the connection after up to twice the timeout.
    fn due(
        &mut self,
        context: &Context,
        acceptor: &Acceptor,
        id: ConnectionId,
        tools: &mut Tools<'_>,
    ) -> Result<(), CloseReason> {
        if self.dial.is_some() {
            return self.failed(context, acceptor, id, &io::Error::from_raw_os_error(libc::ETIMEDOUT), tools);
        }
        let (now, idle) = (context.now(), acceptor.settings.idle_timeout);
        if self.last + idle <= now {
            let unacknowledged = (self.client.unacknowledged(), self.endpoint.as_ref().map_or(0, Leg::unacknowledged));
            if unacknowledged == self.unacknowledged {
                return Err(CloseReason::Idle);
            }
            self.unacknowledged = unacknowledged;
            self.last = now;
        }
        self.due = self.last + idle;
        Ok(())
    }

    /// Gives back what it holds. Both ends are told by RST, or by FIN if it has finished.
    pub fn close(&mut self, reason: CloseReason, tools: &mut Tools<'_>) {
        self.up.close(tools);
        self.down.close(tools);
        if reason == CloseReason::Finished {
            self.client.finish();
            if let Some(endpoint) = &mut self.endpoint {
                endpoint.finish();
            }
        }
        self.open.ends(reason);
    }
}
