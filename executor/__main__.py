"""The command line: words become calls, outcomes become exit codes.

Nothing is done here: a command is a module in ``executor.cli``, which is imported when it is
called, so that ``weft --help`` costs no more than argparse. Results go to stdout, the rest to
stderr.
"""

import os
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from executor import __version__
from executor.cli import Exit
from executor.cli.serve_arguments import add_serve_arguments

_ABOUT = """\
Run workflows: graphs of nodes that make pictures with diffusion models.

A workflow is a JSON file in ComfyUI's API format, or a PNG that carries one."""

_EXIT_CODES = """\
exit codes:
  0    it is done
  1    the workflow ran, and a node of it failed
  2    the workflow, a file, a setting or an argument is wrong; nothing ran, nothing was written
  130  interrupted

Every setting is a variable WEFT_… in the environment; the README lists them."""


def parser() -> ArgumentParser:
    """All commands and their arguments."""
    top = ArgumentParser(
        "weft",
        description=_ABOUT,
        epilog=_EXIT_CODES,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"weft {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, does: str, more: str = "") -> ArgumentParser:
        about = f"{does[0].upper()}{does[1:]}.{more}"
        new = commands.add_parser(name, help=does, description=about, allow_abbrev=False)
        new.add_argument("--json", action="store_true", help="print one JSON object")
        return new

    run = command("run", "run a workflow, and print the paths of the files that it saves")
    run.add_argument("file", metavar="FILE", type=Path, help="a workflow, as JSON or in a PNG")
    run.add_argument(
        *("--set", "-s"),
        metavar="NODE.INPUT=VALUE",
        action="append",
        default=[],
        help="change an input first; NODE is an id, or a title or class that only one node has; "
        "VALUE is JSON, or else text",
    )
    run.add_argument("--seed", type=int, metavar="N", help="give every seed input this value")
    run.add_argument(
        *("--output", "-o"), type=Path, metavar="DIR", help="where to save; by default ./output"
    )

    check = command("check", "say everything that is wrong with a workflow, and run nothing")
    check.add_argument("file", metavar="FILE", type=Path, help="a workflow, as JSON or in a PNG")
    check.add_argument("--strict", action="store_true", help="warnings are errors")

    nodes = command("nodes", "list the node classes, or describe one")
    nodes.add_argument("name", metavar="NAME", nargs="?", help="a node class")

    models = command("models", "list the model files, or say what one is")
    models.add_argument(
        *("file",), metavar="FILE", nargs="?", help="a path, or a name from one of the folders"
    )
    models.add_argument("--hash", action="store_true", help="with sha256; read once, remembered")

    about = "serve workflows over HTTP, to ComfyUI's frontends and clients"
    serve = commands.add_parser(
        "serve", help=about, description=f"{about[0].upper()}{about[1:]}.", allow_abbrev=False
    )
    add_serve_arguments(serve)
    serve.set_defaults(json=False)

    token = command("token", "make, list and remove the keys that a server asks for")
    _add_token_commands(token)
    return top


def _add_token_commands(token: ArgumentParser) -> None:
    """What can be done with tokens."""
    for place, does in (("base", "as the server's"), ("user", "in place of base/user")):
        token.add_argument(f"--{place}-directory", metavar="DIR", type=Path, help=does)
    actions = token.add_subparsers(dest="action", required=True, metavar="ACTION")
    add = actions.add_parser(
        "add", help="make a token and print it, once; it needs no restart", allow_abbrev=False
    )
    add.add_argument("name", metavar="NAME", help="whose jobs and pictures they are")
    add.add_argument("--requests-per-minute", type=_count, metavar="N", help="by default any")
    add.add_argument("--queued-jobs", type=_count, metavar="N", help="by default any")
    add.add_argument("--admin", action="store_true", help="it sees everybody's jobs and pictures")
    actions.add_parser("list", help="list all tokens, without what is secret")
    remove = actions.add_parser("remove", help="make a token worthless, at once")
    remove.add_argument("name", metavar="NAME")
    webhook = actions.add_parser(
        "webhook-secret", help="print what webhooks of a token's jobs are signed with"
    )
    webhook.add_argument("name", metavar="NAME", nargs="?", help="by default of jobs without one")


def _count(text: str) -> int:
    """A number that is at least 1."""
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= 10**9):
        raise ArgumentTypeError(f"it must be a whole number from 1 on, got {text[:40]!r}")
    return int(text)


def main(words: Sequence[str] | None = None) -> int:
    """Run the command that the words ask for; answers the exit code."""
    arguments = parser().parse_args(words)
    from executor.cli.terminal import refuse
    from executor.errors import WeftError

    try:
        return _call(arguments)
    except WeftError as error:
        refuse(error, as_json=arguments.json)
        return Exit.WRONG_INPUT
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:  # `weft nodes | head`: nobody reads on, which is no mistake
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.DONE


def _call(arguments: Namespace) -> int:
    if arguments.command not in (
        "models",
        "serve",
        "token",
    ):  # the server loads them by its own settings
        import_module("nodes")  # which registers them; nothing under executor knows them otherwise
        _load_plugins()
    match arguments.command:
        case "run":
            from executor.cli.run import run

            return run(
                arguments.file,
                changes=arguments.set,
                seed=arguments.seed,
                output=arguments.output,
                as_json=arguments.json,
            )
        case "check":
            from executor.cli.check import check

            return check(arguments.file, is_strict=arguments.strict, as_json=arguments.json)
        case "serve":
            import_module("server").run(arguments)
            return Exit.DONE
        case "token":
            return _call_token(arguments)
        case "nodes":
            from executor.cli.nodes import nodes

            return nodes(arguments.name, as_json=arguments.json)
        case _:
            from executor.cli.models import models

            return models(arguments.file, as_json=arguments.json, with_hash=arguments.hash)


def _call_token(arguments: Namespace) -> int:
    from executor.cli import token

    as_json = arguments.json
    folder = token.user_folder(arguments.base_directory, arguments.user_directory)
    match arguments.action:
        case "add":
            return token.add(
                folder,
                arguments.name,
                requests_per_minute=arguments.requests_per_minute,
                queued_jobs=arguments.queued_jobs,
                is_admin=arguments.admin,
                as_json=as_json,
            )
        case "list":
            return token.show(folder, as_json=as_json)
        case "remove":
            return token.remove(folder, arguments.name, as_json=as_json)
        case _:
            return token.webhook_secret(folder, arguments.name, as_json=as_json)


def _load_plugins() -> None:
    """Add the classes of others' packs; what is wrong with one is logged, and no reason to stop."""
    from executor.paths import Folders
    from executor.plugins import load_plugins
    from executor.settings import Settings

    settings = Settings.from_environment()
    load_plugins(settings, Folders(settings))


if __name__ == "__main__":
    sys.exit(main())
