"""Export of `polyphony_rnn`: the scorer, and the sampler as its companion."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tritone_training.declaration import Declaration
from tritone_training.kind import Exportable
from tritone_training.kinds.polyphony_rnn.declaration import DECLARATION, SAMPLER, joint_parameters
from tritone_training.kinds.polyphony_rnn.network import (
    PieceScorer,
    Sampler,
    config_of,
    load_network,
)
from tritone_training.kinds.polyphony_rnn.priors import priors_of
from tritone_training.kinds.polyphony_rnn.sampler import JointSampler


def exportable(folder: Path) -> Exportable:
    """Return what `tritone export` needs: the scorer, and the sampler as its companion.

    Raises:
        CheckpointError: the checkpoint cannot be used.
    """
    network, info = load_network(folder)
    frames_per_quarter = str(info["frames_per_quarter"])
    card = {key: value for key, value in info.items() if key not in ("format", "weights", "splits")}
    metadata = {"frames_per_quarter": frames_per_quarter}

    def describe(declaration: Declaration, served: PieceScorer | Sampler | JointSampler) -> Exportable:
        parameters = {**declaration.parameters, "frames_per_quarter": frames_per_quarter}
        return Exportable(
            # The loop's export would else try to carry what a backward pass needs.
            network=served.eval().requires_grad_(False),
            declaration=replace(declaration, parameters=parameters),
            label_files={},
            metadata=metadata,
            card=card,
        )

    sampler: Sampler | JointSampler
    if network.decoder is None:  # a checkpoint of an earlier version
        sampler, declaration = Sampler(network), SAMPLER
    else:
        sampler = JointSampler(network, priors_of(info), frames_per_quarter=info["frames_per_quarter"])
        config = config_of(info)
        own = joint_parameters(temperature=config.temperature, top_p=config.top_p)
        declaration = replace(SAMPLER, parameters={**SAMPLER.parameters, **own})
    return replace(describe(DECLARATION, PieceScorer(network)), companions=(describe(declaration, sampler),))
