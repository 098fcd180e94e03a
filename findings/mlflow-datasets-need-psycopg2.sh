#!/bin/sh
# On PostgreSQL MLflow can add no evaluation dataset to an experiment, if the driver is psycopg 3.
#
# POST datasets/{id}/add-experiments compares experiments.experiment_id, an integer, with the text of
# the request. psycopg2 writes values into the statement, as literals without a type, and PostgreSQL
# reads '1' as a number. psycopg 3 sends them apart, with the type varchar: "operator does not exist:
# integer = character varying", and MLflow answers 400 to a valid request. All else that we tried
# works with both. Since SQLAlchemy 2.1 an address postgresql:// means psycopg 3, so a new release of
# a library in between decides.
#
# Needs 950 MB in the temporary folder. The PostgreSQL 16 is that of the wheel pgserver.
#
# Seen (mlflow 3.17.2, SQLAlchemy 2.1.9, psycopg 3.3.9, psycopg2 2.9.11, pgserver 0.1.4):
#   postgresql+psycopg2: 200
#   postgresql+psycopg: 400 ... operator does not exist: integer = character varying
set -eu
work=$(mktemp -d)
server=
stop() { [ -z "$server" ] || { kill "$server" && wait "$server"; } 2> /dev/null || true; server=; }
trap 'stop; [ ! -d data ] || venv/bin/python base.py stop > /dev/null 2>&1 || true; rm -rf "$work"' EXIT
trap 'exit 2' INT TERM
cd "$work"
python3 -m venv venv || exit 2
venv/bin/pip install -q --no-compile mlflow==3.17.2 SQLAlchemy==2.1.9 "psycopg[binary]==3.3.9" \
    psycopg2-binary==2.9.11 pgserver==0.1.4 || exit 2
venv/bin/python -c "
from importlib.metadata import version
print(*(f'{name} {version(name)}' for name in ('mlflow', 'SQLAlchemy', 'psycopg', 'psycopg2-binary')), sep=', ')"

cat > base.py << 'END'
import os, sys

import pgserver

base = pgserver.get_server("data", cleanup_mode="stop" if sys.argv[1] == "stop" else None)
if sys.argv[1] != "stop":
    base.psql(f"CREATE DATABASE {sys.argv[1]}")
    print(f"/{sys.argv[1]}?" + base.get_uri().partition("?")[2])
END
cat > ask.py << 'END'
import json, sys, time, urllib.error, urllib.request

def call(method, path, **document):
    request = urllib.request.Request(f"http://127.0.0.1:{sys.argv[1]}{path}", method=method)
    request.data = json.dumps(document).encode()
    request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())

for _ in range(300):
    try:
        _, made = call("POST", "/api/2.0/mlflow/experiments/create", name="one")
        break
    except OSError:
        time.sleep(0.2)
else:
    sys.exit(2)
DATASETS = "/api/3.0/mlflow/datasets"
_, created = call("POST", f"{DATASETS}/create", name="questions")
path = f"{DATASETS}/{created['dataset']['dataset_id']}/add-experiments"
status, answer = call("POST", path, experiment_ids=[made["experiment_id"]])
words = "operator does not exist: integer = character varying"
print(status, f"... {words}" if words in answer.get("message", "") else "")
END
export MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
seen=
for driver in psycopg2 psycopg; do
    place=$(venv/bin/python base.py "$driver" 2> /dev/null) || exit 2
    port=$(python3 -c "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); print(s.getsockname()[1])")
    venv/bin/mlflow server --host 127.0.0.1 --port "$port" --workers 1 \
        --backend-store-uri "postgresql+$driver://postgres:@$place" --artifacts-destination ./artifacts > log 2>&1 &
    server=$!
    said=$(venv/bin/python ask.py "$port") || { cat log; exit 2; }
    stop
    echo "postgresql+$driver: $said"
    seen="$seen|${said%% *}"
done
case $said in *"integer = character varying"*) ;; *) seen="$seen, for another reason" ;; esac
[ "$seen" = "|200|400" ] || { echo "This has changed."; exit 1; }
