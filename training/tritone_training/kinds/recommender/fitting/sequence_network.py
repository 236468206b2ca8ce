"""Training of `taste_sequence` as a base model, on the order of listening in the artifact's numbering of items."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tritone_serving.recommender import TASTE_SEQUENCE
from tritone_training import checkpoint
from tritone_training.data.interactions import ListeningData, UserSequences, words_matrix
from tritone_training.exceptions import TrainingError
from tritone_training.hyperparameters import from_preset
from tritone_training.kind import TrainRequest
from tritone_training.kinds.recommender.config import RecommenderConfig
from tritone_training.kinds.recommender.fitting.base_models import ArtifactParts
from tritone_training.kinds.recommender.fitting.interaction_dataset import InteractionDataset, renumbered
from tritone_training.kinds.taste_sequence.config import PRESETS
from tritone_training.kinds.taste_sequence.sequence_data import NO_TARGET, EventArrays, SequenceData
from tritone_training.kinds.taste_sequence.train import train_on_all, train_sequences


def train_sequence_network(
    request: TrainRequest,
    config: RecommenderConfig,
    listening: ListeningData,
    dataset: InteractionDataset,
    parts: ArtifactParts,
    *,
    selected: Path | None,
) -> dict[str, Any] | None:
    """Train `taste_sequence` and add it to the base models; return its description for checkpoint.json.

    Args:
        request: `out` is the folder of the recommender's checkpoint.
        config: hyper-parameters.
        listening: its validation split selects the epoch.
        dataset: of the training split, with its order.
        parts: of the artifact.
        selected: checkpoint whose number of epochs is used, if the training split holds the held-out listens too.

    Returns:
        None, without training, if no user has a history and a held-out listen to a known item.

    Raises:
        TrainingError: training diverged, or a resumed one was begun on other data.
    """
    data = sequence_data(listening, dataset, is_whole=selected is not None)
    if not (data.held_out >= 0).any():
        return None
    overrides = {"max_epochs": config.taste_sequence_epochs} if config.taste_sequence_epochs else {}
    sequence_config = from_preset(PRESETS, config.taste_sequence_preset, overrides)
    folder = request.out / TASTE_SEQUENCE
    sequence_request = replace(request, out=folder, preset=config.taste_sequence_preset, refit_on_all=False)
    if request.resume and (folder / checkpoint.INFO).is_file():  # finished before the interruption
        if checkpoint.read_info(folder).get("learned_from") != data.fingerprint():
            raise TrainingError(
                f"{folder}: cannot be resumed with other data: the listening log differs from the one that it was "
                f"trained on; restore that log, or start again with --overwrite"
            )
    elif selected is None:
        train_sequences(sequence_request, sequence_config, data)
    else:
        train_on_all(sequence_request, sequence_config, data, selected=checkpoint.read_info(selected))
    trained = checkpoint.load(folder, kind=TASTE_SEQUENCE)
    parts.base_models[TASTE_SEQUENCE] = {
        "kind": "taste_sequence",
        "n_known": len(trained.info["items"]),
        "fingerprint": str(trained.info["weights_sha256"])[:16],
    }
    return {
        "n_items": len(trained.info["items"]),
        "n_parameters": sum(tensor.numel() for tensor in trained.weights.values()),
        **{name: trained.info[name] for name in ("n_epochs", "metrics")},
    }


def sequence_data(listening: ListeningData, dataset: InteractionDataset, *, is_whole: bool) -> SequenceData:
    """Return the training data, with the first held-out listen of each user behind the events of the training split.

    Args:
        listening: with the validation split.
        dataset: of the training split; its items are numbered as in the artifact.
        is_whole: the training split holds the held-out listens too; then each user's last item is held out.
    """
    assert dataset.sequences is not None  # noqa: S101 - the caller checks that the log has an order
    # Sorted by id, because the order of pseudonyms depends on the key and equal seeds should give equal networks.
    names = sorted(dataset.users)
    users = {name: row for row, name in enumerate(names)}
    items = {name: index for index, name in enumerate(dataset.items)}
    sequences = renumbered(listening.train, users, items)
    assert sequences is not None  # noqa: S101 - as above
    is_next = np.zeros(len(sequences), np.bool_)
    if not is_whole:
        sequences, is_next = _with_next(sequences, renumbered(listening.valid, users, items))
    events = EventArrays.of(sequences, len(names), np.arange(len(items)))
    held_out = events.last_new()
    if not is_whole:
        held_out = np.full(len(names), NO_TARGET, np.int64)
        next_events = np.flatnonzero(is_next & (np.arange(len(sequences)) > events.starts[sequences.user]))
        held_out[sequences.user[next_events]] = next_events
    return SequenceData(dataset.items, events, held_out, words_matrix(listening, dataset.items), dict(listening.report))


def _with_next(sequences: UserSequences, held_out: UserSequences | None) -> tuple[UserSequences, npt.NDArray[np.bool_]]:
    """Return the sequences with the first held-out listen of each user as the last event, and which events these are.

    Args:
        sequences: of the training split.
        held_out: of the validation split; None if it has no order.
    """
    if held_out is None:
        return sequences, np.zeros(len(sequences), np.bool_)
    listens = held_out.take(~held_out.skipped)
    first = np.zeros(len(listens), np.bool_)
    first[np.unique(listens.user, return_index=True)[1]] = True
    following = listens.take(first)
    user = np.concatenate([sequences.user, following.user])
    order = np.argsort(user, kind="stable")
    time = None
    if sequences.time is not None and following.time is not None:
        time = np.concatenate([sequences.time, following.time])[order]
    joined = UserSequences(
        user[order],
        np.concatenate([sequences.item, following.item])[order],
        time,
        np.concatenate([sequences.skipped, following.skipped])[order],
    )
    return joined, order >= len(sequences)
