"""Training the MLP head on latent codes: one run, and a search over a stated grid on the validation split."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from utils.core.errors import UserError
from utils.latents.rows import take_rows
from utils.prediction.ridge import Standardisation, fit_standardisation

if TYPE_CHECKING:
    import torch

    from models.mlp import MemorabilityMLP


# What --search tries: every combination, selected on the validation split only.
SEARCH_GRID: dict[str, tuple] = {
    "hidden_sizes": ((64,), (256, 64)),
    "dropout": (0.3, 0.6),
    "learning_rate": (3e-5, 1e-4),
    "weight_decay": (1e-2, 1.0),
}


@dataclass(frozen=True)
class TrainingSettings:
    """What decides a training run, apart from the data.

    Attributes:
        hidden_sizes: Width of each hidden layer.
        dropout: Share of hidden units dropped in training.
        learning_rate: Of AdamW.
        weight_decay: Of AdamW (decoupled from the gradient).
        batch_size: Images per step.
        epochs: The most epochs to train.
        patience: Epochs without a better validation loss before stopping.
        seed: Initial weights, order of the images and dropout.
    """

    hidden_sizes: tuple[int, ...] = (256, 64)
    dropout: float = 0.5
    learning_rate: float = 3e-5
    weight_decay: float = 1e-2
    batch_size: int = 128
    epochs: int = 50
    patience: int = 8
    seed: int = 0


@dataclass
class TrainingResult:
    """A trained MLP and how it got there.

    Attributes:
        model: In eval mode, on the CPU, with the weights of the best epoch.
        settings: What it was trained with.
        best_epoch: The epoch (from 1) with the smallest validation loss, whose weights the model holds.
        best_loss: That loss: mean squared error in variances of the training score (1: no better than the
            mean).
        history: One row per epoch: epoch, train_loss, validation_loss, validation_rho, learning_rate.
    """

    model: MemorabilityMLP
    settings: TrainingSettings
    best_epoch: int
    best_loss: float
    history: list[dict[str, float]] = field(repr=False)


def predict_rows(model: MemorabilityMLP, latents: NDArray, rows: NDArray, chunk_rows: int = 512) -> NDArray:
    """Predict the scores of rows of a latent matrix.

    Args:
        model: In eval mode, on any device.
        latents: (N, ...) float matrix, possibly memory-mapped.
        rows: (n,) positions.
        chunk_rows: Rows per forward pass.

    Returns:
        (n,) float64 scores; larger is more memorable.
    """
    import torch

    device = model.input_mean.device
    predicted = np.empty(len(rows))
    with torch.inference_mode():
        for start in range(0, len(rows), chunk_rows):
            codes = torch.from_numpy(take_rows(latents, rows[start : start + chunk_rows])).to(device)
            predicted[start : start + len(codes)] = model(codes).double().cpu().numpy()
    return predicted


def check_scores(scores: NDArray, train_rows: NDArray, validation_rows: NDArray) -> None:
    """Refuse splits nothing can be learned from.

    Raises:
        UserError: Fewer than two training images, no validation image, or training scores that are all equal.
    """
    if len(train_rows) < 2 or len(validation_rows) < 1:
        raise UserError(
            f"Training needs at least 2 training images and 1 validation image, found {len(train_rows)} and "
            f"{len(validation_rows)} in splits.csv. Use more images."
        )
    if not np.isfinite(scores[train_rows]).all() or not np.isfinite(scores[validation_rows]).all():
        raise UserError(
            "Every training and validation image needs a finite memorability score; some have none."
        )
    if float(np.std(scores[train_rows])) < 1e-12:
        raise UserError(
            f"All {len(train_rows)} training images have the same memorability score "
            f"({float(scores[train_rows][0]):g}), so there is nothing to predict. Check --score-column."
        )


class _Trainer:
    """State of one training run: model, optimiser, order of the images and the best weights so far."""

    def __init__(
        self,
        latents: NDArray,
        scores: NDArray,
        train_rows: NDArray,
        validation_rows: NDArray,
        settings: TrainingSettings,
        standardisation: Standardisation,
        device: torch.device | str,
        image_ids: Sequence[str] | NDArray | None,
    ) -> None:
        import torch

        from models.mlp import build_mlp

        self.latents, self.scores, self.settings, self.device = latents, scores, settings, device
        self.train_rows, self.validation_rows = np.asarray(train_rows), np.asarray(validation_rows)
        self.image_ids = image_ids
        self.rng = np.random.default_rng(settings.seed)
        train_scores = scores[self.train_rows]
        n_inputs = int(np.prod(latents.shape[1:]))
        self.model = build_mlp(n_inputs, settings.hidden_sizes, settings.dropout, settings.seed)
        self.model.set_standardisation(
            torch.from_numpy(standardisation.mean),
            torch.from_numpy(standardisation.scale),
            float(train_scores.mean()),
            float(train_scores.std()),
        )
        self.model.to(device)
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        self.targets = ((scores - train_scores.mean()) / train_scores.std()).astype(np.float32)

    def batch(self, rows: NDArray) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes (n, D) and standardised scores (n,) on the device."""
        import torch

        codes = torch.from_numpy(take_rows(self.latents, rows)).to(self.device)
        return codes, torch.from_numpy(self.targets[rows]).to(self.device)

    def train_epoch(self) -> float:
        """One pass over the training rows in a fresh order; returns the mean loss (with dropout)."""
        import torch

        self.model.train()
        order = self.rng.permutation(self.train_rows)
        total = 0.0
        for start in range(0, len(order), self.settings.batch_size):
            rows = order[start : start + self.settings.batch_size]
            codes, targets = self.batch(rows)
            loss = torch.nn.functional.mse_loss(self.model.standardised(codes), targets)
            value = float(loss.detach())
            if not np.isfinite(value):
                raise UserError(self._non_finite_message(rows))
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            self.optimiser.step()
            total += value * len(rows)
        return total / len(order)

    def _non_finite_message(self, rows: NDArray) -> str:
        names = [str(self.image_ids[row] if self.image_ids is not None else row) for row in rows]
        return (
            f"The training loss is no longer finite, at a batch with {', '.join(names[:8])}"
            f"{', ...' if len(names) > 8 else ''}. "
            f"Lower --learning-rate (now {self.settings.learning_rate:g})."
        )

    def validate(self) -> tuple[float, float]:
        """Validation loss in variances of the training score, and Spearman's rho (NaN where undefined)."""
        from scipy.stats import spearmanr

        self.model.eval()
        observed = self.scores[self.validation_rows]
        predicted = predict_rows(self.model, self.latents, self.validation_rows)
        loss = float(((predicted - observed) ** 2).mean() / float(self.model.score_scale) ** 2)
        varied = len(observed) > 2 and np.ptp(observed) > 0 and np.ptp(predicted) > 0
        return loss, float(spearmanr(predicted, observed).statistic) if varied else float("nan")

    def fit(self, description: str) -> TrainingResult:
        """Train until the validation loss stops falling; keep the weights of the best epoch."""
        from tqdm import tqdm

        settings = self.settings
        history: list[dict[str, float]] = []
        best_loss, best_epoch, best_state = float("inf"), 0, None
        progress = tqdm(range(1, settings.epochs + 1), desc=description, unit="epoch", disable=None)
        for epoch in progress:
            row = {"epoch": epoch, "train_loss": self.train_epoch()}
            loss, rho = self.validate()
            history.append(row | {"validation_loss": loss, "validation_rho": rho})
            progress.set_postfix(validation_loss=f"{loss:.4f}", rho=f"{rho:.3f}")
            if loss < best_loss:
                best_loss, best_epoch = loss, epoch
                best_state = copy.deepcopy(self.model.state_dict())
            elif epoch - best_epoch >= settings.patience:
                break
        if best_state is None:
            raise UserError(
                f"The validation loss was never finite. Lower --learning-rate (now {settings.learning_rate:g})."
            )
        self.model.load_state_dict(best_state)
        return TrainingResult(self.model.cpu().eval(), settings, best_epoch, best_loss, history)


