//! The control loop: the one writer of routing.
//!
//! Config and probe reports come in; routing tables, probe targets and the answers to questions go out. What to do is decided by
//! [`state::State`], which does no I/O and is told the time; [`driver`] carries it out.
//!
//! | channel | from → to | depth | when full |
//! |---|---|---|---|
//! | reports | checker → loop | see `health_checker::driver` | probes wait, none is lost |
//! | commands | admin, socket, signals → loop | [`handle::COMMANDS`] | the asker waits |
//! | announcements wanted, and reported | loop → BIRD's driver, and back | the latest | replaced |
//! | routing table | loop → workers | the latest | replaced |

pub mod announcer;
pub mod driver;
pub mod endpoints;
pub mod handle;
pub mod history;
pub mod names;
pub mod proximity;
pub mod state;
pub mod status;
