"""Export of Triton ensembles, and of the small graph that pools window embeddings in one of them.

These ensembles have no batch axis, because Triton compares the whole shapes of tensors between steps, batch axes
included: one step takes a recording as a batch of windows, the next one takes a single request. The graph between them
pools the embeddings of the windows into one. It is built node by node, because it has no learned weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tritonclient.grpc import model_config_pb2

from tritone.arguments import check_model_name
from tritone_export.card import CARD_FILENAME, card_bytes, describe_tensor
from tritone_export.config import CONFIG_FILES, LIMITS_PARAMETER, ModelConfig, add_tensor, config_text, limits_text
from tritone_export.convert import MAX_IR_VERSION, OPSET
from tritone_export.renderer import RENDERER_MODEL, publish_renderer, renderer_configs
from tritone_export.repository import publish, update, versions

if TYPE_CHECKING:
    from tritone_training.declaration import EnsembleDeclaration, Tensor

POOLING_MODEL: Final = "recording_embedding"
_ONNX: Final = "model.onnx"
MAX_WINDOWS: Final = 64  # windows of a recording; the largest batch of `genre_cnn`
_LARGEST_VALUE: Final = 2.0  # values from `genre_cnn` are within -1..1, apart from rounding
_MAX_FEATURES: Final = 4_096  # size of an embedding; that of `genre_cnn` is 256
_EPSILON: Final = 1e-12  # smallest divisor, for windows whose mean is zero


def publish_ensemble(
    declaration: EnsembleDeclaration,
    repository: Path,
    *,
    rename: Callable[[str], str] = lambda model: model,
    name: str | None = None,
) -> Path:
    """Add the next version of an ensemble, and the models without weights that its steps need and that are missing.

    Args:
        rename: returns the name of a step's model in this repository.
        name: name of the ensemble, if it differs from the declaration's.

    Returns:
        the version's folder, which holds only its card.
    """
    name = name or declaration.name
    check_model_name(name)
    steps = {step.model for step in declaration.steps}
    if POOLING_MODEL in steps:
        _publish_pooling(repository)
    if RENDERER_MODEL in steps:
        publish_renderer(repository)
    declaration = _renamed(declaration, rename)

    def version_files(version: int) -> dict[str, bytes]:
        return {CARD_FILENAME: card_bytes(_card(declaration, name, version))}

    configs = {file: text.encode() for file, text in ensemble_configs(declaration, name=name).items()}
    return publish(repository / name, version_files=version_files, model_files=configs)


def write_ensemble_configs(
    declaration: EnsembleDeclaration,
    repository: Path,
    *,
    rename: Callable[[str], str] = lambda model: model,
    name: str | None = None,
) -> list[Path]:
    """Write the configs of an ensemble and of its steps without weights, if they differ from the existing ones.

    Returns:
        the files that were written.
    """
    name = name or declaration.name
    files = {name: ensemble_configs(_renamed(declaration, rename), name=name), **step_configs(declaration)}
    return [
        path
        for model, texts in files.items()
        for path in update(repository / model, {file: text.encode() for file, text in texts.items()})
    ]


def step_configs(declaration: EnsembleDeclaration) -> dict[str, dict[str, str]]:
    """Return the configs of the steps that have no weights and belong to no model kind, by model."""
    made = {POOLING_MODEL: pooling_configs, RENDERER_MODEL: renderer_configs}
    steps = {step.model for step in declaration.steps}
    return {model: configs() for model, configs in made.items() if model in steps}


def ensemble_configs(declaration: EnsembleDeclaration, *, name: str | None = None) -> dict[str, str]:
    """Return the texts of both configuration files, which are equal, by path inside the model's folder."""
    config = model_config_pb2.ModelConfig(name=name or declaration.name, platform="ensemble", max_batch_size=0)
    for tensor in declaration.inputs:
        add_tensor(config.input, tensor)
    for tensor in declaration.outputs:
        add_tensor(config.output, tensor)
    config.version_policy.latest.num_versions = 1
    for step in declaration.steps:
        item = config.ensemble_scheduling.step.add(model_name=step.model, model_version=-1)
        for key, value in step.inputs.items():
            item.input_map[key] = value
        for key, value in step.outputs.items():
            item.output_map[key] = value
    for key, model in declaration.model_parameters.items():
        config.parameters[key].string_value = model
    return dict.fromkeys(CONFIG_FILES, config_text(config))


