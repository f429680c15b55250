//! One socket for all ports of a listener that is forwarded in user space: which listeners, and how workers' sockets get there.

use std::{io, net::IpAddr, os::fd::BorrowedFd};

use edge_listener::settings::EdgeSettings;
use endpoint_group::Protocol;
use fast_path::{Dispatched, Unavailable};

use crate::config::{Config, Host, PortSockets};

/// The listeners of many ports, and the program that chooses their sockets. It acts until it is dropped.
#[derive(Debug)]
pub struct Dispatcher {
    program: fast_path::Dispatcher,
    /// By the program's numbers, indices of the configuration.
    listeners: Vec<usize>,
}

/// The program could not be started, though it could be loaded before.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve many ports with one socket: {0}; see to it, or write fast_path = \"off\"")]
pub struct NoDispatcher(#[from] Unavailable);

/// Starts the program if there are listeners for it. `settings` is what is forwarded in user space.
pub fn dispatcher(config: &Config, host: &Host, settings: &EdgeSettings) -> Result<Option<Dispatcher>, NoDispatcher> {
    let mut listeners: Vec<usize> = (0..config.listeners.len()).collect();
    listeners.retain(|&index| settings.listeners[index].protocols().next().is_some());
    for sentence in listeners.iter().filter_map(|&index| config.port_sentence(&config.listeners[index], host)) {
        tracing::info!("{sentence}");
    }
    listeners.retain(|&index| config.port_sockets(&config.listeners[index], host) == PortSockets::OneForAll);
    if listeners.is_empty() {
        return Ok(None);
    }
    let dispatched = |&index: &usize| {
        let listener = &settings.listeners[index];
        Dispatched { ports: listener.ports.clone(), tcp: listener.tcp.is_some(), udp: listener.udp.is_some() }
    };
    let dispatched: Vec<_> = listeners.iter().map(dispatched).collect();
    let program = fast_path::Dispatcher::start(&settings.static_ips, &dispatched)?;
    Ok(Some(Dispatcher { program, listeners }))
}

impl edge_listener::Dispatcher for Dispatcher {
    fn serves(&self, listener: usize) -> bool {
        self.listeners.contains(&listener)
    }

    fn hand_over(&mut self, listener: usize, protocol: Protocol, ip: IpAddr, socket: BorrowedFd<'_>) -> io::Result<()> {
        let number = self.listeners.iter().position(|&index| index == listener).ok_or(io::ErrorKind::NotFound)?;
        self.program.hand_over(number, protocol, ip, socket).map_err(io::Error::other)
    }
}
