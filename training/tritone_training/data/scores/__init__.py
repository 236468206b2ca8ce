"""Score data sets: MIDI folders, poly-music `.mat` files, JSB-style JSON and the embedded corpus.

```python
scores = load_scores(Path("JSB_Chorales.mat"))
scores.split("train")[0].frames              # (T, 88) grid
```
"""

from __future__ import annotations

from tritone_training.data.scores.loading import load_scores
from tritone_training.data.scores.score_set import SPLITS, ScorePiece, ScoreSet, evenly_chosen

__all__ = ["SPLITS", "ScorePiece", "ScoreSet", "evenly_chosen", "load_scores"]
