"""Export of `polyphony_rnn`: the scorer, and the sampler as its companion."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tritone_training.kind import Exportable
from tritone_training.kinds.polyphony_rnn.declaration import DECLARATION, SAMPLER, UNSTEERED_SAMPLER
from tritone_training.kinds.polyphony_rnn.examples import unsteered_inputs
from tritone_training.kinds.polyphony_rnn.features import N_LAGS
from tritone_training.kinds.polyphony_rnn.network import (
    PieceScorer,
    Sampler,
    config_of,
    load_network,
)
from tritone_training.kinds.polyphony_rnn.priors import priors_of
from tritone_training.kinds.polyphony_rnn.sampler import JointSampler
from tritone_training.steering_tensors import N_STYLES, n_styles, steering_parameters


def exportable(folder: Path) -> Exportable:
    """Return what `tritone export` needs: the scorer, and the sampler as its companion.

    Raises:
        CheckpointError: the checkpoint cannot be used.
    """
    network, info = load_network(folder)
    frames_per_quarter = str(info["frames_per_quarter"])
    card = {key: value for key, value in info.items() if key not in ("format", "weights", "splits", "templates")}
    grid = {"frames_per_quarter": frames_per_quarter}
    network.requires_grad_(False)  # the loop's export would else try to carry what a backward pass needs
    scorer = Exportable(
        network=PieceScorer(network).eval(),
        declaration=replace(DECLARATION, parameters={**DECLARATION.parameters, **grid}),
        label_files={},
        metadata=grid,
        card=card,
    )
    if network.decoder is None:  # a checkpoint of an earlier version
        sampler = replace(
            scorer,
            network=Sampler(network).eval(),
            declaration=replace(UNSTEERED_SAMPLER, parameters={**UNSTEERED_SAMPLER.parameters, **grid}),
            example_inputs=unsteered_inputs,
        )
        return replace(scorer, companions=(sampler,))
    config, priors = config_of(info), priors_of(info)
    own = steering_parameters(
        styles=priors.styles,
        templates=info.get("templates", []),
        temperature=config.temperature,
        top_p=config.top_p,
        max_repeat_frames=N_LAGS,
    )
    sampler = replace(
        scorer,
        network=JointSampler(
            network,
            priors,
            frames_per_quarter=info["frames_per_quarter"],
            ending_temperature=config.ending_temperature,
            guidance=config.guidance,
        ).eval(),
        declaration=replace(SAMPLER, parameters={**SAMPLER.parameters, **grid, **own}),
        metadata={**grid, "styles": ",".join(priors.styles), N_STYLES: n_styles(priors.styles)},
    )
    return replace(scorer, companions=(sampler,))
