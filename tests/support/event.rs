//! Audit events as the API server writes them: its key order, its verbs, its sizes (0.5 KB to 220 KB, most of them
//! small), its HTML escapes, each with a serial number in an annotation. The bytes follow from seed and serial alone.

use fastrand::Rng;

use super::wait::unix_ms;

/// The annotation that carries the serial number.
pub(crate) const SERIAL: &str = "auditship.test/serial";

const VERBS: &[(&str, u16, &str)] = &[
    ("get", 200, "GET"),
    ("list", 200, "LIST"),
    ("watch", 200, "WATCH"),
    ("create", 201, "POST"),
    ("update", 200, "PUT"),
    ("patch", 409, "PATCH"),
    ("delete", 404, "DELETE"),
    ("deletecollection", 403, "DELETE"),
];

const USERS: &[&str] = &[
    "ci-bot",
    "alice",
    "system:apiserver",
    "system:node:node-1",
    "zoé@例え.example",
    "system:anonymous",
];

const RESOURCES: &[&str] = &[
    "configmaps",
    "pods",
    "secrets",
    "deployments",
    "leases",
    "clusterroles",
];

/// Makes events.
pub(crate) struct Events {
    random: Rng,
    next_serial: u64,
    /// When set, every event carries it: a client chose it in a header.
    pub(crate) audit_id: Option<String>,
    /// Largest line, in bytes.
    pub(crate) size_max: usize,
}

impl Events {
    /// Events whose bytes follow from `seed`, but for their times.
    pub(crate) fn new(seed: u64) -> Self {
        Events {
            random: Rng::with_seed(seed),
            next_serial: 0,
            audit_id: None,
            size_max: 220 << 10,
        }
    }

    /// The next event: its serial number and its line, without the line feed.
    pub(crate) fn make(&mut self) -> (u64, Vec<u8>) {
        let serial = self.next_serial;
        self.next_serial += 1;
        let size = self.draw_size();
        (serial, self.line(serial, size))
    }

    /// Nine of ten below 2 KB, one of 400 above 16 KB: 1.6 KB on average, as measured on real clusters.
    fn draw_size(&mut self) -> usize {
        let size = match self.random.u32(0..400) {
            0 => self.random.usize(16 << 10..220 << 10),
            1..40 => self.random.usize(2 << 10..8 << 10),
            _ => self.random.usize(512..2 << 10),
        };
        size.min(self.size_max)
    }

    /// One event of about `size` bytes.
    pub(crate) fn line(&mut self, serial: u64, size: usize) -> Vec<u8> {
        let random = &mut self.random;
        let (verb, code, _) = VERBS[random.usize(..VERBS.len())];
        let user = USERS[random.usize(..USERS.len())];
        let resource = RESOURCES[random.usize(..RESOURCES.len())];
        let namespace = format!("team-{}", random.u32(0..20));
        let name = format!("{resource}-{}", random.u32(0..1000));
        let audit_id = self.audit_id.clone().unwrap_or_else(|| {
            let (a, b) = (random.u64(..), random.u64(..));
            format!(
                "{:08x}-{:04x}-4{:03x}-a{:03x}-{:012x}",
                a >> 32,
                a & 0xffff,
                b >> 52,
                a >> 20 & 0xfff,
                b & 0xffff_ffff_ffff
            )
        });
        let time = time_text(unix_ms());
        let head = format!(
            r#"{{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"RequestResponse","auditID":"{audit_id}","stage":"ResponseComplete","requestURI":"/api/v1/namespaces/{namespace}/{resource}/{name}?fieldManager=a\u0026pretty=true","verb":"{verb}","user":{{"username":"{user}","groups":["system:authenticated"]}},"sourceIPs":["10.0.0.{}"],"userAgent":"kubectl/v1.37.2","objectRef":{{"resource":"{resource}","namespace":"{namespace}","name":"{name}","apiVersion":"v1"}},"responseStatus":{{"metadata":{{}},"code":{code}}},"#,
            random.u8(1..250),
        );
        let tail = format!(
            r#""requestReceivedTimestamp":"{time}","stageTimestamp":"{time}","annotations":{{"authorization.k8s.io/decision":"allow","{SERIAL}":"{serial}"}}}}"#
        );
        let mut line = head.into_bytes();
        let room = size.saturating_sub(line.len() + tail.len());
        if room > 120 {
            line.extend_from_slice(br#""requestObject":{"kind":"ConfigMap","data":{"#);
            let mut item = 0;
            let start = line.len();
            while line.len() - start + 60 < room {
                let filler = random.u64(..);
                let comma = if item > 0 { "," } else { "" };
                line.extend_from_slice(
                    format!(r#"{comma}"key-{item}":"\u003cv\u003e{filler:016x}{filler:016X}""#)
                        .as_bytes(),
                );
                item += 1;
            }
            line.extend_from_slice(b"}},");
        }
        line.extend_from_slice(tail.as_bytes());
        line
    }
}

/// `2006-01-02T15:04:05.000000Z`, as the API server's MicroTime.
pub(crate) fn time_text(ms: i64) -> String {
    let time = jiff::Timestamp::from_millisecond(ms).expect("a time of our own");
    format!("{time:.6}")
}

/// The serial number in a line, where there is one.
pub(crate) fn serial_of(line: &[u8]) -> Option<u64> {
    let text = String::from_utf8_lossy(line);
    let rest = text.split(&format!("\"{SERIAL}\":\"")).nth(1)?;
    rest.split('"').next()?.parse().ok()
}

#[test]
fn events_are_json_of_the_asked_size_and_carry_their_serial() {
    let mut events = Events::new(7);
    let mut total = 0;
    for expected in 0..2000 {
        let (serial, line) = events.make();
        assert_eq!(serial, expected);
        assert_eq!(serial_of(&line), Some(expected));
        assert!(
            serde_json::from_slice::<serde_json::Value>(&line).is_ok(),
            "{}",
            String::from_utf8_lossy(&line)
        );
        assert!((500..=221 << 10).contains(&line.len()), "{}", line.len());
        total += line.len();
    }
    assert!(
        (1000..3000).contains(&(total / 2000)),
        "{} bytes on average",
        total / 2000
    );
}
