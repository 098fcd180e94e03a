"""The paths of proxied artifacts: whose they are, and the root, which nobody lists or deletes.

MLflow's layout is `workspaces/<workspace>/<experiment>/…`; a path without that prefix is below the
request's own workspace. Without workspaces, everything stands below the root.
"""

from urllib.parse import parse_qsl

from app.request.artifact_names import artifact_name, segments
from app.request.errors import Forbidden
from app.request.inbound import Inbound
from app.request.permit import Permit

#: The first segment of a path that names its workspace.
PREFIX = "workspaces"

#: The routes that work on a folder with all that is in it, by operation: their path in the query,
#: or in the path.
LIST, DELETE = "ListArtifactsMlflowArtifacts", "DeleteArtifact"


def workspaces(inbound: Inbound) -> set[str]:
    """The workspaces that a request's artifact paths name."""
    return {parts[1] for parts in _paths(inbound) if len(parts) > 1 and parts[0] == PREFIX}


def refuse_root(permit: Permit, may_list: bool) -> None:
    """Raise Forbidden for a request that lists or deletes the root of the artifacts, of all
    workspaces or of one. `may_list`: the key has the admin scope."""
    operation = permit.route.operation if permit.route else ""
    if (operation == LIST and may_list) or operation not in (LIST, DELETE):
        return
    for parts in _paths(permit.inbound) or [[]]:
        is_top = parts[:1] == [PREFIX] and len(parts) < 3 and bool(permit.workspace)
        if not parts or is_top:
            verb = "listed" if operation == LIST else "deleted"
            raise Forbidden(
                f"The root of the artifacts cannot be {verb} through this proxy; name a folder "
                "below it, such as that of an experiment."
            )


def _paths(inbound: Inbound) -> list[list[str]]:
    """The segments of each artifact path in a request: in its path, and in the query's `path`."""
    name = artifact_name(inbound.decoded_path)
    if name is not None:
        return [segments(name)]
    if not inbound.decoded_path.endswith("/mlflow-artifacts/artifacts"):
        return []
    given = parse_qsl(inbound.query, keep_blank_values=True)
    return [segments(value) for name, value in given if name == "path"]
