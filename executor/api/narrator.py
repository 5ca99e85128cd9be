"""Tells clients what happens to their jobs, in ComfyUI's messages.

Events go to the client that submitted the job, and to nobody else; how many jobs remain is told to
all. ``hear`` is called by the dispatcher and never waits. A job's last messages come in the order
that ComfyUI's clients rely on: its end, then the status, then ``executing`` nothing; the history
has the job before any of them.
"""

import asyncio
import logging
from collections.abc import Collection, Iterable
from contextlib import suppress
from time import monotonic

from executor.api import messages
from executor.api.bells import Bells
from executor.api.hub import Hub, Socket
from executor.api.outbox import Message, Rank
from executor.api.progression import Progression
from executor.dispatch import Dispatcher, Happening
from executor.events import Cached, Ended, Executed, Executing, Failed, JobId, Progress, Started
from executor.fabric.messages import Picture, Preview
from executor.ledger import EventKind, JobEvent, Ledger
from executor.logs import about
from executor.node import NodeId
from executor.previews import method_of
from executor.seats import Running

log = logging.getLogger(__name__)

STATUS_EVERY_S, STATUS_PER_SOCKET_S = 0.05, 0.001
"""To all, at most: twenty a second, or a thousand messages. Each change at once would be a message
to every socket for every job."""

PROGRESS_EVERY_S = 0.05
"""``progress_state`` of a job, at most: it names all nodes that run, which may be thousands."""


