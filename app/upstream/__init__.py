"""The connection to MLflow: pool, circuit, retries, headers, streams."""
