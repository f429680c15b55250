//! TCP: accepted at the edge, dialled to an endpoint, relayed until both ends have closed.

mod accept;
mod connection;
mod dial;
mod leg;
mod options;
mod pipes;
mod table;
mod way;

pub(crate) use options::prepare;
pub(crate) use table::Tcp;
