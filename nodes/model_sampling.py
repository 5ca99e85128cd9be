"""Nodes that say what a model was trained to predict, where its file says nothing or another."""

from typing import Annotated, Literal

from pydantic import Field

from executor import Context, Model, Node, Objective, Prediction, Widget

_PREDICTIONS: dict[str, Prediction] = {
    "eps": "epsilon",
    "v_prediction": "v",
    "lcm": "lcm",
    "x0": "x0",
    "edm": "edm",
}

Sigma = Annotated[float, Field(ge=0, le=1000), Widget({"step": 0.001, "round": False})]


class ModelSamplingDiscrete(Node, category="advanced/model"):
    """Take a model to predict noise (``eps``), v or the picture, or to be distilled (``lcm``).

    With ``zsnr`` its last timestep is all noise, as such models can paint wholly dark pictures.
    """

    model: Model
    sampling: Literal["eps", "v_prediction", "lcm", "x0"] = "eps"
    zsnr: bool = False

    def run(self, ctx: Context) -> Model:
        return self.model.with_objective(Objective(_PREDICTIONS[self.sampling], self.zsnr))


class ModelSamplingContinuousEDM(Node, category="advanced/model"):
    """Take a model to have been trained at all noise from ``sigma_min`` to ``sigma_max``."""

    model: Model
    sampling: Literal["v_prediction", "edm", "eps"] = "v_prediction"
    sigma_max: Sigma = 120.0
    sigma_min: Sigma = 0.002

    def run(self, ctx: Context) -> Model:
        return self.model.with_objective(
            Objective(_PREDICTIONS[self.sampling], sigmas=(self.sigma_min, self.sigma_max))
        )
