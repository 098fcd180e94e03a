"""Two tenants of one MLflow: the owner, and another who tries to reach what the owner has."""

import hashlib
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.request.route_table import Access
from devstack.mlflow import MLflow
from devstack.proxy import Proxy
from tests.conftest import KeyedAuthService
from tests.tenants.belongings import Belongings
from tests.tenants.databases import Database
from tests.tenants.tenant import Tenant
from tests.tenants.tries import all_tries

SCOPES = ("read", "write", "gateway")

#: Kinds of routes that say the same to everyone.
OF_NOBODY = {"ui", "server", "workspaces"}


@dataclass(frozen=True)
class Stand:
    """`ids` are the owner's, `other_ids` those of the other, who has one of everything, too."""

    owner: Tenant
    ids: dict[str, str]
    other: Tenant
    other_ids: dict[str, str]
    intruder: Tenant  # the other's key, with the owner's workspace in the header
    outsider: Tenant  # a key without a workspace
    database: Database
    artifacts: Path

    @property
    def workspace(self) -> str:
        """The owner's."""
        return self.ids["workspace"]

    def state(self) -> dict[str, Any]:
        """Everything of the owner's: what its key reads, and the checksums of its files."""
        state: dict[str, Any] = {}
        for each in all_tries(twins=False):
            if each.route.access is Access.READ and each.route.kind not in OF_NOBODY:
                answer = each.send(self.owner, self.ids, self.ids)
                state[str(each)] = answer.body if answer.status == 200 else answer.status
        for path in (self.artifacts / "workspaces" / self.workspace).rglob("*"):
            if path.is_file():
                state[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
        return state

    def rows(self) -> set[str]:
        """The rows of the database that name something of the owner's."""
        names = [value for value in self.ids.values() if not value.isdecimal()]
        return {row for row in self.database.rows() if any(name in row for name in names)}


def furnish(
    mlflow: MLflow, database: Database, proxy: Proxy, auth: KeyedAuthService, provider: str
) -> Stand:
    """Make two workspaces, and one of everything in each. `provider` is the address of a language
    model."""
    operator, suffix = _client(proxy, auth, admin=True), secrets.token_hex(4)

    def tenant(name: str) -> tuple[Tenant, dict[str, str]]:
        operator.post("3.0/mlflow/workspaces", name=name)
        found = _client(proxy, auth, f"workspace:{name}")
        belongings = Belongings(found, name, mlflow.artifacts)
        belongings.given_by(_client(proxy, auth, admin=True, header=name), database, provider)
        return found, belongings.ids

    theirs, own = f"a-{suffix}", f"b-{suffix}"
    owner, ids = tenant(theirs)
    other, other_ids = tenant(own)
    return Stand(
        owner=owner,
        ids=ids,
        other=other,
        other_ids=other_ids,
        intruder=_client(proxy, auth, f"workspace:{own}", header=theirs),
        outsider=_client(proxy, auth),
        database=database,
        artifacts=mlflow.artifacts,
    )


def _client(
    proxy: Proxy, auth: KeyedAuthService, *scopes: str, admin: bool = False, header: str = ""
) -> Tenant:
    key = auth.create_key(scopes=(*SCOPES, *scopes), admin=admin).key
    return Tenant(proxy.url, key, header)
