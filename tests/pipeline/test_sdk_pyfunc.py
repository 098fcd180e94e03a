"""A model that is logged, registered, loaded by each of its names, and asked."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest

from tests.pipeline.conftest import unique

MODEL = """
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel


class AddOffset(PythonModel):
    def predict(self, context, model_input: list[float], params=None):
        return [number + context.model_config["offset"] for number in model_input]


set_model(AddOffset())
"""


@pytest.fixture
def log_model(pyfunc: Any, client: Any, experiment: str, tmp_path: Path) -> Callable[..., Any]:
    """Log a model that adds 10, in a new run."""
    source = tmp_path / "model.py"
    source.write_text(MODEL)

    def log(**options: Any) -> Any:
        with mlflow.start_run(experiment_id=experiment):
            return pyfunc.log_model(
                name="model",
                python_model=str(source),
                model_config={"offset": 10},
                pip_requirements=["mlflow"],  # else a process is started to guess them
                **options,
            )

    return log


def test_a_logged_model_is_loaded_and_asked(
    client: Any, pyfunc: Any, log_model: Callable[..., Any], tmp_path: Path
) -> None:
    logged = log_model()
    files = {item.path for item in client.list_logged_model_artifacts(logged.model_id)}
    assert {"MLmodel", "model.py"} <= files
    assert client.get_logged_model(logged.model_id).status == "READY"
    assert pyfunc.load_model(logged.model_uri, dst_path=str(tmp_path)).predict([1.0, 2.5]) == [
        11.0,
        12.5,
    ]


@pytest.mark.parametrize("name_of", ["models:/{}/1", "models:/{}@champion"])
def test_a_registered_model_is_loaded_and_asked(
    client: Any, pyfunc: Any, log_model: Callable[..., Any], tmp_path: Path, name_of: str
) -> None:
    name = unique("flow")
    log_model(registered_model_name=name)
    client.set_registered_model_alias(name, "champion", "1")
    loaded = pyfunc.load_model(name_of.format(name), dst_path=str(tmp_path))
    assert loaded.predict([1.0, 2.5]) == [11.0, 12.5]
