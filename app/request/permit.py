"""Permit: required to forward a request. Only auth/authorization.py makes one."""

from dataclasses import dataclass, field

from app.request.inbound import Inbound
from app.request.principal import Principal
from app.request.route_table import Route


@dataclass(frozen=True, slots=True)
class Permit:
    """Permission to forward one request. `inbound.path` is the string that was authorized, and is
    forwarded unchanged; `route` is None for an unclassified route, which an admin may use.
    `provider` is the Authorization field for the AI gateway's provider, "" without one.
    `workspace` is MLflow's for this request, "" where it has none (auth/workspaces.py)."""

    principal: Principal
    inbound: Inbound
    route: Route | None
    provider: str = field(default="", repr=False)
    workspace: str = ""
