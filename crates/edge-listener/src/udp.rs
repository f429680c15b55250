//! UDP of a listener: receive → flow → endpoint, and back.

mod flow;
pub(crate) mod receive;
