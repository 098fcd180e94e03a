#!/bin/sh
# lighttpd as a reverse proxy turns a chunked answer that broke off into a complete one.
#
# A server begins a chunked answer, sends 300,000 bytes and dies: no last chunk. Asked directly, a
# client sees that the answer is broken (IncompleteRead). Through lighttpd the same answer comes with
# "Content-Length: 300000": it gathered what there was, counted it, and called it the whole. A
# client saves half a file and has no way to know. Where the server announced a Content-Length and
# sent less, lighttpd passes the break on; and so it does with a chunked answer where
# server.stream-response-body is 1 or 2 (0 is the default, and what is shown here).
#
# Seen (Debian 12, lighttpd 1.4.69-1):
#   direct: broken; through lighttpd: 200, complete, Content-Length 300000
#   sized, through lighttpd: broken
set -eu
work=$(mktemp -d)
server=
stop() { [ -z "$server" ] || { kill "$server" && wait "$server"; } 2> /dev/null || true; server=; }
trap 'stop; rm -rf "$work"' EXIT
trap 'exit 2' INT TERM
chmod 755 "$work"
cd "$work"
mkdir fetched
(cd fetched && apt-get download -qq lighttpd=1.4.69-1 > /dev/null 2>&1) ||
    { echo "Debian's lighttpd 1.4.69-1 cannot be fetched here."; exit 2; }
dpkg -x fetched/*.deb unpacked
lighttpd="$work/unpacked/usr/sbin/lighttpd"
"$lighttpd" -v | head -n 1

cat > ask.py << 'END'
import http.client, socket, subprocess, sys, threading, time

behind = socket.create_server(("127.0.0.1", 0))
HEADS = {"/chunked": b"Transfer-Encoding: chunked", "/sized": b"Content-Length: 400000"}

def serve():
    while True:
        connection, _ = behind.accept()
        target = connection.recv(65536).split(b" ")[1].decode()
        piece = b"x" * 300_000
        body = b"%x\r\n%s\r\n" % (len(piece), piece) if target == "/chunked" else piece
        connection.sendall(b"HTTP/1.1 200 OK\r\n%s\r\n\r\n%s" % (HEADS[target], body))
        connection.close()  # in the middle

threading.Thread(target=serve, daemon=True).start()

def ask(port, target):
    for _ in range(100):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request("GET", target)
            break
        except ConnectionRefusedError:
            time.sleep(0.1)
    answer = connection.getresponse()
    try:
        answer.read()
    except http.client.IncompleteRead:
        return "broken"
    return f"{answer.status}, complete, Content-Length {answer.getheader('Content-Length')}"

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
with open("lighttpd.conf", "w") as file:
    file.write(f"""
server.bind = "127.0.0.1"
server.port = {port}
server.document-root = "/var/empty"
server.upload-dirs = ( "." )
server.modules = ( "mod_proxy" )
proxy.server = ( "" => (( "host" => "127.0.0.1", "port" => {behind.getsockname()[1]} )) )
""")
lighttpd = subprocess.Popen(sys.argv[1:] + ["-D", "-f", "lighttpd.conf"], stderr=subprocess.DEVNULL)
try:
    direct, through = ask(behind.getsockname()[1], "/chunked"), ask(port, "/chunked")
    sized = ask(port, "/sized")
finally:
    lighttpd.terminate()
    lighttpd.wait()
print(f"direct: {direct}; through lighttpd: {through}")
print(f"sized, through lighttpd: {sized}")
sys.exit((direct, through) != ("broken", "200, complete, Content-Length 300000"))
END
python3 ask.py "$lighttpd" -m "$work/unpacked/usr/lib/lighttpd" || { echo "This has changed."; exit 1; }
