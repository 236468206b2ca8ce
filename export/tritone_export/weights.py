"""Keep the weights of an ONNX model in a file beside the graph.

ONNX Runtime reads weights inside the graph into the memory of each session, but maps a file beside it, so that all
sessions of a model, in all processes, share one copy of the weights that it does not rearrange.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tritone_export.subgraphs import all_graphs

if TYPE_CHECKING:
    import onnx

WEIGHTS_SUFFIX: Final = ".data"
MIN_N_BYTES: Final = 16 << 10  # smaller tensors stay in the graph
# ONNX Runtime maps whole pages, and ONNX advises offsets that are multiples of the page size.
_PAGE_N_BYTES: Final = 4096


def split_weights(content: bytes, filename: str) -> dict[str, bytes]:
    """Move the large weights of a serialised model into a file of their own.

    Args:
        content: an ONNX model that holds its weights.
        filename: name under which the graph will be saved.

    Returns:
        the graph and, under the same name with `.data`, its weights; only the graph if it has no large weights.
    """
    import onnx

    model = onnx.ModelProto.FromString(content)
    weights = bytearray()
    for graph in all_graphs(model.graph):
        for tensor in graph.initializer:
            if tensor.HasField("raw_data") and len(tensor.raw_data) >= MIN_N_BYTES:
                weights.extend(bytes(-len(weights) % _PAGE_N_BYTES))
                _point_to(tensor, filename + WEIGHTS_SUFFIX, offset=len(weights))
                weights.extend(tensor.raw_data)
                tensor.ClearField("raw_data")
    if not weights:
        return {filename: content}
    return {filename: model.SerializeToString(deterministic=True), filename + WEIGHTS_SUFFIX: bytes(weights)}


def _point_to(tensor: onnx.TensorProto, location: str, *, offset: int) -> None:
    """Add a reference to a file with a tensor's values (ONNX's external data); call it while the tensor has them."""
    import onnx

    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": offset, "length": len(tensor.raw_data)}.items():
        tensor.external_data.add(key=key, value=str(value))
