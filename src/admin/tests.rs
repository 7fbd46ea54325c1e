//! The listener over real sockets on loopback.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::health::{Doing, SinkHealth};
use super::*;
use crate::clock;
use crate::net::http_server::{CONNECTIONS_MAX, HEAD_TIME_MAX};

struct Fixed(Health);

impl View for Fixed {
    fn status(&self) -> Status {
        Status {
            cluster: "prod".into(),
            ..Status::default()
        }
    }

    fn health(&self) -> Health {
        self.0.clone()
    }

    fn metrics(&self) -> String {
        "# EOF\n".to_owned()
    }
}

async fn start(health: Health) -> SocketAddr {
    let listen: Listen = "127.0.0.1:0".parse().expect("an address");
    let admin = Admin::bind(&listen).await.expect("bind").expect("not off");
    let address = admin.local_addr().expect("TCP");
    tokio::spawn(admin.serve(Arc::new(Fixed(health))));
    address
}

async fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connect");
    stream.write_all(request.as_bytes()).await.expect("send");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("read");
    answer
}

async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let answer = ask(address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
    let status = answer[9..12].parse().expect("a status");
    (
        status,
        answer.split_once("\r\n\r\n").expect("a body").1.to_owned(),
    )
}

fn stopped() -> Health {
    let doing = Doing::Halted {
        reason: "401: renew the key".into(),
    };
    Health {
        started: true,
        sources: vec![],
        sinks: vec![SinkHealth {
            name: "search".into(),
            required: true,
            doing,
        }],
    }
}

#[tokio::test]
async fn pages_of_a_healthy_agent() {
    let address = start(Health {
        started: true,
        ..Health::default()
    })
    .await;
    for path in ["/livez", "/startedz", "/readyz", "/readyz?verbose"] {
        assert_eq!(get(address, path).await, (200, "ok\n".to_owned()), "{path}");
    }
    let (code, body) = get(address, "/status").await;
    let status: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((code, &status["cluster"]), (200, &"prod".into()));
    assert_eq!(get(address, "/metrics").await, (200, "# EOF\n".to_owned()));
    let (code, body) = get(address, "/").await;
    assert!(
        code == 200 && body.contains("/readyz") && !body.contains('<'),
        "{body}"
    );
    assert_eq!(get(address, "/secret").await.0, 404);
}

#[tokio::test]
async fn readyz_says_why_not_while_the_probes_of_the_process_stay_fine() {
    let address = start(stopped()).await;
    assert_eq!(
        get(address, "/readyz").await,
        (
            503,
            "sink search has stopped: 401: renew the key\n".to_owned()
        )
    );
    assert_eq!(get(address, "/livez").await.0, 200);
    assert_eq!(get(address, "/startedz").await.0, 200);
    let address = start(Health::default()).await;
    assert_eq!(get(address, "/startedz").await.0, 503);
}

#[tokio::test]
async fn only_get_is_answered() {
    let address = start(stopped()).await;
    for method in ["POST", "PUT", "DELETE", "HEAD", "OPTIONS"] {
        let answer = ask(
            address,
            &format!("{method} /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"),
        )
        .await;
        assert!(answer.starts_with("HTTP/1.1 405"), "{method}: {answer}");
        assert!(
            answer.to_lowercase().contains("allow: get"),
            "{method}: {answer}"
        );
    }
}

#[tokio::test]
async fn a_head_that_is_too_long_is_refused() {
    let address = start(stopped()).await;
    let answer = ask(
        address,
        &format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(20_000)),
    )
    .await;
    assert!(
        answer.starts_with("HTTP/1.1 4"),
        "{}",
        &answer[..answer.len().min(80)]
    );
}

#[tokio::test(start_paused = true)]
async fn clients_that_never_finish_their_head_are_cut_off_and_do_not_lock_others_out() {
    let address = start(stopped()).await;
    let mut idle = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        let mut stream = TcpStream::connect(address).await.expect("connect");
        stream
            .write_all(b"GET /livez HTTP/1.1\r\n")
            .await
            .expect("send");
        idle.push(stream);
    }
    let answered = clock::timeout(
        HEAD_TIME_MAX + Duration::from_secs(1),
        get(address, "/livez"),
    )
    .await;
    assert_eq!(answered.map(|(code, _)| code), Some(200));
}

#[tokio::test]
async fn a_unix_socket_is_private_and_replaces_one_that_was_left_behind() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("admin.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).expect("bind"));
    let listen: Listen = format!("unix:{}", path.display()).parse().expect("a path");
    let admin = Admin::bind(&listen).await.expect("bind").expect("not off");
    assert_eq!(
        std::fs::metadata(&path)
            .expect("there")
            .permissions()
            .mode()
            & 0o777,
        0o600
    );
    assert!(
        Admin::bind(&listen)
            .await
            .is_err_and(|error| error.contains("admin.listen")),
        "one that lives is kept"
    );
    let serving = tokio::spawn(admin.serve(Arc::new(Fixed(stopped()))));
    let mut stream = UnixStream::connect(&path).await.expect("connect");
    stream
        .write_all(b"GET /livez HTTP/1.1\r\n\r\n")
        .await
        .expect("send");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("read");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    serving.abort();
    assert!(serving.await.is_err());
    assert!(!path.exists());
}

#[test]
fn addresses_as_people_write_them() {
    assert_eq!("off".parse(), Ok(Listen::Off));
    assert_eq!(
        "unix:/run/a.sock".parse(),
        Ok(Listen::Unix("/run/a.sock".into()))
    );
    assert_eq!(
        "[::1]:9465"
            .parse::<Listen>()
            .map(|listen| matches!(listen, Listen::Tcp(_))),
        Ok(true)
    );
    for wrong in ["", "9465", "localhost:9465", "unix:relative", "127.0.0.1"] {
        let error = wrong.parse::<Listen>().expect_err(wrong);
        assert!(error.contains("\"unix:/path\""), "{error}");
    }
}
