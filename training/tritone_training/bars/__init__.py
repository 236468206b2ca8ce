"""Two bars of music for four voices: spans, the autoencoder that music_vae trains and music_gan samples from, plots."""
