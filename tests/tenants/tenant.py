"""A client of the proxy that sends one key, and any request as it is."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import urllib3

#: Fields of a request, as JSON has them.
Fields = Mapping[str, Any]


@dataclass(frozen=True)
class Answer:
    """A response: `whole` is all that it says, header fields and body."""

    status: int
    body: bytes
    head: bytes

    @property
    def whole(self) -> bytes:
        return self.head + self.body

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Tenant:
    """Whoever has this key. Names a workspace in the header only where one is given."""

    def __init__(self, url: str, key: str, workspace: str = "") -> None:
        """`url` is the proxy's."""
        self._url = url
        self._headers = {"Authorization": f"Bearer {key}"}
        if workspace:
            self._headers["X-MLFLOW-WORKSPACE"] = workspace
        self._pool = urllib3.PoolManager(retries=False, timeout=60)

    def send(
        self,
        method: str,
        path: str,
        query: Fields | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        """One request for a path of MLflow's."""
        url = f"{self._url}/api/mlflow{quote(path, safe='/:')}"
        url += f"?{urlencode(query, doseq=True)}" if query else ""
        sent = {**self._headers, **(headers or {})}
        response = self._pool.request(method, url, headers=sent, body=body)
        head = "\n".join(f"{name}: {value}" for name, value in response.headers.items())
        return Answer(response.status, response.data, head.encode())

    def get(self, path: str, **query: Any) -> Any:
        """A GET of a path below /api that must succeed: its answer's JSON."""
        return _succeeded(self.send("GET", f"/api/{path}", query))

    def post(self, path: str, **fields: Any) -> Any:
        """A POST of JSON to a path below /api that must succeed: its answer's JSON."""
        return self._send_json("POST", path, fields)

    def put(self, path: str, **fields: Any) -> Any:
        """The same with PUT."""
        return self._send_json("PUT", path, fields)

    def _send_json(self, method: str, path: str, fields: Fields) -> Any:
        headers, body = {"Content-Type": "application/json"}, json.dumps(fields).encode()
        return _succeeded(self.send(method, f"/api/{path}", headers=headers, body=body))


def _succeeded(answer: Answer) -> Any:
    assert answer.status in (200, 201), answer
    return answer.json
