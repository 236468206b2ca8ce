"""Simulated sessions: reproducible, said to be simulated, and with the structure that they are meant to have."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from tritone.constants import EMOTIONS
from tritone_training.data.interactions import (
    SIMULATED_SESSIONS,
    ListeningFiles,
    SimulatedSessions,
    load_listening,
    simulate_sessions,
)
from tritone_training.data.interactions.simulated import SimulatedItem
from tritone_training.kind import TrainRequest


@functools.cache
def sessions(seed: int = 1) -> SimulatedSessions:
    rng = np.random.default_rng(5)
    words = (("jig", "mass", "reel", "chorale"), ("major", "minor"), ("slow", "fast"))
    items = [
        SimulatedItem(str(n), tuple(str(rng.choice(each)) for each in words), {"title": str(n)}) for n in range(160)
    ]
    return simulate_sessions(items, seed=seed, n_listeners=120)


def test_sessions_are_marked_and_reproducible() -> None:
    made = sessions()
    assert made.world.log.source == SIMULATED_SESSIONS
    assert made.world.log.report["simulated"] is True
    assert made.world.tags.report["source"] == SIMULATED_SESSIONS
    again, other = sessions.__wrapped__(1), sessions(2)
    assert made.world.log.fingerprint() == again.world.log.fingerprint() != other.world.log.fingerprint()


def test_events_are_in_order_and_skips_are_no_plays() -> None:
    made = sessions()
    log, events = made.world.log, made.world.log.sequences
    assert events is not None
    assert events.time is not None
    same_user = events.user[1:] == events.user[:-1]
    assert (np.diff(events.user) >= 0).all()
    assert (np.diff(events.time)[same_user] > 0).all()
    assert 0.02 < events.skipped.mean() < 0.3
    assert log.plays.sum() == (~events.skipped).sum()
    assert len(made.session) == len(made.mood) == len(events)
    # A session is of one listener and one mood.
    assert len({*zip(made.session.tolist(), events.user.tolist(), made.mood.tolist(), strict=True)}) == len(
        np.unique(made.session)
    )


def test_the_next_style_depends_on_the_last_one() -> None:
    made = sessions()
    events = made.world.log.sequences
    assert events is not None
    kept = ~events.skipped
    styles, session = made.styles[events.item[kept]], made.session[kept]
    inside = session[1:] == session[:-1]
    n_styles = int(made.styles.max()) + 1
    steps = np.zeros((n_styles, n_styles))
    np.add.at(steps, (styles[:-1][inside], styles[1:][inside]), 1)
    shares = np.bincount(styles, minlength=n_styles) / len(styles)
    after = steps / np.maximum(steps.sum(1, keepdims=True), 1)
    likeliest = (after.max(1) * steps.sum(1)).sum() / steps.sum()
    assert likeliest > 1.8 * shares.max()


def test_moods_follow_the_hour_and_skipped_pieces_fit_them_less() -> None:
    made = sessions()
    events = made.world.log.sequences
    assert events is not None
    assert events.time is not None
    np.testing.assert_allclose(made.item_moods.sum(1), 1)
    hours = events.time % 86_400 / 3_600
    morning, night = ((hours >= low) & (hours < high) for low, high in ((6, 11), (0, 6)))
    joy = made.mood == EMOTIONS.index("joyful_activation")
    assert joy[morning].mean() > 2 * joy[night].mean()
    fit = made.item_moods[events.item, made.mood]
    assert fit[~events.skipped].mean() > 1.1 * fit[events.skipped].mean()


def test_tastes_drift() -> None:
    """Styles of neighbouring weeks of a listener are more alike than those of distant ones."""
    made = sessions()
    events = made.world.log.sequences
    assert events is not None
    assert events.time is not None
    n_styles = int(made.styles.max()) + 1
    week = ((events.time - events.time.min()) // (7 * 86_400)).astype(np.int64)
    profile = np.zeros((120, int(week.max()) + 1, n_styles))
    np.add.at(profile, (events.user, week, made.styles[events.item]), 1)
    profile /= np.maximum(np.linalg.norm(profile, axis=2, keepdims=True), 1e-9)
    near, far = ((profile[:, k:] * profile[:, :-k]).sum(2) for k in (1, 9))
    assert near[near > 0].mean() > 1.02 * far[far > 0].mean()


def test_a_run_can_be_asked_to_train_on_sessions(tmp_path: Path) -> None:
    files = ListeningFiles(interactions=Path("simulated:sessions"))
    listening = load_listening(TrainRequest(out=tmp_path, data=files, progress=False))
    assert listening.train.source == SIMULATED_SESSIONS
    assert listening.test is not None
    assert listening.train.sequences is not None
    assert listening.train.sequences.time is not None
    assert listening.test.time is not None
    assert listening.train.sequences.time.max() <= listening.test.time.min()
