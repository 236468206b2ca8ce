"""Symbolic music: scores as time grids for models, and pieces as scores, sound and plots.

```python
grid = to_grid("tune.mid")                   # the input of models; `grid.dropped` counts what was left out
piece = Piece(grid)
piece.save("tune.wav")
```

Importing these modules needs only NumPy; symusic, the SoundFont and matplotlib are loaded when they are used.
"""
