"""The table of requests: which the load balancer lets through to the proxy, and which it does not.

It says in examples what routes.json says in patterns, and was written from the public paths of
docs/api.md, not from that file.
"""

HOST = "registry.hokus.ai"

#: (host, path) that the proxy gets.
THROUGH = [
    (HOST, path)
    for path in (
        "/api/mlflow",
        "/api/mlflow/",
        "/api/mlflow/version",
        "/api/mlflow/api/2.0/mlflow/runs/create",
        "/api/mlflow/api/2.0/mlflow-artifacts/artifacts/1/a/model.bin",
        "/api/mlflow/v1/traces",
        "/api/mlflow/health/mlflow",
        "/api/mlflow/health/mlflow/detailed",
        "/mlflow",
        "/mlflow/",
        "/mlflow/static-files/main.js",
        "/mlflow/ajax-api/2.0/mlflow/experiments/search",
        "/mlflow/graphql",
        "/mlflow/health/mlflow",
        "/mlflow/health/mlflow/detailed",
        "/health",
        "/api/health",
        "/api/health/mlflow",
        "/api/health/mlflow/detailed",
        "/mlflow/-/sign-in",
        "/status",
    )
] + [("REGISTRY.hokus.AI", "/mlflow/"), ("Registry.Hokus.Ai", "/health")]

#: (host, path) that end at the load balancer.
STOPPED = [
    (HOST, path)
    for path in (
        "/",
        "/ready",  # for the load balancer itself
        "/metrics",
        "/metrics/",
        "/api",
        "/api/",
        "/apimlflow",
        "/api/mlflowx",
        "/api/mlflow-artifacts/",
        "/mlflowx",
        "/mlflow-admin",
        "/mlflow.html",
        "/MLFLOW/",
        "/API/mlflow/",
        "/health/",
        "/healthz",
        "/health/mlflow",
        "/status/",
        "/status/detailed",
        "/statuses",
        "/api/status",
        "/api/healthy",
        "/api/2.0/mlflow/runs/create",
        "/ajax-api/2.0/mlflow/runs/create",
        "/graphql",
        "/version",
        "/x/mlflow/",
        "/x/api/mlflow/",
    )
] + [
    (host, path)
    for host in ("hokus.ai", "other.hokus.ai", "registry.hokus.ai.example.com", "192.0.2.1")
    for path in ("/", "/mlflow/", "/api/mlflow/version", "/health")
]
