"""Limits shared by several kinds; the Python client checks the same values."""

from __future__ import annotations

from typing import Final

from tritone.constants import LARGEST_TEMPERATURE, LEAST_TEMPERATURE
from tritone.music.grid import STRUCK
from tritone_training.declaration import Limits

GRID: Final = Limits(minimum=0, maximum=STRUCK)  # 0 silent, 1 held, 2 struck
UNIFORM: Final = Limits(minimum=0, maximum=1, exclusive_maximum=True)
TEMPERATURE_LIMITS: Final = Limits(minimum=LEAST_TEMPERATURE, maximum=LARGEST_TEMPERATURE)
TOP_K_LIMITS: Final = Limits(minimum=1)
TOP_P_LIMITS: Final = Limits(minimum=0, exclusive_minimum=True, maximum=1)
