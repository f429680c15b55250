//! What the control loop changes while packets flow: tables, the drain.
//!
//! A table is written into the half of the listener's pair that no packet reads, together with whom flows must leave, and one word makes
//! it the one in force: a packet sees either the old table whole or the new one. Endpoints that it names are there before it is. A half
//! is written anew at the earliest one publication after packets left it; a packet that were still at it would find answers of a newer
//! table of the same listener.

use std::{collections::HashSet, net::IpAddr, sync::Arc};

use endpoint_group::{ListenerTable, RoutingTable, SLOTS, Slot, table::Target};

use super::{
    FastPath, failed,
    layout::{self, ENDPOINT_KNOWN, ENDPOINT_OVERRIDES, ENDPOINT_V6, Endpoint, NO_ENDPOINT, OverrideKey, Table},
};
use crate::Error;

impl FastPath {
    /// Makes `table` the one that packets are decided by. On an error what was published before goes on.
    ///
    /// An endpoint's id must not be given to another while a flow holds it: [`FastPath::sweep`] counts them.
    pub fn publish(&mut self, table: &RoutingTable) -> Result<(), Error> {
        let most = self.settings.max_endpoints;
        if table.endpoints.len() > most {
            return Err(Error::Table(format!(
                "it has {} endpoints, and {most} fit: restart with room for more",
                table.endpoints.len()
            )));
        }
        if let Some(listener) = self.settings.listeners.iter().find(|l| l.index >= table.listeners.len()) {
            return Err(Error::Table(format!("it has no listener {}", listener.index)));
        }
        let stale = self.write_endpoints(table)?;
        for place in 0..self.listeners.len() {
            let answers = &table.listeners[self.settings.listeners[place].index];
            if self.listeners[place].table.as_ref().is_some_and(|last| Arc::ptr_eq(last, answers)) {
                continue;
            }
            self.write_table(place, answers)?;
        }
        for key in stale {
            self.maps.overrides.remove(&key).map_err(failed("remove a port override"))?;
            self.overrides.remove(&key);
        }
        Ok(())
    }

    /// Writes the endpoints that differ from those of the last table, and gives the port overrides that nothing names any more.
    fn write_endpoints(&mut self, table: &RoutingTable) -> Result<Vec<OverrideKey>, Error> {
        let mut named = HashSet::new();
        for (id, endpoint) in (0u16..).zip(table.endpoints.iter()) {
            let target = &endpoint.target;
            for (listener_port, port) in overrides(target) {
                let key = OverrideKey { endpoint: id, listener_port: listener_port.to_be() };
                named.insert(key);
                if self.overrides.get(&key) != Some(&port) {
                    self.maps.overrides.insert(key, port.to_be(), 0).map_err(failed("write a port override"))?;
                    self.overrides.insert(key, port);
                }
            }
            if self.endpoints.get(usize::from(id)).is_none_or(|last| last.target != *target) {
                self.maps.endpoints.set(id.into(), kernel_endpoint(target), 0).map_err(failed("write an endpoint"))?;
            }
        }
        self.endpoints = Arc::clone(&table.endpoints);
        Ok(self.overrides.keys().filter(|key| !named.contains(key)).copied().collect())
    }

    /// Has every listener refuse, until a table is published.
    pub(super) fn write_refusals(&mut self) -> Result<(), Error> {
        let refusal: &Table = &empty_table();
        for (number, listener) in (0u32..).zip(&mut self.listeners) {
            listener.kernel.table = 2 * number;
            self.maps.tables.set(2 * number, refusal, 0).map_err(failed("write a routing table"))?;
        }
        self.write_listeners()
    }

    fn write_table(&mut self, place: usize, answers: &Arc<ListenerTable>) -> Result<(), Error> {
        let number = u32::try_from(place).unwrap_or(u32::MAX);
        let in_force = self.listeners[place].kernel.table;
        let half = 2 * number + u32::from(in_force == 2 * number);
        let table: &Table = &kernel_table(answers);
        self.maps.tables.set(half, table, 0).map_err(failed("write a routing table"))?;
        self.listeners[place].kernel.table = half;
        self.write_listener(place)?;
        self.listeners[place].table = Some(Arc::clone(answers));
        Ok(())
    }

    /// Whether new flows are refused from now on. Those that exist go on.
    pub fn set_draining(&mut self, draining: bool) -> Result<(), Error> {
        self.draining = draining;
        self.write_listeners()
    }
}

/// The overrides that matter: a fixed port goes before them.
fn overrides(target: &Target) -> impl Iterator<Item = (u16, u16)> + '_ {
    let all = target.port.is_none().then_some(&*target.port_overrides);
    all.into_iter().flatten().map(|(&listener_port, &port)| (listener_port, port))
}

fn kernel_endpoint(target: &Target) -> Endpoint {
    let v6 = if matches!(target.ip, IpAddr::V6(_)) { ENDPOINT_V6 } else { 0 };
    let overridden = if overrides(target).next().is_some() { ENDPOINT_OVERRIDES } else { 0 };
    Endpoint {
        address: layout::address(target.ip),
        port: target.port.unwrap_or(0).to_be(),
        flags: ENDPOINT_KNOWN | v6 | overridden,
        zero: 0,
    }
}

fn empty_table() -> Box<Table> {
    Box::new(Table { slot: [NO_ENDPOINT; SLOTS], leaving: [0; SLOTS / 64], ending: [0; SLOTS / 64] })
}

fn kernel_table(answers: &ListenerTable) -> Box<Table> {
    let mut table = empty_table();
    for slot in Slot::all() {
        // An id is a slot's answer as it stands.
        #[allow(clippy::cast_possible_truncation)]
        let id = answers.choose(slot).map_or(NO_ENDPOINT, |id| id.index() as u16);
        table.slot[slot.index()] = id;
    }
    for (set, ids) in [(&mut table.leaving, answers.leaving()), (&mut table.ending, answers.ending())] {
        for id in ids {
            set[id.index() / 64] |= 1 << (id.index() % 64);
        }
    }
    table
}
