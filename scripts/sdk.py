"""The MLflow SDK, cut off from this machine's habits, and its errors in our words."""

import contextlib
import io
import logging
import os
import re
import tempfile
import uuid
import warnings
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

from app.doctor import explain
from app.doctor.command_line import Options
from app.doctor.explain import Response, fault_of_status
from app.doctor.steps import Failed, unexpected

RETRIES = 2  # the SDK's own default of 7 would wait for minutes before it tells what is wrong
FOREIGN = re.compile(r"(MLFLOW|_MLFLOW|DATABRICKS|AWS)_|NETRC$")
PROXIES = re.compile(r"(http|https|all|no)_proxy$", re.IGNORECASE)


@contextlib.contextmanager
def isolated(options: Options) -> Iterator[Path]:
    """Set this process up for the SDK, before it is imported, and yield a scratch folder.

    The home directory moves there too: ~/.netrc and ~/.mlflow/credentials would both replace the
    key. All of it is gone afterwards; the environment stays changed, for the process ends soon.
    """
    with tempfile.TemporaryDirectory(prefix="hokusai-check-", ignore_cleanup_errors=True) as folder:
        tempfile.tempdir = folder
        _set_environment(os.environ, options, folder)
        warnings.simplefilter("ignore")
        logging.getLogger("urllib3").setLevel(logging.ERROR)
        talk = io.StringIO()  # what the SDK prints is not part of the report
        with contextlib.redirect_stdout(talk), contextlib.redirect_stderr(talk):
            yield Path(folder)


def _set_environment(environ: MutableMapping[str, str], options: Options, home: str) -> None:
    for name in list(environ):
        if FOREIGN.match(name) or (PROXIES.match(name) and not options.env_proxies):
            del environ[name]
    environ.update(
        HOME=home,
        USERPROFILE=home,
        GIT_PYTHON_REFRESH="quiet",
        MLFLOW_TRACKING_URI=options.target.tracking_uri,
        MLFLOW_REGISTRY_URI=options.target.tracking_uri,
        MLFLOW_TRACKING_TOKEN=options.key,
        MLFLOW_HTTP_REQUEST_TIMEOUT=str(max(1, round(options.timeout))),
        MLFLOW_HTTP_REQUEST_MAX_RETRIES=str(RETRIES),
        MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR="1",
        MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER="false",  # it may say an hour: tell, not wait
        MLFLOW_DISABLE_TELEMETRY="true",
        MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING="false",
        MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR="false",
        MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT="true",
        MLFLOW_LOGGING_LEVEL="ERROR",
    )
    if options.ca_file:
        environ["MLFLOW_TRACKING_SERVER_CERT_PATH"] = options.ca_file


class RequestIds:
    """Gives each request of the SDK an X-Request-ID and remembers the last one.

    The SDK keeps no header of an answer that it reports as an error, so the id that we sent is
    the only thread that leads from there to the proxy's log.
    """

    last = ""

    def in_context(self) -> bool:
        return True

    def request_headers(self) -> dict[str, str]:
        RequestIds.last = uuid.uuid4().hex
        return {"X-Request-ID": RequestIds.last}

    @classmethod
    def install(cls) -> None:
        """Register with the SDK; its registry is private, so live without it if it has moved."""
        with contextlib.suppress(ImportError, AttributeError):
            from mlflow.tracking.request_header import registry

            providers: Any = registry._request_header_provider_registry
            providers.register(cls)


def failure(error: Exception) -> Failed:
    """Explain any error that a call of the SDK raises."""
    from mlflow.exceptions import RestException

    response = getattr(error, "response", None)
    if response is not None:
        return _of_response(response)
    if isinstance(error, RestException):
        return _of_body(error)
    return _of_message(error)


def _of_response(response: object) -> Failed:
    """An artifact call's HTTPError still has its answer."""
    request = getattr(response, "request", None)
    got = Response(
        method=getattr(request, "method", "") or "",
        path=getattr(request, "path_url", ""),
        status=getattr(response, "status_code", 0),
        headers=getattr(response, "headers", {}),
        body=getattr(response, "content", b""),
        sent_id=RequestIds.last,
    )
    return explain.response(got)


def _of_body(error: Any) -> Failed:
    """A JSON error that the SDK understood; MLflow's own has no request_id in it."""
    remedy = fault_of_status(error.get_http_status_code()).remedy
    return Failed(str(error)[:500], remedy, str(error.json.get("request_id") or RequestIds.last))


def _of_message(error: Exception) -> Failed:
    """An error that is nothing but a text: no answer, retries used up, or an unreadable answer."""
    text = " ".join(str(error).split())
    if tried := re.search(r"too many (\d{3}) error responses", text):
        message = f"{tried[1]} at each of {RETRIES + 1} attempts."
        remedy = fault_of_status(int(tried[1])).remedy
        hint = "test_mlflow_connection.py shows the answer's own words."
        return Failed(message, f"{remedy} {hint}".strip(), RequestIds.last)
    if explain.is_network(error):
        called = re.search(r"API request to (\S+)", text)
        return explain.network(error, called[1] if called else "SDK", RequestIds.last)
    if foreign := re.search(r"error code (\d{3})|not in a valid JSON format", text):
        found = fault_of_status(int(foreign[1] or 200), is_json=False)
        return Failed(f"{found.message} {text[:300]}", found.remedy, RequestIds.last)
    failed = unexpected(error)
    return Failed(failed.message, failed.remedy, RequestIds.last)
