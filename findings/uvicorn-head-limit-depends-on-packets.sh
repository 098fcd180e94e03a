#!/bin/sh
# uvicorn with h11 takes a request head of 32 KB that comes at once, and refuses it in pieces.
#
# The same bytes twice, each time on a new connection: a GET with a query of 32,000 characters. In
# one write the answer is 200. In writes of 4 KB, 50 ms apart, it is 400 after the fifth.
#
# The limit is --h11-max-incomplete-event-size, 16 KiB by default, and the name means it: h11 looks
# whether the head is complete first, and measures what it has only where it is not. A head that
# arrives whole in one read is never measured. Whether a longer one passes is up to the way between
# (segments, buffers of proxies, a pause), and a test on loopback, where it does, says little. With
# httptools, which uvicorn prefers where it is installed, both are taken.
#
# Seen (Python 3.11, uvicorn 0.54.0, h11 0.16.0, httptools 0.9.0):
#   h11: at once: 200, in pieces: 400 after 20480 bytes
#   httptools: at once: 200, in pieces: 200
set -eu
work=$(mktemp -d)
server=
stop() { [ -z "$server" ] || { kill "$server" && wait "$server"; } 2> /dev/null || true; server=; }
trap 'stop; rm -rf "$work"' EXIT
trap 'exit 2' INT TERM
cd "$work"
python3 -m venv venv || exit 2
venv/bin/pip install -q uvicorn==0.54.0 h11==0.16.0 click==8.5.1 httptools==0.9.0 || exit 2
venv/bin/python -c "
from importlib.metadata import version
print(*(f'{name} {version(name)}' for name in ('uvicorn', 'h11', 'httptools')), sep=', ')"

cat > small.py << 'END'
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    fields = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    await send({"type": "http.response.body", "body": b"OK"})
END
cat > ask.py << 'END'
import select, socket, sys, time

HEAD = b"GET /?%s HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n" % (b"x" * 32000)

def connect():
    for _ in range(150):
        try:
            return socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=10)
        except ConnectionRefusedError:
            time.sleep(0.1)
    sys.exit(2)

def ask(size):
    with connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sent = 0
        while sent < len(HEAD):
            piece = HEAD[sent:sent + size]
            connection.sendall(piece)
            sent += len(piece)
            if select.select([connection], [], [], 0.05)[0]:
                break  # the answer
        status = connection.recv(65536).split(b" ")[1].decode()
    return status if sent == len(HEAD) else f"{status} after {sent} bytes"

print(f"at once: {ask(len(HEAD))}, in pieces: {ask(4096)}")
END

seen_with() {
    port=$(python3 -c "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); print(s.getsockname()[1])")
    venv/bin/uvicorn --host 127.0.0.1 --port "$port" --http "$1" --log-level critical small:app &
    server=$!
    python3 ask.py "$port" > "$1" || exit 2
    stop
    echo "$1: $(cat "$1")"
}

seen_with h11
seen_with httptools
[ "$(cat h11 httptools)" = "at once: 200, in pieces: 400 after 20480 bytes
at once: 200, in pieces: 200" ] || { echo "This has changed."; exit 1; }
