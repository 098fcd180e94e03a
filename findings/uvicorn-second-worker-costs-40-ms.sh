#!/bin/sh
# uvicorn with a second worker answers each request on a kept connection 40 ms later.
#
# The same application, the same client, one connection, one request after the other. With
# `--workers 1` an answer takes 0.2 ms, with `--workers 2` it takes 44 ms.
#
# With several workers the parent binds the socket, as socket.socket(family=...), whose protocol
# number is 0. asyncio sets TCP_NODELAY only on sockets whose protocol is IPPROTO_TCP, and accepted
# sockets inherit the 0. So head and body, which are two writes, meet Nagle's algorithm, and the
# second waits for the client's delayed acknowledgement.
#
# Seen (Linux 6, Python 3.11, uvicorn 0.54.0 with h11, no uvloop):
#   1 worker: 0.2 ms, 2 workers: 44.0 ms
set -eu
work=$(mktemp -d)
server=
stop() { [ -z "$server" ] || { kill "$server" && wait "$server"; } 2> /dev/null || true; server=; }
trap 'stop; rm -rf "$work"' EXIT
trap 'exit 2' INT TERM
cd "$work"
python3 -m venv venv || exit 2
venv/bin/pip install -q uvicorn==0.54.0 h11==0.16.0 click==8.5.1 || exit 2
venv/bin/python -c "import uvicorn, sys; print('uvicorn', uvicorn.__version__, 'Python', sys.version.split()[0])"

cat > small.py << 'END'
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    fields = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    await send({"type": "http.response.body", "body": b"OK"})
END
cat > ask.py << 'END'
import http.client, statistics, sys, time

def connect(port):
    for _ in range(150):
        connection = http.client.HTTPConnection("127.0.0.1", port)
        try:
            connection.connect()
            return connection
        except OSError:
            time.sleep(0.1)
    sys.exit(2)

def ask(connection):
    began = time.perf_counter()
    connection.request("GET", "/")
    connection.getresponse().read()
    return (time.perf_counter() - began) * 1000

connection = connect(int(sys.argv[1]))
print(round(statistics.median(ask(connection) for _ in range(40)), 1))
END

median_with() {
    port=$(python3 -c "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); print(s.getsockname()[1])")
    venv/bin/uvicorn --host 127.0.0.1 --port "$port" --workers "$1" --log-level critical small:app &
    server=$!
    python3 ask.py "$port" > median
    stop
}
median_with 1; one=$(cat median)
median_with 2; two=$(cat median)
echo "1 worker: $one ms, 2 workers: $two ms"
python3 -c "import sys; sys.exit(not ($one < 20 < 35 < $two))" || { echo "This has changed."; exit 1; }
