"""The application: every route, and what happens to each request before and after.

A feature is a module with its ``routes``. They are there twice, at ``/x`` for programs and at
``/api/x`` for the official frontend, as ComfyUI has them.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress

from aiohttp import web

from executor.api import (
    catalogue,
    comparison,
    events_stream,
    examples,
    features,
    files,
    frontend,
    health,
    history,
    interrupt,
    job_log,
    jobs,
    log_entries,
    login,
    metrics,
    model_catalogue,
    model_files,
    model_presence,
    openai_images,
    openai_models,
    openapi,
    preferences,
    prompts,
    queue,
    reading,
    runpod,
    signing,
    system,
    uploads,
    userdata,
    websocket,
)
from executor.api.access_log import Handler, log_requests
from executor.api.bells import Bells
from executor.api.fetching import FETCHING, outside_for_pictures
from executor.api.hub import Hub
from executor.api.keys import (
    BELLS,
    CHECKING,
    DECODING,
    DISPATCHER,
    FOLDERS,
    HUB,
    IS_ANSWERING,
    LEDGER,
    MODELS,
    NARRATOR,
    PARTIALS,
    PLUGINS,
    SETTINGS,
)
from executor.api.limits import LIMITS, Limits, limit_requests
from executor.api.narrator import Narrator
from executor.api.partials import Partials
from executor.api.refusal import MAX_BODY_BYTES, refusal_of, too_large
from executor.api.renditions import Decoding
from executor.api.security import only_own_pages
from executor.api.sessions import Sessions
from executor.api.shapes import reply_to
from executor.api.signing import SIGNING, Signing
from executor.api.tokens import SESSIONS, TOKENS, ask_for_token
from executor.api.webhooks import WEBHOOKS, Renderer, Webhooks, outside_for_webhooks, telling
from executor.dispatch import Dispatcher
from executor.ledger import Ledger
from executor.paths import Folders
from executor.plugins import Plugin
from executor.public_models import PublicModels
from executor.secret import secret_of
from executor.settings import Settings
from executor.tokens import Tokens

FEATURES: Sequence[Sequence[web.AbstractRouteDef]] = (
    catalogue.routes,
    comparison.routes,
    events_stream.routes,
    examples.routes,
    features.routes,
    files.routes,
    frontend.routes,
    health.routes,
    history.routes,
    interrupt.routes,
    jobs.routes,
    log_entries.routes,
    login.routes,
    metrics.routes,
    model_catalogue.routes,
    model_files.routes,
    openai_images.routes,
    openai_models.routes,
    openapi.routes,
    preferences.routes,
    prompts.routes,
    queue.routes,
    reading.routes,
    runpod.routes,
    signing.routes,
    system.routes,
    uploads.routes,
    userdata.routes,
    websocket.routes,
)
"""The routes of each feature."""


RENDERERS: Mapping[str, Renderer] = {"job": jobs.ended_text, runpod.FACE: runpod.told}
"""What webhooks say, by the name that is kept with each."""


def create_app(
    settings: Settings,
    folders: Folders,
    ledger: Ledger,
    dispatcher: Dispatcher,
    plugins: tuple[Plugin, ...] = (),
) -> web.Application:
    """The application; whoever made the ledger and the dispatcher starts and closes them."""
    app = web.Application(
        middlewares=[
            *(log_requests, metrics.count_requests, answer_errors),
            *(only_own_pages, ask_for_token, limit_requests),
        ],
        client_max_size=MAX_BODY_BYTES,
    )
    app[SETTINGS], app[FOLDERS] = settings, folders
    secret = secret_of(folders.user)
    app[TOKENS], app[SESSIONS], app[LIMITS] = Tokens(folders.user), Sessions(secret), Limits()
    app[SIGNING] = Signing(secret)
    app[LEDGER], app[DISPATCHER] = ledger, dispatcher
    app[HUB], app[BELLS], app[CHECKING] = Hub(), Bells(), asyncio.Lock()
    shows_all = settings.preview_method != "none"
    app[NARRATOR] = Narrator(app[HUB], app[BELLS], ledger, dispatcher, shows_all=shows_all)
    app[runpod.STREAMED] = {}
    app[MODELS], app[PARTIALS] = PublicModels(settings, folders), Partials()
    app[DECODING], app[PLUGINS] = Decoding(), plugins
    app[metrics.METRICS] = metrics.Metrics()
    app[catalogue.CATALOGUE] = catalogue.Catalogue(folders)
    app[log_entries.LOG_ENTRIES] = log_entries.LogEntries()
    app[preferences.PREFERENCES] = preferences.Preferences()
    app[frontend.FRONTEND] = frontend.find_frontend(settings.front_end_root)
    app[FETCHING] = outside_for_pictures(settings)
    app[WEBHOOKS] = Webhooks(ledger, outside_for_webhooks(settings), secret, RENDERERS)
    app.cleanup_ctx.append(log_entries.keeping)
    app.cleanup_ctx.append(job_log.watching)
    app.cleanup_ctx.append(metrics.watching)
    app.cleanup_ctx.append(model_presence.watching)
    app.cleanup_ctx.append(_narrating)
    app.cleanup_ctx.append(telling)
    app.on_shutdown.append(_say_goodbye)
    app.on_cleanup.append(_close_doors)
    for routes in FEATURES:
        app.router.add_routes([*routes, *map(_under_api, routes)])
    app.router.add_routes(frontend.page_routes)
    app[openapi.DOCUMENT] = openapi.document(app.router)
    return app


async def _narrating(app: web.Application) -> AsyncGenerator[None]:
    """Tell clients what happens, as long as the application runs."""
    narrator, dispatcher = app[NARRATOR], app[DISPATCHER]
    dispatcher.watchers += [narrator.hear, app[PARTIALS].hear]
    dispatcher.wants_previews = narrator.wants_previews
    telling = asyncio.create_task(narrator.run())
    yield
    for watcher in (narrator.hear, app[PARTIALS].hear):
        dispatcher.watchers.remove(watcher)
    telling.cancel()
    with suppress(asyncio.CancelledError):
        await telling


async def _say_goodbye(app: web.Application) -> None:
    """End what would otherwise go on as long as its client likes."""
    app[BELLS].close()
    await websocket.close_websockets(app)


async def _close_doors(app: web.Application) -> None:
    """Ask nobody in the network any more."""
    app[FETCHING].close()


def _under_api(route: web.AbstractRouteDef) -> web.RouteDef:
    """A route again, below ``/api``."""
    assert isinstance(route, web.RouteDef), "a feature's routes are plain ones"
    return web.RouteDef(route.method, f"/api{route.path}", route.handler, route.kwargs)


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every error with JSON that says what is wrong."""
    try:
        if (request.content_length or 0) > MAX_BODY_BYTES:
            raise too_large(MAX_BODY_BYTES)
        return await handler(request)
    except Exception as error:  # one request's failure is not the server's: the request's door
        if isinstance(error, web.HTTPException) and error.status < 400:
            raise
        if request.get(IS_ANSWERING):
            raise
        return reply_to(request, refusal_of(error, request))
