"""Under which keys an application and a request hold what handlers need."""

from aiohttp import web

from executor.dispatch import Dispatcher
from executor.ledger import Ledger
from executor.paths import Folders
from executor.settings import Settings

SETTINGS: web.AppKey[Settings] = web.AppKey("settings", Settings)
FOLDERS: web.AppKey[Folders] = web.AppKey("folders", Folders)
LEDGER: web.AppKey[Ledger] = web.AppKey("ledger", Ledger)
DISPATCHER: web.AppKey[Dispatcher] = web.AppKey("dispatcher", Dispatcher)

JOB_ID = "weft_job_id"
"""Of a request: the job that it is about, for the access log."""

IS_ANSWERING = "weft_is_answering"
"""Of a request: its answer is on the way, so that an error cannot become another one."""