class Narrator:
    """What is told to whom."""

    def __init__(
        self,
        hub: Hub,
        bells: Bells,
        ledger: Ledger,
        dispatcher: Dispatcher,
        *,
        shows_all: bool,
    ) -> None:
        """``shows_all``: the server's user wants previews whatever a client says of itself."""
        self._shows_all = shows_all
        self.hub, self.bells, self.ledger, self.dispatcher = hub, bells, ledger, dispatcher
        self._progressions: dict[JobId, Progression] = {}
        self._over: list[Running] = []  # whose last words are due
        self._is_changed = False
        self._news = asyncio.Event()

    # -- what the faces call -------------------------------------------------------------------

    def queue_changed(self) -> None:
        """There are more or fewer jobs than before."""
        self._is_changed = True
        self._news.set()

    def given_up(self, events: Iterable[JobEvent]) -> None:
        """Jobs were given up in the queue: tell those who keep count of events, and all others
        that there are fewer jobs."""
        for event in events:
            sockets = self.hub.of(event.client_id, event.owner)
            followers = [socket for socket in sockets if socket.follows_numbers]
            self._post(followers, _numbered(event))
            self.bells.ring(event.job_id)
        self.queue_changed()

    async def queue_cleared(self, since: int, owner: str | None) -> None:
        """The same of all an owner's jobs that waited, or of everybody's, whose ends have numbers
        above ``since``."""
        followed = {socket.client_id for socket in self.hub if socket.follows_numbers}
        for client_id in followed:
            events = await self.ledger.events_of_client(client_id, since, owner=owner)
            # A job that ran has been told of already.
            self.given_up(e for e in events if e.kind is EventKind.ENDED and not e.attempt)
        self.bells.ring_all()
        self.queue_changed()

    def wants_previews(self, job: Running) -> bool:
        """Whether anybody asked for previews of a job, in it or by what its client announced.

        Nobody else gets any: some clients take every binary frame for a result.
        """
        if job.extra_data.get("preview_method") == "none":
            return False
        return self._shows_plainly(job) or any(
            socket.takes_preview_metadata for socket in self._sockets_of(job)
        )

    def _sockets_of(self, job: Running) -> Collection[Socket]:
        """Whom a job's events are for."""
        return self.hub.of(job.taken.client_id, job.taken.owner)

    def _shows_plainly(self, job: Running) -> bool:
        """Whether previews go to clients, too, that do not say that they know them."""
        return self._shows_all or method_of(job.extra_data) is not None

    async def greeting(self, socket: Socket) -> list[str]:
        """The first words to a socket: the status with its id, and what runs for its client."""
        counts = await self.ledger.counts(socket.scope)
        words = [messages.status(counts.remaining, socket.client_id)]
        for job in self.dispatcher.running():
            progression = self._progressions.get(job.id)
            is_its = job.taken.client_id == socket.client_id and socket.sees(job.taken.owner)
            if is_its and progression and progression.last:
                words.append(messages.executing(job.id, progression.last))
        return words

    async def run(self) -> None:
        """Tell the status, and the last words of jobs behind it, until cancelled."""
        told_all_at = float("-inf")
        while True:
            every_s = max(STATUS_EVERY_S, STATUS_PER_SOCKET_S * len(self.hub))
            wait_s = told_all_at + every_s - monotonic() if self._is_changed else None
            if not self._over and (wait_s is None or wait_s > 0):
                self._news.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._news.wait(), wait_s)
                continue
            is_for_all = self._is_changed and (wait_s is None or wait_s <= 0)
            over, self._over = self._over, []
            if is_for_all:
                self._is_changed, told_all_at = False, monotonic()
            told = {s: None for job in over for s in self._sockets_of(job)}
            await self._tell_status(list(self.hub) if is_for_all else told)
            for job in over:
                self._post(self._sockets_of(job), Message(messages.executing(job.id, None)))

    async def _tell_status(self, sockets: Collection[Socket]) -> None:
        """Tell how many jobs remain, to each socket of those that it may see."""
        by_scope: dict[str | None, Message] = {}
        for scope in {socket.scope for socket in sockets}:
            counts = await self.ledger.counts(scope)
            by_scope[scope] = Message(messages.status(counts.remaining), key="status")
        for socket in sockets:
            socket.post(by_scope[socket.scope])

    # -- what the dispatcher calls -------------------------------------------------------------

    def hear(self, job: Running, happening: Happening, kept: JobEvent | None) -> None:
        """Something happened to a job; ``kept`` is what the ledger has of it."""
        sockets = self._sockets_of(job)
        progression = self._progression(job)
        match happening:
            case Executing(node_id=node_id):
                progression.last, progression.sending = node_id, None
                progression.running[node_id] = (0, 1)
                if sockets:
                    self._executing(sockets, job.id, node_id)
            case Progress(node_id=node_id, value=value, of=most):
                progression.running[node_id] = (value, most)
                if sockets:
                    self._progress(sockets, happening)
            case Executed(node_id=node_id):
                progression.running.pop(node_id, None)
                progression.ended[node_id] = "finished"
                if kept is None and node_id in progression.targets:
                    data = messages.executed(job.id, node_id)
                    self._post(sockets, Message(messages.message_text("executed", data)))
            case Failed(node_id=node_id):
                progression.running.pop(node_id, None)
                progression.ended[node_id] = "error"
            case Preview():
                self._preview(sockets, job, happening)
                return
            case Picture():
                self._picture(sockets, progression, happening)
                return
            case Ended():
                self._tell_progression(progression)
                del self._progressions[job.id]
            case Started() | Cached():
                pass
        if kept is not None:
            self._durable(sockets, kept, progression)
            self.bells.ring(job.id)
        if isinstance(happening, Ended):
            self._over.append(job)
            self.queue_changed()
        elif sockets and not isinstance(happening, (Started, Cached)):
            self._schedule(progression)

    def _progression(self, job: Running) -> Progression:
        """How this attempt stands; forgets attempts whose worker died."""
        progression = self._progressions.get(job.id)
        if progression is None or progression.job is not job:
            running = {other.id for other in self.dispatcher.running()} | {job.id}
            for lost in [other for other in self._progressions if other not in running]:
                del self._progressions[lost]
            progression = self._progressions[job.id] = Progression(job)
        return progression

    def _post(self, sockets: Collection[Socket], message: Message) -> None:
        for socket in sockets:
            socket.post(message)

    def _executing(self, sockets: Collection[Socket], job_id: JobId, node_id: NodeId) -> None:
        text = messages.executing(job_id, node_id)
        key, crowd_key = ("executing", job_id, node_id), ("executing", job_id)
        self._post(sockets, Message(text, Rank.PROGRESS, key, crowd_key))

    def _progress(self, sockets: Collection[Socket], progress: Progress) -> None:
        job_id, node_id = progress.job_id, progress.node_id
        data = {"value": progress.value, "max": progress.of, "prompt_id": job_id, "node": node_id}
        text = messages.message_text("progress", data)
        self._post(sockets, Message(text, Rank.PROGRESS, ("progress", job_id, node_id)))

    def _preview(self, sockets: Collection[Socket], job: Running, preview: Preview) -> None:
        if job.extra_data.get("preview_method") == "none":
            return
        key = ("preview", job.id, preview.node_id)
        for socket in sockets:
            if socket.takes_preview_metadata:
                frame = messages.frame_with_metadata(
                    job.id, preview.node_id, preview.jpeg, "image/jpeg"
                )
            elif self._shows_plainly(job):
                frame = messages.preview_frame(preview.jpeg)
            else:
                continue
            socket.post(Message(frame, Rank.PREVIEW, key))

    def _picture(
        self, sockets: Collection[Socket], progression: Progression, picture: Picture
    ) -> None:
        """A result that is kept nowhere else.

        Clients take it for that of the last node that they were told runs. Others may run beside
        it, and their telling may be put off: so it is said again, where it must not get lost.
        """
        job_id, node_id = picture.job_id, picture.node_id
        if not sockets:
            words = "nobody is there for the picture that node %s sends; SaveImage keeps pictures"
            log.warning(words, node_id, extra=about(job=job_id))
        if progression.sending != node_id:
            progression.sending = node_id
            self._post(sockets, Message(messages.executing(job_id, node_id)))
        for socket in sockets:
            if socket.takes_preview_metadata:
                frame = messages.frame_with_metadata(job_id, node_id, picture.png, "image/png")
            else:
                frame = messages.picture_frame(picture.png)
            socket.post(Message(frame, is_result=True))

    def _durable(
        self, sockets: Collection[Socket], kept: JobEvent, progression: Progression
    ) -> None:
        if kept.kind is EventKind.FAILED:
            sockets = [socket for socket in sockets if socket.follows_numbers]
        type, data = messages.rendered(kept)
        if type == "execution_interrupted":
            data |= progression.interrupted()
            sockets = [socket for socket in self.hub if socket.sees(kept.owner)]
        text = messages.message_text(type, data, kept.seq)
        self._post(sockets, Message(text, seq=kept.seq))

    # -- progress_state ------------------------------------------------------------------------

    def _schedule(self, progression: Progression) -> None:
        """Have it told soon, but not too often."""
        if progression.timer is None:
            loop = asyncio.get_running_loop()
            progression.timer = loop.call_later(
                PROGRESS_EVERY_S, self._tell_progression, progression
            )

    def _tell_progression(self, progression: Progression) -> None:
        if progression.timer is not None:
            progression.timer.cancel()
            progression.timer = None
        sockets = self._sockets_of(progression.job)
        if sockets and (progression.running or progression.ended):
            key = ("progress_state", progression.job.id, monotonic())
            crowd_key = ("progress_state", progression.job.id)
            self._post(sockets, Message(progression.text(), Rank.PROGRESS, key, crowd_key))
        progression.ended.clear()


def _numbered(event: JobEvent) -> Message:
    """A durable event as a message."""
    type, data = messages.rendered(event)
    return Message(messages.message_text(type, data, event.seq), seq=event.seq)
