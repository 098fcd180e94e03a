"""What the commands that call a deployment take from the environment of whoever calls: not settings
of the proxy, but an address and a key. A key is never taken from a command line, where everyone who
can list processes sees it."""

import os

#: Where an API key may be, the first that is not empty.
KEY_VARIABLES = ("HOKUSAI_API_KEY", "MLFLOW_TRACKING_TOKEN")
ADDRESS_VARIABLE = "MLFLOW_TRACKING_URI"


def key_from(*variables: str) -> tuple[str, str]:
    """(key, name of the variable that holds it), both empty where none of them does."""
    for name in variables or KEY_VARIABLES:
        if key := os.environ.get(name, "").strip():
            return key, name
    return "", ""


def address() -> str:
    """The tracking URI of whoever calls, "" if there is none."""
    return os.environ.get(ADDRESS_VARIABLE, "").strip()
