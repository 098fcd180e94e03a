#!/bin/sh
# In a new workspace MLflow refuses the first lines of its own tutorial.
#
# Without mlflow.set_experiment, mlflow.start_run and mlflow.log_metric use the experiment with the id
# 0. Each server makes it, but in the workspace `default` only: a new workspace is empty. So the same
# two lines work where no workspace is named, and fail where MLFLOW_WORKSPACE names one. The message
# speaks of an id that the user never wrote, and not of workspaces.
#
# Needs 900 MB in the temporary folder.
#
# Seen (mlflow 3.17.2):
#   default: 1 run
#   team-a: RESOURCE_DOES_NOT_EXIST: No Experiment with id=0 exists
#   team-a, after set_experiment: 1 run
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

cat > wait.py << 'END'
import sys, time, urllib.request

for _ in range(300):
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/health", timeout=30)
        break
    except OSError:
        time.sleep(0.2)
else:
    sys.exit(2)
import mlflow

mlflow.set_tracking_uri(f"http://127.0.0.1:{sys.argv[1]}")
mlflow.create_workspace("team-a")
END
cat > first.py << 'END'
import os, sys

import mlflow

mlflow.set_tracking_uri(f"http://127.0.0.1:{sys.argv[1]}")
if sys.argv[2:]:
    mlflow.set_experiment(sys.argv[2])
try:
    mlflow.log_metric("loss", 0.25)
    mlflow.end_run()
    print(len(mlflow.search_runs(output_format="list")), "run")
except mlflow.MlflowException as error:
    print(error)
END
export MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
port=$(python3 -c "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); print(s.getsockname()[1])")
venv/bin/mlflow server --host 127.0.0.1 --port "$port" --workers 1 --enable-workspaces \
    --backend-store-uri sqlite:///mlflow.db --artifacts-destination ./artifacts > log 2>&1 &
server=$!
venv/bin/python wait.py "$port" || { cat log; exit 2; }
seen=
see() {
    said=$(shift; "$@" 2> err | tail -1) || { cat err; exit 2; }
    echo "$1: $said"
    seen="$seen|$said"
}
see "default" venv/bin/python first.py "$port"
export MLFLOW_WORKSPACE=team-a
see "team-a" venv/bin/python first.py "$port"
see "team-a, after set_experiment" venv/bin/python first.py "$port" first
[ "$seen" = "|1 run|RESOURCE_DOES_NOT_EXIST: No Experiment with id=0 exists|1 run" ] ||
    { echo "This has changed."; exit 1; }
