"""nginx in the load balancer's place, on one machine: by the same rules, out of routes.json.

    python -m infrastructure.nginx.configuration > infrastructure/nginx/nginx.conf

Proxies form two groups, blue and green, and both serve. A file `out-blue` or `out-green` in nginx's
folder takes a group out for a rollout: it gets no new requests, and without a reload no connection
is closed. Where both are out, both serve, as a load balancer without a healthy target uses all.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
ROUTES = FOLDER.parent / "routes.json"
#: As compose.yaml names them.
PROXIES = {"blue": ["proxy-blue:8000"], "green": ["proxy-green:8000"]}

UPSTREAM = """\
    upstream {name} {{
{servers}
        keepalive 64;
    }}"""


def render(
    contract: Mapping[str, Any],
    proxies: Mapping[str, Sequence[str]] = PROXIES,
    listen: str = "8080",
    folder: str = "/tmp",
) -> str:
    """The configuration: nginx.conf.template, filled in.

    Args:
        proxies: the addresses (host:port) of the two groups.
        folder: where nginx writes and where it looks for the files that take a group out.

    Raises:
        ValueError: `otherwise` is a response that nginx cannot give as it stands.
    """
    otherwise = contract["otherwise"]
    if otherwise["content_type"] != "application/json" or set("'$\\") & set(otherwise["body"]):
        raise ValueError("nginx cannot give this response: see `otherwise` in routes.json")
    groups = {**proxies, "both": [address for group in proxies.values() for address in group]}
    text = (FOLDER / "nginx.conf.template").read_text("utf-8")
    for name, value in {
        "FOLDER": folder,
        "LISTEN": listen,
        "IDLE": contract["timeouts"]["alb_idle"],
        "HOSTS": f"{contract['host']} localhost",
        "UPSTREAMS": "\n\n".join(_upstream(name, groups[name]) for name in sorted(groups)),
        "PATHS": "\n".join(_paths(contract["routes"])),
        "STATUS": otherwise["status"],
        "BODY": otherwise["body"],
    }.items():
        text = text.replace(f"@{name}@", str(value))
    return text


def _upstream(name: str, addresses: Sequence[str]) -> str:
    """A group of proxies. One that refuses a connection gets none for a second."""
    servers = (f"        server {address} max_fails=1 fail_timeout=1s;" for address in addresses)
    return UPSTREAM.format(name=name, servers="\n".join(servers))


def _paths(routes: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The rules by priority: a map takes the first expression that matches. In a pattern `*` stands
    for any characters and `?` for one; a path ends before the query."""
    wildcards = {"*": "[^?]*", "?": "[^?]"}
    for route in sorted(routes, key=lambda route: int(route["priority"])):
        for path in route["paths"]:
            expression = "".join(wildcards.get(c) or re.escape(c) for c in path)
            yield f'        "~^{expression}(\\?|$)" 1;  # {route["name"]}'


if __name__ == "__main__":
    print(render(json.loads(ROUTES.read_text("utf-8"))), end="")