def pooling_configs() -> dict[str, str]:
    """Return the configs of the pooling graph, which has no batch axis and runs on the CPU in both profiles."""
    config: ModelConfig = model_config_pb2.ModelConfig(
        name=POOLING_MODEL, backend="onnxruntime", default_model_filename=_ONNX, max_batch_size=0
    )
    config.input.add(name="embeddings", data_type=model_config_pb2.TYPE_FP32, dims=[-1, -1])
    config.output.add(name="embedding", data_type=model_config_pb2.TYPE_FP32, dims=[1, -1])
    config.version_policy.latest.num_versions = 1
    config.instance_group.add(kind=model_config_pb2.ModelInstanceGroup.KIND_CPU, count=1)
    config.parameters["intra_op_thread_count"].string_value = "1"
    config.parameters[LIMITS_PARAMETER].string_value = limits_text(_pooling_inputs())
    return dict.fromkeys(CONFIG_FILES, config_text(config))


def _pooling_inputs() -> tuple[Tensor, ...]:
    """Return the graph's input with limits that fit the batch size and the embedding of `genre_cnn`."""
    from tritone_training.declaration import Axis, Limits, Tensor

    axes = (Axis("window", max_size=MAX_WINDOWS), Axis("feature", max_size=_MAX_FEATURES))
    limits = Limits(minimum=-_LARGEST_VALUE, maximum=_LARGEST_VALUE)
    return (Tensor("embeddings", "FP32", axes, "embedding of each window", limits=limits),)


def pooling_graph() -> bytes:
    """Build the graph: embeddings (W, E) of a recording -> embedding (1, E), the unit vector of their mean."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["embeddings", "windows"], ["mean"], keepdims=1),
            helper.make_node("ReduceL2", ["mean", "features"], ["length"], keepdims=1),
            helper.make_node("Max", ["length", "least"], ["divisor"]),
            helper.make_node("Div", ["mean", "divisor"], ["embedding"]),
        ],
        POOLING_MODEL,
        [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["window", "feature"])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [1, "feature"])],
        [
            numpy_helper.from_array(np.array([0], np.int64), "windows"),
            numpy_helper.from_array(np.array([1], np.int64), "features"),
            numpy_helper.from_array(np.array(_EPSILON, np.float32), "least"),
        ],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=MAX_IR_VERSION, producer_name="tritone"
    )
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _publish_pooling(repository: Path) -> None:
    """Add a version of the pooling graph, unless the newest one holds the same graph."""
    folder, content = repository / POOLING_MODEL, pooling_graph()
    configs = {file: text.encode() for file, text in pooling_configs().items()}
    found = versions(folder) if folder.is_dir() else []
    if found and (newest := folder / str(found[-1]) / _ONNX).is_file() and newest.read_bytes() == content:
        update(folder, configs)
        return
    publish(folder, version_files=lambda version: {_ONNX: content}, model_files=configs)


def _renamed(declaration: EnsembleDeclaration, rename: Callable[[str], str]) -> EnsembleDeclaration:
    return replace(
        declaration,
        steps=tuple(replace(step, model=rename(step.model)) for step in declaration.steps),
        model_parameters={key: rename(model) for key, model in declaration.model_parameters.items()},
    )


def _card(declaration: EnsembleDeclaration, name: str, version: int) -> Mapping[str, Any]:
    return {
        "model": name,
        "kind": "ensemble",
        "version": version,
        "summary": declaration.summary,
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "inputs": [describe_tensor(tensor, batched=False) for tensor in declaration.inputs],
        "outputs": [describe_tensor(tensor, batched=False) for tensor in declaration.outputs],
        "steps": [step.model for step in declaration.steps],
    }
