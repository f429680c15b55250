//! Why the kernel drops a packet or a flow ends. Words that the path in user space has too mean the same there.

/// Defines an enum of reasons in the order of `bpf/layout.h`, with a fixed label each.
macro_rules! reasons {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $label:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u32)]
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
    /// Why a packet was dropped.
    DropReason {
        /// The listener's `max_flows` are in use, and all of them have been answered.
        FlowLimit = "flow_limit",
        /// The client's `max_flows_per_client` are in use.
        ClientFlowLimit = "client_flow_limit",
        /// The client has begun `new_flows_per_client_per_second` within a second.
        ClientRate = "client_rate",
        /// The client's address is denied, or not among those that are allowed.
        Denied = "denied",
        /// The routing table refuses, or has an endpoint of the other address family.
        NoEndpoint = "no_endpoint",
        /// The edge is draining and takes no new flow.
        Draining = "draining",
        /// The packet came from port 0, which no reply can reach.
        NoSourcePort = "no_source_port",
        /// The packet came from an address that no host has, such as a loopback or multicast one.
        InvalidSource = "invalid_source",
        /// The host's `rp_filter` refuses a new flow: its routing does not lead back by where the packet came in, or not at all.
        ReversePath = "reverse_path",
        /// The host has no route to the endpoint.
        EndpointUnreachable = "endpoint_unreachable",
        /// The host has no route to the client.
        ClientUnreachable = "client_unreachable",
        /// The packet is larger than the device towards its destination takes.
        TooBig = "datagram_too_big",
        /// No NAT port was found free, and no unanswered flow of the listener could make room.
        NoNatPort = "no_nat_port",
        /// A packet to a NAT port, or an ICMP error, without a flow.
        NoFlow = "no_flow",
        /// A packet to a flow's NAT port from another sender than the endpoint that the flow is at.
        NotFromEndpoint = "not_from_endpoint",
        /// A header that contradicts the packet.
        Malformed = "malformed",
        /// IPv4 options, or IPv6 extension headers.
        IpOptions = "ip_options",
        /// Its time to live was used up.
        TtlExceeded = "ttl_exceeded",
        /// A fragment that came before the first of its datagram, or long after.
        FragmentEarly = "fragment_early",
        /// The host does not forward at the device that the packet came from.
        ForwardingOff = "forwarding_off",
        /// The endpoint has another flow from the client's address and port, and there is no NAT address for this one.
        ClientIpInUse = "client_ip_in_use",
        /// Something is missing here that should not be.
        LocalError = "local_error",
    }
}

reasons! {
    /// Why a flow ended.
    EndReason {
        /// Nothing in either direction for the idle timeout.
        Idle = "idle_timeout",
        /// Its endpoint never answered.
        Unanswered = "unanswered_timeout",
        /// It had never been answered, and a newer one needed the room.
        Evicted = "evicted",
        /// The edge stopped.
        Shutdown = "shutdown",
    }
}
