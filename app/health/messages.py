"""Every message of a health check, by its word: what is wrong, and what to do about it.

They are for everybody, so none holds an address. docs/health.md lists them all. What stands in
braces is filled in: the part's name, the variable with its address, a status, a number.
"""

from app.state.redis_rights import EXPLAINED

WELL = {
    "mlflow": "MLflow answers.",
    "redis": "Redis answers.",
    "no redis": "No Redis: one process, counts in memory.",
    "auth": "The auth service answers.",
    "circuits": "The circuits are closed in every worker.",
    "instance": "The instance's folder and the temporary folder can be written.",
}

#: A good answer that took long.
SLOW = "{message} But slowly: it took most of HEALTH_TIMEOUT. Is it overloaded?"

#: A check whose turn did not come in time.
IN_LINE = "No answer yet: MLflow was slow to answer the check before this one."

#: MLflow answers callers, but not a check.
BUSY = "MLflow is busy: it answers requests, but not this check within HEALTH_TIMEOUT."

#: What makes MLflow slow where the proxy shows it a user name and password.
PASSWORD = (
    "With basic-auth it hashes the password on every call, up to a second of processor time: "
    "set auth_cache_ttl_seconds in its ini file."
)

#: No answer came; of any part.
UNANSWERED = {
    "dns": "There is no DNS answer for the host name in {setting}: is it spelt right, and the "
    "name registered?",
    "name server": "The name server gives no answer for the host name in {setting}: is it up, and "
    "reached from here?",
    "last address": "{part} answers, but look-ups of the host name in {setting} fail: new "
    "connections go to its last good address. Is the name server up, and reached from here?",
    "refused": "{part} refuses connections: is it running, on the port that {setting} names?",
    "certificate": "{part} shows a TLS certificate that cannot be verified: is it expired, for "
    "another name than the one in {setting}, or by an authority that is unknown here?",
    "no tls": "{part} does not speak TLS, though {setting} says so.",
    "silent": "{part} does not answer in time: is it overloaded, or frozen?",
    "no connection": "{part} does not take connections in time: is its host up, {setting} right, "
    "and does its security group let the proxy in?",
    "broken off": "{part} breaks the connection off before it answers: look at its log, and "
    "whether it wants TLS where {setting} has none.",
    "unreachable": "{part} cannot be reached: is there a route to it, and is {setting} right?",
    "hangs": "{part} gives neither answer nor error in time: is it, or the DNS of {setting}, "
    "frozen?",
}

#: MLflow, or whatever is in its place, answered.
MLFLOW = {
    "loop": "MLFLOW_SERVER_URL points back at this proxy, or at another one: set it to MLflow's "
    "own address.",
    "host": "MLflow refuses the Host header: start it with --allowed-hosts and the host in "
    "MLFLOW_SERVER_URL.",
    "no artifacts": "MLflow does not serve artifacts (--no-serve-artifacts): clients need "
    "credentials for the artifact store itself.",
    "artifacts only": "MLflow serves artifacts only (--artifacts-only): MLFLOW_SERVER_URL must "
    "name a tracking server.",
    "permission": "MLflow does not let the proxy's account do this (403): give the account in "
    "MLFLOW_UPSTREAM_USERNAME the rights that users of the proxy need.",
    "no credentials": "MLflow, or something in front of it, wants credentials: set "
    "MLFLOW_UPSTREAM_TOKEN, or MLFLOW_UPSTREAM_USERNAME and MLFLOW_UPSTREAM_PASSWORD.",
    "credentials": "MLflow, or something in front of it, refuses the credentials that the proxy "
    "shows it: correct the MLFLOW_UPSTREAM_ variables.",
    "not found": "There is no MLflow at this address (404): does MLFLOW_SERVER_URL name its port, "
    "and no path that MLflow does not have?",
    "redirect": "MLflow's address redirects: set MLFLOW_SERVER_URL to where it leads (https, "
    "perhaps).",
    "throttled": "MLflow, or something in front of it, throttles the proxy (429).",
    "intermediary": "Something in front of MLflow answers for it (status {status}): is MLflow "
    "itself running?",
    "page": "A web page answers in MLflow's place: MLFLOW_SERVER_URL must be MLflow's own address.",
    "another": "Something else than MLflow answers: are the host and port in MLFLOW_SERVER_URL "
    "MLflow's?",
    "fails": "MLflow answers with status {status}: look at its log, and at its database or "
    "artifact store.",
}

