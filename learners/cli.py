"""The ``fieldtheory`` command: arguments in, a folder with a page, a summary and safe files out.

Nothing heavy is imported before a command runs, and nothing is written before its results are complete. What the package refuses
ends in one sentence and exit code 2; Ctrl-C ends in exit code 130.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence

EPILOG = "Every command writes into the folder --out and prints where. The same --seed gives the same numbers."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            from . import commands

            getattr(commands, options.command)(options)
    except KeyboardInterrupt:
        print("\nfieldtheory: interrupted, no result was written.", file=sys.stderr)
        return 130
    except ValueError as error:
        return _refuse(error)
    except OSError as error:
        print(f"fieldtheory: error: {error}", file=sys.stderr)
        return 2
    return 0


def _warn(message, category, filename, lineno, file=None, line=None) -> None:
    """A warning as one sentence, without the line of code that it came from."""
    print(f"fieldtheory: warning: {message}", file=sys.stderr)


def _refuse(error: ValueError) -> int:
    """Print a refusal of this package; anything else is a bug and keeps its traceback."""
    from fieldtheory.errors import FieldTheoryError

    if not isinstance(error, FieldTheoryError):
        raise error
    print(f"fieldtheory: error: {error}", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fieldtheory", epilog=EPILOG, description="What a generative model learned, as "
                                     "interactions, and how many samples it takes until it generalizes.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _demo(_command(commands, "demo", "the main job on known theories and on real data, in a few minutes", out="demo"))
    _learn(_command(commands, "learn", "fit a quadratic flow to samples and turn it into an action", out="run"))
    _compare(_command(commands, "compare", "compare the couplings of two action files", out=None))
    _predict(_command(commands, "predict", "predict from the covariance when two learners agree", out="run"))
    _split(_command(commands, "split", "measure when two learners agree, beside the prediction", out="run"))
    _sample(_command(commands, "sample", "draw samples of a named theory", out="run"))
    return parser


def _command(commands, name: str, purpose: str, out: str | None) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=purpose, description=purpose[0].upper() + purpose[1:] + ".", epilog=EPILOG)
    parser.add_argument("--out", metavar="DIR", default=out, help="folder for the results (default: %(default)s)")
    parser.add_argument("--seed", type=_count(0), default=0, help="of everything random (default: %(default)s)")
    return parser


def _demo(parser) -> None:
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def _learn(parser) -> None:
    _data(parser)
    parser.add_argument("--order", type=_count(1), default=4, help="highest order of the couplings (default: %(default)s)")
    parser.add_argument("--n-layers", type=_count(1), default=2, help="layers of the flow (default: %(default)s)")
    parser.add_argument("--n-steps", type=_count(1), default=5000, help="training steps of each start (default: %(default)s)")
    parser.add_argument("--n-starts", type=_count(1), default=2, help="starts, best by validation (default: %(default)s)")
    parser.add_argument("--components", type=_count(2), metavar="K", help="learn the K leading principal components")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def _compare(parser) -> None:
    parser.add_argument("learned", metavar="A", help="action file, learned")
    parser.add_argument("true", metavar="B", help="action file, true")
    parser.add_argument("--samples", metavar="FILE", help="samples whose covariance contracts the legs of the norms")


def _predict(parser) -> None:
    _data(parser)
    _sizes(parser)


def _split(parser) -> None:
    _data(parser)
    _sizes(parser)
    parser.add_argument("--n-splits", type=_count(2), default=20, help="random disjoint splits per N (default: %(default)s)")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def _sample(parser) -> None:
    parser.add_argument("theory", metavar="THEORY",
                        help="name:key=value,… such as phi4:shape=8x8,mass_squared=1,coupling=1; gaussian:n_dim=3; "
                        "random_interactions:n_dim=5; an unknown name or key lists what there is")
    parser.add_argument("--n-samples", type=_count(1), default=10_000, help="how many (default: %(default)s)")
    parser.add_argument("--n-chains", type=_count(1), help="Markov chains (default: as many as are fast)")
    parser.add_argument("--method", choices=("hmc", "nuts", "tempering"), default="hmc",
                        help="how chains move; tempering is for several modes (default: %(default)s)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def _data(parser) -> None:
    parser.add_argument("file", metavar="FILE", help="samples, one per row: .npy, .npz, .csv, HDF5")
    parser.add_argument("--key", metavar="NAME", help="array to read from .npz or HDF5 (default: the only one)")


def _sizes(parser) -> None:
    parser.add_argument("--n-samples", type=_sizes_list, metavar="N,N,…", help="samples per half (default: a grid that fits)")
    parser.add_argument("--convergence", type=_fraction, default=0.9, help="q that counts as agreement (default: %(default)s)")
    parser.add_argument("--ridge", type=_non_negative, default=0.0, help="variance added to every direction (default: %(default)s)")


def _count(minimum: int):
    def convert(text: str) -> int:
        if not text.lstrip("+-").isdecimal() or int(text) < minimum:
            raise argparse.ArgumentTypeError(f"must be a whole number of at least {minimum}, got {text!r}")
        return int(text)

    return convert


def _sizes_list(text: str) -> list[int]:
    return [_count(2)(part.strip()) for part in text.split(",")]


def _fraction(text: str) -> float:
    value = _number(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"must lie between 0 and 1, got {text!r}")
    return value


def _non_negative(text: str) -> float:
    value = _number(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a finite number of at least 0, got {text!r}")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, got {text!r}") from None


if __name__ == "__main__":
    sys.exit(main())
