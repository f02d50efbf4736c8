"""A trained model in a folder: ``model.safetensors`` and ``config.json``."""

from safetensors.torch import load, save
from upath import UPath

from mofe.arguments import instance
from mofe.artifacts.model import ModelConfig
from mofe.errors import MofeError
from mofe.models.backbone import create_backbone
from mofe.models.mofe import MoFE
from mofe.storage import locations, writing

WEIGHTS = "model.safetensors"


def save_model(folder: UPath, model: MoFE, config: ModelConfig) -> None:
    """Write the model into ``folder``: first the weights, then ``config.json``, which completes it.

    Raises:
        MofeError: a weight is not finite, an argument is of another type, or the folder cannot be written.
    """
    instance("model", model, MoFE)
    instance("config", config, ModelConfig)
    folder = locations.resolve(folder)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    for name, tensor in state.items():
        if not tensor.isfinite().all():
            raise MofeError(f"the weights {name} of the model are not finite: the model is not written to {folder}")
    writing.write_bytes(folder / WEIGHTS, save(state))
    config.write(folder)


def load_model(uri: str | UPath) -> tuple[MoFE, ModelConfig]:
    """Load the model at ``uri`` on the CPU, in evaluation mode, and its configuration.

    Raises:
        MofeError: there is no model, or its weights do not fit its configuration.
    """
    folder = locations.resolve(uri)
    config = ModelConfig.read(folder)
    backbone = create_backbone(config.backbone, load_weights=False)
    model = MoFE(backbone, config.partition, config.backbone.depth, config.top_k, config.router)
    config.check(folder, WEIGHTS)
    content = locations.read_bytes(folder / WEIGHTS, "model's weights file")
    try:
        model.load_state_dict(load(content))
    except Exception as error:  # safetensors raises its own SafetensorError, torch a RuntimeError
        reason = str(error).strip().splitlines()
        raise MofeError(
            f"{folder / WEIGHTS} does not hold the weights of this model: {' '.join(reason[:2])}"
        ) from error
    return model.eval().requires_grad_(False), config
