"""Checkpoints: whole or not there, and refused by a run that would not go on as it began."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from stylize.config import StylizerError
from stylize.model import DiffStyle360
from stylize.storage import load_state, replaced_folder
from stylize.training.settings import FinetuneSettings

PREFIX = "checkpoint-"
HOW = (  # settings that change no loss
    "gradient_checkpointing", "checkpoint_every", "checkpoints_kept",
    "validate_every", "validation_clips", "sample_every",
)  # fmt: skip


@dataclasses.dataclass
class Progress:
    """What training changes, and what it remembers."""

    trained: dict[str, nn.Parameter]
    average: dict[str, torch.Tensor]  # of the parameters, exponential (EMA)
    optimizer: torch.optim.Optimizer
    done: int = 0  # steps
    losses: list[float] = dataclasses.field(default_factory=list)  # the latest, after the warm-up


def identify(
    model: DiffStyle360, trained: dict[str, nn.Parameter], settings: FinetuneSettings
) -> dict[str, Any]:
    """What must agree for a run to go on: config, settings, and the weights that are not trained.

    Settings that change no loss do not count.
    """
    chosen = {k: v for k, v in dataclasses.asdict(settings).items() if k not in HOW}
    frozen = hashlib.sha256()
    for name, tensor in sorted(model.own_state().items()):
        if name not in trained:
            frozen.update(name.encode())
            content = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
            frozen.update(content.numpy().data)
    return {"config": model.config.to_json(), "settings": chosen, "frozen": frozen.hexdigest()}


def save_checkpoint(folder: Path, progress: Progress, identity: dict[str, Any], kept: int) -> None:
    """Write `folder`/checkpoint-NNNNNN, N the steps done, and remove all but the newest `kept`."""
    with replaced_folder(folder / f"{PREFIX}{progress.done:06d}") as partial:
        save_file(dict(progress.trained), partial / "trained.safetensors")
        save_file(progress.average, partial / "average.safetensors")
        torch.save(progress.optimizer.state_dict(), partial / "optimizer.pt")
        state = identity | {"losses": progress.losses}
        (partial / "state.json").write_text(json.dumps(state))
    for old in list_checkpoints(folder)[:-kept]:
        shutil.rmtree(old)


def load_checkpoint(folder: Path, progress: Progress, identity: dict[str, Any]) -> None:
    """Bring `progress` to the newest checkpoint in `folder`, if there is one.

    Raises StylizerError where it is damaged or of another identity.
    """
    checkpoints = list_checkpoints(folder)
    if not checkpoints:
        return
    newest = checkpoints[-1]
    try:
        state = json.loads((newest / "state.json").read_text())
        losses = [float(loss) for loss in state.pop("losses")]
        optimizer_state = torch.load(newest / "optimizer.pt", "cpu", weights_only=True)
    except Exception as error:  # whatever damage does to JSON, zip or pickle
        kind = type(error).__name__
        raise StylizerError(f"{newest}: unreadable ({kind}); remove it to go on") from None
    if state != json.loads(json.dumps(identity)):
        raise StylizerError(
            f"{newest}: made with other settings or another model; use another folder or remove it"
        )
    expected = {name: parameter.data for name, parameter in progress.trained.items()}
    with torch.no_grad():
        for name, tensor in load_state(newest / "trained.safetensors", expected).items():
            progress.trained[name].copy_(tensor)
        for name, tensor in load_state(newest / "average.safetensors", expected).items():
            progress.average[name].copy_(tensor)
    progress.optimizer.load_state_dict(optimizer_state)
    progress.done = int(newest.name.removeprefix(PREFIX))
    progress.losses = losses


def list_checkpoints(folder: Path) -> list[Path]:
    """Oldest first."""
    return sorted(folder.glob(PREFIX + "[0-9]*"))


def describe_last_good(folder: Path, bad_steps: int, done: int) -> str:
    """Names the newest checkpoint that the last `bad_steps` of `done` steps had no part in."""
    good = [
        path
        for path in list_checkpoints(folder)
        if int(path.name.removeprefix(PREFIX)) <= done - bad_steps
    ]
    return f"last good checkpoint {good[-1]}" if good else "no good checkpoint yet"
