//! An audit log as a busy cluster writes it, made from a seed: lines of 1.6 KB on average with a long tail (median
//! about 1.1 KB, one in a hundred over 10 KB), of the levels, verbs and bodies that a real one has.

use fastrand::Rng;

/// At least `bytes` bytes of whole lines, each with its line feed.
pub(crate) fn log(seed: u64, bytes: usize) -> Vec<u8> {
    let mut rng = Rng::with_seed(seed);
    let mut log = Vec::with_capacity(bytes + (64 << 10));
    let mut time_us = 1_767_323_045_000_000;
    while log.len() < bytes {
        time_us += rng.i64(0..400);
        event(&mut rng, time_us, &mut log);
        log.push(b'\n');
    }
    log
}

const VERBS: [&str; 8] = [
    "get", "get", "list", "watch", "update", "patch", "create", "delete",
];
const RESOURCES: [(&str, &str); 6] = [
    ("pods", ""),
    ("leases", "coordination.k8s.io"),
    ("configmaps", ""),
    ("secrets", ""),
    ("deployments", "apps"),
    ("endpointslices", "discovery.k8s.io"),
];
const WORDS: [&str; 10] = [
    "app.kubernetes.io/name",
    "checkout",
    "payments",
    "kube-system",
    "nginx:1.29",
    "restartedAt",
    "sha256",
    "node-17",
    "zoé",
    "rolling update",
];

fn event(rng: &mut Rng, time_us: i64, out: &mut Vec<u8>) {
    let verb = VERBS[rng.usize(..VERBS.len())];
    let (resource, group) = RESOURCES[rng.usize(..RESOURCES.len())];
    let (namespace, name) = (rng.u16(..40), hex(rng, 10));
    let body = match rng.u16(..1000) {
        0..720 => 0,
        720..985 => rng.usize(100..1_600),
        985..999 => rng.usize(1_600..15_000),
        _ => rng.usize(20_000..250_000),
    };
    let level = if body == 0 {
        "Metadata"
    } else {
        "RequestResponse"
    };
    let prefix = if group.is_empty() {
        "/api/v1".to_owned()
    } else {
        format!("/apis/{group}/v1")
    };
    let head = format!(
        concat!(
            r#"{{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"{level}","auditID":"{id}","stage":"ResponseComplete","#,
            r#""requestURI":"{prefix}/namespaces/team-{namespace}/{resource}/{name}?timeout=10s","verb":"{verb}","#,
            r#""user":{{"username":"system:serviceaccount:team-{namespace}:controller","uid":"{uid}","groups":["system:serviceaccounts","#,
            r#""system:serviceaccounts:team-{namespace}","system:authenticated"],"extra":{{"authentication.kubernetes.io/credential-id":["#,
            r#""JTI={jti}"],"authentication.kubernetes.io/pod-name":["controller-{name}"]}}}},"sourceIPs":["10.0.{a}.{b}"],"#,
            r#""userAgent":"controller/v0.31.2 (linux/amd64) kubernetes/$Format","objectRef":{{"resource":"{resource}","#,
            r#""namespace":"team-{namespace}","name":"{name}","apiGroup":"{group}","apiVersion":"v1"}},"responseStatus":{{"metadata":{{}},"code":{code}}}"#,
        ),
        level = level,
        id = uuid(rng),
        prefix = prefix,
        namespace = namespace,
        resource = resource,
        name = name,
        verb = verb,
        uid = uuid(rng),
        jti = uuid(rng),
        a = rng.u8(..),
        b = rng.u8(..),
        group = group,
        code = [200, 200, 200, 201, 404, 409][rng.usize(..6)],
    );
    out.extend_from_slice(head.as_bytes());
    if body > 0 {
        out.extend_from_slice(br#","responseObject":{"kind":"List","items":["#);
        object(rng, body, out);
        out.extend_from_slice(b"]}");
    }
    let time = jiff::Timestamp::from_microsecond(time_us).expect("a time of this century");
    out.extend_from_slice(
        format!(
            concat!(
                r#","requestReceivedTimestamp":"{time:.6}","stageTimestamp":"{time:.6}","#,
                r#""annotations":{{"authorization.k8s.io/decision":"allow","#,
                r#""authorization.k8s.io/reason":"RBAC: allowed by ClusterRoleBinding \"controller\" of ClusterRole \"controller\""}}}}"#,
            ),
            time = time
        )
        .as_bytes(),
    );
}

/// Objects of about `bytes` bytes together.
fn object(rng: &mut Rng, bytes: usize, out: &mut Vec<u8>) {
    let end = out.len() + bytes;
    let mut first = true;
    while out.len() < end {
        if !first {
            out.push(b',');
        }
        first = false;
        let (a, b, c) = (word(rng), word(rng), word(rng));
        let item = format!(
            r#"{{"metadata":{{"name":"{a}-{}","uid":"{}","labels":{{"{b}":"{c}"}},"generation":{}}},"spec":{{"replicas":{},"paused":false,"args":["--{a}","{b}=\"{c}\""]}}}}"#,
            hex(rng, 5),
            uuid(rng),
            rng.u16(..),
            rng.u8(..),
        );
        out.extend_from_slice(item.as_bytes());
    }
}

fn word(rng: &mut Rng) -> &'static str {
    WORDS[rng.usize(..WORDS.len())]
}

fn hex(rng: &mut Rng, digits: usize) -> String {
    (0..digits).map(|_| rng.digit(16)).collect()
}

fn uuid(rng: &mut Rng) -> String {
    format!(
        "{}-{}-{}-{}-{}",
        hex(rng, 8),
        hex(rng, 4),
        hex(rng, 4),
        hex(rng, 4),
        hex(rng, 12)
    )
}
