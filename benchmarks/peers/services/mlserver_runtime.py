"""Runtime of MLServer that runs an ONNX model on raw values in one BYTES tensor.

MLServer turns a tensor of numbers into a Python list, value by value; bytes stay as they are. Over HTTP they are
base64, since its JSON has no other form for them.
"""

from __future__ import annotations

from mlserver import MLModel
from mlserver.codecs import Base64Codec
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput
from raw_models import RawModel

NAME = "values"


class RawRuntime(MLModel):
    """One model; each worker process of MLServer loads its own."""

    async def load(self) -> bool:
        self._model = RawModel(self.settings.parameters.uri, n_threads=1)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        tensor = payload.inputs[0]
        is_base64 = tensor.parameters is not None and tensor.parameters.content_type == Base64Codec.ContentType
        (body,) = Base64Codec.decode_input(tensor) if is_base64 else tensor.data
        found = self._model.run_bytes(body)
        if is_base64:
            output = Base64Codec.encode_output(NAME, [found], use_bytes=False)
        else:
            output = ResponseOutput(name=NAME, shape=[1], datatype="BYTES", data=[found])
        return InferenceResponse(id=payload.id, model_name=self.name, outputs=[output])
