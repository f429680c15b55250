//! The interface where there is no fast path: loading says so, and nothing else can be called.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use endpoint_group::{EndpointId, Protocol, RoutingTable};

use crate::{Access, Counters, Dispatched, Error, FlowEntry, Settings, Sweep, Unavailable};

/// No fast path: there is no value of this type.
#[derive(Debug)]
pub enum FastPath {}

/// No program that chooses sockets: there is no value of this type.
#[derive(Debug)]
pub enum Dispatcher {}

#[allow(clippy::missing_errors_doc, reason = "none of these can be called, or each says why there is none")]
impl Dispatcher {
    /// Says why there is none.
    pub fn available() -> Result<(), Unavailable> {
        Err(Unavailable::Platform)
    }

    /// Says why there is none.
    pub fn start(_static_ips: &[IpAddr], _listeners: &[Dispatched]) -> Result<Self, Unavailable> {
        Err(Unavailable::Platform)
    }

    /// Cannot be called.
    #[cfg(unix)]
    pub fn hand_over(
        &mut self,
        _listener: usize,
        _protocol: Protocol,
        _ip: IpAddr,
        _socket: std::os::fd::BorrowedFd<'_>,
    ) -> Result<(), Error> {
        match *self {}
    }
}

/// No ICMP errors from a fast path that is not there.
#[derive(Debug)]
pub enum Refusals {}

/// The clock of a fast path that is not there.
pub fn clock() -> Duration {
    Duration::ZERO
}

/// There is no XDP either.
#[allow(clippy::missing_errors_doc, reason = "it gives none")]
pub fn unfit_for_xdp(_device: &str) -> std::io::Result<Option<String>> {
    Ok(Some(Unavailable::Platform.to_string()))
}

#[allow(clippy::missing_errors_doc, reason = "none of these can be called")]
impl FastPath {
    /// Says why there is none.
    pub fn load(_settings: Settings) -> Result<Self, Unavailable> {
        Err(Unavailable::Platform)
    }

    /// Cannot be called.
    pub fn attach(&mut self, _device: &str) -> Result<(), Error> {
        match *self {}
    }

    /// Cannot be called.
    pub fn detach(&mut self, _device: &str) -> Result<(), Error> {
        match *self {}
    }

    /// Cannot be called.
    pub fn attach_xdp(&mut self, _name: &str) -> Result<(), Error> {
        match *self {}
    }

    /// Cannot be called.
    pub fn detach_xdp(&mut self, _name: &str) {
        match *self {}
    }

    /// Cannot be called.
    pub fn has_xdp(&self, _name: &str) -> bool {
        match *self {}
    }

    /// Cannot be called.
    pub fn follow(&mut self, _name: &str) -> Result<(), Error> {
        match *self {}
    }

    /// Cannot be called.
    pub fn way_to(&mut self, _endpoint: std::net::IpAddr) -> Result<Option<u32>, Error> {
        match *self {}
    }

    /// Cannot be called.
    pub fn is_attached(&self, _device: &str) -> bool {
        match *self {}
    }

    /// Cannot be called.
    pub fn devices(&self) -> Vec<String> {
        match *self {}
    }

    /// Cannot be called.
    pub fn publish(&mut self, _table: &RoutingTable) -> Result<(), Error> {
        match *self {}
    }

    /// Cannot be called.
    pub fn set_draining(&mut self, _draining: bool) -> Result<(), Error> {
        match *self {}
    }

    /// Cannot be called.
    pub fn set_access(&mut self, _lists: Vec<(usize, Access)>) -> Result<(), Error> {
        match *self {}
    }

    /// Cannot be called.
    pub fn sweep(&mut self, _now: Duration) -> Result<Sweep, Error> {
        match *self {}
    }

    /// Cannot be called.
    pub fn sweep_part(&mut self, _now: Duration, _number: usize) -> Result<Sweep, Error> {
        match *self {}
    }

    /// Cannot be called.
    pub fn parts(&self) -> usize {
        match *self {}
    }

    /// Cannot be called.
    pub fn end_all(&mut self) -> Result<usize, Error> {
        match *self {}
    }

    /// Cannot be called.
    pub fn flows(&self) -> impl Iterator<Item = FlowEntry> + '_ {
        match *self {}
        #[allow(unreachable_code)]
        std::iter::empty()
    }

    /// Cannot be called.
    pub fn flows_of_part(&self, _number: usize) -> impl Iterator<Item = FlowEntry> + '_ {
        match *self {}
        #[allow(unreachable_code)]
        std::iter::empty()
    }

    /// Cannot be called.
    pub fn flow(&self, _client: SocketAddr, _to: SocketAddr) -> Result<Option<FlowEntry>, Error> {
        match *self {}
    }

    /// Cannot be called.
    pub fn counters(&self) -> Result<Counters, Error> {
        match *self {}
    }

    /// Cannot be called.
    pub fn endpoint_counters(&self, _ids: std::ops::Range<usize>) -> Result<Vec<crate::EndpointCounters>, Error> {
        match *self {}
    }

    /// Cannot be called.
    pub fn refusals(&mut self) -> Option<Refusals> {
        match *self {}
    }
}

/// Nothing is attached.
pub fn attachments() -> Result<Vec<crate::Attachment>, Error> {
    Ok(Vec::new())
}

impl crate::Attachment {
    /// Does nothing: there is none.
    pub fn detach(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// No device that packets could be taken from.
pub fn devices() -> std::io::Result<std::collections::BTreeMap<String, u32>> {
    Ok(std::collections::BTreeMap::new())
}

#[cfg(unix)]
impl std::os::fd::AsRawFd for Refusals {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        match *self {}
    }
}

impl Iterator for Refusals {
    type Item = EndpointId;

    fn next(&mut self) -> Option<EndpointId> {
        match *self {}
    }
}
