"""Hyper-parameters of `recommender`: presets and the space that `tritone tune` searches."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Final

from tritone_training.exceptions import TrainingError

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class RecommenderConfig:
    """What a fit is made of. Defaults were chosen on Last.fm's validation part.

    Attributes:
        power: plays to weights, `(plays / mean) ** power`; 0 only counts that an item was heard.
        skip: weight that speaks against items like a skipped one.
        tag_weight: what somebody's tag on an item they are not logged to have played counts, beside a listen of 1.
        n_neighbours: items that may speak for an item, in each item-item member.
        damping: item-item scores are divided by (items in the history) ** damping.
        ease_l2: ridge of EASE.
        ease_tags: what tags and words of metadata count in EASE beside listening; 0 without them.
        ease_most_items: beyond so many items (and 8,000 users) EASE gives way to its sparse kin: each item is solved
            among its `n_neighbours` alone. So does the graph filter.
        item_knn_shrink: added to the denominator of the cosine.
        graph_l2: ridge of the graph filter; larger is smoother.
        n_factors: size of the items' vectors for diversity and `similar`.
        user_knn_neighbours: people of like taste that are listened to.
        user_knn_people: of more users, so many are drawn once to be neighbours; nobody else ever is.
        user_knn_sharpness: likeness to this power.
        user_knn_damping: popularity to this power divides what they listen to.
        social_base: what a friend of unlike taste counts.
        friends_damping: (how many friends somebody has) ** damping divides their closeness.
        friends_second: what a friend of a friend counts beside a friend.
        n_profile_tags: of a history, weightiest first.
        taste: train `taste_vae` as a member.
        taste_preset: its preset.
        taste_epochs: its bound on epochs, 0 for the preset's.
        warm_from: histories of so many items are no longer short.
        n_listed: so many items are worked out in advance for each user; 0 for none.
        most_listed_users: beyond so many users nothing is.
        most_validation_users: learn the ensemble's weights on at most so many.
    """

    power: float = 0.25
    skip: float = 0.5
    tag_weight: float = 0.5
    n_neighbours: int = 200
    damping: float = 0.5
    ease_l2: float = 100.0
    ease_tags: float = 3.0
    ease_most_items: int = 20_000
    item_knn_shrink: float = 3.0
    graph_l2: float = 0.1
    n_factors: int = 64
    user_knn_neighbours: int = 100
    user_knn_people: int = 100_000
    user_knn_sharpness: float = 1.0
    user_knn_damping: float = 0.35
    social_base: float = 0.02
    friends_damping: float = 0.25
    friends_second: float = 0.2
    n_profile_tags: int = 200
    taste: int = 1
    taste_preset: str = "default"
    taste_epochs: int = 0
    warm_from: int = 10
    n_listed: int = 100
    most_listed_users: int = 100_000
    most_validation_users: int = 4_000

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "taste_preset":
                continue
            whole = field.name in _WHOLE
            if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
                raise TrainingError(f"{field.name} is {value!r}; expected a {'whole ' * whole}number")
            if not math.isfinite(value) or value < 0:
                raise TrainingError(f"{field.name} is {value!r}; expected a finite number, 0 or more")
            most = _MOST_OF_EXPONENTS.get(field.name, _MOST)
            if value > most:
                raise TrainingError(f"{field.name} is {value!r}; expected at most {most:g}")
        for name in ("ease_l2", "graph_l2", *_WHOLE - {"taste", "taste_epochs", "n_listed"}):
            if not getattr(self, name) > 0:
                raise TrainingError(f"{name} is {getattr(self, name)}; it must be above 0")


# Far beyond anything useful, and what is computed with it in single precision stays finite.
_MOST: Final = 1e12
_MOST_OF_EXPONENTS: Final = {
    "power": 4,
    "damping": 4,
    "friends_damping": 4,
    "user_knn_damping": 4,
    "user_knn_sharpness": 20,
}
_WHOLE: Final = {
    "n_neighbours",
    "ease_most_items",
    "n_factors",
    "user_knn_neighbours",
    "user_knn_people",
    "n_profile_tags",
    "taste",
    "taste_epochs",
    "warm_from",
    "n_listed",
    "most_listed_users",
    "most_validation_users",
}

PRESETS: Final[Mapping[str, RecommenderConfig]] = {
    "default": RecommenderConfig(),
    "demo": RecommenderConfig(n_neighbours=100, taste_preset="demo", ease_l2=30.0),
    "tiny": RecommenderConfig(
        n_neighbours=30, n_factors=8, user_knn_neighbours=50, taste_preset="tiny", most_validation_users=200
    ),
}


def build_config(preset: str, *, overrides: Mapping[str, Any]) -> RecommenderConfig:
    """Start from a preset and replace single values.

    Raises:
        TrainingError: no such preset or field, or a value out of range.
    """
    if preset not in PRESETS:
        raise TrainingError(f"no preset {preset!r}; there are: {', '.join(PRESETS)}")
    unknown = set(overrides) - {field.name for field in fields(RecommenderConfig)}
    if unknown:
        known = ", ".join(field.name for field in fields(RecommenderConfig))
        raise TrainingError(f"no hyper-parameter {', '.join(sorted(unknown))}; there are: {known}")
    return replace(PRESETS[preset], **overrides)


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    """The search space: how much each member generalises."""
    return {
        "power": trial.suggest_float("power", 0.0, 0.6),
        "ease_l2": trial.suggest_float("ease_l2", 20.0, 1_000.0, log=True),
        "item_knn_shrink": trial.suggest_float("item_knn_shrink", 0.5, 30.0, log=True),
        "graph_l2": trial.suggest_float("graph_l2", 0.01, 1.0, log=True),
        "tag_weight": trial.suggest_float("tag_weight", 0.0, 1.0),
        "user_knn_damping": trial.suggest_float("user_knn_damping", 0.0, 0.6),
    }


def to_dict(config: RecommenderConfig) -> dict[str, Any]:
    """For the checkpoint."""
    return asdict(config)
