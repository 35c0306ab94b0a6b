//! Every key of the configuration, once.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::certificates::{DirectoryUrl, Email};
use super::schema::{Allowed, Key, Preset, Schema, read, section};
use super::values::{
    BroadcastKeyEntry, ChallengeKind, CredentialHash, DefaultFamily, Host, HostName, IcePolicy,
    List, LogAddresses, LogFormat, LogLevel, Origin, PortRange, Publish, RelayPair, TlsMode,
    TurnListen, TurnName, UserEntry,
};
use crate::net::Prefix;
use crate::telemetry::Secret;
use Allowed::{Text, Whole, Word};
use Preset::{Empty, Is, Unset};

const LISTEN: Allowed =
    Text("IP addresses with a port, such as \"127.0.0.1:8080\" or \"[::]:8080\"");
const PREFIXES: Allowed = Text("addresses or prefixes, such as \"192.0.2.7\" or \"2001:db8::/32\"");
const FILE: Allowed = Text("the path of a file");

section! {
    /// The configuration of turncast. Every key is optional; what a line behind `#` shows is the
    /// default, unless it is called an example. A file that is named by a relative path is
    /// looked for in systemd's credentials directory (`$CREDENTIALS_DIRECTORY`; with
    /// /etc/turncast/turncast.toml that of the running service), then beside this file. The
    /// environment overrides a key: `TURNCAST__TURN__REALM=example.org`.
    Config {
        /// The name or address that browsers use to reach this host. "auto" takes the Host that
        /// the browser asked for, after a check. With a name or address of the network, the
        /// listeners of [web] and [turn] that are not set move to 0.0.0.0 and [::]: ports 443 and
        /// 80 for pages, port 3478 and UDP port 443 for the relay.
        public_host: Host = Is(r#""auto""#),
            Text("\"auto\", a host name, or an IP address; without scheme and port");
        /// Where generated keys are kept, with mode 0600. Without this key: `$STATE_DIRECTORY`;
        /// /var/lib/turncast when the configuration is /etc/turncast/turncast.toml; else
        /// `$XDG_STATE_HOME/turncast` or ~/.local/state/turncast. Only `turncast run` creates it.
        state_dir: Option<PathBuf> = Unset(r#""/var/lib/turncast""#),
            Text("the path of a directory");
        /// How long a stop may take until what is left is cut off.
        shutdown_secs: u32 = Is("10"), Whole(1, 600);
        /// Whether the daemon tries once after its start, as `turncast doctor` does, whether each
        /// URL that browsers are told relays. /healthz, a metric and the log say what was found.
        doctor_at_start: bool = Is("true"), Text("true or false");
        [public_ports: PublicPorts]
        [web: Web]
        [tls: Tls]
        [acme: Acme]
        [turn: Turn]
        [broadcast: Broadcast]
        [admin: Admin]
        [log: Log]
    }
}

section! {
    /// The ports of `public_host`, where a router, a load balancer or a proxy forwards others to
    /// ours than those that we listen on. What browsers are told goes by these.
    PublicPorts {
        /// The TCP port that leads to a listener of [web] byte by byte, TLS included: for pages and
        /// for TURN over TLS and TCP. 0: none does, such as behind a proxy that ends HTTPS; then
        /// TCP and TLS of turn.listen are told.
        tcp: Option<u16> = Unset("443"), Whole(0, 65_535);
        /// The UDP port that leads to a listener of [turn]. 0: none does.
        udp: Option<u16> = Unset("3478"), Whole(0, 65_535);
    }
}

section! {
    /// Pages and signaling.
    Web {
        /// Where pages and WebSockets are served, and TURN over TCP and TLS, which the first bytes
        /// of a connection tell apart. With a certificate HTTP is sent on to HTTPS, whatever the
        /// port. Port 0 takes a free one.
        listen: List<SocketAddr> = Is(r#"["127.0.0.1:8080"]"#), LISTEN;
        /// Names and addresses that a browser may ask for, besides `public_host`, the addresses
        /// listened on, and localhost. Any other Host is refused (DNS rebinding).
        allowed_hosts: List<HostName> = Empty(r#"["live.example.org"]"#),
            Text("host names or IP addresses; without scheme and port");
        /// Proxies whose word on who is behind them is believed: a header of the PROXY protocol
        /// (version 1 or 2) in front of a connection, here and on the listeners of [turn], and
        /// X-Forwarded-For and X-Forwarded-Proto of a request.
        trusted_proxies: List<Prefix> = Empty(r#"["127.0.0.1"]"#), PREFIXES;
        /// Other sites whose pages may open the WebSocket; our own pages always may.
        allowed_origins: List<Origin> = Empty(r#"["https://www.example.org"]"#),
            Text("origins, such as \"https://www.example.org\"");
        /// Other sites that may show our pages in a frame.
        frame_ancestors: List<Origin> = Empty(r#"["https://www.example.org"]"#),
            Text("origins, such as \"https://www.example.org\"");
        /// A directory whose files are served in place of the built-in pages.
        static_dir: Option<PathBuf> = Unset(r#""/usr/local/share/turncast""#),
            Text("the path of a directory");
        [limits: WebLimits]
    }
}

section! {
    /// What one visitor, and all of them, may take. A limit that bites is counted in
    /// `turncast_limit_hits_total`.
    WebLimits {
        /// TCP connections in all, but for those that turned out to be clients of the relay.
        connections: u32 = Is("4096"), Whole(1, 1_000_000);
        /// TCP connections of one address (IPv6: of one /64).
        connections_per_address: u32 = Is("256"), Whole(1, 1_000_000);
        /// How long a connection may take to say what it is for (a proxy's header, the TLS
        /// handshake and the first bytes together), then the head of a request, then the first
        /// message.
        handshake_secs: u32 = Is("10"), Whole(1, 300);
        /// How long a connection may take nothing of what is written to it.
        write_stall_secs: u32 = Is("20"), Whole(1, 300);
        /// Bytes of the head of a request.
        header_bytes: u32 = Is("16384"), Whole(8192, 1_048_576);
        /// Requests at a time of one connection (HTTP/2).
        streams_per_connection: u32 = Is("64"), Whole(1, 1000);
        /// Bytes that one connection may send from one request to the next (HTTP/2); a page asks
        /// for little.
        bytes_between_requests: u32 = Is("131072"), Whole(65_536, 1_073_741_824);
        /// WebSockets in all.
        conns: u32 = Is("2048"), Whole(1, 1_000_000);
        /// WebSockets of one address (IPv6: of one /64).
        conns_per_address: u32 = Is("128"), Whole(1, 1_000_000);
        /// Bytes of a WebSocket message.
        frame_bytes: u32 = Is("65536"), Whole(4096, 1_048_576);
        /// Messages a second of one WebSocket; four times as many at once.
        messages_per_sec: u32 = Is("100"), Whole(1, 100_000);
        /// Bytes a second of one WebSocket; at once four times as many, or four messages of the
        /// greatest length if that is more.
        bytes_per_sec: u32 = Is("262144"), Whole(1024, 1_073_741_824);
        /// Messages `hello` a minute of one address (IPv6: of one /64).
        hellos_per_address_per_min: u32 = Is("240"), Whole(1, 1_000_000);
        /// Messages that wait for a slow reader until it is disconnected.
        queue_frames: u32 = Is("1024"), Whole(16, 1_000_000);
        /// Their bytes.
        queue_bytes: u32 = Is("1048576"), Whole(4096, 1_073_741_824);
    }
}

section! {
    /// The certificate of the web listeners (HTTPS) and of `tls://` in `turn.listen`.
    Tls {
        /// Where it comes from. "files": `certificate` and `key`. "acme": the authority of [acme].
        /// "self-signed": our own; browsers show a warning before the first page, and refuse TURN
        /// over TLS. "off": there is none, for plain HTTP behind a reverse proxy. "auto": files
        /// when `certificate` is set; ACME when its terms are accepted and `public_host` is
        /// public; off when every listener of [web] is on loopback; else self-signed.
        mode: TlsMode = Is(r#""auto""#), Word(&["auto", "files", "acme", "self-signed", "off"]);
        /// The certificate with its chain, PEM.
        certificate: Option<PathBuf> = Unset(r#""/etc/turncast/fullchain.pem""#), FILE;
        /// Its private key, PEM.
        key: Option<PathBuf> = Unset(r#""/etc/turncast/privkey.pem""#), FILE;
        /// For how long browsers shall ask for this name by HTTPS alone (HSTS), once they have
        /// come by HTTPS. It is said for names only, and with a certificate from files or an
        /// authority only. 0: not said.
        hsts_secs: u32 = Is("86400"), Whole(0, 63_072_000);
    }
}

section! {
    /// A certificate authority that issues certificates by itself (ACME), for `public_host`, be it
    /// a name or an IP address. It has to reach TCP port 443 or 80 of it.
    Acme {
        /// Whether you accept the terms of the authority; nobody is contacted before. Those of
        /// Let's Encrypt are at https://letsencrypt.org/repository/.
        accept_terms: bool = Is("false"), Text("true or false");
        /// Where the authority may write to when something is wrong.
        email: Option<Email> = Unset(r#""admin@example.org""#), Text("an e-mail address");
        /// The directory of the authority; by default that of Let's Encrypt.
        directory: DirectoryUrl = Is(r#""https://acme-v02.api.letsencrypt.org/directory""#),
            Text("a URL with https://");
        /// The root certificate of the directory's own HTTPS, PEM, for an authority that is not
        /// known to the system.
        root_certificate: Option<PathBuf> = Unset(r#""/etc/turncast/authority.pem""#), FILE;
        /// How the authority may find out that the host is ours: by TLS on port 443
        /// ("tls-alpn-01"), or by plain HTTP on port 80 ("http-01"). The first attempt tries each.
        challenges: List<ChallengeKind> = Is(r#"["tls-alpn-01", "http-01"]"#),
            Word(&["tls-alpn-01", "http-01"]);
        /// How long to wait after a failure; twice as long after each further one, up to six
        /// hours. What the authority asks for in its answer comes first.
        retry_secs: u32 = Is("300"), Whole(1, 86_400);
    }
}

section! {
    /// The TURN relay.
    Turn {
        /// Where clients reach the relay, besides TCP and TLS on every listener of [web]: over UDP
        /// (`udp://`), TCP (`tcp://`), or TLS (`tls://`, with the certificate of [tls]). A bare
        /// address means UDP and TCP.
        listen: List<TurnListen> = Is(r#"["127.0.0.1:3478"]"#),
            Text(
                "IP addresses with a port, such as \"0.0.0.0:3478\", \"udp://[::]:3478\" or \
                 \"tls://0.0.0.0:5349\""
            );
        /// The realm of every challenge.
        realm: TurnName = Is(r#""turncast""#),
            Text("1 to 127 characters, no control characters, quotes or backslashes");
        /// Addresses that streams are relayed from, the first of each family: "IP", or
        /// "PUBLIC/LOCAL" behind a 1:1 NAT. Empty: the address listened on, else this host's own.
        relay_addresses: List<RelayPair> = Empty(r#"["203.0.113.10/10.0.0.10"]"#),
            Text("\"IP\" or \"PUBLIC_IP/LOCAL_IP\", none of them unspecified or multicast");
        /// UDP ports of relayed streams, both ends included.
        relay_ports: PortRange = Is(r#""49152-65535""#),
            Text("\"FIRST-LAST\", two ports from 1 to 65535");
        /// The address family of a relayed stream when the client does not say, and browsers never
        /// do. "ipv4" is the standard; "client" takes the family that the client itself came with,
        /// if it is relayed: for hosts without IPv4.
        default_family: DefaultFamily = Is(r#""ipv4""#), Word(&["ipv4", "client"]);
        /// Whether TCP is relayed, too (RFC 6062), for clients over TCP and TLS: connections to and
        /// from peers, which browsers do not ask for. Broadcasts do not need it.
        tcp_relay: bool = Is("false"), Text("true or false");
        /// Another TURN server that clients are sent to instead of being served, for each address
        /// family the first of it. Broadcasters and watchers of our own pages stay.
        alternate_server: List<SocketAddr> = Empty(r#"["198.51.100.20:3478"]"#),
            Text("IP addresses with a port, such as \"198.51.100.20:3478\"");
        /// The name in the certificate of that server, when it is another than in ours. Clients
        /// over TLS that know RFC 8489 are told.
        alternate_domain: Option<HostName> = Unset(r#""turn2.example.org""#),
            Text("a host name");
        /// Another address of this host, for clients that look into the behaviour of the NATs on
        /// their way (RFC 5780): "IP", or "PUBLIC/LOCAL" behind a 1:1 NAT; one of each family. It
        /// is then listened on over UDP, too, and both addresses with a second port; what is not
        /// in `listen` answers Binding requests only. A stranger's Binding request of 20 bytes then
        /// gets 68 (IPv6: 116), charged to its prefix. Empty: such requests are refused.
        nat_discovery: List<RelayPair> = Empty(r#"["203.0.113.11"]"#),
            Text("\"IP\" or \"PUBLIC_IP/LOCAL_IP\", none of them unspecified or multicast");
        /// The second port of `nat_discovery`. 0: the one after that of `listen`.
        nat_discovery_port: u32 = Is("0"), Whole(0, 65_535);
        /// Threads that relay. 0: one per processor.
        workers: u32 = Is("0"), Whole(0, 256);
        /// A secret, or several, with which other applications sign credentials `expiry:name`
        /// (base64 of an HMAC). The first signs `turncast credentials`, all verify.
        shared_secret: List<Secret<String>> = Empty(r#""replace-this-secret""#),
            Allowed::Secret("a text that is not empty, or a list of such texts");
        /// A file with such secrets, one a line. Without both keys, a file `shared_secret` in
        /// systemd's credentials directory is used when there is one.
        shared_secret_file: Option<PathBuf> = Unset(r#""/etc/turncast/shared_secret""#), FILE;
        /// The HMAC of such credentials: "sha1", which most applications compute, "sha256", or
        /// both in a list while they change over. The first signs, the others verify, too; what
        /// is not named is refused.
        credential_hash: List<CredentialHash> = Is(r#""sha1""#), Word(&["sha1", "sha256"]);
        /// Whether a stream ends with such a credential: with true it is not prolonged (Refresh)
        /// after the expiry; with false the expiry only stops new ones. A broadcast's own streams
        /// end with their link, not with the clock.
        strict_expiry: bool = Is("false"), Text("true or false");
        /// Fixed users with long-term credentials. `password_file` may stand for `password`. With
        /// them, clients that know RFC 8489 are asked to hide their names, which they cannot with
        /// credentials of a shared secret: give those to such clients without fixed users beside.
        users: Vec<UserEntry> = Empty(r#"[{ name = "alice", password = "replace-this-secret" }]"#),
            Allowed::Secret(
                "a list of { name = \"NAME\", password = \"...\" } or { name, password_file }"
            );
        /// How long a credential that we hand out is good for a new stream.
        credential_ttl_secs: u32 = Is("300"), Whole(1, 604_800);
        /// Peers that are opened although the built-in list denies them: private and other special
        /// ranges, and of IPv6 all but 2000::/3 and 64:ff9b::/96 (NAT64). The longest prefix wins;
        /// an address of this host needs a prefix of its own (/32 or /128).
        allow_peers: List<Prefix> = Empty(r#"["10.1.2.0/24"]"#), PREFIXES;
        /// Peers that are denied although the built-in list does not. Wins a tie.
        deny_peers: List<Prefix> = Empty(r#"["198.51.100.0/24"]"#), PREFIXES;
        [limits: TurnLimits]
    }
}

section! {
    /// What one client of the relay, and all of them, may take. A limit that bites is counted in
    /// `turncast_limit_hits_total`.
    TurnLimits {
        /// Allocations at a time of one user, fixed or signed with the shared secret. A second
        /// address family and a port in reserve count as one more each, here and below.
        allocations_per_user: u32 = Is("10"), Whole(1, 1_000_000);
        /// Allocations at a time of one side of one link of a broadcast.
        allocations_per_link: u32 = Is("16"), Whole(1, 1_000_000);
        /// Allocations at a time in all. 0: what the limit of open files leaves, but no more than
        /// relay_ports are at all of relay_addresses.
        allocations: u32 = Is("0"), Whole(0, 1_000_000);
        /// Permissions at a time of one allocation.
        permissions_per_allocation: u32 = Is("64"), Whole(1, 65_536);
        /// Channels at a time of one allocation.
        channels_per_allocation: u32 = Is("32"), Whole(1, 4096);
        /// Peers that one allocation may add in a minute: permissions that it did not have, and
        /// Connect requests. All allocations of one user, or of one side of one link, deleted ones
        /// too, may add as many times that number as there may be of them at a time. 0: no limit.
        new_peers_per_min: u32 = Is("120"), Whole(0, 1_000_000);
        /// The longest lifetime of an allocation between two refreshes.
        lifetime_secs_max: u32 = Is("3600"), Whole(1, 86_400);
        /// How long a nonce is good.
        nonce_secs: u32 = Is("3600"), Whole(1, 86_400);
        /// Bytes a second of one allocation, both directions together. 0: no limit.
        bandwidth_per_allocation_bytes_per_sec: u64 = Is("0"), Whole(0, 1_000_000_000_000);
        /// Bytes a second of all allocations of one user, or of one side of one link of a
        /// broadcast, both directions together. 0: no limit.
        bandwidth_per_user_bytes_per_sec: u64 = Is("0"), Whole(0, 1_000_000_000_000);
        /// Bytes a second of all allocations together. 0: no limit.
        bandwidth_bytes_per_sec: u64 = Is("0"), Whole(0, 1_000_000_000_000);
        /// Requests a second that strangers of one /24 or /56 get answered. 0: no limit.
        unauthenticated_per_prefix_per_sec: u32 = Is("200"), Whole(0, 10_000_000);
        /// How many of them at once.
        unauthenticated_burst: u32 = Is("2000"), Whole(1, 10_000_000);
        /// Clients over TCP and TLS in all, on listeners of [web] too. A handshake and a write that
        /// does not go on may take as long as web.limits says.
        connections: u32 = Is("4096"), Whole(1, 1_000_000);
        /// Clients over TCP and TLS of one address (IPv6: of one /64).
        connections_per_address: u32 = Is("256"), Whole(1, 1_000_000);
        /// How long such a client may say nothing while it has no allocation.
        idle_secs: u32 = Is("30"), Whole(1, 3600);
        /// How long one of its messages may take to arrive.
        half_message_secs: u32 = Is("10"), Whole(1, 300);
        /// Bytes that wait for such a client to read them. What peers send beyond waits in the
        /// receive buffer of its allocation, and is dropped when that is full. Of other allocations
        /// of this relay about as many bytes more may wait.
        write_queue_bytes: u32 = Is("262144"), Whole(131_072, 1_073_741_824);
        /// With tcp_relay: connections to and from peers in all.
        tcp_connections: u32 = Is("1024"), Whole(1, 1_000_000);
        /// Those of one allocation.
        tcp_connections_per_allocation: u32 = Is("32"), Whole(1, 65_536);
        /// Of those, the ones that are being made, or that the client has not fetched yet. Half of
        /// them, but one at least, may come from one peer.
        tcp_pending_per_allocation: u32 = Is("16"), Whole(1, 65_536);
        /// Bytes that wait on each side of such a connection for whoever reads slowly, or for the
        /// client to fetch it; then the sender is held up, and nothing is lost.
        tcp_buffer_bytes: u32 = Is("262144"), Whole(16_384, 67_108_864);
        /// How long such a connection may carry nothing.
        tcp_idle_secs: u32 = Is("3600"), Whole(1, 86_400);
    }
}

section! {
    /// Who may broadcast, and how.
    Broadcast {
        /// "open": everybody may broadcast. "key": the link of `turncast invite`, or a key below,
        /// is needed. "auto": open for browsers on this computer as long as everything listens
        /// on loopback and no proxy is trusted; else as "key".
        publish: Publish = Is(r#""auto""#), Word(&["auto", "open", "key"]);
        /// Keys that admit broadcasters, besides the one of `turncast invite`. `key_file` may
        /// stand for `key`.
        keys: Vec<BroadcastKeyEntry> = Empty(
            r#"[{ name = "studio", key = "replace-this-secret" }]"#
        ), Allowed::Secret(
            "a list of { name = \"NAME\", key = \"...\" } or { name, key_file }; a key is 1 to 128 \
             of a-z A-Z 0-9 - _"
        );
        /// Watchers of one broadcast. Above about 8, the broadcaster's uplink is the limit.
        viewers_per_room: u32 = Is("8"), Whole(1, 1000);
        /// Broadcasts at a time. As many rooms again may hold people who wait for one to begin.
        rooms: u32 = Is("100"), Whole(1, 100_000);
        /// How long the place of somebody whose connection was lost is kept.
        grace_secs: u32 = Is("30"), Whole(0, 3600);
        /// "relay": nobody learns the address of another, everything goes through the relay.
        ice_policy: IcePolicy = Is(r#""all""#), Word(&["all", "relay"]);
        /// How often a page shows a sign of life.
        ping_interval_secs: u32 = Is("15"), Whole(1, 300);
        /// How long after a missed one the connection counts as lost.
        ping_timeout_secs: u32 = Is("10"), Whole(1, 300);
        [limits: BroadcastLimits]
    }
}

section! {
    /// What is kept and forwarded for one member.
    BroadcastLimits {
        /// Messages that are kept for a lost connection.
        kept_messages: u32 = Is("256"), Whole(1, 100_000);
        /// Their bytes.
        kept_bytes: u32 = Is("262144"), Whole(1024, 1_073_741_824);
        /// Candidates that one side of a link may send.
        candidates_per_link: u32 = Is("256"), Whole(1, 100_000);
        /// Links that a watcher may have rebuilt in a minute; more are refused.
        rebuilds_per_min: u32 = Is("12"), Whole(1, 10_000);
    }
}

section! {
    /// Metrics and health, on a listener of their own.
    Admin {
        /// Where /metrics and /healthz are served; an empty list turns them off.
        listen: List<SocketAddr> = Is(r#"["127.0.0.1:9478"]"#), LISTEN;
        /// Names by which this listener may be asked, besides its own address and localhost.
        allowed_hosts: List<HostName> = Empty(r#"["turncast.internal"]"#),
            Text("host names or IP addresses; without scheme and port");
    }
}

section! {
    /// The log, on the standard error output.
    Log {
        /// The least important lines that are written.
        level: LogLevel = Is(r#""info""#), Word(&["error", "warn", "info", "debug", "trace"]);
        /// "auto": to the journal when systemd started us, else text.
        format: LogFormat = Is(r#""auto""#), Word(&["auto", "text", "json", "journald"]);
        /// How much of a visitor's address is written: the /24 or /48, all of it, or nothing.
        addresses: LogAddresses = Is(r#""prefix""#), Word(&["prefix", "full", "none"]);
    }
}
