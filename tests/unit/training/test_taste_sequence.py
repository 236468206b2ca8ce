"""`taste_sequence`: its events and batches, what its network sees of a history, and bad input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse

from tritone_training import DataError, ListeningFiles, TrainRequest
from tritone_training.hyperparameters import from_preset
from tritone_training.kinds.taste_sequence.config import PRESETS
from tritone_training.kinds.taste_sequence.dataset import (
    EvaluationBatches,
    LengthBatches,
    TrainingHistories,
    collate,
    validation_batches,
)
from tritone_training.kinds.taste_sequence.declaration import PADDING, UNKNOWN_AGE
from tritone_training.kinds.taste_sequence.export import build_encoder, example_inputs
from tritone_training.kinds.taste_sequence.loading import load_data
from tritone_training.kinds.taste_sequence.network import (
    GAP_ENDS_S,
    EnsembleMember,
    SequenceLearner,
    SequenceNetwork,
    gap_ranges,
    gaps_of,
    next_item_loss,
)
from tritone_training.kinds.taste_sequence.sequence_data import SequenceData

N_ITEMS = 12
CONFIG = PRESETS["tiny"].changed(n_layers=2)


def read(tmp_path: Path, text: str, name: str = "log.txt", **files: Path) -> SequenceData:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return load_data(TrainRequest(out=tmp_path / "run", data=ListeningFiles(interactions=path, **files)))


def member(n_items: int = N_ITEMS, words: sparse.csr_matrix | None = None, unheard: int = 0) -> EnsembleMember:
    """A member with random parameters, for which the last `unheard` items have no listeners."""
    torch.manual_seed(0)
    made = EnsembleMember(
        listeners(n_items, unheard),
        sparse.csr_matrix((n_items, 0)) if words is None else words,
        encoder=build_encoder(CONFIG),
        size=CONFIG.size,
        popularity_exponent=0.4,
        temperature=0.1,
    )
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        made.encoder.forgetting.copy_(torch.linspace(0.1, 1, len(made.encoder.forgetting)))
    return made.eval()


def listeners(n_items: int = N_ITEMS, unheard: int = 0) -> torch.Tensor:
    return (torch.arange(n_items) < n_items - unheard).float()


def served(*members: EnsembleMember, unheard: int = 0) -> SequenceNetwork:
    return SequenceLearner(members, listeners(unheard=unheard)).network().eval()


@pytest.fixture
def network() -> SequenceNetwork:
    return served(member())


def scores(
    network: SequenceNetwork, items: list[int], ages: list[float] | None = None, skipped: list[float] | None = None
) -> torch.Tensor:
    times = [UNKNOWN_AGE] * len(items) if ages is None else ages
    skips = [0.0] * len(items) if skipped is None else skipped
    with torch.no_grad():
        found: torch.Tensor = network(torch.tensor([items]), torch.tensor([times]), torch.tensor([skips]))[0][0]
    return found


# --- events ---------------------------------------------------------------------------------------------------


def test_the_validation_item_is_the_last_of_each_user_and_items_are_sorted_by_popularity(tmp_path: Path) -> None:
    data = read(tmp_path, "u1 a b c\nu2 b c\nu3 b a d c\nu4 e\n")
    assert list(data.items) == ["b", "a", "d", "e", "c"]  # c is popular in validation alone, e was heard in training
    events = data.events
    names = [[data.items[item] for item in events.item[a:b]] for a, b in events.spans()]
    assert names == [["a", "b", "c"], ["b", "c"], ["b", "a", "d", "c"], ["e"]]
    assert [data.items[events.item[index]] if index >= 0 else None for index in data.held_out] == ["c", "c", "c", None]
    trained = events.until(data.held_out)
    assert [[data.items[item] for item in trained.item[a:b]] for a, b in trained.spans()] == [
        ["a", "b"],
        ["b"],
        ["b", "a", "d"],
        ["e"],
    ]


def test_targets_are_new_items_and_neither_skips_nor_repetitions(tmp_path: Path) -> None:
    rows = ["a,1,0", "b,2,1", "a,3,0", "c,4,0", "b,5,0", "d,6,0"]
    text = "user,item,time,skipped\n" + "\n".join(f"u,{row}" for row in rows) + "\nv,a,1,0\nv,d,2,0\n"
    data = read(tmp_path, text, "log.csv")
    events = data.events
    targets = [data.items[events.item[index]] if index >= 0 else None for index in events.targets()[:6]]
    assert targets == ["c", "c", "c", "b", "d", None]  # b counts as new although it was skipped before
    batch = collate([TrainingHistories(events, max_length=10)[0]])
    assert [data.items[item] if item >= 0 else None for item in batch.avoided[0].tolist()] == [
        "b",
        None,
        None,
        None,
        None,
    ]
    assert batch.gaps[0].tolist() == [1, 1, 1, 1, 1]


def test_long_histories_are_drawn_from_and_every_event_is_in_some_draw(tmp_path: Path) -> None:
    data = read(tmp_path, "u1 " + " ".join(f"i{n}" for n in range(50)) + "\nu2 i1 i2 i3\n")
    torch.manual_seed(0)
    histories = TrainingHistories(data.events, max_length=20)
    assert sorted(histories.lengths().tolist()) == [2, 20, 20, 20]
    seen = {int(item) for _ in range(40) for index in range(4) for item in histories[index][0]}
    assert len(seen) == 49  # the last event predicts nothing
    for index in range(4):
        items, _, _, targets, _ = histories[index]
        if len(items) == 20:
            assert targets[:-1].tolist() == items[1:].tolist()


def test_batches_hold_every_history_once_and_are_bounded(tmp_path: Path) -> None:
    lengths = np.random.default_rng(0).integers(1, 201, 300)
    batches = LengthBatches(lengths, batch_size=8)
    drawn = list(batches)
    assert sorted(index for batch in drawn for index in batch) == list(range(300))
    assert all(len(batch) <= 8 for batch in drawn)
    assert all(len(batch) * lengths[batch].max() <= 8 * 60 or len(batch) == 1 for batch in drawn)
    assert abs(len(batches) - len(drawn)) <= 2
    assert sorted(map(tuple, drawn)) != sorted(map(tuple, batches))


def test_validation_queries_hold_nothing_from_the_target_on(tmp_path: Path) -> None:
    text = "user,item,time\n" + "".join(f"u{u},i{(u + n) % 9},{1000 * n}\n" for u in range(4) for n in range(5))
    data = read(tmp_path, text, "log.csv")
    query = validation_batches(data, max_length=3, batch_size=8)[0]
    assert query.items.shape == (4, 3)
    for row, user in enumerate(query.users.tolist()):
        end = data.held_out[user]
        assert query.items[row].tolist() == data.events.item[end - 3 : end].tolist()
        assert query.targets[row] == data.events.item[end]
        assert query.ages[row].tolist() == [3000, 2000, 1000]


# --- bad input ------------------------------------------------------------------------------------------------


def test_empty_lines_and_users_of_one_item_are_read(tmp_path: Path) -> None:
    data = read(tmp_path, "\nu1 a b c\n\n\nu2 a\nu3 c a\n\n")
    assert data.held_out.tolist()[1] == -1
    assert len(validation_batches(data, max_length=5, batch_size=8)[0].users) == 2


def test_lines_of_one_user_are_joined_in_order_of_the_file(tmp_path: Path) -> None:
    data = read(tmp_path, "u1 a b\nu2 c a\nu1 c d\n")
    start, end = next(iter(data.events.spans()))
    assert [data.items[item] for item in data.events.item[start:end]] == ["a", "b", "c", "d"]


def test_rows_without_a_readable_time_are_left_out_and_counted(tmp_path: Path) -> None:
    text = "user,item,time\nu,a,2020-01-01\nu,b,NaN\nu,c,2020-01-03\nv,a,2020-01-02\nv,d,never\nv,c,2020-01-04\n"
    data = read(tmp_path, text, "log.csv")
    assert data.report["parts"]["log"]["dropped"] == {"time_unreadable": 2}
    assert sorted(data.items) == ["a", "c"]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("log.csv", "user,item\nu,a\nu,b\nv,a\n", "neither times nor an order"),
        ("log.txt", "u1 a\nu2 b\nu3 c\n", "no user listens to two different items"),
        ("log.txt", "u1 a a a\nu2 b b\n", "no user listens to two different items"),
        ("log.txt", "u1 a b\nu2\n", "line 2 has no item"),
        ("log.txt", "", "empty"),
        ("log.csv", "user,item,time\nu,a,NaN\nu,b,NaN\n", "no rows are left"),
    ],
)
def test_logs_that_cannot_be_trained_on_are_refused(tmp_path: Path, name: str, text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read(tmp_path, text, name)


# --- network --------------------------------------------------------------------------------------------------


def test_a_later_event_changes_no_earlier_output() -> None:
    model = member()
    items = torch.randint(0, N_ITEMS, (3, 9))
    gaps = torch.rand(3, 9) * 1e6
    skipped = (torch.rand(3, 9) < 0.3).float()
    known = torch.ones(3, 9, dtype=torch.bool)
    vectors, _ = model.vectors()
    with torch.no_grad():
        before = model.encoder(model.history(vectors, items, gaps, skipped, known))
        for place in range(9):
            changed = items.clone(), gaps.clone(), skipped.clone(), known.clone()
            changed[0][:, place] = (items[:, place] + 1) % N_ITEMS
            changed[1][:, place] = 5.0
            changed[2][:, place] = 1 - skipped[:, place]
            after = model.encoder(model.history(vectors, *changed))
            torch.testing.assert_close(after[:, :place], before[:, :place])
            assert not torch.allclose(after[:, place:], before[:, place:])


def test_hidden_first_events_show_nothing_of_later_ones() -> None:
    model = member()
    items = torch.randint(0, N_ITEMS, (1, 5))
    known = torch.tensor([[False, False, True, True, True]])
    vectors, _ = model.vectors()
    unknown, none = torch.full((1, 5), -1.0), torch.zeros(1, 5)
    with torch.no_grad():
        before = model.encoder(model.history(vectors, items, unknown, none, known))
        later = torch.tensor([[*items[0, :3].tolist(), 0, 1]])
        after = model.encoder(model.history(vectors, later, unknown, none, known))
    torch.testing.assert_close(after[:, :3], before[:, :3])


def test_the_served_network_returns_the_code_of_the_last_event() -> None:
    model = member()
    items = torch.randint(0, N_ITEMS, (2, 7))
    ages = torch.tensor([[9e5, 8e5, 2e4, 1e4, 900.0, 100.0, 10.0]]).expand(2, -1)
    known = torch.ones(2, 7, dtype=torch.bool)
    vectors, output_vectors = model.vectors()
    with torch.no_grad():
        embeddings = model.encoder(model.history(vectors, items, gaps_of(ages, known), torch.zeros(2, 7), known))
        expected = embeddings[:, -1] @ output_vectors.T / model.temperature
        torch.testing.assert_close(served(model)(items, ages, torch.zeros(2, 7))[0], expected)


def test_padding_on_either_side_changes_nothing(network: SequenceNetwork) -> None:
    items, ages, skipped = [3, 1, 4], [5e5, 3e3, 20.0], [0.0, 1.0, 0.0]
    expected = scores(network, items, ages, skipped)
    for left, right in ((2, 0), (0, 3), (1, 2)):
        padded = scores(
            network,
            [PADDING] * left + items + [PADDING] * right,
            [7.0] * left + ages + [UNKNOWN_AGE] * right,
            [1.0] * left + skipped + [0.0] * right,
        )
        torch.testing.assert_close(padded, expected)


def test_order_times_and_skips_matter(network: SequenceNetwork) -> None:
    base = scores(network, [3, 1, 4])
    assert not torch.allclose(scores(network, [4, 1, 3]), base)
    assert not torch.allclose(scores(network, [3, 1, 4], skipped=[0.0, 0.0, 1.0]), base)
    timed = scores(network, [3, 1, 4], [1e6, 1e6 - 60, 30.0])
    assert not torch.allclose(timed, base)
    assert not torch.allclose(timed, scores(network, [3, 1, 4], [90.0, 60.0, 30.0]))


def test_a_row_of_padding_is_ranked_by_popularity() -> None:
    ranked = scores(served(member(), unheard=3), [PADDING, PADDING])
    torch.testing.assert_close(ranked, torch.log1p(listeners(unheard=3)))


def test_the_scores_of_members_are_averaged() -> None:
    first, second = member(), member()
    with torch.no_grad():
        second.items.neg_()
    single = [scores(served(each), [3, 1, 4]) for each in (first, second)]
    assert not torch.allclose(*single)
    torch.testing.assert_close(scores(served(first, second), [3, 1, 4]), (single[0] + single[1]) / 2)


def test_gaps_lead_to_the_next_event_or_the_request() -> None:
    ages = torch.tensor([[100.0, 40.0, 10.0, -1.0], [50.0, -1.0, 5.0, 2.0], [1.0, 3.0, 0.0, 0.0]])
    known = torch.tensor([[True, True, True, False], [True] * 4, [True] * 4])
    assert gaps_of(ages, known).tolist() == [[60.0, 30.0, 10.0, -1.0], [-1.0, -1.0, 3.0, 2.0], [0.0, 3.0, 0.0, 0.0]]


def test_ranges_of_gaps() -> None:
    gaps = torch.tensor([-1.0, 0.0, 60.0, 61.0, 1e12])
    assert gap_ranges(gaps).tolist() == [0, 1, 1, 2, len(GAP_ENDS_S)]


def test_items_without_listeners_are_ranked_by_their_words() -> None:
    words = sparse.csr_matrix(np.repeat(np.eye(3), 4, axis=0).astype(np.float32))  # four items for each word
    model = member(words=words, unheard=1)  # item 11 has the word of items 8 to 10
    with torch.no_grad():
        model.items.mul_(0.01)
        model.output_offsets.zero_()
        vectors, _ = model.vectors()
        torch.testing.assert_close(vectors[11], model.words[2])
        model.encoder.attention_weight.zero_()
        ranked = scores(served(model), [8, 9, 10])
    assert ranked[11] > ranked[:8].max()
    model = member(unheard=1)
    assert not model.vectors()[0][11].any(), "without words it has no vector"


def test_dropped_items_keep_their_words_alone() -> None:
    words = sparse.csr_matrix(np.eye(N_ITEMS, 3, dtype=np.float32))  # only the first three items have words
    model = member(words=words)
    vectors, _ = model.vectors(dropped=1.0)
    torch.testing.assert_close(vectors[:3], model.words)
    torch.testing.assert_close(vectors[3:], model.items[3:])


def test_the_loss_estimates_that_of_the_whole_catalogue_and_avoids_skipped_items() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    none = torch.tensor([-torch.inf])
    everything = next_item_loss(logits[:, 0], logits[:, 1:], none, torch.tensor([True]), 1.0)
    torch.testing.assert_close(everything, torch.nn.functional.cross_entropy(logits, torch.tensor([0])))
    torch.manual_seed(0)
    chances = torch.tensor([0.5, 0.3, 0.2])
    drawn = torch.multinomial(chances, 20_000, replacement=True)
    sampled = logits[:, 1:][:, drawn] - torch.log(chances[drawn] * len(drawn))
    estimated = next_item_loss(logits[:, 0], sampled, none, torch.tensor([True]), 1.0)
    torch.testing.assert_close(estimated, everything, atol=0.01, rtol=0)
    skip = torch.tensor([1.5], requires_grad=True)
    loss = next_item_loss(torch.zeros(1), logits[:, 1:], skip, torch.tensor([False]), 1.0)
    loss.backward()
    assert skip.grad is not None
    assert skip.grad > 0, "descending the loss lowers the logit of the skipped item"
    assert not next_item_loss(torch.zeros(1), logits[:, 1:], none, torch.tensor([False]), 1.0).item()


def test_example_inputs_hold_times_skips_and_padding() -> None:
    example = example_inputs(16, 0, n_items=5)
    assert example["items"].max() < 5
    assert (example["items"] == PADDING).any()
    assert (example["skipped"] == 1).any()
    assert (example["ages"] > 0).any()
    known = example["items"] >= 0
    assert ((example["ages"] == UNKNOWN_AGE).all(1) | ((example["ages"] >= 0) == known).all(1)).all()


def test_sizes_have_to_fit() -> None:
    from tritone_training import HyperparameterError

    with pytest.raises(HyperparameterError, match="multiple of n_decays"):
        from_preset(PRESETS, "tiny", {"n_decays": 3})
    with pytest.raises(HyperparameterError, match="n_negatives"):
        from_preset(PRESETS, "tiny", {"n_negatives": 255})


def test_queries_of_unknown_histories_are_padding(tmp_path: Path) -> None:
    data = read(tmp_path, "u1 a b\nu2 a b\n")
    targets = np.array([0, 1])
    query = EvaluationBatches(
        data.events, targets, data.events.starts[:-1], np.full(2, np.nan), max_length=4, batch_size=4
    )[0]
    assert (query.items == PADDING).all()
    assert query.items.shape == (2, 1)


def test_a_request_of_unknown_time_follows_the_last_event_at_once(tmp_path: Path) -> None:
    data = read(tmp_path, "user,item,time\nu,a,100\nu,b,160\nu,c,200\nv,a,5\nv,b,9\n", "log.csv")
    targets, ends = np.array([0, 0]), data.events.starts[1:]
    query = EvaluationBatches(data.events, targets, ends, np.full(2, np.nan), max_length=4, batch_size=4)[0]
    rows = {user: row for row, user in enumerate(query.users.tolist())}
    assert query.ages[rows[0]].tolist() == [100, 40, 0]
    assert query.ages[rows[1]].tolist() == [4, 0, UNKNOWN_AGE]
