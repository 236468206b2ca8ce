"""The listening test by numbers: compare pieces of a model or of a folder with real held-out pieces of the same length.

```python
with MusicClient() as music:
    result = listening_test_of_model(music, "music_transformer", bars=(8, 16), n_seeds=50)
print(result.lengths[0].measures["key_clarity"].generated.mean)
```
"""

from __future__ import annotations

from tritone_training.listening_test.estimates import Estimate
from tritone_training.listening_test.harmonization import (
    HarmonizationGroup,
    HarmonizationTestResult,
    harmonization_test,
)
from tritone_training.listening_test.result import LengthResult, ListeningTestResult, MeasureResult
from tritone_training.listening_test.run import (
    DEFAULT_BARS,
    N_SEEDS,
    listening_test_of_files,
    listening_test_of_model,
)

__all__ = [
    "DEFAULT_BARS",
    "N_SEEDS",
    "Estimate",
    "HarmonizationGroup",
    "HarmonizationTestResult",
    "LengthResult",
    "ListeningTestResult",
    "MeasureResult",
    "harmonization_test",
    "listening_test_of_files",
    "listening_test_of_model",
]
