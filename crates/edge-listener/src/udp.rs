//! UDP: datagrams to endpoints, replies to clients.

mod ancillary;
mod batch;
mod flow;
mod mail;
mod message;
mod outlet;
mod receive;
mod replies;
mod sender;
mod table;
mod upstream;

pub(crate) use ancillary::{prepare, prepare_for_many};
pub(crate) use table::Udp;
