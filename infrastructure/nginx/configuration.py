"""nginx in the load balancer's place, on one machine: by the same rules, out of routes.json.

    python -m infrastructure.nginx.configuration > infrastructure/nginx/nginx.conf

Proxies stand in two groups, blue and green, and both serve. A group is taken out for a rollout by
a file, `out-blue` or `out-green`, in nginx's folder: from then on it gets no new request, without a
reload, so no connection is closed. Where both are out both serve, as a load balancer without a
healthy target asks all of them.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROUTES = Path(__file__).resolve().parents[1] / "routes.json"
#: As compose.yaml names them.
PROXIES = {"blue": ["proxy-blue:8000"], "green": ["proxy-green:8000"]}

TEMPLATE = """\
# Made from infrastructure/routes.json: python -m infrastructure.nginx.configuration

worker_processes 2;
pid %(folder)s/nginx.pid;
error_log stderr warn;

events {
    worker_connections 4096;
}

http {
    access_log off;  # the proxy writes a line for each request
    server_tokens off;
    types {}
    default_type application/json;

    client_body_temp_path %(folder)s/body;
    proxy_temp_path %(folder)s/proxy;
    fastcgi_temp_path %(folder)s/fastcgi;
    uwsgi_temp_path %(folder)s/uwsgi;
    scgi_temp_path %(folder)s/scgi;

    # Bodies pass as they come, of any size, in both directions.
    client_max_body_size 0;
    proxy_request_buffering off;
    proxy_buffering off;
    large_client_header_buffers 4 16k;

    # The load balancer's idle time-out; the proxy keeps its connections longer (KEEPALIVE).
    keepalive_timeout %(idle)ds;
    client_body_timeout %(idle)ds;
    send_timeout %(idle)ds;
    proxy_read_timeout %(idle)ds;
    proxy_send_timeout %(idle)ds;
    proxy_connect_timeout 10s;

    # Another proxy is asked where one cannot be reached. A request that went out, and is no read,
    # is not repeated.
    proxy_next_upstream error;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Host $http_host;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    proxy_set_header X-Forwarded-Proto $scheme;
    proxy_set_header X-Forwarded-Port $server_port;

%(upstreams)s

    # Which proxies get a request: those that are not out.
    map $out $live {
        default both;
        blue green;
        green blue;
    }

    # The path as it was sent, undecoded, with case; the query has no say.
    map $request_uri $to_the_proxy {
        default 0;
%(paths)s
    }

    server {
        listen %(listen)s;
        server_name %(hosts)s;

        set $out "";
        if (-f %(folder)s/out-blue) {
            set $out blue;
        }
        if (-f %(folder)s/out-green) {
            set $out "${out}green";
        }

        location / {
            if ($to_the_proxy = 0) {
                return %(status)s '%(body)s';
            }
            proxy_pass http://$live;
        }
    }

    server {
        listen %(listen)s default_server;
        return %(status)s '%(body)s';
    }
}
"""


def render(
    contract: Mapping[str, Any],
    proxies: Mapping[str, Sequence[str]] = PROXIES,
    listen: str = "8080",
    folder: str = "/tmp",
) -> str:
    """The configuration. `proxies` are the addresses (host:port) of the two groups; `folder` is
    where nginx writes, and where the files that take a group out are looked for.

    Raises ValueError for an answer that nginx could not give as it stands.
    """
    otherwise = contract["otherwise"]
    if otherwise["content_type"] != "application/json" or set("'$\\") & set(otherwise["body"]):
        raise ValueError("nginx cannot give this answer: see `otherwise` in routes.json")
    groups = dict(proxies) | {"both": [address for one in proxies.values() for address in one]}
    return TEMPLATE % {
        "folder": folder,
        "listen": listen,
        "idle": contract["timeouts"]["alb_idle"],
        "hosts": f"{contract['host']} localhost",
        "upstreams": "\n\n".join(_upstream(name, groups[name]) for name in sorted(groups)),
        "paths": "\n".join(_paths(contract["routes"])),
        "status": otherwise["status"],
        "body": otherwise["body"],
    }


def _upstream(name: str, addresses: Sequence[str]) -> str:
    """A group of proxies. One that refuses a connection is left alone for a second."""
    servers = (f"server {address} max_fails=1 fail_timeout=1s;" for address in addresses)
    lines = [*servers, "keepalive 64;"]
    return "\n".join([f"    upstream {name} {{", *(f"        {line}" for line in lines), "    }"])


def _paths(routes: Sequence[Mapping[str, Any]]) -> list[str]:
    """The rules, by priority: in a map the first expression that matches is taken."""
    ordered = sorted(routes, key=lambda route: int(route["priority"]))
    return [
        f'        "~^{_expression(path)}(\\?|$)" 1;  # {route["name"]}'
        for route in ordered
        for path in route["paths"]
    ]


def _expression(pattern: str) -> str:
    """A pattern of the load balancer as a regular expression; a path ends before the query."""
    parts = {"*": "[^?]*", "?": "[^?]"}
    return "".join(parts.get(character) or re.escape(character) for character in pattern)


if __name__ == "__main__":
    print(render(json.loads(ROUTES.read_text("utf-8"))), end="")
