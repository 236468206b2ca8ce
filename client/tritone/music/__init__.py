"""Written music: scores as time grids for models, and pieces as scores, sound and plots.

```python
grid = to_grid("tune.mid")                   # the input of models; `grid.dropped` counts what it lacks
piece = Piece(grid)
piece.save("tune.wav")
```

Importing these modules needs NumPy alone; symusic, the SoundFont and matplotlib are imported when they are used.
"""
