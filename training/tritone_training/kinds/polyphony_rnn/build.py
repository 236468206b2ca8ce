"""Networks of `polyphony_rnn`: new or from a checkpoint, and what is exported of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from tritone_training import checkpoint
from tritone_training._exceptions import CheckpointError
from tritone_training.declaration import Declaration
from tritone_training.kind import Exportable
from tritone_training.kinds.polyphony_rnn.config import PolyphonyConfig
from tritone_training.kinds.polyphony_rnn.declaration import DECLARATION, SAMPLER
from tritone_training.kinds.polyphony_rnn.network import PolyphonyNetwork, Sampler, Scorer

KIND_NAME: Final = "polyphony_rnn"


def build_network(config: PolyphonyConfig) -> PolyphonyNetwork:
    """A new network with random weights."""
    return PolyphonyNetwork(units=config.units, hidden=config.hidden, reach=config.reach, dropout=config.dropout)


def load_network(folder: Path) -> tuple[PolyphonyNetwork, Mapping[str, Any]]:
    """The trained network in eval mode, and checkpoint.json.

    Raises:
        CheckpointError: see `checkpoint.load`; also when the weights do not fit the network they describe.
    """
    saved = checkpoint.load(folder, kind=KIND_NAME)
    info = saved.info
    try:
        network = build_network(PolyphonyConfig(**info["config"]))
        _require_info(folder, info)
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{folder}: checkpoint.json lacks or misnames {error}; train again") from error
    try:
        network.load_state_dict(dict(saved.weights))
    except RuntimeError as error:  # torch's word for names and shapes that differ
        wrong = str(error).splitlines()[-1].strip()
        raise CheckpointError(
            f"{folder}: weights and checkpoint.json do not belong together ({wrong}); train again"
        ) from error
    return network.eval(), info


def _require_info(folder: Path, info: Mapping[str, Any]) -> None:
    """What evaluation and export read, long after the network was built."""
    found = info["frames_per_quarter"]
    if isinstance(found, bool) or not isinstance(found, int) or found < 0:
        raise CheckpointError(
            f"{folder}: checkpoint.json has frames_per_quarter {found!r}; expected a whole number, 0 if unknown; "
            f"train again"
        )
    info["data"]["fingerprint"]


def exportable(folder: Path | None, pretrained: str | None) -> Exportable:
    """What `tritone export` needs: the scorer, and the sampler as its companion.

    Raises:
        CheckpointError: no checkpoint is given, or a backbone, which this kind has none of.
    """
    if pretrained is not None:
        raise CheckpointError(f"{KIND_NAME} has no pretrained backbones; leave --pretrained out")
    if folder is None:
        raise CheckpointError(f"nothing to export: train first (`tritone train {KIND_NAME}`)")
    network, info = load_network(folder)
    frames_per_quarter = str(info["frames_per_quarter"])
    card = {key: value for key, value in info.items() if key not in ("format", "weights", "splits")}
    metadata = {"frames_per_quarter": frames_per_quarter}

    def describe(declaration: Declaration, served: Scorer | Sampler) -> Exportable:
        parameters = {**declaration.parameters, "frames_per_quarter": frames_per_quarter}
        return Exportable(
            # The loop's export would else try to carry what a backward pass needs.
            network=served.eval().requires_grad_(False),
            declaration=replace(declaration, parameters=parameters),
            label_files={},
            metadata=metadata,
            card=card,
        )

    return replace(describe(DECLARATION, Scorer(network)), companions=(describe(SAMPLER, Sampler(network)),))
