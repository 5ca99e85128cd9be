"""The server: settings → nodes → ledger, workers → application. The one place that knows all.

    python server.py --port 8188

`weft serve` is the same. The front never imports torch: it accepts requests within a second, and
answers while the workers compute.
"""

import asyncio
import logging
import signal
import sys
from argparse import ArgumentParser, Namespace
from functools import partial
from itertools import count

from aiohttp import web

import nodes
from executor.api.app import create_app
from executor.api.job_log import given_up
from executor.api.keys import DISPATCHER, LEDGER, NARRATOR, SETTINGS
from executor.api.tokens import listens_here_only, may_be_anonymous
from executor.cli.serve_arguments import add_serve_arguments, settings_of
from executor.dispatch import Dispatcher
from executor.errors import SettingsError
from executor.fabric.local import LocalWorker, gpus
from executor.ledger import open_ledger
from executor.logs import log_to
from executor.paths import Folders
from executor.plugins import load_plugins
from executor.seats import Spawn
from executor.settings import Settings
from executor.tokens import Tokens

log = logging.getLogger("weft")

GRACE_S = 30.0
"""How long running jobs may go on after the server was told to stop."""

RETAIN_EVERY_S = 60


def spawns(settings: Settings) -> dict[str, Spawn]:
    """How to start the worker of each device, by the worker's name."""
    devices = settings.workers
    if not devices and settings.device == "auto" and gpus():
        devices = tuple(f"cuda:{index}" for index in range(gpus()))
    devices = devices or (settings.device,)
    found: dict[str, Spawn] = {}
    for place, device in enumerate(devices):
        own = settings.model_copy(update={"device": device, "workers": ()})
        name = device if devices.count(device) == 1 else f"{device} #{place + 1}"
        found[name] = partial(LocalWorker.start, own, (nodes.__name__,))
    return found


async def serve(settings: Settings) -> None:
    """Serve until told to stop; then take no more, and let what runs end or queue it again."""
    folders = Folders(settings)
    _look_for_tokens(settings, folders)
    plugins = load_plugins(settings, folders)
    async with open_ledger(folders.user / "weft.sqlite") as ledger:
        if again := await ledger.recover():
            log.warning("%d jobs were running when the server ended; they are tried again", again)
        dispatcher = Dispatcher(ledger, folders, spawns(settings))
        app = create_app(settings, folders, ledger, dispatcher, plugins)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=False)
        await runner.setup()
        try:
            await _listen(runner, settings)
            await _run(app, runner)
        finally:  # what still runs for the application needs the ledger
            await runner.cleanup()


async def _run(app: web.Application, runner: web.AppRunner) -> None:
    """Take jobs until told to stop; then no more, and what runs has its time to end."""
    dispatcher = app[DISPATCHER]
    dispatcher.start()
    dispatcher.wake()
    house = asyncio.create_task(_keep_house(app))
    await _told_to_stop()
    log.info("stopping")
    house.cancel()
    for site in list(runner.sites):
        await site.stop()
    await dispatcher.close(GRACE_S)


def _look_for_tokens(settings: Settings, folders: Folders) -> None:
    """Say what follows if there is none.

    Raises SettingsError for a server that everybody in its networks could use, unless that is
    meant.
    """
    if not Tokens(folders.user).is_empty:
        return
    if not may_be_anonymous(settings):
        raise SettingsError(
            f"listen: {settings.listen} is reached from networks, and there is no token yet, so "
            "that everybody there could use the server; weft token add NAME makes one, "
            "--allow-anonymous lets everybody in"
        )
    who = "this machine" if listens_here_only(settings.listen) else "any network it is in"
    words = "there is no token: everybody on %s may do everything; weft token add NAME makes one"
    log.log(logging.INFO if who == "this machine" else logging.WARNING, words, who)


async def _listen(runner: web.AppRunner, settings: Settings) -> None:
    """Accept requests at every address. Raises SettingsError where that cannot be."""
    for address in settings.listen.split(","):
        site = web.TCPSite(runner, address.strip(), settings.port)
        try:
            await site.start()
        except OSError as error:
            raise SettingsError(
                f"cannot listen on {address}, port {settings.port}: {error.strerror}; "
                "is a server running already? --port takes another"
            ) from error
    for address, port, *_ in runner.addresses:
        log.info("listening on http://%s:%d", address, port)


async def _keep_house(app: web.Application) -> None:
    """Time out what waits for too long, and forget what the history is not to keep."""
    ledger, settings = app[LEDGER], app[SETTINGS]
    for second in count():
        if expired := await ledger.expire():
            given_up(expired)
            app[NARRATOR].given_up(expired)
        if second % RETAIN_EVERY_S == 0:
            await ledger.retain(settings.history_jobs, settings.history_days)
        await asyncio.sleep(1)


async def _told_to_stop() -> None:
    """Wait for SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()


def run(arguments: Namespace) -> None:
    """Serve as the arguments say. Raises SettingsError where that cannot be."""
    settings = settings_of(arguments)
    log_to(format=settings.log_format)
    asyncio.run(serve(settings))


def main() -> None:
    """Be the server."""
    parser = ArgumentParser(description="Serve workflows over HTTP.", allow_abbrev=False)
    add_serve_arguments(parser)
    try:
        run(parser.parse_args())
    except SettingsError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
