"""Answer a question by experiments.

python -m benchmarks --help             # the questions
python -m benchmarks robustness --help  # what is compared, and the options
python -m benchmarks robustness --quick
"""

import ast
import inspect
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import typer

from benchmarks.options import CORES, RESULTS, RenderOnly, Results, Workers
from benchmarks.runs import Plan, ResultsError, answer

app = typer.Typer(
    help="Each command answers a question by experiments.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def questions() -> dict[str, str]:
    """Return the names of the questions, and the first line of each one's docstring."""
    docstrings = {
        path.stem: ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        for path in sorted(Path(__file__).parent.glob("questions/[a-z]*.py"))
    }
    return {name: text.partition("\n")[0] for name, text in docstrings.items()}


def with_shared_options(name: str, plan: Callable[..., Plan]) -> Callable[..., None]:
    """Return a command with the options of `plan` and those that all trainings share."""

    def command(
        workers: Workers = CORES,
        results: Results = RESULTS,
        render_only: RenderOnly = False,
        **options: Any,
    ) -> None:
        print(answer(name, plan(**options), results, workers, render_only))

    own = inspect.signature(plan).parameters.values()
    *shared, _ = inspect.signature(command).parameters.values()
    command.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
    return command


def _unwrapped(docstring: str) -> str:
    """Return paragraphs of one line each, which the terminal's width then breaks."""
    return "\n\n".join(" ".join(each.split()) for each in docstring.split("\n\n"))


def ask(context: typer.Context) -> None:
    """Import a question and run it; importing all of them takes long.

    Missing data and results are an error of one line; other errors have their traceback.
    """
    name = context.command.name or ""
    module = import_module(f"benchmarks.questions.{name}")
    plan = getattr(module, "plan", None)
    command = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    command.command(help=_unwrapped(module.__doc__ or ""))(
        module.main if plan is None else with_shared_options(name, plan)
    )
    try:
        command(context.args, prog_name=f"python -m benchmarks {name}")
    except (ResultsError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


for _name, _line in questions().items():
    app.command(
        _name,
        help=_line,
        add_help_option=False,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )(ask)

if __name__ == "__main__":
    app(prog_name="python -m benchmarks")
