"""Under which keys an application and a request hold what handlers need."""

import asyncio

from aiohttp import web

from executor.api.bells import Bells
from executor.api.hub import Hub
from executor.api.narrator import Narrator
from executor.api.partials import Partials
from executor.api.renditions import Decoding
from executor.dispatch import Dispatcher
from executor.ledger import Ledger
from executor.paths import Folders
from executor.plugins import Plugin
from executor.public_models import PublicModels
from executor.settings import Settings

SETTINGS: web.AppKey[Settings] = web.AppKey("settings", Settings)
FOLDERS: web.AppKey[Folders] = web.AppKey("folders", Folders)
LEDGER: web.AppKey[Ledger] = web.AppKey("ledger", Ledger)
DISPATCHER: web.AppKey[Dispatcher] = web.AppKey("dispatcher", Dispatcher)
HUB: web.AppKey[Hub] = web.AppKey("hub", Hub)
BELLS: web.AppKey[Bells] = web.AppKey("bells", Bells)
NARRATOR: web.AppKey[Narrator] = web.AppKey("narrator", Narrator)
PLUGINS: web.AppKey[tuple[Plugin, ...]] = web.AppKey("plugins", tuple)
DECODING: web.AppKey[Decoding] = web.AppKey("decoding", Decoding)
MODELS: web.AppKey[PublicModels] = web.AppKey("models", PublicModels)
PARTIALS: web.AppKey[Partials] = web.AppKey("partials", Partials)
CHECKING: web.AppKey[asyncio.Lock] = web.AppKey("checking", asyncio.Lock)
"""Held while a large workflow is checked: one at a time, so that small ones have their turn."""

JOB_ID: web.RequestKey[str] = web.RequestKey("job_id", str)
"""Of a request: the job that it is about, for the access log."""

IS_ANSWERING: web.RequestKey[bool] = web.RequestKey("is_answering", bool)
"""Of a request: its answer is on the way, so that an error cannot become another one."""
