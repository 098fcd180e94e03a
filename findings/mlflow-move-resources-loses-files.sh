#!/bin/sh
# MLflow's way into a workspace leaves the files behind: a moved run has no artifacts.
#
# A server has one experiment; its run has a file. It starts again with --enable-workspaces, where the
# file is still read. `mlflow db move-resources` then moves the experiment into a workspace. Its help
# says that "everything already logged keeps resolving at its current location", with both artifact
# policies. The run keeps its location, mlflow-artifacts:/1/..., but there the list is empty and the
# file is 404: under a workspace's header the server reads that location as workspaces/team-a/1/...
# Nothing says so. Once the folder is moved there by hand, the file is back.
#
# Needs 900 MB in the temporary folder.
#
# Seen (mlflow 3.17.2), with preserve and with retarget:
#   before: 1 file, 200; moved: 0 files, 404; with the folder in workspaces/team-a: 1 file, 200
set -eu
work=$(mktemp -d)
server=
stop() { [ -z "$server" ] || { kill "$server" && wait "$server"; } 2> /dev/null || true; server=; }
trap 'stop; rm -rf "$work"' EXIT
trap 'exit 2' INT TERM
cd "$work"
python3 -m venv venv || exit 2
venv/bin/pip install -q --no-compile mlflow==3.17.2 || exit 2
venv/bin/python -c "from importlib.metadata import version; print('mlflow', version('mlflow'))"

cat > client.py << 'END'
import json, sys, time, urllib.error, urllib.request

port, what = sys.argv[1:3]

def call(method, path, body=None, workspace=""):
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, method=method)
    request.add_header("Content-Type", "application/json")
    request.add_header("X-MLFLOW-WORKSPACE", workspace)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()

API, FILES = "/api/2.0/mlflow", "/api/2.0/mlflow-artifacts/artifacts"
for _ in range(300):
    try:
        call("GET", "/version")
        break
    except OSError:
        time.sleep(0.2)
else:
    sys.exit(2)
if what == "fill":
    experiment = json.loads(call("POST", f"{API}/experiments/create", {"name": "old"})[1])
    run = json.loads(call("POST", f"{API}/runs/create", experiment)[1])["run"]["info"]
    path = run["artifact_uri"].removeprefix("mlflow-artifacts:/")
    assert call("PUT", f"{FILES}/{path}/notes.txt", b"hello")[0] == 200
    print(run["run_id"], path)
elif what == "workspace":
    assert call("POST", "/api/3.0/mlflow/workspaces", {"name": "team-a"})[0] == 201
else:
    run, path, workspace = sys.argv[3:]
    status, body = call("GET", f"{API}/artifacts/list?run_id={run}", workspace=workspace)
    files = len(json.loads(body).get("files", []))
    print(f"{files} files, {call('GET', f'{FILES}/{path}/notes.txt', workspace=workspace)[0]}")
END
export MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
free() { python3 -c "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); print(s.getsockname()[1])"; }
serve() {
    stop
    port=$(free)
    venv/bin/mlflow server --host 127.0.0.1 --port "$port" --workers 1 "$@" \
        --backend-store-uri sqlite:///mlflow.db --artifacts-destination ./artifacts >> log 2>&1 &
    server=$!
}
seen=
for policy in "preserve" "retarget --default-artifact-root mlflow-artifacts:/"; do
    rm -rf mlflow.db artifacts
    serve
    filled=$(venv/bin/python client.py "$port" fill) || { cat log; exit 2; }
    run=${filled% *} path=${filled#* }
    serve --enable-workspaces
    venv/bin/python client.py "$port" workspace || { cat log; exit 2; }
    before=$(venv/bin/python client.py "$port" look "$run" "$path" "")
    # shellcheck disable=SC2086
    venv/bin/mlflow db move-resources sqlite:///mlflow.db --from default --to team-a \
        --resource-type experiments --name old --artifact-policy $policy -y > move.log 2>&1 || { cat move.log; exit 2; }
    moved=$(venv/bin/python client.py "$port" look "$run" "$path" team-a)
    mkdir -p artifacts/workspaces/team-a
    mv artifacts/1 artifacts/workspaces/team-a/1
    after=$(venv/bin/python client.py "$port" look "$run" "$path" team-a)
    line="before: $before; moved: $moved; with the folder in workspaces/team-a: $after"
    echo "${policy%% *}: $line"
    seen="$seen|$line"
done
right="|before: 1 files, 200; moved: 0 files, 404; with the folder in workspaces/team-a: 1 files, 200"
[ "$seen" = "$right$right" ] || { echo "This has changed."; exit 1; }
