//! What goes wrong, in words for people: operation, subject, cause and cure.

use std::io;

/// Why there is no fast path here. Forwarding goes on in user space.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// The program was built for another platform, or without the feature.
    #[error("this build has no fast path: it needs Linux on a little-endian processor and the feature `kernel`")]
    Platform,
    /// The process may not load programs.
    #[error(
        "the process may not load programs into the kernel: run it as root, or with the capabilities CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN"
    )]
    Privilege,
    /// The kernel does not do what the program needs.
    #[error(
        "the kernel cannot run the fast path ({0}): it needs Linux 6.6 or newer with CONFIG_BPF_SYSCALL, CONFIG_BPF_JIT and BTF"
    )]
    Kernel(String),
    /// The kernel does not let a program choose sockets.
    #[error("the kernel lets no program choose sockets ({0}): it needs Linux 5.9 or newer with CONFIG_BPF_SYSCALL and BTF")]
    Lookup(String),
    /// The settings make no sense.
    #[error("the fast path cannot be set up: {0}")]
    Settings(String),
}

/// What failed once the fast path was loaded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A device that packets cannot be taken from.
    #[error("cannot attach the fast path to device {device}: {reason}")]
    Device {
        /// Its name.
        device: String,
        /// Cause and cure.
        reason: String,
    },
    /// A routing table that does not fit.
    #[error("cannot publish a routing table to the fast path: {0}")]
    Table(String),
    /// More networks to allow, or to deny, than the kernel has room for.
    #[error(
        "cannot change whom listeners serve: {needed} networks, with those in force until then, and {most} fit: join networks, or \
         restart the edge"
    )]
    TooManyNetworks {
        /// Those in force and the new ones together.
        needed: usize,
        /// What fits.
        most: usize,
    },
    /// The kernel refused.
    #[error("cannot {operation} in the kernel: {source}")]
    Kernel {
        /// What was tried.
        operation: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}
