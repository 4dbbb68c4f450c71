"""The whole study on LNSIM: real photographs, real people's scores, and a document made from its tables.

Reads LNSIM as published (--data-dir) and a pretrained autoencoder: the compact one that ships with this project, or
--checkpoint. Runs every stage by run_pipeline.py, on two networks: the pretrained one as it is, and one fine-tuned on every
picture once, as in the paper (with --no-fine-tuning on the first alone, and only what needs no gradient of it). The pipeline
skips what still stands, so a study that was killed goes on where it was.
Writes, besides what the stages write, held_out.csv (the correlations of the test split alone, whose pictures the pretrained
network never saw) and the document (--results).

    python benchmarks/lnsim_study.py --data-dir LNSIM
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from common import ROOT, cpu_name
from lnsim_document import Study, write_document

from utils.core.cli import positive_int, run_script
from utils.core.errors import UserError
from utils.core.log import log
from utils.core.names import LOSSES

FINE_TUNING_LOSS = "mse"  # of the pixels: LPIPS would need a download
AS_IT_IS = ("autoencoder_test", "autoencoder_evaluation", "latent_analysis", "mlp_predict")


def get_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--data-dir", type=Path, default=Path("LNSIM"), help="LNSIM's folder (default: LNSIM)"
    )
    parser.add_argument(
        "--output-path", type=Path, default=Path("lnsim_study"), help="results (default: lnsim_study)"
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        help="pretrained autoencoder (default: the one that ships with this project)",
    )
    parser.add_argument(
        "--no-fine-tuning",
        action="store_true",
        help="the network as it is: errors, codes and predicted scores, without exposures, attributions and features",
    )
    parser.add_argument("--limit", type=positive_int, metavar="N", help="only N pictures, to try it")
    parser.add_argument("--ig-steps", type=positive_int, default=50, metavar="N", help="steps (default: 50)")
    parser.add_argument(
        "--ig-limit",
        type=positive_int,
        metavar="N",
        help="attribute N test pictures, evenly spaced (default: all)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    parser.add_argument(
        "--results",
        type=Path,
        default=ROOT / "docs" / "results.md",
        help="document (default: docs/results.md)",
    )
    return parser


def main(args: argparse.Namespace) -> None:
    """Run the stages, then write the document from their tables."""
    from models.checkpoints import load_autoencoder

    network = place_checkpoint(args)
    _, meta = load_autoencoder(network)
    if meta["image_size"] is None:
        raise UserError(
            f"{network} does not say at what image size it was trained, so it cannot be tested at that."
        )
    command = pipeline_command(args, network, meta["image_size"])
    log.info("Running: %s", shlex.join(["python", *command[1:]]))
    status = subprocess.run(command, cwd=ROOT, check=False).returncode
    if status:
        raise SystemExit(status)
    fine_tuned = None if args.no_fine_tuning else fine_tuned_model(args.output_path)
    study = Study(args.output_path, args.data_dir, network.stem, fine_tuned, meta, machine(), own_command())
    write_document(study, args.results)
    log.info("Wrote %s", args.results)


def place_checkpoint(args: argparse.Namespace) -> Path:
    """Copy the pretrained network into the output folder, where the stages look for networks; return the copy."""
    if args.checkpoint is None:
        from models.builtin import builtin_autoencoder

        source = Path(builtin_autoencoder())
    else:
        source = args.checkpoint
    if not source.is_file():
        raise UserError(f"The checkpoint {source} does not exist. Name another with --checkpoint.")
    args.output_path.mkdir(parents=True, exist_ok=True)
    copy = args.output_path / source.name
    if not copy.exists() or copy.read_bytes() != source.read_bytes():
        shutil.copyfile(source, copy)
    return copy


def pipeline_command(args: argparse.Namespace, network: Path, image_size: int) -> list[str]:
    """Return the command that runs every stage on both networks."""
    losses = [loss for loss in LOSSES if loss != "ms-ssim" or image_size >= 161]
    shared = {
        "--data-dir": args.data_dir.resolve(),
        "--output-path": args.output_path.resolve(),
        "--pretrained": network.resolve(),
        "--image-size": image_size,
        "--weights": "available",
        "--detector": "light",
        "--segmenter": "light",
        "--ig-steps": args.ig_steps,
        "--device": args.device,
    }
    shared |= {f"--{name}": vars(args)[name.replace("-", "_")] for name in ("limit", "ig-limit")}
    flags = [str(part) for flag, value in shared.items() if value is not None for part in (flag, value)]
    extra = [f"autoencoder_finetune=--loss {FINE_TUNING_LOSS}", "mlp_predict=--error-measure mse"]
    extra.append("model_interpretation_IG=--max-doublings 3")  # --ig-steps alone would be exact
    models = [network.name, *([] if args.no_fine_tuning else [f"{fine_tuned_name()}.pth"])]
    if args.no_fine_tuning:
        flags += ["--stages", *AS_IT_IS]
        extra = [text for text in extra if text.split("=")[0] in AS_IT_IS]
    return [
        *(
            sys.executable,
            str(ROOT / "run_pipeline.py"),
            *flags,
            "--losses",
            *losses,
            "--model-names",
            *models,
        ),
        *(part for text in extra for part in ("--extra", text)),
    ]


def fine_tuned_name() -> str:
    """Return the name that stage 1 gives the network it trains."""
    from utils.reconstruction.finetuning import FineTuningSettings, model_name

    return model_name(FineTuningSettings(loss=FINE_TUNING_LOSS))


def fine_tuned_model(output_path: Path) -> str:
    """Return the stem of the fine-tuned network.

    Raises:
        UserError: It is not there.
    """
    name = fine_tuned_name()
    if not (output_path / f"{name}.pth").is_file():
        raise UserError(
            f"Expected {name}.pth in {output_path}, which stage 1 writes. Delete {output_path} and run again."
        )
    return name


def machine() -> dict[str, Any]:
    """Describe what this ran on, with the load that others put on it when it ended."""
    import torch

    cuda = torch.cuda.is_available()
    return {
        "processor": torch.cuda.get_device_name() if cuda else cpu_name(),
        "cores": os.cpu_count(),
        "threads": int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())),
        "load": os.getloadavg()[0],
    }


def own_command() -> str:
    """Return this script's command, ready to copy, without folders that are nobody else's."""
    kept, skip = [], False
    for argument in sys.argv[1:]:
        private = argument in {"--data-dir", "--output-path", "--results"}
        if not (skip or private or argument.startswith(("--data-dir=", "--output-path=", "--results="))):
            kept.append(Path(argument).name if "/" in argument else argument)
        skip = private
    return shlex.join(["python", "benchmarks/lnsim_study.py", "--data-dir", "LNSIM", *kept])


if __name__ == "__main__":
    run_script(main, get_parser)
