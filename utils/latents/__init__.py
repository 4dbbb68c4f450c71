"""Latent codes: computing, storing and reading them, nearest neighbours, distinctiveness, the map of the space."""
