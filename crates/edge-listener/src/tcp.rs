//! TCP of a listener: accept → dial → relay.

pub(crate) mod accept;
pub(crate) mod connections;
mod dial;
mod leg;
mod relay;
