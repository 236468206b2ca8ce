from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from tritone.constants import PRIORITIES
from tritone_export import DeclarationError, InvalidModelNameError, write_configs
from tritone_export.config import HEADER, build_config, config_files
from tritone_training.declaration import Axis, Declaration, Limits, Tensor
from tritone_training.kinds.genre_cnn.declaration import DECLARATION, PCM16, with_tags
from tritone_training.registry import get_kind, kind_names


def parse(text: str) -> Any:
    return text_format.Parse(text, pb.ModelConfig())


@pytest.mark.parametrize("declaration", [DECLARATION, PCM16, with_tags(DECLARATION)])
@pytest.mark.parametrize("file", ["config.pbtxt", "configs/gpu.pbtxt"])
def test_text_parses_back_to_the_declaration(declaration: Declaration, file: str) -> None:
    text = config_files(declaration)[file]
    config = parse(text)
    serving = declaration.serving
    assert text.startswith(HEADER)
    assert (config.name, config.backend, config.default_model_filename) == (
        declaration.name,
        "onnxruntime",
        "model.onnx",
    )
    for side, tensors in (("input", declaration.inputs), ("output", declaration.outputs)):
        found = [(t.name, pb.DataType.Name(t.data_type), list(t.dims)) for t in getattr(config, side)]
        assert found == [(t.name, f"TYPE_{t.dtype}", [axis.size or -1 for axis in t.axes]) for t in tensors]
    assert [t.label_filename or None for t in config.output] == [t.label_file for t in declaration.outputs]
    assert config.max_batch_size == serving.batching.max_batch_size
    batching = config.dynamic_batching
    declared = serving.batching if file == "config.pbtxt" else serving.gpu_batching
    assert declared is not None
    assert tuple(batching.preferred_batch_size) == declared.preferred_batch_sizes
    assert batching.max_queue_delay_microseconds == declared.max_queue_delay_microseconds
    policy = batching.default_queue_policy
    assert policy.timeout_action == pb.ModelQueuePolicy.REJECT
    assert policy.default_timeout_microseconds == serving.queue.default_timeout_microseconds
    assert policy.max_queue_size == serving.queue.max_queue_size
    assert policy.allow_timeout_override
    assert config.response_cache.enable == serving.response_cache
    assert config.version_policy.latest.num_versions == 1
    assert [w.batch_size for w in config.model_warmup] == list(serving.warmup_batch_sizes)
    assert list(config.model_warmup[0].inputs["audio"].dims) == [66_150]
    for key, value in declaration.parameters.items():
        assert config.parameters[key].string_value == value


def test_cpu_and_gpu_configs_differ_only_in_placement_and_batching() -> None:
    files = config_files(DECLARATION)
    cpu, gpu = parse(files["config.pbtxt"]), parse(files["configs/gpu.pbtxt"])
    assert [g.kind for g in cpu.instance_group] == [pb.ModelInstanceGroup.KIND_CPU]
    assert [g.kind for g in gpu.instance_group] == [pb.ModelInstanceGroup.KIND_GPU]
    assert gpu.parameters["cudnn_conv_algo_search"].string_value == "1"
    assert "cudnn_conv_algo_search" not in cpu.parameters
    for config in (cpu, gpu):
        del config.instance_group[:]
        config.parameters.clear()
        config.dynamic_batching.ClearField("preferred_batch_size")
        config.dynamic_batching.ClearField("max_queue_delay_microseconds")
    assert cpu == gpu


def test_a_kind_without_gpu_instances_stays_on_the_cpu() -> None:
    serving = replace(DECLARATION.serving, instances=replace(DECLARATION.serving.instances, n_gpu=0))
    gpu = parse(config_files(replace(DECLARATION, serving=serving))["configs/gpu.pbtxt"])
    assert [g.kind for g in gpu.instance_group] == [pb.ModelInstanceGroup.KIND_CPU]
    assert "cudnn_conv_algo_search" not in gpu.parameters


def test_scalars_per_item_are_reshaped_and_free_axes_get_a_warm_up_size() -> None:
    declaration = replace(
        DECLARATION,
        inputs=(Tensor("seed", "INT64", (), "s"), Tensor("notes", "INT32", (Axis("step"),), "n")),
        outputs=(Tensor("words", "BYTES", (Axis("word"),), "w"),),
    )
    config = parse(config_files(declaration)["config.pbtxt"])
    assert list(config.input[0].dims) == [1]
    assert config.input[0].HasField("reshape")
    assert list(config.input[0].reshape.shape) == []
    assert list(config.model_warmup[0].inputs["notes"].dims) == [1]
    assert pb.DataType.Name(config.output[0].data_type) == "TYPE_STRING"


def streaming(**changed: Any) -> Declaration:
    """Return the declaration of `genre_cnn` as that of a streaming model."""
    serving = replace(DECLARATION.serving, warmup_batch_sizes=())
    return replace(DECLARATION, backend="composer", decoupled=True, serving=replace(serving, **changed))