def train_mlp(
    latents: NDArray,
    scores: NDArray,
    train_rows: NDArray,
    validation_rows: NDArray,
    settings: TrainingSettings,
    standardisation: Standardisation | None = None,
    device: torch.device | str = "cpu",
    image_ids: Sequence[str] | NDArray | None = None,
    description: str = "MLP",
) -> TrainingResult:
    """Train an MLP on latent codes, stopping early on the validation split.

    Minimises the mean squared error of standardised scores with AdamW. Rows outside train and validation are
    never read. Batches are read from the matrix as they are needed, so it may be memory-mapped and larger
    than memory. Torch's and NumPy's global generators are left as they were; the same seed gives the same
    weights, to the byte, on the same CPU.

    Args:
        latents: (N, ...) float matrix of latent codes.
        scores: (N,) float memorability scores.
        train_rows: (n,) positions to train on.
        validation_rows: (m,) positions that decide when to stop.
        settings: Architecture, optimiser and seed.
        standardisation: Of the training rows; computed from them when not given.
        device: Where to train.
        image_ids: N names for error messages.
        description: Label of the progress bar.

    Returns:
        The model with the weights of its best validation epoch, and the history.

    Raises:
        UserError: Nothing to learn from (see `check_scores`), or a loss that is not finite.
    """
    import torch

    scores = np.asarray(scores, dtype=np.float64)
    check_scores(scores, train_rows, validation_rows)
    standardisation = standardisation or fit_standardisation(latents, np.asarray(train_rows))
    devices = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(settings.seed)
        trainer = _Trainer(
            latents, scores, train_rows, validation_rows, settings, standardisation, device, image_ids
        )
        return trainer.fit(description)


