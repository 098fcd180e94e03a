"""Where one goes on to after signing in, and what a key may do in words."""

import pytest

from app.browser.account import rights
from app.browser.forms import own_path
from app.browser.pages import HOME
from tests.app.samples import principal


@pytest.mark.parametrize(
    "goal", ["/mlflow/", "/mlflow/graphql", "/mlflow/get-artifact?path=a%2Fb&x=1", "/status"]
)
def test_our_own_paths_are_kept(goal: str) -> None:
    assert own_path(goal) == goal


@pytest.mark.parametrize(
    "goal",
    """https://evil.test //evil.test /mlflow /mlflow// /mlflow/%2f%2fevil.test /mlflow/%5cevil
    /mlflow/.. /mlflow/%2e%2e/ /mlflow/#x /mlflow/-/ /status/x /statuss /mlflow/%zz
    /mlflow/?x-api-key=1 ///evil.test \\\\evil.test""".split(),
)
def test_anything_else_is_mlflows_home(goal: str) -> None:
    assert own_path(goal) == HOME


@pytest.mark.parametrize(
    ("scopes", "words"),
    [
        (["read"], "read"),
        (["write"], "read, write and delete"),
        (["read", "gateway"], "read and call the AI gateway"),
        (["admin"], "read, write, delete, call the AI gateway and administer"),
        (["else"], "nothing"),
    ],
)
def test_what_a_key_may_is_said_in_words(scopes: list[str], words: str) -> None:
    assert rights(principal(scopes=frozenset(scopes)), split_scopes=False) == words
