"""Every message of a health check, by its word: what is wrong, and what to do about it.

They are for everybody, so none holds an address. docs/health.md lists them all. What stands in
braces is filled in: the part's name, the variable with its address, a status, a number.
"""

WELL = {
    "mlflow": "MLflow answers.",
    "redis": "Redis answers.",
    "no redis": "No Redis: one process, counts in memory.",
    "auth": "The auth service answers.",
    "circuits": "The circuits are closed in every worker.",
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
    "password": "Redis refuses the password or the user: correct those in REDIS_URL.",
    "permission": "Redis does not let this user do what the proxy needs: widen its ACL.",
    "loading": "Redis is loading its data after a start: wait.",
    "replicas": "Redis has too few replicas to take writes: look at min-replicas-to-write.",
    "disk": "Redis cannot save to its disk, and so takes no writes: look at its log.",
    "no master": "The sentinels know no master: look at their log, and the name in REDIS_URL.",
    "no cluster": "No node of the Redis cluster can be used: look at CLUSTER INFO.",
    "closed": "Redis closes the connection: does it want TLS (rediss:// in REDIS_URL)?",
    "silent": "Redis does not answer within REDIS_TIMEOUT: is it overloaded, frozen, or far away?",
}

AUTH = {
    "throttled": "The auth service throttles (429): keys that it has not answered for lately get "
    "429.",
    "fails": "The auth service answers with status {status}: look at its log.",
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

FAILED = "The check itself failed; see the proxy's log."

#: What it means for users, said behind the cause.
WITHOUT_REDIS = "Until then each instance counts limits for itself and hears no revocations."
WITHOUT_AUTH = "Keys seen lately go on, others get 503."
