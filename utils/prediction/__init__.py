"""From latent codes to memorability scores: MLP head, ridge, evaluation, scoring of any pictures."""

from utils.prediction.scoring import load_predictor

__all__ = ["load_predictor"]
