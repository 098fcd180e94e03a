"""Every setting of the proxy, one row each: variable, parser, default, help, secret or not.

`load` reads them all and complains of all that is wrong at once. The reference page
(docs/configuration.md) is generated from these rows: `python -m config`.
"""

from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any

from config import parsers


class BadSettings(ValueError):
    """One or more environment variables cannot be used; `complaints` names each, without values."""

    def __init__(self, complaints: list[str]) -> None:
        self.complaints = complaints
        listed = "\n".join(f"  - {complaint}" for complaint in complaints)
        super().__init__(
            f"the proxy cannot start, {len(complaints)} setting(s) are wrong:\n{listed}"
        )


def row(
    variable: str,
    parse: Callable[[str], Any],
    default: Any,
    help: str,
    *,
    group: str,
    secret: bool = False,
) -> Any:
    """One setting. `default` is the parsed value; `help` is one or two sentences with the unit.
    A secret's value is shown nowhere: not in a repr, not in a complaint, not in the reference."""
    metadata = {"variable": variable, "parse": parse, "help": help, "group": group}
    return field(default=default, repr=not secret, metadata=metadata | {"secret": secret})


SERVING, MLFLOW, AUTH, REDIS = "Serving", "MLflow", "Authentication", "Redis and limits"
CIRCUIT, METRICS, LOGS = "Circuit and health", "Metrics", "Logs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings, parsed. Times are in seconds, sizes in bytes. Built by `load`."""

    # fmt: off
    bind: str = row("BIND", parsers.bind, "0.0.0.0:8000", group=SERVING,
        help="Where gunicorn listens: HOST:PORT or unix:PATH.")
    web_concurrency: int = row("WEB_CONCURRENCY", parsers.count(1, 256), 2, group=SERVING,
        help="Worker processes. One per core is enough: each serves thousands of connections.")
    trusted_proxy_hops: int = row("TRUSTED_PROXY_HOPS", parsers.count(0, 16), 0, group=SERVING,
        help="How many reverse proxies stand in front and append to X-Forwarded-For; behind the "
             "ALB 1. With 0 the header is not believed. A peer on a unix socket counts as 127.0.0.1.")
    client_idle_timeout: float = row("CLIENT_IDLE_TIMEOUT", parsers.seconds(1, 3600), 60.0, group=SERVING,
        help="Seconds that a client may neither send nor take a byte in mid-transfer.")
    client_request_timeout: float = row("CLIENT_REQUEST_TIMEOUT", parsers.seconds(1, 3600), 20.0, group=SERVING,
        help="Seconds in which a request's head must come, and a body that the proxy reads whole before "
             "it goes on (short, chunked, or the sign-in form); one more for each 8 KiB that came. Over "
             "it, 408. Uploads that are streamed have no such limit.")
    keepalive: int = row("KEEPALIVE", parsers.count(1, 4000), 75, group=SERVING,
        help="Seconds an idle client connection is kept. Above the load balancer's idle time-out "
             "(an ALB's default: 60 s), or it answers 502 now and then.")
    drain_delay: float = row("DRAIN_DELAY", parsers.seconds(0, 100), 0.0, group=SERVING,
        help="Seconds after SIGTERM in which requests are still taken while /ready says 503, so "
             "that the load balancer can take the instance out first. Behind the ALB: 10.")
    graceful_timeout: int = row("GRACEFUL_TIMEOUT", parsers.count(1, 3600), 90, group=SERVING,
        help="Seconds after SIGTERM (the drain delay is part of it) in which running transfers may "
             "finish. Below the orchestrator's stop time-out (Fargate: at most 120 s).")
    max_connections: int = row("MAX_CONNECTIONS", parsers.count(10, 100_000), 2000, group=SERVING,
        help="Client connections that one worker holds at once. At 95 % of them, those that have been "
             "waited for the longest are closed for new ones.")
    max_in_flight: int = row("MAX_IN_FLIGHT", parsers.count(1), 512, group=SERVING,
        help="Requests that one worker forwards at once, all keys together; over it, 503. Never more "
             "than 90 % of MAX_CONNECTIONS. Those without a key (MLflow's static files) get a quarter.")
    max_buffered_body: int = row("MAX_BUFFERED_BODY", parsers.count(0), 64 * 1024 * 1024, group=SERVING,
        help="Bytes of a chunked request body that are put aside for MLflow's REST routes, which "
             "need a Content-Length; over it, 413. Artifact uploads have no limit.")
    max_buffered_total: int = row("MAX_BUFFERED_TOTAL", parsers.count(0), 512 * 1024 * 1024, group=SERVING,
        help="Bytes of such bodies that one worker holds at once, of all keys together, most of them in "
             "temporary files; over it, 503. One key gets a quarter, or one whole body.")
    instance_folder: str = row("INSTANCE_FOLDER", parsers.text, "", group=SERVING,
        help="A writable folder that the workers of this instance share (metrics, one lock file, a small "
             "SQLite file). It must be theirs alone. By default a fresh one in /dev/shm or the temporary folder.")

    mlflow_server_url: str = row("MLFLOW_SERVER_URL", parsers.http_url, "http://127.0.0.1:5000", group=MLFLOW,
        help="MLflow's internal address, by name; in AWS the Cloud Map name, such as "
             "http://mlflow.hokusai-development.local:5000.")
    mlflow_upstream_token: str = row("MLFLOW_UPSTREAM_TOKEN", parsers.text, "", group=MLFLOW, secret=True,
        help="What the proxy shows MLflow as a Bearer token. Nothing by default.")
    mlflow_upstream_username: str = row("MLFLOW_UPSTREAM_USERNAME", parsers.text, "", group=MLFLOW,
        help="What the proxy shows MLflow as Basic credentials, with the password.")
    mlflow_upstream_password: str = row("MLFLOW_UPSTREAM_PASSWORD", parsers.text, "", group=MLFLOW, secret=True,
        help="Goes with MLFLOW_UPSTREAM_USERNAME.")
    mlflow_connect_timeout: float = row("MLFLOW_CONNECT_TIMEOUT", parsers.seconds(0.05, 60), 2.0, group=MLFLOW,
        help="Seconds to open a connection to MLflow.")
    mlflow_read_timeout: float = row("MLFLOW_READ_TIMEOUT", parsers.seconds(0.1, 3600), 40.0, group=MLFLOW,
        help="Seconds to MLflow's response headers, and between two pieces of the body. Above the "
             "30 s after which MLflow gives up waiting for a database connection.")
    mlflow_artifact_read_timeout: float = row("MLFLOW_ARTIFACT_READ_TIMEOUT", parsers.seconds(0.1, 3600), 120.0,
        group=MLFLOW,
        help="The same where MLflow waits for its artifact store, and for searches (but for those of "
             "experiments) and some writes. There is no limit to a transfer's whole time.")
    mlflow_artifact_copy_timeout: float = row("MLFLOW_ARTIFACT_COPY_TIMEOUT", parsers.seconds(0.1, 14_400), 900.0,
        group=MLFLOW,
        help="Seconds to the response headers of an artifact's upload, download or deletion: MLflow "
             "may copy whole files to or from its store before it answers.")
    mlflow_gateway_read_timeout: float = row("MLFLOW_GATEWAY_READ_TIMEOUT", parsers.seconds(0.1, 14_400), 330.0,
        group=MLFLOW,
        help="Seconds to the response headers, and between two pieces of the body, of a call to a "
             "language model by MLflow's AI gateway. Above the gateway's own limit "
             "(MLFLOW_GATEWAY_ROUTE_TIMEOUT_SECONDS there, 300 s).")
    mlflow_retry_deadline: float = row("MLFLOW_RETRY_DEADLINE", parsers.seconds(0, 60), 5.0, group=MLFLOW,
        help="Seconds from a request's first try in which it may be tried again; 0 switches retries "
             "off. A POST that went out is never repeated.")
    mlflow_keepalive: float = row("MLFLOW_KEEPALIVE", parsers.seconds(0, 3600), 4.0, group=MLFLOW,
        help="Seconds an idle connection to MLflow is reused. Below MLflow's own (uvicorn: 5 s), or "
             "a request can meet a connection that MLflow is just closing.")
    mlflow_connection_max_age: float = row("MLFLOW_CONNECTION_MAX_AGE", parsers.seconds(0.1, 86400), 60.0, group=MLFLOW,
        help="Seconds after its connect for which a connection to MLflow is reused: after a move of "
             "MLflow's name no request goes to the old address for longer. A request in progress is "
             "not cut off.")
    mlflow_pool_size: int = row("MLFLOW_POOL_SIZE", parsers.count(1, 10_000), 64, group=MLFLOW,
        help="Idle connections to MLflow that one worker keeps for reuse.")

    auth_service_url: str = row("HOKUSAI_AUTH_SERVICE_URL", parsers.http_url, "http://127.0.0.1:8001", group=AUTH,
        help="The auth service's address; /api/v1/keys/validate is added.")
    auth_service_id: str = row("HOKUSAI_AUTH_SERVICE_ID", parsers.text, "platform", group=AUTH,
        help="The service_id for which keys are validated.")
    auth_timeout: float = row("AUTH_TIMEOUT", parsers.seconds(0.1, 60), 3.0, group=AUTH,
        help="Seconds for one validation, all in all.")
    auth_cache_ttl: float = row("AUTH_CACHE_TTL", parsers.seconds(0, 3600), 60.0, group=AUTH,
        help="Seconds a key that was found valid is believed without asking again.")
    auth_negative_ttl: float = row("AUTH_NEGATIVE_TTL", parsers.seconds(0, 3600), 10.0, group=AUTH,
        help="Seconds a key that was found invalid is refused without asking again.")
    auth_stale_ttl: float = row("AUTH_STALE_TTL", parsers.seconds(0, 86_400), 600.0, group=AUTH,
        help="Seconds after AUTH_CACHE_TTL in which an old result is still used while the auth "
             "service is unavailable; 0 switches that off.")
    auth_retry_interval: float = row("AUTH_RETRY_INTERVAL", parsers.seconds(0, 60), 3.0, group=AUTH,
        help="Seconds before a key is tried again at an auth service that did not answer.")
    auth_cache_secret: str = row("AUTH_CACHE_SECRET", parsers.text, "", group=AUTH, secret=True,
        help="Keys the hash under which results are cached. Set the same on all instances to share "
             "results; by default each start makes its own, and instances do not share.")
    auth_failure_limit: int = row("AUTH_FAILURE_LIMIT", parsers.count(1), 30, group=AUTH,
        help="Failed authentications per minute and client address (of IPv6, per /64 network); over "
             "it, 429.")

    session_lifetime: float = row("SESSION_LIFETIME", parsers.seconds(1, 86_400), 43_200.0, group=AUTH,
        help="Seconds after which a browser's session ends, whatever happens in it.")
    session_idle: float = row("SESSION_IDLE", parsers.seconds(1, 86_400), 14_400.0, group=AUTH,
        help="Seconds without a request after which a browser's session ends.")

    redis_url: str = row("REDIS_URL", parsers.redis_url, "redis://127.0.0.1:6379/0", group=REDIS, secret=True,
        help="Redis: redis://, unix://, redis+sentinel://, redis+cluster://, with TLS rediss…; or "
             "memory:// for one process without Redis. docs/deployment.md has the grammar.")
    redis_timeout: float = row("REDIS_TIMEOUT", parsers.seconds(0.01, 5), 0.1, group=REDIS,
        help="Seconds to connect to Redis, and to get one answer. A slower Redis counts as away.")
    redis_retry_interval: float = row("REDIS_RETRY_INTERVAL", parsers.seconds(0.05, 60), 1.0, group=REDIS,
        help="Seconds between two looks whether a Redis that failed is back.")
    max_in_flight_per_key: int = row("MAX_IN_FLIGHT_PER_KEY", parsers.count(1), 64, group=REDIS,
        help="Requests that one worker forwards at once for one key; over it, 503.")
    instances: int = row("INSTANCES", parsers.count(1, 10_000), 1, group=REDIS,
        help="How many instances share the limits. While Redis is away, each of them grants its "
             "part: the limit divided by this.")

    circuit_fail_max: int = row("CIRCUIT_FAIL_MAX", parsers.count(1), 5, group=CIRCUIT,
        help="Failed connects in a row that open the circuit. Slow calls do not; MLflow's silence does.")
    circuit_reset_timeout: float = row("CIRCUIT_RESET_TIMEOUT", parsers.seconds(0.05, 3600), 30.0, group=CIRCUIT,
        help="Seconds the circuit stays open before the proxy asks MLflow whether it is back.")
    health_timeout: float = row("HEALTH_TIMEOUT", parsers.seconds(0.1, 30), 2.0, group=CIRCUIT,
        help="Seconds that a part has for the question of a health check, and MLflow for the question "
             "whether it is alive. A health answer takes at most a quarter of a second more.")
    health_cache_ttl: float = row("HEALTH_CACHE_TTL", parsers.seconds(0, 60), 5.0, group=CIRCUIT,
        help="Seconds the result of a health check is kept, for all workers of the instance, so that "
             "probing the proxy hard does not load MLflow.")

    metrics_emf: bool = row("METRICS_EMF", parsers.flag, False, group=METRICS,
        help="Writes metrics into the log too, in CloudWatch's embedded metric format.")
    metrics_emf_interval: float = row("METRICS_EMF_INTERVAL", parsers.seconds(1, 3600), 60.0, group=METRICS,
        help="Seconds between two such entries of one worker.")
    metrics_emf_namespace: str = row("METRICS_EMF_NAMESPACE", parsers.cloudwatch_name, "Hokusai/MLflowProxy",
        group=METRICS,
        help="The CloudWatch namespace of these metrics.")
    metrics_emf_service: str = row("METRICS_EMF_SERVICE", parsers.cloudwatch_name, "hokusai-mlflow-proxy",
        group=METRICS,
        help="The value of their dimension Service: tells deployments in one namespace apart.")

    debug: bool = row("MLFLOW_PROXY_DEBUG", parsers.flag, False, group=LOGS,
        help="Logs each step of each request (never a credential).")
    log_level: str = row("LOG_LEVEL", parsers.one_of("DEBUG", "INFO", "WARNING", "ERROR"), "INFO", group=LOGS,
        help="The lowest level that is logged: DEBUG, INFO, WARNING or ERROR.")
    log_format: str = row("LOG_FORMAT", parsers.one_of("json", "text"), "json", group=LOGS,
        help="json: one object a line; text: for human eyes.")
    audit_log: str = row("AUDIT_LOG", parsers.audit_log, "stderr", group=LOGS,
        help="Where the audit log goes, one line for each write: stderr, off, or the absolute path "
             "of a file, which may be rotated by renaming it.")
    otel_enabled: bool = row("OTEL_ENABLED", parsers.telemetry_flag, False, group=LOGS,
        help="Reports a span of each request to OpenTelemetry. Needs requirements/telemetry.lock; "
             "where the spans go, the SDK's own OTEL_* variables say.")
    # fmt: on

    @property
    def max_forwarded(self) -> int:
        """Requests that one worker forwards at once: the rest of its connections stays free for
        those that need no place, health checks among them."""
        return min(self.max_in_flight, self.max_connections * 9 // 10)

    @property
    def max_stored_verdict_age(self) -> float:
        """Seconds after which a cached result is of no use at all."""
        return self.auth_cache_ttl + self.auth_stale_ttl


def load(environ: Mapping[str, str]) -> Settings:
    """The settings from an environment. An empty variable counts as unset.

    Raises BadSettings with every complaint at once.
    """
    values: dict[str, Any] = {}
    complaints: list[str] = []
    for setting in fields(Settings):
        given = environ.get(setting.metadata["variable"], "").strip()
        if given:
            _parse(setting, given, values, complaints)
    if values.get("redis_url", "").startswith("memory:"):
        values.setdefault("web_concurrency", 1)  # processes share no memory
    complaints += _contradictions(values)
    if complaints:
        raise BadSettings(complaints)
    return Settings(**values)


def _parse(
    setting: "Field[Any]", given: str, values: dict[str, Any], complaints: list[str]
) -> None:
    """Puts the parsed value into `values`, or one sentence into `complaints`."""
    try:
        values[setting.name] = setting.metadata["parse"](given)
    except ValueError as why:
        complaints.append(f"{setting.metadata['variable']} {why}")


def _contradictions(values: Mapping[str, Any]) -> list[str]:
    """What is wrong between two settings that are right by themselves."""
    complaints = []
    username = values.get("mlflow_upstream_username")
    password = values.get("mlflow_upstream_password")
    if bool(username) != bool(password):
        complaints.append(
            "MLFLOW_UPSTREAM_USERNAME and MLFLOW_UPSTREAM_PASSWORD must be set together"
        )
    if values.get("mlflow_upstream_token") and username:
        complaints.append(
            "MLFLOW_UPSTREAM_TOKEN and MLFLOW_UPSTREAM_USERNAME exclude each other; set one"
        )
    if values.get("redis_url", "").startswith("memory:") and values["web_concurrency"] > 1:
        complaints.append("REDIS_URL=memory:// is for one process; WEB_CONCURRENCY must be 1")
    if values.get("max_buffered_body", 64 * 1024 * 1024) > values.get("max_buffered_total", 2**63):
        complaints.append("MAX_BUFFERED_BODY must not be above MAX_BUFFERED_TOTAL")
    if values.get("drain_delay", 0) >= values.get("graceful_timeout", 90):
        complaints.append("DRAIN_DELAY must be below GRACEFUL_TIMEOUT")
    return complaints
