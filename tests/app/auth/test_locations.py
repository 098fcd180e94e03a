"""Which storage locations are allowed, however they are spelt."""

import time

import pytest

from app.auth.locations import Locations, folded

PROXIED = "mlflow-artifacts:/"


@pytest.mark.parametrize(
    ("allowed", "location"),
    [
        (PROXIED, "mlflow-artifacts:/1/r/artifacts"),
        (PROXIED, "mlflow-artifacts:/1/r/artifacts/"),
        (PROXIED, "MLflow-Artifacts:/1"),
        (PROXIED, "mlflow-artifacts:///1"),
        (PROXIED, "mlflow-artifacts:1"),
        (PROXIED, "mlflow-artifacts:/1/a b/100%25"),
        (PROXIED, "mlflow-artifacts:/1/a..b/..."),
        ("s3://bucket/folder", "s3://bucket/folder"),
        ("s3://bucket/folder/", "s3://bucket/folder"),
        ("s3://bucket/folder", "S3://bucket/folder/x"),
        ("s3://other, s3://bucket ", "s3://bucket/x"),
        ("s3://bucket/a%20b", "s3://bucket/a%20b/x"),
        ("/data/mlruns", "/data/mlruns/1"),
        ("/data/mlruns", "file:///data/mlruns/1"),
        ("file:/data/mlruns", "file:/data/mlruns/1"),
        ("/data", "file://localhost/data/1"),
        ("wasbs://box@account.example/x", "wasbs://box@account.example/x/1"),
        ("mlflow-artifacts://mlflow.internal/", "mlflow-artifacts://mlflow.internal/1"),
    ],
)
def test_inside(allowed: str, location: str) -> None:
    assert Locations(allowed).allow(location, "")


@pytest.mark.parametrize(
    ("allowed", "location"),
    [
        (PROXIED, ""),
        (PROXIED, "1"),
        (PROXIED, "s3://bucket"),
        (PROXIED, "/etc"),
        (PROXIED, "file:///etc"),
        (PROXIED, "runs:/r/x"),
        (PROXIED, "models:/m/1"),
        (PROXIED, "http://host/api/2.0/mlflow-artifacts/artifacts/1"),
        (PROXIED, "mlflow-artifacts://host/1"),
        (PROXIED, " mlflow-artifacts:/1"),
        (PROXIED, "mlflow-artifacts:/1\x00"),
        (PROXIED, "mlflow-artifacts:/../1"),
        (PROXIED, "mlflow-artifacts:/%2e%2e/1"),
        (PROXIED, "mlflow-artifacts:/%25252e%25252e/1"),
        (PROXIED, "mlflow-artifacts:/%" + "25" * 12),
        (PROXIED, "mlflow-artifacts:/1//2"),
        (PROXIED, "mlflow-artifacts:/1?x"),
        (PROXIED, "mlflow-artifacts:/1%3Fx"),
        (PROXIED, "mlflow-artifacts:/1#x"),
        (PROXIED, "mlflow-artifacts:/a\\..\\b"),
        ("/data", "FILE:/data/1"),
        ("/data", "File://localhost/data/1"),
        (PROXIED, "//[x"),
        ("s3://bucket/folder", "s3://bucket/folder2"),
        ("s3://bucket/folder", "s3://bucket/folde"),
        ("s3://bucket/folder", "s3://bucket"),
        ("s3://bucket/folder", "s3://bucket/Folder"),
        ("s3://bucket/folder", "s3://bucket//folder"),
        ("s3://bucket/folder", "s3://bucket/./folder"),
        ("s3://bucket", "s3://bucket.evil"),
        ("s3://bucket", "s3://user@bucket"),
        ("s3://bucket", "s3:/bucket"),
        ("s3://bucket", "s3a://bucket"),
        ("/data", "data"),
        ("/data", "file:data"),
        ("/data", "file://host/data"),
        ("/data", "/data;x/../../etc"),
        ("s3://bucket/{workspace}", "s3://bucket/{workspace}"),
    ],
)
def test_outside(allowed: str, location: str) -> None:
    assert not Locations(allowed).allow(location, "")


@pytest.mark.parametrize(
    ("allowed", "location", "is_inside"),
    [
        (PROXIED, "mlflow-artifacts:/workspaces/a/1", True),
        (PROXIED, "mlflow-artifacts:/workspaces/a", True),
        (PROXIED, "mlflow-artifacts:/workspaces/ab/1", False),
        (PROXIED, "mlflow-artifacts:/workspaces/b/1", False),
        (PROXIED, "mlflow-artifacts:/workspaces/a/../b/1", False),
        (PROXIED, "mlflow-artifacts:/workspaces/a%2f..%2fb", False),
        (PROXIED, "mlflow-artifacts:/workspaces", False),
        (PROXIED, "mlflow-artifacts:/1", False),
        (PROXIED, "mlflow-artifacts:/", False),
        (PROXIED, "mlflow-artifacts://workspaces/a/1", False),
        ("s3://bucket/x/", "s3://bucket/x/workspaces/a/1", True),
        ("s3://bucket/x/", "s3://bucket/x/1", False),
        ("s3://bucket/x/", "s3://bucket/workspaces/a/1", False),
        ("s3://team-{workspace}/", "s3://team-a/1", True),
        ("s3://team-{workspace}/", "s3://team-b/1", False),
        ("s3://team-{workspace}/", "s3://team-a/../team-b/1", False),
        ("/", "/workspaces/a/1", True),
        ("/", "/etc", False),
    ],
)
def test_with_workspaces_only_the_own_part(allowed: str, location: str, is_inside: bool) -> None:
    assert Locations(allowed).allow(location, "a") is is_inside


@pytest.mark.parametrize(
    ("location", "is_inside"),
    [
        ("mlflow-artifacts:/1/r/artifacts", True),
        ("mlflow-artifacts:/Workspaces/b", True),  # MLflow: workspaces/a/Workspaces/b
        ("mlflow-artifacts:/workspaces/a/1", True),
        ("mlflow-artifacts:/workspaces/b/1", False),
        ("mlflow-artifacts:/%77orkspaces/b/1", False),
        ("mlflow-artifacts:/./workspaces/b/1", False),
        ("s3://bucket/1", False),
    ],
)
def test_mlflow_puts_a_proxied_path_below_the_own_workspace(location: str, is_inside: bool) -> None:
    assert Locations(f"{PROXIED},s3://bucket").allow(location, "a", is_scoped=True) is is_inside


def test_what_is_long_costs_little() -> None:
    began = time.process_time()
    assert folded("\u0301\u0316" * 1_000_000) == ""
    assert folded("mlflow" + "\u0301\u0316" * 1_000_000) == "mlflow"
    assert not Locations(PROXIED).allow(PROXIED + "%25" * 1_000_000, "")
    assert Locations(PROXIED).allow(PROXIED + "a" * 7000, "")
    assert time.process_time() - began < 1


def test_a_database_may_ignore_case_accents_and_blanks() -> None:
    assert folded(" MLFLOW.artifactLocátion ") == "mlflow.artifactlocation"
