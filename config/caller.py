"""Address and key for the commands that call a deployment, from the environment of their user; not
settings of the proxy. A key is never read from the command line, which process lists show."""

import os

#: The variables that may hold an API key; the first non-empty one counts.
KEY_VARIABLES = ("HOKUSAI_API_KEY", "MLFLOW_TRACKING_TOKEN")
ADDRESS_VARIABLE = "MLFLOW_TRACKING_URI"


def key_from(*variables: str) -> tuple[str, str]:
    """Return (key, name of its variable), both empty if none of the variables is set."""
    for name in variables or KEY_VARIABLES:
        if key := os.environ.get(name, "").strip():
            return key, name
    return "", ""


def address() -> str:
    """The user's tracking URI, "" if there is none."""
    return os.environ.get(ADDRESS_VARIABLE, "").strip()
