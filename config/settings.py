"""Every setting of the proxy, one row each: variable, parser, default, help, secret or not.

`load` reads them all and reports every bad value at once. `python -m config` generates
docs/configuration.md from these rows.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from math import inf
from pathlib import Path
from typing import Any

from config import parsers


class BadSettings(ValueError):
    """One or more environment variables are unusable; `complaints` names each, without values."""

    def __init__(self, complaints: list[str]) -> None:
        self.complaints = complaints
        listed = "".join(f"\n  - {complaint}" for complaint in complaints)
        super().__init__(f"the proxy cannot start: {len(complaints)} invalid setting(s):{listed}")


def row(
    variable: str, parse: Callable[[str], Any], default: Any, *, secret: bool = False, **facts: str
) -> Any:
    """Define a setting. `default` is the parsed value. `facts` are the `group` and the `help`, one
    or two sentences with the unit. A secret's value appears in no repr, complaint or reference."""
    metadata = {"variable": variable, "parse": parse, "secret": secret, **facts}
    return field(default=default, repr=not secret, metadata=metadata)


SERVING, MLFLOW, AUTH, REDIS = "Serving", "MLflow", "Authentication", "Redis and limits"
CIRCUIT, METRICS, LOGS = "Circuit and health", "Metrics", "Logs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings, parsed. Times are in seconds, sizes in bytes. Built by `load`."""

    # fmt: off
    bind: str = row("BIND", parsers.bind, "0.0.0.0:8000", group=SERVING,
        help="Where gunicorn listens: HOST:PORT or unix:PATH.")
    web_concurrency: int = row("WEB_CONCURRENCY", parsers.count(1, 256), 2, group=SERVING,
        help="Worker processes; one per core.")
    trusted_proxy_hops: int = row("TRUSTED_PROXY_HOPS", parsers.count(0, 16), 0, group=SERVING,
        help="How many proxies in front append to X-Forwarded-For; behind the ALB 1. With 0 the header "
             "is ignored.")
    client_idle_timeout: float = row("CLIENT_IDLE_TIMEOUT", parsers.seconds(1, 3600), 60.0, group=SERVING,
        help="Longest silence of a client during a transfer.")
    client_request_timeout: float = row("CLIENT_REQUEST_TIMEOUT", parsers.seconds(1, 3600), 20.0, group=SERVING,
        help="Time for a request head, and for a body that is not streamed, plus 1 s per 8 KiB; over "
             "it, 408.")
    keepalive: int = row("KEEPALIVE", parsers.count(1, 4000), 75, group=SERVING,
        help="Time an idle client connection is kept. Above the load balancer's idle timeout, or it "
             "returns 502.")
    drain_delay: float = row("DRAIN_DELAY", parsers.seconds(0, 100), 0.0, group=SERVING,
        help="Time after SIGTERM in which requests are served while /ready says 503. Behind the ALB: "
             "10.")
    graceful_timeout: int = row("GRACEFUL_TIMEOUT", parsers.count(1, 3600), 90, group=SERVING,
        help="Time after SIGTERM, drain delay included, for running transfers. Below the "
             "orchestrator's stop timeout (Fargate: 120 s).")
    max_connections: int = row("MAX_CONNECTIONS", parsers.count(10, 100_000), 2000, group=SERVING,
        help="Client connections of one worker. At 95 % it closes those that it has waited for "
             "longest.")
    max_in_flight: int = row("MAX_IN_FLIGHT", parsers.count(1), 512, group=SERVING,
        help="Requests that one worker forwards at once; over it, 503. At most 60 % of "
             "MAX_CONNECTIONS. Those without a key (static files) get a quarter.")
    max_buffered_body: int = row("MAX_BUFFERED_BODY", parsers.count(0), 64 * 1024 * 1024, group=SERVING,
        help="Bytes of one chunked body on a REST route; over it, 413. Artifacts have no limit.")
    max_buffered_total: int = row("MAX_BUFFERED_TOTAL", parsers.count(0), 512 * 1024 * 1024, group=SERVING,
        help="Bytes of all such bodies of one worker, mostly on disk; over it, 503. One key gets a "
             "quarter.")
    instance_folder: str = row("INSTANCE_FOLDER", parsers.text, "", group=SERVING,
        help="A writable folder for the workers of this instance alone. Default: a new one in /dev/shm "
             "or the temporary folder.")

    mlflow_server_url: str = row("MLFLOW_SERVER_URL", parsers.http_url, "http://127.0.0.1:5000", group=MLFLOW,
        help="MLflow's internal address, by name; in AWS http://mlflow.hokusai-development.local:5000.")
    mlflow_upstream_token: str = row("MLFLOW_UPSTREAM_TOKEN", parsers.text, "", group=MLFLOW, secret=True,
        help="The proxy's own Bearer token for MLflow.")
    mlflow_upstream_username: str = row("MLFLOW_UPSTREAM_USERNAME", parsers.text, "", group=MLFLOW,
        help="The proxy's own Basic user for MLflow. An admin: searches leave out what it may not see.")
    mlflow_upstream_password: str = row("MLFLOW_UPSTREAM_PASSWORD", parsers.text, "", group=MLFLOW, secret=True,
        help="The password of that user.")
    mlflow_identity_secret: str = row("MLFLOW_IDENTITY_SECRET", parsers.secret, "", group=MLFLOW, secret=True,
        help="Signs who calls, for MLflow's own permissions. docs/deployment.md says how.")
    mlflow_connect_timeout: float = row("MLFLOW_CONNECT_TIMEOUT", parsers.seconds(0.05, 60), 2.0, group=MLFLOW,
        help="Time to connect to MLflow, with name lookup and TLS handshake.")
    mlflow_read_timeout: float = row("MLFLOW_READ_TIMEOUT", parsers.seconds(0.1, 3600), 40.0, group=MLFLOW,
        help="Time to MLflow's response head, and between two pieces of the body. Above MLflow's own "
             "30 s for a database connection.")
    mlflow_artifact_read_timeout: float = row("MLFLOW_ARTIFACT_READ_TIMEOUT", parsers.seconds(0.1, 3600), 120.0,
        group=MLFLOW,
        help="The same for artifacts, searches (not of experiments) and some writes. A whole transfer "
             "has no limit.")
    mlflow_artifact_copy_timeout: float = row("MLFLOW_ARTIFACT_COPY_TIMEOUT", parsers.seconds(0.1, 14_400), 900.0,
        group=MLFLOW,
        help="Time to the response head of an artifact's upload, download or deletion, and for a stalled "
             "upload: MLflow may copy files first. By default at least MLFLOW_ARTIFACT_READ_TIMEOUT.")
    mlflow_gateway_read_timeout: float = row("MLFLOW_GATEWAY_READ_TIMEOUT", parsers.seconds(0.1, 14_400), 330.0,
        group=MLFLOW,
        help="The same as MLFLOW_READ_TIMEOUT for calls of MLflow's AI gateway. Above its own "
             "MLFLOW_GATEWAY_ROUTE_TIMEOUT_SECONDS (300 s).")
    mlflow_retry_deadline: float = row("MLFLOW_RETRY_DEADLINE", parsers.seconds(0, 60), 5.0, group=MLFLOW,
        help="Window for retries, from the first attempt; 0 disables them. A write that was sent is "
             "never retried.")
    mlflow_keepalive: float = row("MLFLOW_KEEPALIVE", parsers.seconds(0, 3600), 4.0, group=MLFLOW,
        help="Time an idle connection to MLflow is reused. Below MLflow's own (uvicorn: 5 s).")
    mlflow_connection_max_age: float = row("MLFLOW_CONNECTION_MAX_AGE", parsers.seconds(0.1, 86400), 60.0, group=MLFLOW,
        help="Maximum age of a connection to MLflow, so requests follow DNS changes.")
    mlflow_pool_size: int = row("MLFLOW_POOL_SIZE", parsers.count(1, 10_000), 64, group=MLFLOW,
        help="Idle connections to MLflow that one worker keeps.")

    mlflow_workspaces: str = row("MLFLOW_WORKSPACES", parsers.one_of("auto", "on", "off"), "auto", group=MLFLOW,
        help="Whether MLflow has workspaces; auto asks it. Set on where keys rely on them, off to work in "
             "`default` only.")

    allowed_locations: str = row("ALLOWED_LOCATIONS", parsers.locations, "mlflow-artifacts:/", group=MLFLOW,
        help="Storage locations that keys without the admin scope may use, with commas. With workspaces, "
             "only workspaces/<own>/ below each, or where it says `{workspace}`.")

    auth_service_url: str = row("HOKUSAI_AUTH_SERVICE_URL", parsers.http_url, "http://127.0.0.1:8001", group=AUTH,
        help="The auth service's address; /api/v1/keys/validate is added.")
    auth_service_id: str = row("HOKUSAI_AUTH_SERVICE_ID", parsers.text, "platform", group=AUTH,
        help="The service_id for which keys are validated.")
    split_scopes: bool = row("SPLIT_SCOPES", parsers.flag, False, group=AUTH,
        help="Whether deleting runs, models and other objects needs the scope `delete`; otherwise `write` "
             "includes it.")
    auth_lookup_token: str = row("AUTH_LOOKUP_TOKEN", parsers.text, "", group=AUTH, secret=True,
        help="The proxy's own Bearer token for the auth service's look-up of keys by id. With it, browser "
             "sessions follow their keys.")
    auth_timeout: float = row("AUTH_TIMEOUT", parsers.seconds(0.1, 60), 3.0, group=AUTH,
        help="Total time for one validation.")
    auth_cache_ttl: float = row("AUTH_CACHE_TTL", parsers.seconds(0, 3600), 60.0, group=AUTH,
        help="Time a valid key is accepted without revalidation.")
    auth_negative_ttl: float = row("AUTH_NEGATIVE_TTL", parsers.seconds(0, 3600), 10.0, group=AUTH,
        help="Time an invalid key is refused without revalidation.")
    auth_stale_ttl: float = row("AUTH_STALE_TTL", parsers.seconds(0, 86_400), 600.0, group=AUTH,
        help="Time after AUTH_CACHE_TTL in which a stale decision is used while the auth service is "
             "down; 0 disables it.")
    auth_retry_interval: float = row("AUTH_RETRY_INTERVAL", parsers.seconds(0, 60), 3.0, group=AUTH,
        help="Time before a key is validated again after the auth service did not respond.")
    auth_cache_secret: str = row("AUTH_CACHE_SECRET", parsers.text, "", group=AUTH, secret=True,
        help="HMAC key of the cache. Set the same on all instances to share decisions.")
    auth_failure_limit: int = row("AUTH_FAILURE_LIMIT", parsers.count(1), 30, group=AUTH,
        help="Failed authentications per minute and address (IPv6: /64); over it, 429.")

    session_lifetime: float = row("SESSION_LIFETIME", parsers.seconds(1, 86_400), 43_200.0, group=AUTH,
        help="Time after which a browser's session ends.")
    session_idle: float = row("SESSION_IDLE", parsers.seconds(1, 86_400), 14_400.0, group=AUTH,
        help="Time without a request after which a session ends.")

    redis_url: str = row("REDIS_URL", parsers.redis_url, "redis://127.0.0.1:6379/0", group=REDIS, secret=True,
        help="redis://, unix://, redis+sentinel://, redis+cluster://, with TLS rediss…; memory:// for "
             "one process without Redis. docs/deployment.md has the grammar.")
    redis_timeout: float = row("REDIS_TIMEOUT", parsers.seconds(0.01, 5), 0.1, group=REDIS,
        help="Time to connect to Redis, and for one response.")
    redis_retry_interval: float = row("REDIS_RETRY_INTERVAL", parsers.seconds(0.05, 60), 1.0, group=REDIS,
        help="Time between two probes of a Redis that failed.")
    max_in_flight_per_key: int = row("MAX_IN_FLIGHT_PER_KEY", parsers.count(1), 64, group=REDIS,
        help="Requests that one worker forwards at once for one key; over it, 503. By default at most half "
             "of MAX_IN_FLIGHT.")
    instances: int = row("INSTANCES", parsers.count(1, 10_000), 1, group=REDIS,
        help="How many instances share the limits. Without Redis each grants the limit divided by "
             "this.")

    circuit_fail_max: int = row("CIRCUIT_FAIL_MAX", parsers.count(1), 5, group=CIRCUIT,
        help="Consecutive failed connects that open the circuit.")
    circuit_reset_timeout: float = row("CIRCUIT_RESET_TIMEOUT", parsers.seconds(0.05, 3600), 30.0, group=CIRCUIT,
        help="Time the circuit stays open before the proxy probes MLflow.")
    health_timeout: float = row("HEALTH_TIMEOUT", parsers.seconds(0.1, 30), 2.0, group=CIRCUIT,
        help="Time for one call of a health check, and for the probe of MLflow.")
    health_cache_ttl: float = row("HEALTH_CACHE_TTL", parsers.seconds(0, 60), 5.0, group=CIRCUIT,
        help="Time the instance keeps the result of a health check.")

    metrics_emf: bool = row("METRICS_EMF", parsers.flag, False, group=METRICS,
        help="Also write metrics into the log, in CloudWatch's embedded format.")
    metrics_emf_interval: float = row("METRICS_EMF_INTERVAL", parsers.seconds(1, 3600), 60.0, group=METRICS,
        help="Time between two such lines of one worker.")
    metrics_emf_namespace: str = row("METRICS_EMF_NAMESPACE", parsers.cloudwatch_name, "Hokusai/MLflowProxy",
        group=METRICS,
        help="Their CloudWatch namespace.")
    metrics_emf_service: str = row("METRICS_EMF_SERVICE", parsers.cloudwatch_name, "hokusai-mlflow-proxy",
        group=METRICS,
        help="Their dimension Service.")

    debug: bool = row("MLFLOW_PROXY_DEBUG", parsers.flag, False, group=LOGS,
        help="Log each step of each request, never a credential.")
    log_level: str = row("LOG_LEVEL", parsers.one_of("DEBUG", "INFO", "WARNING", "ERROR"), "INFO", group=LOGS,
        help="Lowest level: DEBUG, INFO, WARNING or ERROR.")
    log_format: str = row("LOG_FORMAT", parsers.one_of("json", "text"), "json", group=LOGS,
        help="json, or text for people.")
    audit_log: str = row("AUDIT_LOG", parsers.audit_log, "stderr", group=LOGS,
        help="Where audit lines go: stderr, off, or the absolute path of a file.")
    otel_enabled: bool = row("OTEL_ENABLED", parsers.telemetry_flag, False, group=LOGS,
        help="Report a span of each request. Needs requirements/telemetry.lock and the SDK's OTEL_* "
             "variables.")
    # fmt: on

    @property
    def max_forwarded(self) -> int:
        """Requests that one worker forwards at once. Those that wait for the auth service or for a
        slot hold 35 % of the connections at most; the others stay free for health checks."""
        return min(self.max_in_flight, self.max_connections * 6 // 10)

    def in_instance_folder(self, name: str = "") -> Path | None:
        """The folder that the workers of this instance share, which gunicorn.conf.py sets, or a
        file in it; None for a single process."""
        return Path(self.instance_folder, name) if self.instance_folder else None

    @property
    def key_issuer(self) -> str:
        """Whose keys count here. Another deployment on the same Redis may have another issuer."""
        return f"{self.auth_service_url} {self.auth_service_id}"

    @property
    def max_stored_decision_age(self) -> float:
        """Seconds after which a cached decision is unusable, even stale."""
        return self.auth_cache_ttl + self.auth_stale_ttl


def load(environ: Mapping[str, str]) -> Settings:
    """Load the settings from an environment. An empty variable counts as unset.

    Raises BadSettings with all complaints.
    """
    values: dict[str, Any] = {}
    complaints: list[str] = []
    for setting in fields(Settings):
        variable = setting.metadata["variable"]
        if given := environ.get(variable, "").strip():
            try:
                values[setting.name] = setting.metadata["parse"](given)
            except ValueError as why:
                complaints.append(f"{variable} {why}")
    if values.get("redis_url", "").startswith("memory:"):
        values.setdefault("web_concurrency", 1)  # processes share no memory
    defaults = Settings(**values)
    half = max(1, defaults.max_forwarded // 2)  # or one key could take every place
    values.setdefault("max_in_flight_per_key", min(half, defaults.max_in_flight_per_key))
    copy, read = defaults.mlflow_artifact_copy_timeout, defaults.mlflow_artifact_read_timeout
    values.setdefault("mlflow_artifact_copy_timeout", max(copy, read))
    complaints += _contradictions(values)
    if complaints:
        raise BadSettings(complaints)
    return Settings(**values)


def as_text(value: object) -> str:
    """Format a value as in an environment variable."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _contradictions(values: Mapping[str, Any]) -> list[str]:
    """The conflicts between settings that are valid by themselves."""
    settings = Settings(**values)
    username, password = settings.mlflow_upstream_username, settings.mlflow_upstream_password
    in_memory = settings.redis_url.startswith("memory:")
    buffered_total = values.get("max_buffered_total", inf)  # the default never conflicts
    rules = (
        (
            bool(username) != bool(password),
            "MLFLOW_UPSTREAM_USERNAME and MLFLOW_UPSTREAM_PASSWORD must be set together",
        ),
        (
            username and settings.mlflow_upstream_token,
            "MLFLOW_UPSTREAM_TOKEN and MLFLOW_UPSTREAM_USERNAME exclude each other; set one",
        ),
        (
            username and settings.mlflow_identity_secret,
            "MLFLOW_IDENTITY_SECRET and MLFLOW_UPSTREAM_USERNAME exclude each other; set one",
        ),
        (
            in_memory and settings.web_concurrency > 1,
            "REDIS_URL=memory:// is for one process; WEB_CONCURRENCY must be 1",
        ),
        (
            settings.max_buffered_body > buffered_total,
            "MAX_BUFFERED_BODY must not be above MAX_BUFFERED_TOTAL",
        ),
        (
            settings.drain_delay >= settings.graceful_timeout,
            "DRAIN_DELAY must be below GRACEFUL_TIMEOUT",
        ),
    )
    return [complaint for is_wrong, complaint in rules if is_wrong]
