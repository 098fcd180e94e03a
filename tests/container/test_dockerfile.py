"""What the Dockerfile and .dockerignore say."""

import re
from pathlib import Path

import pytest

from config.version import VERSION
from tests.container.build import ROOT, Instruction, context, environment, last, lines, stages
from tests.infrastructure.deployment import INFRASTRUCTURE

IMAGES = ["mlflow", "auth-service", "proxy"]
USER = "10001:10001"


def test_the_default_image_is_the_proxy() -> None:
    assert [*stages()][-1] == "proxy"


def test_every_base_is_one_pinned_slim_python_of_the_suites_minor_version() -> None:
    names = stages()
    (base,) = {stage.base for stage in names.values() if stage.base not in names}
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-[a-z]+", base)


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_runs_as_a_number_that_is_not_root(name: str) -> None:
    instructions = lines(name)
    assert last(instructions, "USER").value == USER
    user = [one.name for one in instructions].index("USER")
    assert "RUN" not in [one.name for one in instructions[user:]]


def test_terraform_runs_the_proxy_as_the_same_user() -> None:
    text = (INFRASTRUCTURE / "terraform/variables.tf").read_text("utf-8")
    variable = text[text.index('variable "proxy_user"') :]
    assert re.search(r'default\s+= "(\S+)"', variable)[1] == USER  # type: ignore[index]


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_stops_on_sigterm_writes_to_tmp_only_and_says_what_it_is(name: str) -> None:
    instructions = lines(name)
    assert last(instructions, "STOPSIGNAL").value == "SIGTERM"
    assert [one.value for one in instructions if one.name == "VOLUME"] == ["/tmp"]
    labels = last(instructions, "LABEL").pairs
    assert labels.keys() == {
        f"org.opencontainers.image.{label}"
        for label in ("title", "description", "version", "revision")
    }
    assert all(labels.values())


@pytest.mark.parametrize("name", ["auth-service", "proxy"])
def test_the_label_says_the_version(name: str) -> None:
    labels = last(lines(name), "LABEL").pairs
    assert labels["org.opencontainers.image.version"] == VERSION


def test_mlflows_label_says_what_is_locked() -> None:
    version = last(lines("mlflow"), "LABEL").pairs["org.opencontainers.image.version"]
    assert f"\nmlflow=={version} " in (ROOT / "requirements/mlflow-image.lock").read_text("utf-8")


def test_mlflows_image_is_the_server_of_the_tests_that_knows_s3() -> None:
    def pinned(lock: str) -> set[str]:
        text = (ROOT / "requirements" / lock).read_text("utf-8")
        return set(re.findall(r"^[a-z0-9_.-]+==\S+", text, re.MULTILINE))

    more = pinned("mlflow-image.lock") - pinned("mlflow-server.lock")
    assert pinned("mlflow-server.lock") <= pinned("mlflow-image.lock")
    names = {pin.partition("==")[0] for pin in more}
    assert names == {"boto3", "botocore", "jmespath", "s3transfer"}


@pytest.mark.parametrize("name", IMAGES)
def test_no_command_goes_through_a_shell_and_none_fetches_with_curl(name: str) -> None:
    known = stages()
    for one in (line for stage in known.values() for line in stage.instructions):
        if one.name in ("RUN", "CMD", "HEALTHCHECK"):
            assert {"sh", "bash", "curl", "wget"}.isdisjoint(one.words)
    assert not [one for one in lines(name) if one.name in ("ENTRYPOINT", "SHELL", "ADD", "ONBUILD")]
    assert last(lines(name), "HEALTHCHECK").words[0] == "python"


def test_packages_come_out_of_a_lock_by_hash_and_are_not_compiled() -> None:
    known = stages()
    for name in ("packages", "mlflow-packages"):
        copied, *runs = known[name].instructions
        assert re.fullmatch(r"requirements/\S+\.lock /build/requirements\.lock", copied.value)
        (install,) = [one.words for one in runs if "install" in one.words]
        assert {"--require-hashes", "--only-binary", "--no-cache-dir"} <= {*install}
    others = [stage for stage in known.values() if "packages" not in stage.name]
    assert not [one for s in others for one in s.instructions if "install" in one.value]


def test_no_variable_holds_a_secret() -> None:
    """Nor could a build argument bring one in: there is only the revision."""
    every = [one for stage in stages().values() for one in stage.instructions]
    assert {one.value for one in every if one.name == "ARG"} == {"REVISION=unknown"}
    names = {name for s in IMAGES for name in environment(lines(s))}
    assert not [name for name in names if re.search("SECRET|PASSWORD|TOKEN|KEY", name)]


def test_a_command_in_shell_form_would_be_seen() -> None:
    with pytest.raises(ValueError, match="shell"):
        _ = Instruction("CMD", "gunicorn wsgi:app").words


# --- what a build is given -----------------------------------------------------------------------


def test_a_build_is_given_the_code_and_two_lock_files() -> None:
    given = context()
    tops = {path.partition("/")[0] for path in given}
    assert tops == {
        *("app", "config", "devstack"),
        *("gunicorn.conf.py", "wsgi.py", "requirements"),
    }
    assert {path for path in given if path.startswith("requirements/")} == {
        "requirements/production.lock",
        "requirements/mlflow-image.lock",
    }
    assert {
        "app/__init__.py",
        "app/request/mlflow_routes.tsv",
        "app/browser/api_description/openapi.json",
    } <= given
    assert not [path for path in given if "__pycache__" in path or path.endswith(".pyc")]


def test_what_lies_about_in_a_working_folder_stays_out(tmp_path: Path) -> None:
    (tmp_path / ".dockerignore").write_bytes((ROOT / ".dockerignore").read_bytes())
    stray = [
        *(".env", ".git/config", ".venv/bin/python", ".aws/credentials", "key.pem", "notes.txt"),
        *("tests/test_a.py", "docs/README.md", "infrastructure/terraform/terraform.tfvars"),
        *(".devstack/key", "requirements/development.lock", "app/__pycache__/x.pyc"),
        *("app/operations/__pycache__/x.pyc", "compose.yaml", "Makefile"),
    ]
    for name in [*stray, "app/__init__.py"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert context(tmp_path) == {"app/__init__.py"}
