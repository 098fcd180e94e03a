#!/bin/sh
# A Flask application behind Starlette's WSGIMiddleware sees no chunked body; nobody says so.
#
# The same POST twice. With Content-Length the view gets 11 bytes. With Transfer-Encoding: chunked,
# which is as valid, it gets 0 bytes and answers 200.
#
# Starlette hands the whole body over as wsgi.input. But it is Werkzeug's rule that a stream without
# Content-Length may have no end, so it reads nothing from it unless the server says
# wsgi.input_terminated, which Starlette does not. Each side is right; between them bodies are lost.
#
# Seen (starlette 1.10.0, Flask 3.1.3, Werkzeug 3.1.9, uvicorn 0.54.0):
#   with Content-Length: 200, 11 bytes; chunked: 200, 0 bytes
set -eu
work=$(mktemp -d)
server=
stop() { [ -z "$server" ] || { kill "$server" && wait "$server"; } 2> /dev/null || true; server=; }
trap 'stop; rm -rf "$work"' EXIT
trap 'exit 2' INT TERM
cd "$work"
python3 -m venv venv || exit 2
venv/bin/pip install -q starlette==1.10.0 Flask==3.1.3 Werkzeug==3.1.9 uvicorn==0.54.0 || exit 2
venv/bin/python -c "
from importlib.metadata import version
print(*(f'{name} {version(name)}' for name in ('starlette', 'flask', 'werkzeug', 'uvicorn')), sep=', ')"

cat > both.py << 'END'
import warnings

from flask import Flask, request
from starlette.applications import Starlette
from starlette.routing import Mount

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from starlette.middleware.wsgi import WSGIMiddleware

flask = Flask(__name__)

@flask.post("/size")
def size():
    return str(len(request.get_data()))

app = Starlette(routes=[Mount("/", WSGIMiddleware(flask))])
END
cat > ask.py << 'END'
import http.client, sys, time

def post(body, **how):
    for _ in range(150):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
            connection.request("POST", "/size", body, **how)
            break
        except ConnectionRefusedError:
            time.sleep(0.1)
    answer = connection.getresponse()
    return f"{answer.status}, {answer.read().decode()} bytes"

sized = post(b"hello world")
chunked = post(iter([b"hello ", b"world"]), headers={"Transfer-Encoding": "chunked"}, encode_chunked=True)
print(f"with Content-Length: {sized}; chunked: {chunked}")
sys.exit((sized, chunked) != ("200, 11 bytes", "200, 0 bytes"))
END
port=$(python3 -c "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); print(s.getsockname()[1])")
venv/bin/uvicorn --host 127.0.0.1 --port "$port" --log-level critical both:app &
server=$!
python3 ask.py "$port" || { echo "This has changed."; exit 1; }
