"""Parse a JSON body as MLflow does (`_get_normalized_request_json`, mlflow/server/handlers.py).

Python's json accepts more than orjson: NaN, UTF-16 and UTF-32. Old clients send the document as a
JSON string. Of a key that occurs twice, the last one counts. protobuf takes a field in two
spellings: `run_id` and `runId`.
"""

import json
from collections.abc import Iterator
from typing import Any

import orjson


def parse(body: bytes) -> Any:
    """The document; an object if MLflow can use it. Raises ValueError."""
    try:
        found = _parsed(body)
        return _parsed(found.encode()) if isinstance(found, str) else found
    except RecursionError as why:
        raise ValueError("nested too deeply") from why


def _parsed(text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return json.loads(text)


def camel(name: str) -> str:
    """protobuf's second spelling of a field: `runId` for `run_id`."""
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))


def at(document: Any, *path: str) -> Iterator[Any]:
    """The values at a path of fields, in both spellings, and in each item of a list."""
    if isinstance(document, list):
        for item in document:
            if not isinstance(item, list):  # protobuf has no list in a list
                yield from at(item, *path)
    elif not path:
        yield document
    elif isinstance(document, dict):
        for name in {path[0], camel(path[0])} & document.keys():
            yield from at(document[name], *path[1:])
