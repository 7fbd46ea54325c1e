# What the server scripts share; sourced by them, never run.
#
# A server lives exactly as long as its standard input: when the test that holds the other end goes away, however it
# went, the server is ended. Nothing is detached, so nothing can be left behind.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
me=$(basename "$0")
cache=${AUDITSHIP_SERVERS:-${XDG_CACHE_HOME:-$HOME/.cache}/auditship-servers}
# The plugin is pinned, so that what is fetched does not depend on which Maven is there.
copy_goal=org.apache.maven.plugins:maven-dependency-plugin:2.8:copy

# Exit 3 says "cannot be had here" (no Java, no Maven, no network); anything else is a failure of the server.
absent() { echo "$me: $*" >&2; exit 3; }
fail() { echo "$me: $*" >&2; exit 1; }
need() { local tool; for tool in "$@"; do command -v "$tool" >/dev/null || absent "$tool is not installed"; done; }

# jdk MIN MAX: home of the first JDK whose feature version lies in the range.
jdk() {
  local home version
  for home in "${JAVA_HOME:-}" /usr/lib/jvm/* /opt/*jdk*; do
    [ -x "$home/bin/java" ] && [ -f "$home/release" ] || continue
    version=$(sed -n 's/^JAVA_VERSION="\(1\.\)\?\([0-9]*\).*/\2/p' "$home/release")
    [ -n "$version" ] && [ "$version" -ge "$1" ] && [ "$version" -le "$2" ] || continue
    echo "$home"
    return
  done
  absent "no JDK of version $1 to $2 (set JAVA_HOME)"
}

# artifact COORDINATES DIR: unpacks a zip of the Maven repository into DIR.
artifact() {
  local log zips=$work/zips
  need mvn unzip
  rm -rf "$zips"
  log=$(mvn -q -B "$copy_goal" "-Dartifact=$1" "-DoutputDirectory=$zips" 2>&1) ||
    { grep -m3 ERROR <<<"$log" >&2 || true; absent "$1 could not be fetched"; }
  mkdir -p "$2"
  unzip -q -o "$zips"/*.zip -d "$2"
  rm -rf "$zips"
}

# once HOME BUILD: runs BUILD DIR and moves DIR to HOME, one at a time on this machine, unless HOME is there already.
once() {
  mkdir -p "$cache"
  exec 9>"$cache/.lock"
  flock 9
  if [ ! -d "$1" ]; then
    work=$(mktemp -d "$cache/.new.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    mkdir "$work/home"
    "$2" "$work/home"
    chmod -R go+rX "$work/home"
    mv "$work/home" "$1"
  fi
  exec 9>&-
}

# two_free_ports: sets http_port and transport_port to neighbours on which nothing listens.
two_free_ports() {
  local try
  for try in $(seq 100); do
    http_port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))
    transport_port=$((http_port + 1))
    ! (exec 3<>"/dev/tcp/127.0.0.1/$http_port") 2>/dev/null || continue
    ! (exec 3<>"/dev/tcp/127.0.0.1/$transport_port") 2>/dev/null || continue
    return
  done
  fail "no free port after $try tries"
}

# certificates DIR: ca.crt, server.{crt,key} for localhost and 127.0.0.1, client.{crt,key} of CN=auditship (PKCS#8).
certificates() {
  local name subject
  need openssl
  mkdir -p "$1"
  (
    cd "$1"
    new=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes)
    openssl req -x509 "${new[@]}" -keyout ca.key -out ca.crt -days 3650 -subj /CN=auditship-test-authority \
      -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign
    for name in server client; do
      subject=localhost
      [ $name = server ] || subject=auditship
      openssl req "${new[@]}" -keyout $name.key -out $name.csr -subj "/CN=$subject"
      openssl x509 -req -in $name.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 -out $name.crt \
        -extfile <(printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n')
    done
  ) 2>/dev/null || fail "could not make certificates in $1"
}

# The servers refuse to run as root. In a user namespace root is an ordinary user who still owns root's files.
as_user=()
leave_root() {
  [ "$(id -u)" = 0 ] || return 0
  if unshare --user --map-user=1000 --map-group=1000 true 2>/dev/null; then
    as_user=(unshare --user --map-user=1000 --map-group=1000)
  else
    need setpriv
    chown -R 65534:65534 "$1"
    as_user=(setpriv --reuid=65534 --regid=65534 --clear-groups)
  fi
}

# ready URL CURL_ARGS: whether the server takes requests; a script whose server tells it otherwise has its own.
# shellcheck disable=SC2086
ready() {
  curl -s -m 30 --noproxy '*' $2 "$1/_cluster/health?wait_for_status=yellow&timeout=20s" 2>/dev/null |
    grep -qE '"status":"(green|yellow)"'
}

# serve DIR URL CURL_ARGS COMMAND…: runs the server until standard input ends, then removes DIR; prints URL once it is
# ready. A line `restart` on standard input kills it and starts it again with its data, and prints URL again. A server
# that does not get ready leaves DIR behind, for its log.
serve() {
  local dir=$1 url=$2 curl_args=$3 word
  shift 3
  need curl
  launch "$@"
  while read -r word; do
    [ "$word" = restart ] || fail "not a word of ours: $word"
    kill -KILL -- -$pid 2>/dev/null || true
    wait $pid 2>/dev/null || true
    launch "$@"
  done
}

# The rest of serve: starts COMMAND in the variables of its caller and waits until it is ready.
launch() {
  local deadline=$((SECONDS + ${AUDITSHIP_START_TIMEOUT:-180}))
  setsid "$@" >>"$dir/log" 2>&1 </dev/null &
  pid=$!
  # The whole process group: Elasticsearch's launcher has the server as a child.
  trap "kill -KILL -- -$pid 2>/dev/null || true" EXIT
  until ready "$url" "$curl_args"; do
    kill -0 $pid 2>/dev/null || { tail -n 20 "$dir/log" >&2; fail "the server ended at its start, see $dir/log"; }
    [ $SECONDS -lt $deadline ] || { tail -n 20 "$dir/log" >&2; fail "the server was not ready in time, see $dir/log"; }
    sleep 0.2
  done
  trap "kill -KILL -- -$pid 2>/dev/null || true; wait $pid 2>/dev/null || true; rm -rf '$dir'" EXIT
  echo "$url"
}

log_config() {
  cat <<'C'
status = error
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{ISO8601} %p %c{1}: %m%n
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
C
}
