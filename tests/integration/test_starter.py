"""Starter weights on a real server: exported by the command, served, and called, without any training."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from tests.support import music_models
from tests.support.cache import copy_cached
from tests.support.starter_stand_in import write_stand_ins

from tritone import MusicClient
from tritone_cli import main
from tritone_serving import ServerOptions, TritonServer
from tritone_training import checkpoint

pytestmark = [pytest.mark.triton, pytest.mark.timeout(600)]

KINDS = ("music_transformer", "polyphony_rnn", "music_vae")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository that only `tritone export KIND --starter` has written to."""
    folder = tmp_path_factory.mktemp("starter")

    def export(made: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TRITONE_WEIGHTS", str(write_stand_ins(made / "weights", KINDS)))
            for kind in KINDS:
                arguments = ["export", kind, "--starter", "--repository", str(made / "models")]
                patch.setattr(sys, "argv", ["tritone", *arguments])
                with pytest.raises(SystemExit) as ended:
                    main.main()
                assert not ended.value.code

    copy_cached("starter", export, folder, sources=(*music_models.EXPORT, "cli/tritone_cli"))
    return folder / "models"


def test_the_model_card_names_the_licence_and_the_weights(repository: Path) -> None:
    for kind in KINDS:
        info = checkpoint.read_info(repository.parent / "weights" / kind)
        card = json.loads((repository / kind / "1" / "model_card.json").read_text(encoding="utf-8"))
        for name in ("licence", "command", "seed", "metrics", "weights_sha256"):
            assert card[name] == info[name]
        assert card["data"]["fingerprint"] == info["data"]["fingerprint"]


def test_starter_models_are_served_as_any_other(repository: Path, tmp_path: Path) -> None:
    options = ServerOptions(repository=repository, http_port=0, grpc_port=0, metrics_port=0)
    with TritonServer.start(options) as server, MusicClient(server.grpc_url) as music:
        composed = music.compose(bars=2, seed=1)
        assert composed.model == "music_transformer"
        composed.save(tmp_path / "composed.mid")
        assert music.compose(bars=2, seed=1).score.dumps_midi() == (tmp_path / "composed.mid").read_bytes()
        assert music.compose(bars=2, seed=1, model="polyphony_rnn").model == "polyphony_rnn"
        assert music.reconstruct(tmp_path / "composed.mid").model == "music_vae"