REDIS = {
    "read-only": "Redis is read-only: REDIS_URL must name the primary, not a replica.",
    "full": "Redis is full (out of memory): give it more, or an eviction policy such as "
    "allkeys-lru.",
    "no password": "Redis wants a password, and REDIS_URL has none.",
    "password": "Redis refuses the password or the user: correct those in REDIS_URL.",
    "permission": EXPLAINED,
    "loading": "Redis is loading its data after a start: wait.",
    "replicas": "Redis has too few replicas to take writes: look at min-replicas-to-write.",
    "disk": "Redis cannot save to its disk, and so takes no writes: look at its log.",
    "busy": "Redis is busy with a script that does not end: SCRIPT KILL, and look whose it is.",
    "clients": "Redis has no connection left (maxclients): raise it, or look who holds them.",
    "database": "Redis does not have the database that REDIS_URL names: correct its number.",
    "protected": "Redis is in protected mode: give its user a password, and REDIS_URL the same.",
    "old": "Redis does not speak RESP3: it must be 6.2 or newer. Behind a proxy that lacks RESP3, "
    "add ?protocol=2 to REDIS_URL.",
    "closed": "Redis closes the connection: is it stopping, or does it want TLS (rediss:// in "
    "REDIS_URL)?",
    "no tls": "No TLS handshake comes about: does Redis speak TLS on the port in REDIS_URL? "
    "Without TLS it is redis:// instead of rediss://.",
    "client certificate": "Redis wants a certificate of its clients: add ssl_certfile and "
    "ssl_keyfile to REDIS_URL.",
    "tls files": "The files of TLS in REDIS_URL cannot be used: are those that ssl_ca_certs, "
    "ssl_certfile and ssl_keyfile name there, in PEM, and does ssl_password fit?",
    "silent": "Redis does not answer within REDIS_TIMEOUT: is it overloaded, frozen, or far away?",
    "no sentinel": "None of the Sentinels answers: are they running, on the hosts and ports in "
    "REDIS_URL?",
    "sentinel no password": "The Sentinels want a password of their own: add ?sentinel_password= "
    "to REDIS_URL.",
    "sentinel password": "The Sentinels refuse their password or user: correct sentinel_password "
    "and sentinel_username in REDIS_URL.",
    "sentinel permission": "The Sentinels do not let this user ask for the master: add +sentinel "
    "to its ACL there.",
    "not sentinel": "No Sentinel answers there: REDIS_URL must name the Sentinels' ports (26379).",
    "no service": "The Sentinels know no service of that name: correct the name in REDIS_URL.",
    "no master": "The Sentinels know no master that is up: look at their log.",
    "no cluster": "No node of the Redis cluster can be used: look at CLUSTER INFO.",
    "not cluster": "Redis is no cluster: REDIS_URL must begin with redis:// (rediss:// with TLS).",
    "slots": "The Redis cluster does not serve all slots: look at CLUSTER INFO.",
    "is cluster": "Redis is a cluster: REDIS_URL must begin with redis+cluster:// "
    "(rediss+cluster:// with TLS).",
    "is sentinel": "Redis is a Sentinel: REDIS_URL must begin with redis+sentinel:// and name the "
    "service.",
}

AUTH = {
    "throttled": "The auth service throttles (429): keys that it has not answered for lately get "
    "429.",
    "fails": "The auth service answers with status {status}: look at its log.",
    "no verdict": "The auth service answers, but gives no verdict about keys: look at its log.",
    "another": "Something else than the auth service answers (status {status}): is "
    "HOKUSAI_AUTH_SERVICE_URL its own address? Until then good keys may be refused.",
    "no path": "The auth service seems not to know the path /api/v1/keys/validate (404): is "
    "HOKUSAI_AUTH_SERVICE_URL right? If it is not, every key is refused with 401.",
}

CIRCUITS = {
    "mlflow": "The circuit to MLflow is not closed in {workers}: MLflow gave no answer, so "
    "requests get 503 at once. The proxy asks once in CIRCUIT_RESET_TIMEOUT whether it is back.",
    "auth": "The circuit to the auth service is not closed in {workers}: it gave no answer, and is "
    "asked again after AUTH_RETRY_INTERVAL.",
}

#: A folder of the instance cannot be used as it should.
PLACES = {
    "full": "{place} is full: free some space, or give it more.",
    "nearly full": "{place} is nearly full: free some space, or give it more.",
    "read-only": "{place} is read-only: mount it with write access.",
    "denied": "{place} cannot be written by the proxy's user: correct its owner and mode.",
    "missing": "{place} is missing and cannot be made: is something else in its place, or its "
    "file system not mounted?",
    "unusable": "{place} cannot be used: look at its file system.",
}

INSTANCE = {
    "store": "The store that the workers share cannot be used, though its folder can: look at its "
    "file system. Until then each worker counts limits for itself while Redis is away.",
    "metrics": "Metrics cannot be written, though the folder can: look at its file system. Until "
    "then /metrics lacks some.",
    "no temporary folder": "There is no temporary folder that can be written: set TMPDIR. Until "
    "then bodies that have to be put aside are refused.",
}

FAILED = "The check itself failed; see the proxy's log."

#: What it means for users, said behind the cause.
WITHOUT_REDIS = "Until then each instance counts limits for itself and hears no revocations."
WITHOUT_SOME = (
    "Until then the limits, sessions and answers of the nodes concerned go on without Redis."
)
WITHOUT_SENTINELS = "Until then the master that they named last is used."
WITHOUT_AUTH = "Keys seen lately go on, others get 503."
WITHOUT_FOLDER = (
    "Until then /metrics may lack values, and each worker counts limits for itself while Redis is "
    "away."
)
WITHOUT_TMPDIR = "When it is full, bodies that have to be put aside are refused."
