"""Train the embedded model of tokenred from scratch on a CPU.

Usage::

    python training/train_embedded.py --phase encoder --out DIR --seed 0
    python training/train_embedded.py --phase language --out DIR --seed 0
    python training/train_embedded.py --phase evaluate --out DIR

Every phase resumes from its checkpoint in DIR and appends to ``DIR/training_log.jsonl``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]


def parse_arguments() -> argparse.Namespace:
    """Command line of the script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--phase", choices=("encoder", "language", "evaluate"), required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and log")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-bfloat16", dest="bfloat16", action="store_false")
    parser.add_argument("--encoder-steps", type=int, default=1450)
    parser.add_argument("--encoder-batch", type=int, default=32)
    parser.add_argument("--encoder-rate", type=float, default=1.5e-3)
    parser.add_argument("--language-steps", type=int, default=2300)
    parser.add_argument("--language-batch", type=int, default=16)
    parser.add_argument("--language-rate", type=float, default=1.5e-3)
    parser.add_argument("--videos", type=int, default=300, help="test videos to evaluate on")
    parser.add_argument("--plain-videos", type=int, default=60, help="of these, on the plain path")
    return parser.parse_args()


def main() -> None:
    """Run one phase."""
    from embedded_common import JsonLog

    arguments = parse_arguments()
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(arguments.threads)
    log = JsonLog(arguments.out / "training_log.jsonl")
    if arguments.phase == "encoder":
        from embedded_encoder import train_encoder

        train_encoder(arguments, arguments.out, log)
    elif arguments.phase == "language":
        from embedded_language import train_language

        train_language(arguments, arguments.out, log)
    else:
        from embedded_evaluate import evaluate

        evaluate(arguments, arguments.out, log)


if __name__ == "__main__":
    main()
