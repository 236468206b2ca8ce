"""The model `score_renderer`, which plays the notes of a composing step for a listening step of the same ensemble.

It has no weights: its version folder holds only a card.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tritonclient.grpc import model_config_pb2

from tritone.constants import WINDOW_SAMPLES
from tritone.music.grid import MAX_FRAMES, N_PITCHES, STRUCK
from tritone_export.card import CARD_FILENAME, card_bytes, describe_tensor
from tritone_export.config import CONFIG_FILES, LIMITS_PARAMETER, ModelConfig, add_tensor, config_text, limits_text
from tritone_export.repository import publish, update, versions

if TYPE_CHECKING:
    from tritone_training.declaration import Tensor

RENDERER_MODEL: Final = "score_renderer"
RENDERER_BACKEND: Final = "renderer"
FRAME_S_RANGE: Final = (0.0025, 15.0)  # what scores at 4 to 1,000 quarter notes a minute have


def renderer_configs() -> dict[str, str]:
    """Return the texts of both configuration files; the model runs on the CPU in both profiles."""
    config: ModelConfig = model_config_pb2.ModelConfig(name=RENDERER_MODEL, backend=RENDERER_BACKEND, max_batch_size=0)
    for tensor in renderer_inputs():
        add_tensor(config.input, tensor)
    for tensor in _outputs():
        add_tensor(config.output, tensor)
    config.version_policy.latest.num_versions = 1
    config.instance_group.add(kind=model_config_pb2.ModelInstanceGroup.KIND_CPU, count=1)
    config.parameters[LIMITS_PARAMETER].string_value = limits_text(renderer_inputs())
    return dict.fromkeys(CONFIG_FILES, config_text(config))


def publish_renderer(repository: Path) -> None:
    """Add the first version of the model, or bring the configs of an existing one up to date."""
    folder = repository / RENDERER_MODEL
    configs = {file: text.encode() for file, text in renderer_configs().items()}
    if folder.is_dir() and versions(folder):
        update(folder, configs)
        return
    publish(folder, version_files=lambda version: {CARD_FILENAME: _card(version)}, model_files=configs)


def renderer_inputs() -> tuple[Tensor, ...]:
    """Return the inputs of the model, which has no batch axis."""
    from tritone_training.declaration import Axis, Limits, Tensor

    one = Axis("one", 1)
    shortest_s, longest_s = FRAME_S_RANGE
    return (
        Tensor(
            "frames",
            "UINT8",
            (one, Axis("frame", max_size=MAX_FRAMES), Axis("pitch", N_PITCHES)),
            "notes of one piece: 0 silent, 1 held, 2 struck; pitches 21..108",
            limits=Limits(minimum=0, maximum=STRUCK),
        ),
        Tensor(
            "frame_s",
            "FP32",
            (one, Axis("one", 1)),
            "duration of a frame in seconds",
            limits=Limits(minimum=shortest_s, maximum=longest_s),
        ),
    )


def _outputs() -> tuple[Tensor, ...]:
    from tritone_training.declaration import Axis, Tensor

    window, one = Axis("window"), Axis("one", 1)
    return (
        Tensor(
            "audio",
            "FP32",
            (window, Axis("sample", WINDOW_SAMPLES)),
            "windows of 3 s of mono PCM at 22,050 Hz, 1 to 64; the last one ends with the sound",
        ),
        Tensor("start_s", "FP32", (window,), "start of each window in seconds"),
        Tensor("duration_s", "FP32", (one,), "length of the sound in seconds"),
        Tensor("render_s", "FP32", (one,), "seconds that rendering took"),
    )


def _card(version: int) -> bytes:
    return card_bytes(
        {
            "model": RENDERER_MODEL,
            "kind": RENDERER_BACKEND,
            "version": version,
            "summary": "Plays a piece on a synthesizer with a General MIDI SoundFont.",
            "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
            "inputs": [describe_tensor(tensor, batched=False) for tensor in renderer_inputs()],
            "outputs": [describe_tensor(tensor, batched=False) for tensor in _outputs()],
        }
    )
