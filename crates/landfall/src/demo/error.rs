//! Why a demonstration fails.

use std::{io, net::IpAddr, path::PathBuf};

use super::READY;
use crate::{config::ConfigErrors, run::RunError};

/// The demonstration failed, or could not be given.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// It was given, and did not show what was promised.
    #[error("the demonstration missed what it was to show: {}", .0.join("; "))]
    Missed(Vec<String>),
    /// Somebody ended it.
    #[error("the demonstration was interrupted; everything it started has been stopped")]
    Interrupted,
    /// No directory.
    #[error("cannot create the directory {} for temporary files: {source}; set TMPDIR to one where this user may write", path.display())]
    Place {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No config file in it.
    #[error("cannot write the config {}: {source}; see that there is room for it", path.display())]
    WriteConfig {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No ports.
    #[error(
        "cannot find a free port on {ip}: {source}; the loopback interface must be up with all of 127.0.0.0/8, as it is by default"
    )]
    Ports {
        /// On which address.
        ip: IpAddr,
        /// What the system said last.
        source: io::Error,
    },
    /// An endpoint did not start.
    #[error("cannot start the endpoint {name}: {source}; see what it wrote to standard error, and the limit on processes")]
    Endpoint {
        /// Which.
        name: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// An endpoint did not die.
    #[error("cannot kill the endpoint {name}: {source}; was it ended by somebody else?")]
    Kill {
        /// Which.
        name: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The config is refused; it is this program's own, so something about this host is.
    #[error("cannot use the demonstration's own config: {0}; raise the limit on descriptors if that is what it speaks of")]
    Config(#[from] ConfigErrors),
    /// The accelerator did not start.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The accelerator did not become ready.
    #[error("the accelerator is not ready after {READY:?}: {}; try again when this machine is less busy", .0.join(", "))]
    NotReady(Vec<String>),
    /// The accelerator ended.
    #[error("the accelerator's control loop has ended; LANDFALL_LOG=info shows why")]
    Ended,
    /// A client could not be set up.
    #[error("cannot open a client's socket: {0}; check the limit on descriptors")]
    Client(io::Error),
    /// The clients' threads could not be set up.
    #[error("cannot start the clients: {0}; check the limits on threads and descriptors")]
    Clients(io::Error),
    /// Signals could not be listened for.
    #[error("cannot listen for signals: {0}")]
    Signals(io::Error),
    /// Nobody reads.
    #[error("cannot write to standard output: {0}; leave it open until the end")]
    Output(io::Error),
}
