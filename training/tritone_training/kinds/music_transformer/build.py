"""Networks of `music_transformer`: new, or from a checkpoint; and what of them is exported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from tritone_training import checkpoint
from tritone_training._exceptions import CheckpointError
from tritone_training.kind import Exportable
from tritone_training.kinds.music_transformer.config import TransformerConfig, network_arguments
from tritone_training.kinds.music_transformer.declaration import (
    COMPOSER,
    DECLARATION,
    N_STYLES,
    chunk_graph,
    n_styles,
    parameters,
)
from tritone_training.kinds.music_transformer.examples import chunk_inputs
from tritone_training.kinds.music_transformer.network import MusicTransformer
from tritone_training.kinds.music_transformer.writer import ChunkWriter, Writer

KIND_NAME: Final = "music_transformer"


def build_network(config: TransformerConfig, *, n_styles: int, onsets: bool) -> MusicTransformer:
    """A new network with random weights."""
    return MusicTransformer(**network_arguments(config), n_styles=n_styles, onsets=onsets)


def load_network(folder: Path) -> tuple[MusicTransformer, TransformerConfig, Mapping[str, Any]]:
    """The trained network in eval mode, its configuration, and checkpoint.json.

    Raises:
        CheckpointError: see `checkpoint.load`; also when the weights do not fit the network they describe.
    """
    saved = checkpoint.load(folder, kind=KIND_NAME)
    info = saved.info
    _check_styles(folder, info.get("styles"))
    try:
        config = TransformerConfig(**info["config"])
        network = build_network(config, n_styles=len(info["styles"]), onsets=bool(info["has_onsets"]))
        int(info["frames_per_quarter"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder}: checkpoint.json lacks or misnames {error}; train again") from error
    try:
        network.load_state_dict(dict(saved.weights))
    except RuntimeError as error:  # torch's word for names and shapes that differ
        why = str(error).splitlines()[-1].strip()
        raise CheckpointError(
            f"{folder}: weights and checkpoint.json do not belong together ({why}); train again"
        ) from error
    return network.eval(), config, info


def _check_styles(folder: Path, styles: object) -> None:
    """The styles become part of the model's config, long after the network was built."""
    named = isinstance(styles, list) and all(isinstance(style, str) and style.isprintable() for style in styles)
    if not named:
        raise CheckpointError(
            f"{folder}: checkpoint.json has the styles {styles!r}; expected a list of names; train again"
        )


def exportable(folder: Path | None, pretrained: str | None) -> Exportable:
    """What `tritone export` needs.

    Raises:
        CheckpointError: no checkpoint is given, or it cannot be used.
    """
    if pretrained is not None:
        raise CheckpointError(f"{KIND_NAME} has no pretrained weights; leave --pretrained out")
    if folder is None:
        raise CheckpointError(f"nothing to export: train first (`tritone train {KIND_NAME}`)")
    network, config, info = load_network(folder)
    card = {key: value for key, value in info.items() if key not in ("format", "weights", "splits")}
    return describe(
        network, config, styles=info["styles"], frames_per_quarter=int(info["frames_per_quarter"]), card=card
    )


def describe(
    network: MusicTransformer,
    config: TransformerConfig,
    *,
    styles: Sequence[str],
    frames_per_quarter: int,
    card: Mapping[str, Any],
) -> Exportable:
    """A network with all that travels with it, its streaming companion included.

    Args:
        frames_per_quarter: 0 if unknown.
    """
    # torch traces no loop within a loop where gradients may be asked for
    network = network.eval().requires_grad_(False)
    metadata = {
        "styles": ",".join(styles),
        N_STYLES: n_styles(styles),
        "has_onsets": str(network.onsets).lower(),
    }
    graph = chunk_graph(config)
    own = parameters(frames_per_quarter=frames_per_quarter, styles=styles)
    return Exportable(
        network=Writer(network),
        declaration=replace(DECLARATION, parameters={**DECLARATION.parameters, **own}),
        label_files={},
        metadata=metadata,
        card=card,
        companions=(
            Exportable(
                network=ChunkWriter(network),
                declaration=replace(COMPOSER, parameters={**COMPOSER.parameters, **own}),
                label_files={},
                metadata=metadata,
                card=card,
                graph=graph,
                example_inputs=partial(chunk_inputs, graph),
            ),
        ),
    )
