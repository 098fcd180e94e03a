#!/bin/sh
# The OTLP/HTTP exporter of opentelemetry-python: the answers that make it try again have turned.
#
# The server refuses the first export and takes every later one. Four refusals, two versions:
#
#   refusal                  1.38.0                  1.45.2
#   429, Retry-After: 1      lost at once            delivered by the 2nd request
#   429, Retry-After: 30     lost at once            lost at once
#   503, Retry-After: 1      delivered by the 2nd    delivered by the 2nd
#   503, Retry-After: 30     delivered by the 2nd    lost at once
#
# 1.38 knows neither 429 nor Retry-After: it waits about a second, and that saves the spans. 1.45
# honours Retry-After, and gives up without a second try where that is more than is left of its
# time-out of 10 s. So after an update a server that politely names a long time loses spans that it
# got before; and the only refusal that both survive is 503 with a short Retry-After.
#
# Seen (Python 3.11): as in the table.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 2' INT TERM
cd "$work"
cat > export.py << 'END'
import http.server, logging, sys, threading
from importlib.metadata import version

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

logging.disable(logging.CRITICAL)
refusal, asked = (200, 0), 0

class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        global asked
        asked += 1
        self.rfile.read(int(self.headers["Content-Length"]))
        status, wait = refusal if asked == 1 else (200, 0)
        self.send_response(status)
        if wait:
            self.send_header("Retry-After", str(wait))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
seen = []
for refusal in ((429, 1), (429, 30), (503, 1), (503, 30)):
    asked = 0
    provider = TracerProvider()
    exporter = OTLPSpanExporter(f"http://127.0.0.1:{server.server_port}/v1/traces", timeout=10)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with provider.get_tracer("finding").start_as_current_span("a span"):
        pass
    provider.shutdown()
    seen.append("lost" if asked == 1 else f"delivered by request {asked}")
    print(f"  {refusal[0]}, Retry-After: {refusal[1]}: {seen[-1]}")
lost, kept = "lost", "delivered by request 2"
sys.exit(seen != {"old": [lost, lost, kept, kept], "new": [kept, lost, kept, lost]}[sys.argv[1]])
END
changed=0
for which in old:1.38.0 new:1.45.2; do
    name=${which%%:*} version=${which#*:}
    python3 -m venv "$name" || exit 2
    "$name/bin/pip" install -q "opentelemetry-sdk==$version" \
        "opentelemetry-exporter-otlp-proto-http==$version" || exit 2
    echo "opentelemetry-exporter-otlp-proto-http $version"
    "$name/bin/python" export.py "$name" || changed=1
done
[ "$changed" = 0 ] || { echo "This has changed."; exit 1; }
