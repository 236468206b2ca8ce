"""Inputs of canaries for models of which every input is optional."""

from __future__ import annotations

from tritonclient.grpc import model_config_pb2

from tritone_serving.canary import make_inputs


def config(*inputs: tuple[str, int, list[int]]) -> model_config_pb2.ModelConfig:
    made = model_config_pb2.ModelConfig(name="model", max_batch_size=8)
    for name, dtype, dims in inputs:
        made.input.add(name=name, data_type=dtype, dims=dims, optional=True)
    return made


def test_a_single_integer_is_sent_and_no_list_that_belongs_to_another_input() -> None:
    text, integer = model_config_pb2.TYPE_STRING, model_config_pb2.TYPE_INT64
    found = make_inputs(config(("history", text, [-1]), ("times", integer, [-1]), ("k", integer, [1])))
    assert {name: array.tolist() for name, array in found.items()} == {"k": [[1]]}


def test_without_a_single_integer_a_list_is_sent() -> None:
    found = make_inputs(config(("text", model_config_pb2.TYPE_STRING, [1]), ("ids", model_config_pb2.TYPE_INT64, [-1])))
    assert list(found) == ["ids"]
