"""Train on your own recordings and classify a new one, in one Python process and without a server.

    python examples/train_and_predict.py                       # generated tones and noise, seconds
    python examples/train_and_predict.py my_music song.mp3     # a folder per label, and a recording to classify

The cells (`# %%`) run one by one in notebooks of VS Code, PyCharm and Jupytext.
"""

# %% Imports and data
from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile

from tritone_training import load, train

RATE_HZ = 22_050
work = Path(tempfile.mkdtemp(prefix="tritone-"))


def write_example_data(folder: Path) -> Path:
    """Write 3 s of tones and of noise, eight files each, and return one of the tones."""
    random = np.random.default_rng(0)
    times_s = np.arange(3 * RATE_HZ) / RATE_HZ
    for index in range(8):
        tone = 0.3 * np.sin(2 * np.pi * (220 + 40 * index) * times_s)
        for label, samples in (("tone", tone), ("noise", 0.1 * random.standard_normal(len(times_s)))):
            (folder / label).mkdir(parents=True, exist_ok=True)
            soundfile.write(folder / label / f"{index}.wav", samples, RATE_HZ)
    return folder / "tone" / "0.wav"


arguments = sys.argv[1:]
data = Path(arguments[0]) if arguments else work / "music"
song = Path(arguments[1]) if arguments else write_example_data(data)

# %% Train; "tiny" is for trying things out: use "demo" or "default" on real data
checkpoint = train(
    "genre_cnn",
    data=data,
    out=work / "run",
    preset="demo" if arguments else "tiny",
    settings={"class_weights": "balanced"},
    progress=False,
)
print(f"trained for {checkpoint.n_epochs} epochs; accuracy on held-out recordings:")
print(f"  {checkpoint.metrics['test']['accuracy']:.2f}")

# %% Use the model in this process
model = load(checkpoint)
result = model.classify(song)
print(f"{song.name}: {result.label}")
for label, probability in result.probabilities.items():
    print(f"  {label} {probability:.3f}")

# %% An embedding of 256 numbers: recordings that sound alike are close to each other
print(f"embedding: {model.embed(song).shape}")
