//! What a worker waits for: one epoll instance, whose events name their source.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

pub(crate) use rustix::event::epoll::EventFlags;
use rustix::event::{Timespec, epoll};
use slotmap::{Key, KeyData, new_key_type};

new_key_type! {
    /// One TCP connection of a worker. Never used again for another one, so that an event which is late finds nothing.
    pub(crate) struct ConnectionId;
    /// One UDP flow of a worker; the same holds.
    pub(crate) struct FlowId;
}

/// Events taken at once.
const EVENTS: usize = 256;
/// Where a token says what kind of source it is. Below it stands an index, above it the version of a key.
const KIND: u32 = 28;

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    /// Another thread has something to say.
    Wake,
    /// A TCP socket on a static IP, by its place.
    Acceptor(usize),
    /// A UDP socket on a static IP, by its place.
    Receiver(usize),
    /// The client's end of a connection.
    Client(ConnectionId),
    /// The endpoint's end of a connection.
    Endpoint(ConnectionId),
    /// The socket of a UDP flow.
    Flow(FlowId),
}

impl Source {
    fn token(self) -> u64 {
        let (kind, rest) = match self {
            Self::Wake => (0, 0),
            Self::Acceptor(index) => (1, index as u64),
            Self::Receiver(index) => (2, index as u64),
            Self::Client(id) => (3, id.data().as_ffi()),
            Self::Endpoint(id) => (4, id.data().as_ffi()),
            Self::Flow(id) => (5, id.data().as_ffi()),
        };
        // Indices are bounded by the descriptors of a process, far below 2^28.
        rest | kind << KIND
    }

    fn of(token: u64) -> Self {
        let kind = token >> KIND & 0xf;
        let rest = token & !(0xf << KIND);
        let index = usize::try_from(rest).unwrap_or(usize::MAX);
        match kind {
            1 => Self::Acceptor(index),
            2 => Self::Receiver(index),
            3 => Self::Client(KeyData::from_ffi(rest).into()),
            4 => Self::Endpoint(KeyData::from_ffi(rest).into()),
            5 => Self::Flow(KeyData::from_ffi(rest).into()),
            _ => Self::Wake,
        }
    }
}

/// An epoll instance. A descriptor leaves it when it is closed.
#[derive(Debug)]
pub(crate) struct Poll(OwnedFd);

impl Poll {
    pub fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(epoll::CreateFlags::CLOEXEC)?))
    }

    /// Reports `interest` in `descriptor` as events of `source`. Errors and hang-ups are reported in any case.
    pub fn add(&self, descriptor: impl AsFd, source: Source, interest: EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.0, descriptor, epoll::EventData::new_u64(source.token()), interest)?)
    }

    /// Replaces the interest in `descriptor`. What is there already is reported again.
    pub fn change(&self, descriptor: impl AsFd, source: Source, interest: EventFlags) -> io::Result<()> {
        Ok(epoll::modify(&self.0, descriptor, epoll::EventData::new_u64(source.token()), interest)?)
    }

    /// Waits until something happens or `until` has come (`None`: for ever), and puts what happened into `events`, which is emptied first.
    pub fn wait(&self, events: &mut Vec<(Source, EventFlags)>, now: Instant, until: Option<Instant>) -> io::Result<()> {
        events.clear();
        let left = until.map(|until| until.saturating_duration_since(now));
        // A thousandth more, so that what is due then is not found a moment too early.
        let left = left.map(|left| if left.is_zero() { left } else { left + Duration::from_millis(1) });
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        let mut buffer = [const { std::mem::MaybeUninit::<epoll::Event>::uninit() }; EVENTS];
        match epoll::wait(&self.0, &mut buffer, left.as_ref()) {
            Ok((reported, _)) => {
                // Copied out field by field: the kernel packs them.
                events.extend(reported.iter().map(|event| (Source::of({ event.data }.u64()), { event.flags })));
                Ok(())
            }
            Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use slotmap::SlotMap;

    use super::*;

    #[test]
    fn a_token_names_its_source() {
        let mut connections: SlotMap<ConnectionId, ()> = SlotMap::with_key();
        let first = connections.insert(());
        connections.remove(first);
        let again = connections.insert(());
        assert_ne!(first, again, "a place that is used again has another key");
        let mut flows: SlotMap<FlowId, ()> = SlotMap::with_key();
        let flow = (0..1000).map(|_| flows.insert(())).last().unwrap();
        for source in [
            Source::Wake,
            Source::Acceptor(0),
            Source::Acceptor(70_000),
            Source::Receiver(3),
            Source::Client(first),
            Source::Client(again),
            Source::Endpoint(again),
            Source::Flow(flow),
        ] {
            assert_eq!(Source::of(source.token()), source);
        }
    }
}
