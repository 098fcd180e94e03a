"""The model that the registration check logs: it adds an offset that its log call chose.

MLflow stores this very file ("models from code") and runs it again to load the model, so it
imports nothing of ours.
"""

from typing import Any

from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel


class AddOffset(PythonModel):
    """Adds `model_config["offset"]` to each number."""

    def predict(self, context: Any, model_input: list[float], params: Any = None) -> list[float]:
        offset = context.model_config["offset"]
        return [number + offset for number in model_input]


set_model(AddOffset())
