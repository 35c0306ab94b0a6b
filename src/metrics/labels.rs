//! The closed labels of the metrics: every reason, code and path that can be counted.

/// Defines a closed label: an enum, its values in order, and each value's text.
macro_rules! label {
    ($(#[$doc:meta])* $name:ident, $key:literal {
        $($(#[$vdoc:meta])* $variant:ident => $text:literal,)*
    }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            /// Every value, in the order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            /// The name of the label.
            pub const KEY: &'static str = $key;

            /// The text of the value in `/metrics`.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

label! {
    /// A STUN method that the relay answers.
    Method, "method" {
        /// RFC 8489 Binding.
        Binding => "binding",
        /// RFC 8656 Allocate.
        Allocate => "allocate",
        /// RFC 8656 Refresh.
        Refresh => "refresh",
        /// RFC 8656 CreatePermission.
        CreatePermission => "create_permission",
        /// RFC 8656 ChannelBind.
        ChannelBind => "channel_bind",
        /// RFC 6062 Connect.
        Connect => "connect",
        /// RFC 6062 ConnectionBind.
        ConnectionBind => "connection_bind",
    }
}

label! {
    /// Why a request was refused: the STUN error code.
    Code, "code" {
        /// 300 Try Alternate.
        TryAlternate => "300",
        /// 400 Bad Request.
        BadRequest => "400",
        /// 401 Unauthenticated.
        Unauthenticated => "401",
        /// 403 Forbidden.
        Forbidden => "403",
        /// 420 Unknown Attribute.
        UnknownAttribute => "420",
        /// 437 Allocation Mismatch.
        AllocationMismatch => "437",
        /// 438 Stale Nonce.
        StaleNonce => "438",
        /// 440 Address Family not Supported.
        AddressFamilyNotSupported => "440",
        /// 441 Wrong Credentials.
        WrongCredentials => "441",
        /// 442 Unsupported Transport Protocol.
        UnsupportedTransport => "442",
        /// 443 Peer Address Family Mismatch.
        PeerFamilyMismatch => "443",
        /// 446 Connection Already Exists.
        ConnectionExists => "446",
        /// 447 Connection Timeout or Failure.
        ConnectionFailed => "447",
        /// 486 Allocation Quota Reached.
        QuotaReached => "486",
        /// 508 Insufficient Capacity.
        InsufficientCapacity => "508",
    }
}

label! {
    /// Why the relay dropped a packet without an answer.
    DropReason, "reason" {
        /// Neither STUN nor ChannelData, or cut short.
        Malformed => "malformed",
        /// A STUN message that is no request we answer: a response, an unknown indication.
        Unexpected => "unexpected",
        /// A wrong FINGERPRINT.
        Fingerprint => "fingerprint",
        /// ChannelData on a channel that is not bound (any more).
        NoChannel => "no_channel",
        /// A Send indication or ChannelData of a client without an allocation.
        NoAllocation => "no_allocation",
        /// A packet to or from a peer without a permission.
        NoPermission => "no_permission",
        /// The peer policy forbids the address.
        PeerForbidden => "peer_forbidden",
        /// A packet to an address of ours that is no live relayed address in reach.
        NotRelayed => "not_relayed",
        /// A repeated request while the first one is still at work.
        Repeated => "repeated",
        /// Longer than a UDP datagram may be once the header is in front.
        TooLong => "too_long",
        /// An ICMP error that is of no use to a client, or one too many at once.
        Icmp => "icmp",
        /// The operating system refused to send.
        SendFailed => "send_failed",
        /// The socket's send buffer was full.
        SendBufferFull => "send_buffer_full",
        /// For another allocation of ours, whose worker or connection has too many waiting.
        MailboxFull => "mailbox_full",
        /// Above a client's share of a worker that has more to do than it can.
        Overload => "overload",
    }
}

label! {
    /// How a packet went from one allocation of ours to another without leaving the process.
    Shortcut, "between" {
        /// Both are served by one worker.
        SameWorker => "same_worker",
        /// From one worker to another.
        OtherWorker => "other_worker",
        /// From or to a client over TCP or TLS.
        Stream => "stream",
    }
}

label! {
    /// A receive queue of the kernel, in front of the relay.
    ReceiveQueue, "queue" {
        /// That of a listener, which clients send to.
        Client => "client",
        /// That of an allocation, which peers send to.
        Relay => "relay",
    }
}

label! {
    /// What was decided about runs of datagrams on one socket.
    RunSwitch, "switch" {
        /// Datagrams came in runs, so the kernel merges them from now on.
        Merge => "merge",
        /// The kernel did not cut a send, so its like go one by one.
        SegmentRefused => "segment_refused",
    }
}

label! {
    /// Why a limit bit.
    Limit, "limit" {
        /// `turn.limits.allocations_per_user`.
        AllocationsPerUser => "allocations_per_user",
        /// `turn.limits.allocations_per_link`.
        AllocationsPerLink => "allocations_per_link",
        /// `turn.limits.allocations`.
        Allocations => "allocations",
        /// `turn.limits.permissions_per_allocation`.
        PermissionsPerAllocation => "permissions_per_allocation",
        /// `turn.limits.channels_per_allocation`.
        ChannelsPerAllocation => "channels_per_allocation",
        /// `turn.limits.lifetime_secs_max` cut a requested lifetime.
        Lifetime => "lifetime",
        /// `turn.limits.bandwidth_per_allocation_bytes_per_sec`.
        BandwidthPerAllocation => "bandwidth_per_allocation",
        /// `turn.limits.bandwidth_per_user_bytes_per_sec`.
        BandwidthPerUser => "bandwidth_per_user",
        /// `turn.limits.new_peers_per_min`.
        NewPeers => "new_peers",
        /// `turn.limits.bandwidth_bytes_per_sec`.
        Bandwidth => "bandwidth",
        /// `turn.limits.unauthenticated_per_prefix_per_sec`.
        Unauthenticated => "unauthenticated",
        /// No free port in `turn.relay_ports`.
        RelayPorts => "relay_ports",
        /// No free file descriptor.
        Descriptors => "descriptors",
        /// A grant's scope of addresses.
        ScopeAddresses => "scope_addresses",
        /// `web.limits.connections`.
        Connections => "connections",
        /// `web.limits.connections_per_address`.
        ConnectionsPerAddress => "connections_per_address",
        /// `web.limits.handshake_secs`: TLS or the request took too long.
        HandshakeTime => "handshake_time",
        /// `web.limits.write_stall_secs`: a connection took nothing of what was written to it.
        WriteStall => "write_stall",
        /// `web.limits.header_bytes`.
        HeaderBytes => "header_bytes",
        /// `web.limits.bytes_between_requests`: much was sent over HTTP/2 and no page asked for.
        BytesBetweenRequests => "bytes_between_requests",
        /// `web.limits.frame_bytes`.
        FrameBytes => "frame_bytes",
        /// `web.limits.messages_per_sec`.
        Messages => "messages",
        /// `web.limits.bytes_per_sec`.
        Bytes => "bytes",
        /// `web.limits.hellos_per_address_per_min`.
        Hellos => "hellos",
        /// `web.limits.queue_bytes`: a slow consumer.
        Queue => "queue",
        /// `broadcast.rooms`.
        Rooms => "rooms",
        /// `broadcast.viewers_per_room`.
        Viewers => "viewers",
        /// `broadcast.limits.kept_messages`: what is kept for a lost socket.
        KeptMessages => "kept_messages",
        /// `broadcast.limits.candidates_per_link`.
        Candidates => "candidates",
        /// So many revocations waited for one worker that it ended every allocation.
        Revocations => "revocations",
        /// `broadcast.limits.rebuilds_per_min`.
        Rebuilds => "rebuilds",
        /// `web.limits.conns`: WebSockets in all.
        Conns => "conns",
        /// `web.limits.conns_per_address`.
        ConnsPerAddress => "conns_per_address",
        /// `turn.limits.connections`: TCP and TLS clients of the relay.
        TurnConnections => "turn_connections",
        /// `turn.limits.connections_per_address`.
        TurnConnectionsPerAddress => "turn_connections_per_address",
        /// A worker had more to do than it can, and gave each client its share: once for each
        /// twentieth of a second.
        ClientShare => "client_share",
        /// `turn.limits.idle_secs`: a connection without an allocation said nothing.
        IdleTime => "idle_time",
        /// `turn.limits.half_message_secs`: a message began and did not end.
        HalfMessageTime => "half_message_time",
        /// `turn.limits.write_queue_bytes`: a TCP or TLS client reads too slowly, so what peers
        /// send it waits; once for each time it has to, and for each packet that cannot wait.
        WriteQueue => "write_queue",
        /// `turn.limits.tcp_connections`.
        TcpConnections => "tcp_connections",
        /// `turn.limits.tcp_connections_per_allocation`.
        TcpConnectionsPerAllocation => "tcp_connections_per_allocation",
        /// `turn.limits.tcp_pending_per_allocation`.
        TcpPendingPerAllocation => "tcp_pending_per_allocation",
        /// `turn.limits.tcp_buffer_bytes`: one end of a data connection reads more slowly than the
        /// other writes, which is held up; once for each direction of a connection.
        TcpBuffer => "tcp_buffer",
        /// `turn.limits.tcp_idle_secs`: a data connection carried nothing.
        TcpIdle => "tcp_idle",
    }
}

label! {
    /// What became of a `hello`.
    Hello, "result" {
        /// Answered by `welcome`, as a new member.
        Welcomed => "welcomed",
        /// Answered by `welcome`, as a member that came back.
        Resumed => "resumed",
        /// Answered by `error`.
        Refused => "refused",
    }
}

label! {
    /// How media travels on a link, as the pages report it.
    Path, "path" {
        /// Without the relay.
        Direct => "direct",
        /// Through the relay, over UDP.
        Udp => "udp",
        /// Through the relay, over TCP.
        Tcp => "tcp",
        /// Through the relay, over TLS.
        Tls => "tls",
        /// No path was found.
        Failed => "failed",
    }
}

label! {
    /// A class of HTTP answer.
    Status, "status" {
        /// 1xx: a WebSocket.
        Informational => "1xx",
        /// 2xx.
        Success => "2xx",
        /// 3xx.
        Redirect => "3xx",
        /// 4xx.
        ClientError => "4xx",
        /// 5xx.
        ServerError => "5xx",
    }
}

label! {
    /// What became of an attempt at a new certificate.
    Renewal, "result" {
        /// It is served.
        Installed => "installed",
        /// The old one stays.
        Failed => "failed",
    }
}

label! {
    /// Why the hub, the web side or the edge in front of it refused something.
    Refusal, "reason" {
        /// A WebSocket from an origin that is not ours.
        Origin => "origin",
        /// A request with a Host that is not ours.
        Host => "host",
        /// A header of the PROXY protocol that breaks a rule, or is too long.
        ProxyHeader => "proxy_header",
        /// A message on a link of others, or of the wrong role.
        Forbidden => "forbidden",
        /// No or a wrong broadcast key.
        Key => "key",
        /// A message that does not parse.
        BadMessage => "bad_message",
        /// An unknown message type.
        UnknownType => "unknown_type",
        /// A second broadcaster without the room's key.
        RoomLive => "room_live",
        /// No or only unknown protocol versions.
        Version => "version",
    }
}

label! {
    /// What the doctor finds of one URL that browsers are told.
    Diagnosis, "diagnosis" {
        /// A packet went through it and back.
        Relayed => "relayed",
        /// It answers, and sends clients of other applications on to another server.
        SentOn => "sent_on",
        /// Its name has no address.
        Unresolved => "unresolved",
        /// Nobody answers there.
        Unreachable => "unreachable",
        /// Browsers would not trust the certificate.
        Certificate => "certificate",
        /// The relay answers, and refuses the allocation.
        Refused => "refused",
        /// Packets do not come through.
        NotRelayed => "not_relayed",
        /// They do, but by an address that others do not reach.
        RelayAddress => "relay_address",
    }
}