def settings_grid(
    base: TrainingSettings, grid: dict[str, Sequence[Any]] | None = None
) -> list[TrainingSettings]:
    """List every combination of the grid, in a fixed order; what the grid does not name comes from `base`."""
    tried: dict[str, Sequence[Any]] = {**(SEARCH_GRID if grid is None else grid)}
    return [
        replace(base, **dict(zip(tried, values, strict=True)))
        for values in itertools.product(*tried.values())
    ]


def _search_row(result: TrainingResult) -> dict[str, Any]:
    """One row of ``mlp_search.csv``."""
    return {
        **asdict(result.settings),
        "hidden_sizes": " ".join(str(size) for size in result.settings.hidden_sizes) or "none",
        "best_epoch": result.best_epoch,
        "validation_loss": result.best_loss,
        "validation_rho": result.history[result.best_epoch - 1]["validation_rho"],
    }


def search_mlp(
    latents: NDArray,
    scores: NDArray,
    train_rows: NDArray,
    validation_rows: NDArray,
    candidates: Sequence[TrainingSettings],
    device: torch.device | str = "cpu",
    image_ids: Sequence[str] | NDArray | None = None,
) -> tuple[TrainingResult, list[dict[str, Any]]]:
    """Train one MLP per candidate and keep the one with the smallest validation loss.

    Each starts from fresh weights. Test rows are never read.

    Args:
        latents: (N, ...) float matrix of latent codes.
        scores: (N,) float memorability scores.
        train_rows: (n,) positions to train on.
        validation_rows: (m,) positions to stop and to select on.
        candidates: What to try; the first wins a tie.
        device: Where to train.
        image_ids: N names for error messages.

    Returns:
        The best run, and one row per candidate for `mlp_search.csv`: its settings, best_epoch,
        validation_loss, validation_rho, selected.

    Raises:
        UserError: See `train_mlp`.
    """
    standardisation = fit_standardisation(latents, np.asarray(train_rows))
    best: TrainingResult | None = None
    chosen = 0
    rows: list[dict[str, Any]] = []
    for number, settings in enumerate(candidates, start=1):
        label = f"MLP {number}/{len(candidates)}"
        result = train_mlp(
            latents, scores, train_rows, validation_rows, settings, standardisation, device, image_ids, label
        )
        rows.append(_search_row(result))
        if best is None or result.best_loss < best.best_loss:
            best, chosen = result, number - 1
    if best is None:
        raise ValueError("search_mlp needs at least one candidate.")
    for number, row in enumerate(rows):
        row["selected"] = number == chosen
    return best, rows
