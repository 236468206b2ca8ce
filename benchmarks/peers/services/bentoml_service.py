"""The models behind BentoML, on raw bytes."""

import bentoml
from raw_models import open_models


@bentoml.service(
    workers=2,
    traffic={"timeout": 60},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
)
class Models:
    """One API for all models; the header `Model` names one."""

    def __init__(self) -> None:
        self._models = open_models()

    @bentoml.api
    async def infer(self, body: bytes, /, ctx: bentoml.Context) -> bytes:
        return self._models[ctx.request.headers["model"]].run_bytes(body)
