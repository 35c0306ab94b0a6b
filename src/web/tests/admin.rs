use super::*;
use crate::web::{Admin, AdminOptions};

async fn start(heartbeats: Arc<Heartbeats>) -> (SocketAddr, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::default());
    let admin = Admin::new(AdminOptions::default(), Arc::clone(&metrics), heartbeats);
    let listener = Listener::bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let address = listener.local_addr();
    let acceptor = Acceptor {
        gate: Gate::new(edge::Limits::default(), Arc::clone(&metrics)),
        tls: None,
        takes: edge::Takes::Http,
        heartbeat: Heartbeats::default().add("edge", Instant::now()),
        stop: watch::Sender::new(false).subscribe(),
    };
    // The sender is gone, which would stop the loop at once; keep one for ever instead.
    let stop: &'static watch::Sender<bool> = Box::leak(Box::new(watch::Sender::new(false)));
    let acceptor = Acceptor { stop: stop.subscribe(), ..acceptor };
    tokio::spawn(edge::serve(listener, acceptor, move |stream, peer| {
        Arc::clone(&admin).serve_stream(stream, peer)
    }));
    (address, metrics)
}

async fn ask(address: SocketAddr, line: &str, host: &str) -> Reply {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    let request = format!("{line} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("written");
    Reply::read(&mut stream).await
}

#[tokio::test]
async fn metrics_are_open_metrics() {
    let (address, metrics) = start(Arc::default()).await;
    metrics.limit(Limit::Viewers);
    let reply = ask(address, "GET /metrics", &address.to_string()).await;
    assert_eq!(reply.status, 200);
    assert!(reply.header("content-type").starts_with("application/openmetrics-text;"));
    assert!(
        reply.body.contains("turncast_limit_hits_total{limit=\"viewers\"} 1"),
        "{}",
        reply.body
    );
    assert!(reply.body.ends_with("# EOF\n"));
    assert_eq!(ask(address, "POST /metrics", "localhost").await.status, 405);
    assert_eq!(ask(address, "GET /", "localhost").await.status, 404);
    assert_eq!(ask(address, "HEAD /healthz", "localhost").await.body, "");
}

#[tokio::test]
async fn health_names_the_loop_that_is_stuck() {
    let heartbeats = Arc::new(Heartbeats::default());
    let _well = heartbeats.add("hub", Instant::now());
    let (address, _) = start(Arc::clone(&heartbeats)).await;
    let reply = ask(address, "GET /healthz", "localhost").await;
    assert_eq!((reply.status, reply.header("content-type")), (200, "application/json"));
    assert!(reply.body.contains("\"status\":\"ok\"") && reply.body.contains("\"hub\""));
    let long_ago = Instant::now().checked_sub(Duration::from_secs(60)).expect("an hour of uptime");
    let _stuck = heartbeats.add("relay-3", long_ago);
    let reply = ask(address, "GET /healthz", "localhost").await;
    assert_eq!(reply.status, 503);
    let health: serde_json::Value = serde_json::from_str(&reply.body).expect("JSON");
    assert_eq!(health["status"], "stuck");
    let loops = health["loops"].as_array().expect("loops");
    let stuck: Vec<_> = loops.iter().filter(|each| each["ok"] == false).collect();
    assert_eq!(stuck.len(), 1);
    assert_eq!(stuck[0]["name"], "relay-3");
}

#[tokio::test]
async fn a_rebound_name_reads_no_metrics() {
    let (address, _) = start(Arc::default()).await;
    for path in ["/metrics", "/healthz"] {
        let reply = ask(address, &format!("GET {path}"), "evil.example").await;
        assert_eq!(reply.status, 421, "{path}");
    }
}

#[tokio::test]
async fn the_public_listener_knows_no_metrics() {
    let server = Setup::open().start();
    for path in ["/metrics", "/healthz", "/admin"] {
        assert_eq!(server.get(path).await.status, 404, "{path}");
    }
}
