"""Nothing reaches across the fence between two tenants (a real MLflow with workspaces)."""

from devstack.proxy import Proxy
from tests.conftest import Key
from tests.wire import bearer, call


def test_each_key_works_in_its_own_workspace(
    tenants_proxy: Proxy, tenants_keys: dict[str, Key]
) -> None:
    for name, key in tenants_keys.items():
        listed = call(
            tenants_proxy.url, "GET", "/api/mlflow/api/3.0/mlflow/workspaces", bearer(key.key)
        )
        assert listed.json == {"workspaces": [{"name": name}]}