def test_a_decoupled_model_has_no_queue_cache_or_warm_up() -> None:
    for text in config_files(streaming()).values():
        config = parse(text)
        assert (config.backend, config.default_model_filename) == ("composer", "model.onnx")
        assert config.model_transaction_policy.decoupled
        assert not config.HasField("dynamic_batching")
        assert not config.HasField("response_cache")
        assert not config.model_warmup
    assert not parse(config_files(DECLARATION)["config.pbtxt"]).HasField("model_transaction_policy")


def test_a_streaming_backend_may_run_on_a_gpu() -> None:
    gpu = parse(config_files(streaming())["configs/gpu.pbtxt"])
    assert [group.kind for group in gpu.instance_group] == [pb.ModelInstanceGroup.KIND_GPU]


def test_a_decoupled_model_cannot_have_warmup() -> None:
    with pytest.raises(DeclarationError):
        config_files(streaming(warmup_batch_sizes=(1,)))


def cached(*inputs: Tensor, outputs: int = 1, **changed: Any) -> Declaration:
    """Return the declaration of a model that may enable the response cache, with changes."""
    return replace(
        DECLARATION,
        inputs=inputs or (Tensor("x", "FP32", (Axis("feature", 4),), "values"),),
        outputs=tuple(Tensor(f"y{i}", "FP32", (Axis("feature", 4),), "values") for i in range(outputs)),
        serving=replace(DECLARATION.serving, response_cache=True, warmup_batch_sizes=()),
        **changed,
    )


def test_a_deterministic_model_with_one_output_may_opt_in_to_the_response_cache() -> None:
    assert all(parse(text).response_cache.enable for text in config_files(cached()).values())


@pytest.mark.parametrize(
    "declaration",
    [
        cached(outputs=2),
        cached(backend="composer", decoupled=True),
        cached(Tensor("x", "FP32", (Axis("feature", 4),), "values", limits=Limits())),
        cached(Tensor("x", "FP32", (Axis("feature"),), "values")),
        cached(Tensor("noise", "FP32", (Axis("feature", 4),), "uniform")),
        cached(Tensor("user_id", "BYTES", (Axis("one", 1),), "id")),
    ],
    ids=["two outputs", "decoupled", "limited values", "limited size", "random", "about users"],
)
def test_the_response_cache_is_refused(declaration: Declaration) -> None:
    with pytest.raises(DeclarationError):
        config_files(declaration)


@pytest.mark.parametrize(
    ("batching", "instances"),
    [
        ({"max_batch_size": 0}, {}),
        ({"preferred_batch_sizes": (8, 128)}, {}),
        ({"preferred_batch_sizes": (0,)}, {}),
        ({"max_batch_size": 32}, {}),  # and 64 on a GPU
        ({}, {"n_cpu": 0}),
        ({}, {"n_gpu": -1}),
    ],
)
def test_declarations_that_triton_would_refuse_are_refused(batching: dict[str, Any], instances: dict[str, Any]) -> None:
    serving = DECLARATION.serving
    serving = replace(
        serving,
        batching=replace(serving.batching, **batching),
        instances=replace(serving.instances, **instances),
    )
    with pytest.raises(DeclarationError, match="genre_cnn"):
        config_files(replace(DECLARATION, serving=serving))


def test_write_configs_writes_what_differs(tmp_path: Path) -> None:
    first = write_configs(DECLARATION, tmp_path)
    folder = tmp_path / "genre_cnn"
    assert first == [folder / "config.pbtxt", folder / "configs" / "gpu.pbtxt"]
    assert write_configs(DECLARATION, tmp_path) == []
    (folder / "configs" / "gpu.pbtxt").write_text("spoiled")
    assert write_configs(DECLARATION, tmp_path) == [folder / "configs" / "gpu.pbtxt"]
    assert not list(folder.glob(".staging-*"))


def test_a_model_may_have_another_name(tmp_path: Path) -> None:
    write_configs(DECLARATION, tmp_path, name="genre_emotify")
    assert parse((tmp_path / "genre_emotify" / "config.pbtxt").read_text()).name == "genre_emotify"
    for name in ("../up", "", "a b", ".hidden", "a/b", "x" * 200):
        with pytest.raises(InvalidModelNameError):
            write_configs(DECLARATION, tmp_path, name=name or " ")


def test_batch_requests_wait_behind_interactive_ones_in_every_kind() -> None:
    for kind in map(get_kind, kind_names()):
        for declaration in kind.declarations:
            for profile in ("cpu", "gpu"):
                config = build_config(declaration, profile=profile)
                if declaration.decoupled:
                    assert not config.HasField("dynamic_batching")
                    continue
                batching, queue = config.dynamic_batching, declaration.serving.queue
                assert (batching.priority_levels, batching.default_priority_level) == (2, PRIORITIES["interactive"])
                assert batching.default_queue_policy.max_queue_size == queue.max_queue_size
                policy = batching.priority_queue_policy[PRIORITIES["batch"]]
                assert policy.max_queue_size == queue.max_batch_queue_size < queue.max_queue_size
                assert policy.default_timeout_microseconds == queue.batch_timeout_microseconds
