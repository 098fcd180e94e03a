"""What a test with nginx asks for first."""

import pytest

from devstack.nginx import NginxMissing, find_nginx
from tests.conftest import DEVELOPERS_ENVIRONMENT


def require_nginx() -> None:
    """Skips the test where there is no nginx; with REQUIRE_NGINX=1 it fails."""
    try:
        find_nginx()
    except NginxMissing as missing:
        if DEVELOPERS_ENVIRONMENT.get("REQUIRE_NGINX", "0") not in ("", "0"):
            pytest.fail(f"REQUIRE_NGINX is set, but {missing}")
        pytest.skip(str(missing))
