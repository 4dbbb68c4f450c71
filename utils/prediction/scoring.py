"""Scoring anybody's pictures with a trained encoder and MLP head.

predictor = load_predictor("output")
print(predictor.score(["photos", "more/*.jpg"]))
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from utils.core.caveats import Caveats
from utils.core.device import computing_in
from utils.core.errors import ImageError, UserError
from utils.core.log import log
from utils.core.precision import BF16_CAVEAT
from utils.prediction.inputs import gather_paths, in_memory

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from PIL.Image import Image
    from torch import nn

    from utils.core.shards import Batch

    Picture = str | Path | Image | NDArray


DIGEST_LENGTH = 16  # characters of a SHA-256 that tell pictures apart


@dataclass
class Predictor:
    """Encoder and MLP head that score pictures.

    Attributes:
        network: Pixels (N, 3, S, S), float32, [0, 1], to (N,) scores; in eval mode, prepared for speed.
        image_size: S, the side in pixels the encoder and the head were trained at.
        device: Where it computes.
        training_scores: (m,) observed scores of the training images, for percentiles.
        meta: What was saved with the head: encoder (stem, SHA-256), settings, versions, ``caveats``.
        identity: SHA-256 of encoder and head file.
        skipped: (path, reason) of the files the last call of `score` left out.
        precision: ``float32`` or ``bf16``, of the network.
        training_digests: Beginnings of the SHA-256 of the pictures that the head was trained on; empty where it does
            not say.
    """

    network: nn.Module
    image_size: int
    device: torch.device
    training_scores: NDArray[np.float64]
    meta: dict[str, Any]
    identity: tuple[str, str]
    skipped: list[tuple[str, str]] = field(default_factory=list)
    precision: str = "float32"
    training_digests: frozenset[str] = frozenset()

    @property
    def caveat(self) -> str:
        """What must be said of every score (sample data, random weights, bf16); empty when there is nothing."""
        reduced = [BF16_CAVEAT] if self.precision == "bf16" else []
        return str(Caveats(self.meta.get("caveats", [])) | reduced)

    def score_pixels(self, images: NDArray) -> NDArray[np.float64]:
        """Score preprocessed pictures.

        Args:
            images: (N, 3, S, S) float32, [0, 1], from `utils.data.images.load_pixels`.

        Returns:
            (N,) memorability scores; larger is more memorable.
        """
        import torch

        with torch.inference_mode():
            batch = torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32))
            batch = batch.to(self.device, memory_format=torch.channels_last)
            with computing_in(self.precision, self.device):
                scores = self.network(batch)
            return scores.double().cpu().numpy()

    def score(
        self,
        pictures: Picture | Iterable[Picture],
        batch_size: int = 8,
        workers: int = 2,
        draft: bool = True,
    ) -> pd.DataFrame:
        """Score pictures: files, folders, patterns, tables that name files, PIL images, arrays.

        Args:
            pictures: One, or several, in any mixture. An array is (H, W, 3), uint8, or float in [0, 1]; pictures in
                memory are called ``image 0``, ``image 1`` ... by their place in the list.
            batch_size: Pictures per pass; does not change the scores beyond rounding.
            workers: Threads that read pictures ahead of the computation.
            draft: Whether JPEGs much larger than the network's input are decoded reduced: faster, and scores that
                differ by less than 0.001.

        Returns:
            ``path, memorability, percentile, rank`` (1: the most memorable), in the order given, the pictures of a
            folder or pattern sorted; ``in_training`` where the head knows its training pictures (see
            `rank_scores`). Files that cannot be read are left out, warned of, and kept in `skipped`.

        Raises:
            UserError: A path that does not exist, something that is no picture, or not one readable picture.
        """
        from utils.core.digests import file_digests

        alone = isinstance(pictures, str | Path | np.ndarray) or not isinstance(pictures, Iterable)
        given: list[Any] = [pictures] if alone else list(pictures)  # type: ignore[arg-type]
        self.skipped = []
        paths = [str(one) if isinstance(one, str | Path) else None for one in given]
        files: dict[str, None] = {}
        for one, path in enumerate(paths):
            if path is None:
                files[f"image {one}"] = None
                continue
            found, skipped = gather_paths([path], may_be_empty=len(given) > 1)
            files |= dict.fromkeys(found)
            self.skipped += skipped
        scored = self._score_in_memory(given, batch_size)
        on_disk = [name for name in files if name not in scored]
        digests: dict[str, str] = {}
        if on_disk:
            with tempfile.TemporaryDirectory(prefix="memorability-") as folder:
                result = score_files(
                    self, on_disk, Path(folder), batch_size=batch_size, workers=workers, draft=draft
                )
                rows = result.frame()
                known = file_digests(Path(folder))
                digests = {name: known.of(name) for name in rows["image_id"]} if self.training_digests else {}
            scored |= dict(zip(rows["image_id"], rows["memorability"], strict=True))
            self.skipped += result.skipped
        for name, reason in self.skipped:
            log.warning("Left out %s: %s", name, reason)
        return rank_scores(scored, files, self.training_scores, digests, self.training_digests)

    def _score_in_memory(self, given: Sequence[Any], batch_size: int) -> dict[str, float]:
        """Score those of some pictures that are no files; return their scores by name."""
        from utils.latents.encodings import picture_reader

        read = picture_reader(self.network, self.image_size)
        named = [(f"image {n}", one) for n, one in enumerate(given) if not isinstance(one, str | Path)]
        scores: dict[str, float] = {}
        for start in range(0, len(named), batch_size):
            batch = named[start : start + batch_size]
            try:
                pixels = [read(in_memory(picture, name)) for name, picture in batch]  # type: ignore[arg-type]
            except ImageError as error:
                raise UserError(f"{error.path} cannot be scored: {error.reason}.") from None
            values = self.score_pixels(np.stack(pixels))
            scores |= {name: float(value) for (name, _), value in zip(batch, values, strict=True)}
        return scores


def load_predictor(
    output_path: str | Path = "output",
    model: str | None = None,
    device: str = "auto",
    precision: str = "float32",
) -> Predictor:
    """Load the encoder and its MLP head from an output folder; nothing else in the folder is needed.

    Where the folder has no head, those that ship with the code are taken, with a word on how good they are.

    Sets the process to full float32 precision and to keep freed memory (see `utils.core.device`).

    Args:
        output_path: Folder with ``<model>.pth`` and ``mlp_<model>.pth``.
        model: The checkpoint's name, with or without ``.pth``; the only one there is when left out; ``builtin`` for
            the one that ships with the code.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        precision: ``float32``, ``bf16``, or ``auto``: bf16 where the device has units for it. docs/method.md says how far
            scores move.

    Raises:
        UserError: Nothing to load, a choice is needed, or the head was trained on another encoder.
    """
    from models.checkpoints import checkpoint_sha256, load_autoencoder, load_mlp
    from models.score_network import ScoreNetwork, prepare_network
    from utils.core.device import full_float32, keep_freed_memory, resolve_device, resolve_precision
    from utils.latents.encodings import load_from_card

    encoder_path, head_path = _choose_files(Path(output_path), model)
    maker: nn.Module
    if encoder_path.is_file():
        autoencoder, encoder = load_autoencoder(encoder_path)
        maker = autoencoder.encoder
    else:
        maker, encoder = load_from_card(encoder_path.parent, encoder_path.stem)
    head, meta = load_mlp(head_path, encoder, needs={"image_size": int, "training_scores": [float]})
    where = resolve_device(device)
    full_float32()
    keep_freed_memory()
    meta["caveats"] = list(Caveats(meta.get("caveats", [])) | encoder["caveats"])
    network = prepare_network(ScoreNetwork(maker, head), where)
    log.info("Loaded %s and its MLP head; pictures are seen at %d px", encoder_path, meta["image_size"])
    return Predictor(
        network,
        int(meta["image_size"]),
        where,
        np.asarray(meta["training_scores"], dtype=np.float64),
        meta,
        (encoder["sha256"], checkpoint_sha256(head_path)),
        precision=resolve_precision(precision, where),
        training_digests=frozenset(meta.get("training_pictures") or _digests_beside(head_path)),
    )


def _digests_beside(head_path: Path) -> list[str]:
    """Return the digests of the training pictures that stand in a file beside a head; none without the file."""
    path = head_path.with_suffix(".pictures.txt")
    return path.read_text(encoding="utf-8").split() if path.is_file() else []


def _choose_files(folder: Path, model: str | None) -> tuple[Path, Path]:
    """Find encoder and head: of a model in the folder, or those that ship with the code."""
    from models.builtin import builtin_autoencoder, builtin_head, builtin_test_rho
    from models.checkpoints import mlp_file
    from utils.latents.codes import needs_no_checkpoint, refuse_codes_alone

    if model == "builtin" or (model is None and not list(folder.glob("mlp_*.pth"))):
        why = "" if model == "builtin" else f"There is no MLP head in {folder}; s"
        log.info(
            "%scoring with the one that ships with this project (%s). It is weak: models/weights/README.md says what it "
            "must not be used for. To train your own: python mlp_predict.py --train",
            why or "S",
            builtin_test_rho(),
        )
        return builtin_autoencoder(), builtin_head()
    stem = _choose_model(folder, model)
    encoder_path = folder / f"{stem}.pth"
    if not encoder_path.is_file() and needs_no_checkpoint(folder, stem):
        refuse_codes_alone(folder, stem)  # goes on where another encoder is on record
        return encoder_path, mlp_file(folder, stem)
    if not encoder_path.is_file():
        raise UserError(
            f"{mlp_file(folder, stem)} is the head of the encoder {encoder_path.name}, which is not in {folder}. "
            "Put that checkpoint there."
        )
    return encoder_path, mlp_file(folder, stem)


def _choose_model(folder: Path, model: str | None) -> str:
    """Find out whose MLP head is meant."""
    heads = sorted(path.stem.removeprefix("mlp_") for path in folder.glob("mlp_*.pth"))
    listed = ", ".join(f"{stem}.pth" for stem in heads)
    if model is not None:
        stem = Path(model).name.removesuffix(".pth")
        if stem not in heads:
            raise UserError(
                f"There is no MLP head mlp_{stem}.pth in {folder} (heads there are for: {listed or 'none'}). "
                f"Train it with: python mlp_predict.py --train --model-names {stem}.pth"
            )
        return stem
    if len(heads) > 1:
        raise UserError(
            f"There are MLP heads for several models in {folder}: {listed}. Choose with --model-names."
        )
    return heads[0]


def score_files(
    predictor: Predictor,
    files: Sequence[str],
    output_path: Path,
    *,
    batch_size: int = 8,
    workers: int = 2,
    on_error: str = "skip",
    overwrite: bool = False,
    draft: bool = True,
    job: str = "predictions",
) -> Any:
    """Score picture files, reading ahead of the computation, resumable, over any number of ranks.

    Args:
        predictor: Encoder and head.
        files: Paths, each once.
        output_path: Where finished shards are kept.
        batch_size: Pictures per pass.
        workers: Threads that read pictures.
        on_error: ``skip`` or ``fail``, for unreadable pictures.
        overwrite: Score again what was scored before.
        draft: Decode large JPEGs reduced; see `utils.data.images.load_pixels`.
        job: What to call the work, for runs that write other lists.

    Returns:
        `utils.core.shards.ShardedResult` with a row ``image_id`` (the path), ``memorability`` per readable picture.

    Raises:
        UserError: Not one readable picture; or an unreadable one with ``on_error="fail"``.
    """
    import pandas as pd

    from utils.core.shards import run_sharded
    from utils.latents.encodings import picture_reader

    settings = {
        "encoder": predictor.identity[0],
        "mlp": predictor.identity[1],
        "image_size": predictor.image_size,
        "device": predictor.device.type,
        "draft": draft,
        "precision": predictor.precision,
    }
    return run_sharded(
        job,
        pd.DataFrame({"image_id": list(files), "path": list(files)}),
        partial(_score_batch, predictor),
        output_path=output_path,
        settings=settings,
        load=picture_reader(predictor.network, predictor.image_size, draft),
        batch_size=batch_size,
        workers=workers,
        shard_size=32 * batch_size,
        on_error=on_error,
        overwrite=overwrite,
        description="scoring",
    )


def _score_batch(predictor: Predictor, ids: list[str], values: list[NDArray]) -> Batch:
    """Score one batch of pixels, for `utils.core.shards.run_sharded`."""
    from utils.core.shards import Batch

    scores = predictor.score_pixels(np.stack(values))
    bad = [name for name, score in zip(ids, scores, strict=True) if not np.isfinite(score)]
    if bad:
        raise UserError(
            f"The predicted score of {bad[0]} is not finite: the weights are damaged. Train them again."
        )
    return Batch([{"memorability": float(score)} for score in scores])


def rank_scores(
    scored: Mapping[str, float],
    order: Iterable[str],
    training_scores: NDArray,
    digests: Mapping[str, str] | None = None,
    training_digests: frozenset[str] = frozenset(),
) -> pd.DataFrame:
    """Make the table of scores, in the order given.

    Args:
        scored: Score by path.
        order: Paths; those without a score are left out.
        training_scores: Observed scores of the training images.
        digests: SHA-256 by path, to be told apart from training pictures.
        training_digests: Beginnings of those of the training pictures (`DIGEST_LENGTH`); empty where nobody knows.

    Returns:
        ``path, memorability, percentile, rank``; and where it is known which pictures the head was trained on,
        ``in_training``: a score of such a picture is remembered and no prediction.
    """
    import pandas as pd

    from utils.prediction.curves import training_percentile

    paths = [path for path in order if path in scored]
    table = pd.DataFrame({"path": paths, "memorability": [float(scored[path]) for path in paths]})
    table["percentile"] = training_percentile(table["memorability"].to_numpy(), training_scores)
    table["rank"] = table["memorability"].rank(method="min", ascending=False).astype(int)
    if training_digests and digests:
        table["in_training"] = [digests.get(path, "")[:DIGEST_LENGTH] in training_digests for path in paths]
    return table


def describe_extremes(table: pd.DataFrame, count: int = 10) -> str:
    """Return the most and the least memorable pictures as text, one line each.

    Args:
        table: From `rank_scores`.
        count: How many of each; with fewer than twice as many pictures, all are listed once.
    """
    table = table.sort_values(["rank", "path"], ignore_index=True)
    lines = [f"{'rank':>6}  {'score':>7}  {'percentile':>10}  picture"]
    parts = [("", table)] if len(table) <= 2 * count else [("most", table[:count]), ("least", table[-count:])]
    for name, part in parts:
        if name:
            lines.append(f"The {count} {name} memorable:")
        lines += [
            f"{row.rank:>6}  {row.memorability:>7.4f}  {row.percentile:>10.1f}  {row.path}"
            for row in part.itertuples()
        ]
    return "\n".join(lines)
