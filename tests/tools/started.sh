# Sourced by the demos and the browser tests: a fake hub with the tiny model and a fresh `millm serve`, in a folder of
# their own and on free ports, stopped and removed when the script ends.
bin=${MILLM_BIN_DIR:-$PWD/target/debug}
work=$(mktemp -d)
pids=()

finish() {
  status=$?
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  [ "$status" = 0 ] || tail -n 40 "$work/serve.log" >&2 2>/dev/null || true
  rm -rf "$work"
}
trap finish EXIT

wait_for() { # file-or-url, log
  for _ in $(seq 200); do
    if [[ $1 == http* ]]; then curl -sf -m 2 -o /dev/null "$1" && return; else [ -s "$1" ] && return; fi
    sleep 0.05
  done
  echo "did not start:" >&2
  cat "$2" >&2
  exit 1
}

start_hub() {
  mkdir -p "$work/hub/millm"
  cp -r tests/fixtures/tiny-millm "$work/hub/millm/tiny-millm"
  "$bin/fake-hub" --models "$work/hub" --port-file "$work/port" >"$work/hub.log" 2>&1 &
  pids+=($!)
  wait_for "$work/port" "$work/hub.log"
}

# Leaves MILLM_SERVER, where `millm` and everybody else finds it. Without a fake hub, its hub is a port that nobody uses.
start_server() {
  local port
  port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  export HOST=127.0.0.1 PORT=$port MILLM_SERVER=http://127.0.0.1:$port HF_TOKEN=
  HF_ENDPOINT=http://127.0.0.1:$(cat "$work/port" 2>/dev/null || echo 9)
  export HF_ENDPOINT DATABASE_URL=sqlite://$work/data/millm.db MODEL_CACHE_DIR=$work/data/models
  unset AUTO_LOAD_MODEL MILLM_CATALOG_URL MILLM_DOWNLOADER_URL MILLM_RUNTIME_URL
  "$bin/millm" serve >"$work/serve.log" 2>&1 &
  pids+=($!)
  wait_for "$MILLM_SERVER/readyz" "$work/serve.log"
}
