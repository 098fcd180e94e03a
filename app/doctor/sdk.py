"""The MLflow SDK without this machine's settings, and its errors in the words of app/doctor/."""

import contextlib
import io
import json
import logging
import re
import tempfile
import uuid
import warnings
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

from app.doctor import explain
from app.doctor.command_line import Options
from app.doctor.explain import Response
from app.doctor.steps import Failed, unexpected

RETRIES = 2  # the SDK's default of 7 would wait for minutes before it reports what is wrong
FOREIGN = re.compile(r"(MLFLOW|_MLFLOW|DATABRICKS|AWS)_|NETRC$")
PROXIES = re.compile(r"(http|https|all|no)_proxy$", re.IGNORECASE)
AS_JSON = {"Content-Type": "application/json"}


@contextlib.contextmanager
def isolated(options: Options, environ: MutableMapping[str, str]) -> Iterator[Path]:
    """Set this process up for the SDK, before it is imported, and yield a scratch folder.
    `environ` is the process's own.

    The home directory moves there too: ~/.netrc and ~/.mlflow/credentials would both replace the
    key. The folder is removed at the end; the environment stays changed until the process ends.
    """
    with tempfile.TemporaryDirectory(prefix="hokusai-check-", ignore_cleanup_errors=True) as folder:
        tempfile.tempdir = folder
        for name in list(environ):
            if FOREIGN.match(name) or (PROXIES.match(name) and not options.env_proxies):
                del environ[name]
        environ.update(_environment(options, folder))
        warnings.simplefilter("ignore")
        logging.getLogger("urllib3").setLevel(logging.ERROR)
        output = io.StringIO()  # what the SDK prints is not part of the report
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            yield Path(folder)


def _environment(options: Options, home: str) -> dict[str, str]:
    return {
        "HOME": home,
        "USERPROFILE": home,
        "GIT_PYTHON_REFRESH": "quiet",
        "MLFLOW_TRACKING_URI": options.target.root + options.target.prefix,
        "MLFLOW_REGISTRY_URI": options.target.root + options.target.prefix,
        "MLFLOW_TRACKING_TOKEN": options.key,
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(max(1, round(options.timeout))),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(RETRIES),
        "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
        "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",  # up to an hour: report it, do not wait
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "false",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_LOGGING_LEVEL": "ERROR",
        **({"MLFLOW_TRACKING_SERVER_CERT_PATH": options.ca_file} if options.ca_file else {}),
    }


class RequestIds:
    """Gives each request of the SDK an X-Request-ID and remembers the last one.

    The SDK drops the headers of an error response, so the id that was sent is all that leads from
    the error to the proxy's log.
    """

    last = ""

    def in_context(self) -> bool:
        return True

    def request_headers(self) -> dict[str, str]:
        RequestIds.last = uuid.uuid4().hex
        return {"X-Request-ID": RequestIds.last}

    @classmethod
    def install(cls) -> None:
        """Register with the SDK; its registry is private, so do without it if it has moved."""
        with contextlib.suppress(ImportError, AttributeError):
            from mlflow.tracking.request_header import registry

            providers: Any = registry._request_header_provider_registry
            providers.register(cls)


def failure(error: Exception) -> Failed:
    """Explain any error that a call of the SDK raises."""
    if explain.is_network(error) and getattr(error, "response", None) is None:
        called = re.search(r"API request to (\S+)", str(error))
        return explain.network(error, called[1] if called else "SDK", RequestIds.last)
    if got := _response(error):
        return explain.response(got)
    found = unexpected(error)
    return Failed(found.message, found.remedy, RequestIds.last)


def _response(error: Any) -> Response | None:
    """The response behind an error, as far as the SDK keeps it: whole for a call of the artifact
    API, else its JSON, else only its status in the error's text."""
    response = getattr(error, "response", None)
    if response is not None:
        method, path = response.request.method, response.request.path_url
        headers, content = response.headers, response.content
        return Response(
            method, path, response.status_code, headers, content, sent_id=RequestIds.last
        )
    if isinstance(getattr(error, "json", None), dict):
        request_id = str(error.json.get("request_id") or RequestIds.last)
        content = json.dumps(error.json).encode()
        status = error.get_http_status_code()
        return Response("SDK,", "REST", status, AS_JSON, content, sent_id=request_id)
    text = " ".join(str(error).split())
    if tried := re.search(r"too many (\d{3}) error responses", text):
        hint = "test_mlflow_connection.py shows the message of the answer."
        content = json.dumps({"message": f"at each of {RETRIES + 1} attempts; {hint}"}).encode()
        return Response("SDK,", "REST", int(tried[1]), AS_JSON, content, sent_id=RequestIds.last)
    if foreign := re.search(r"error code (\d{3})|not in a valid JSON format", text):
        status = int(foreign[1] or 200)
        return Response("SDK,", "REST", status, {}, text.encode(), sent_id=RequestIds.last)
    return None
