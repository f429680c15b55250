//! TCP of a listener: accept → dial → relay.

pub(crate) mod accept;
mod dial;
mod leg;
mod relay;
