//! The connections that one worker relays, by endpoint: to end those whose endpoint is to be left, and to tell where one is pinned.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::SocketAddr,
    rc::Rc,
};

use endpoint_group::EndpointId;
use tokio::sync::oneshot;

use crate::reasons::CloseReason;

/// A listener's connections to one endpoint.
pub(crate) type Key = (usize, EndpointId);

/// Client, and the static IP and port that it addressed: names one connection of this host.
pub(crate) type Pair = (SocketAddr, SocketAddr);

/// A worker's registry. Nothing here is touched by another thread.
#[derive(Default)]
pub(crate) struct Connections {
    by_endpoint: RefCell<HashMap<Key, HashMap<Pair, Entry>>>,
    next: Cell<u64>,
}

struct Entry {
    /// Tells a connection from a later one of the same client address and port.
    id: u64,
    kill: oneshot::Sender<CloseReason>,
}

/// A connection's place in the registry; left when dropped.
pub(crate) struct Registered {
    connections: Rc<Connections>,
    key: Key,
    pair: Pair,
    id: u64,
    /// Resolves with the reason to end.
    pub killed: oneshot::Receiver<CloseReason>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut all = self.connections.by_endpoint.borrow_mut();
        let Some(connections) = all.get_mut(&self.key) else { return };
        if connections.get(&self.pair).is_some_and(|entry| entry.id == self.id) {
            connections.remove(&self.pair);
        }
        if connections.is_empty() {
            all.remove(&self.key);
        }
    }
}

impl Connections {
    /// Lets a connection be found and ended from outside.
    pub fn register(self: &Rc<Self>, key: Key, pair: Pair) -> Registered {
        let id = self.next.get();
        self.next.set(id + 1);
        let (kill, killed) = oneshot::channel();
        // One that is replaced has ended already; its task has only not been told yet.
        self.by_endpoint.borrow_mut().entry(key).or_default().insert(pair, Entry { id, kill });
        Registered { connections: Rc::clone(self), key, pair, id, killed }
    }

    /// Some endpoint and listener for which `leave` holds.
    pub fn find_key(&self, leave: impl Fn(Key) -> bool) -> Option<Key> {
        self.by_endpoint.borrow().keys().copied().find(|&key| leave(key))
    }

    /// Ends up to `most` connections under `key`.
    pub fn end(&self, key: Key, reason: CloseReason, most: usize) {
        let mut all = self.by_endpoint.borrow_mut();
        let Some(connections) = all.get_mut(&key) else { return };
        let batch: Vec<Pair> = connections.keys().copied().take(most).collect();
        for pair in batch {
            if let Some(entry) = connections.remove(&pair) {
                // Err: the connection has just ended by itself.
                let _ = entry.kill.send(reason);
            }
        }
        if connections.is_empty() {
            all.remove(&key);
        }
    }

    /// Which endpoint the connection is pinned to.
    pub fn endpoint_of(&self, pair: Pair) -> Option<EndpointId> {
        let all = self.by_endpoint.borrow();
        all.iter().find(|(_, connections)| connections.contains_key(&pair)).map(|((_, endpoint), _)| *endpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(port: u16) -> Pair {
        (([203, 0, 113, 9], port).into(), ([198, 18, 0, 1], 7000).into())
    }

    #[test]
    fn found_ended_and_forgotten() {
        let connections = Rc::new(Connections::default());
        let [one, other] = [1, 2].map(|index| EndpointId::new(index).unwrap());
        let mut first = connections.register((0, one), pair(1));
        let second = connections.register((0, other), pair(2));
        assert_eq!((connections.endpoint_of(pair(1)), connections.endpoint_of(pair(2))), (Some(one), Some(other)));
        assert_eq!(connections.find_key(|(_, endpoint)| endpoint == one), Some((0, one)));
        connections.end((0, one), CloseReason::EndpointGone, 10);
        assert_eq!(first.killed.try_recv(), Ok(CloseReason::EndpointGone));
        assert_eq!(connections.endpoint_of(pair(1)), None);
        drop((first, second));
        assert!(connections.by_endpoint.borrow().is_empty());
    }

    #[test]
    fn a_client_that_returns_on_its_old_port_is_not_forgotten_with_the_old_connection() {
        let connections = Rc::new(Connections::default());
        let endpoint = EndpointId::new(1).unwrap();
        let old = connections.register((0, endpoint), pair(1));
        let mut new = connections.register((0, endpoint), pair(1));
        drop(old);
        assert_eq!(connections.endpoint_of(pair(1)), Some(endpoint));
        connections.end((0, endpoint), CloseReason::EndpointGone, 10);
        assert_eq!(new.killed.try_recv(), Ok(CloseReason::EndpointGone));
    }
}
