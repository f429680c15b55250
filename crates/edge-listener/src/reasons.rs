//! Why flows end and why packets or flows are refused: the only words for it in metrics, logs and docs.

/// Defines an enum of reasons with a fixed label each, and the list of all.
macro_rules! reasons {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $label:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$doc])* $variant,)+
        }

        impl $name {
            /// Every reason, in the order of declaration.
            pub const ALL: &[Self] = &[$(Self::$variant),+];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The metric label.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $label,)+
                }
            }
        }
    };
}

reasons! {
    /// Why a flow that had been opened ended.
    CloseReason {
        /// Both ends closed in order (TCP).
        Finished = "finished",
        /// Nothing in either direction for the idle timeout.
        Idle = "idle_timeout",
        /// The endpoint never answered, and nothing came for the unanswered timeout (UDP).
        Unanswered = "unanswered_timeout",
        /// The endpoint had never answered, and the flow made room for another (UDP).
        Evicted = "evicted",
        /// The client aborted; the endpoint was reset.
        ClientReset = "client_reset",
        /// The endpoint aborted; the client was reset.
        EndpointReset = "endpoint_reset",
        /// The endpoint turned unhealthy or was removed, and there was somewhere else to go (TCP; a UDP flow moves instead).
        EndpointGone = "endpoint_gone",
        /// No endpoint in the ranking accepted within its attempts.
        ConnectFailed = "connect_failed",
        /// The edge itself lacked something: descriptors, ports, memory.
        LocalError = "local_error",
        /// The edge stopped before the flow had ended.
        Shutdown = "shutdown",
    }
}

reasons! {
    /// Why a flow was refused or a datagram not delivered.
    DropReason {
        /// The listener's `max_flows` are in use.
        FlowLimit = "flow_limit",
        /// The client's `max_flows_per_client` are in use.
        ClientFlowLimit = "client_flow_limit",
        /// The client has begun `new_flows_per_client_per_second` within a second.
        ClientRate = "client_rate",
        /// The client's address is denied, or not among those that are allowed.
        Denied = "denied",
        /// The routing table refuses: nothing is eligible, or the edge has no verdicts yet.
        NoEndpoint = "no_endpoint",
        /// The edge is draining and takes no new flow.
        Draining = "draining",
        /// The process or host has no descriptor left for the flow.
        NoDescriptors = "no_descriptors",
        /// The datagram came from port 0 or from the address `::`, which no reply can reach (UDP).
        NoSourcePort = "no_source_port",
        /// The datagram claims to come from a UDP port of one of this edge's own listeners (UDP).
        InvalidSource = "invalid_source",
        /// No endpoint in the ranking could be addressed.
        Unreachable = "endpoint_unreachable",
        /// The endpoint's host answered the datagram before with an ICMP error, and this one could not be sent either.
        EndpointRefused = "endpoint_refused",
        /// The datagram is larger than the path takes.
        TooBig = "datagram_too_big",
        /// The send buffer towards the endpoint is full.
        EndpointBufferFull = "endpoint_buffer_full",
        /// The send buffer towards the client is full.
        ClientBufferFull = "client_buffer_full",
        /// The kernel dropped at the static IP's socket: receive buffer (UDP) or accept queue (TCP) full.
        SocketOverflow = "socket_overflow",
        /// The kernel dropped replies at a flow's own socket, whose receive buffer was full (UDP).
        ReplyOverflow = "endpoint_socket_overflow",
        /// Another local error.
        LocalError = "local_error",
    }
}

/// Whether an I/O error is this host's own lack, which says nothing about the endpoint.
pub(crate) fn is_local(error: &std::io::Error) -> bool {
    const LOCAL: &[i32] =
        &[libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS, libc::EADDRINUSE, libc::EAGAIN, libc::EINVAL];
    error.raw_os_error().is_none_or(|code| LOCAL.contains(&code))
}

/// Errors by which a host, a router before it, or a firewall says that an endpoint cannot be reached (docs/decisions/0005).
pub(crate) const UNREACHABLE: &[i32] = &[
    libc::ECONNREFUSED,
    libc::EHOSTUNREACH,
    libc::ENETUNREACH,
    libc::EHOSTDOWN,
    libc::ENONET,
    libc::ENOPROTOOPT,
    libc::EPROTO,
    libc::EPERM,
    libc::EACCES,
];

/// Whether an I/O error is a lack of descriptors.
pub(crate) fn is_descriptors(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn labels_are_unique() {
        let closes: HashSet<_> = CloseReason::ALL.iter().map(|r| r.as_str()).collect();
        assert_eq!(closes.len(), CloseReason::COUNT);
        let drops: HashSet<_> = DropReason::ALL.iter().map(|r| r.as_str()).collect();
        assert_eq!(drops.len(), DropReason::COUNT);
    }

    #[test]
    fn a_lack_of_descriptors_says_nothing_about_the_endpoint() {
        assert!(is_local(&std::io::Error::from_raw_os_error(libc::EMFILE)));
        assert!(!is_local(&std::io::Error::from_raw_os_error(libc::ECONNREFUSED)));
        assert!(!is_local(&std::io::Error::from_raw_os_error(libc::EHOSTUNREACH)));
    }
}
