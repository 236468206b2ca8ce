"""Written music: scores in, time grids for models, scores, sound and pictures out.

```python
grid = to_grid("tune.mid")                   # what a model reads, and what of the file it does not hold
piece = Piece(grid)
piece.save("tune.wav")
```

NumPy is all that importing these modules needs; symusic, the SoundFont and matplotlib are looked for when used.
"""
