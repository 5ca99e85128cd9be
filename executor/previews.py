"""Pictures in the making, for those who look: when they are drawn, and of which jobs.

The thread that samples only hands latents over; another draws them, at most ten a second of a job
and as few in all as sampling hardly notices. Of what waits, a newer latent of the same node takes
the older one's place, and nodes take turns. Nothing is told of a node that has ended. Light: torch
is imported by what draws.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Condition, Thread
from time import monotonic
from typing import TYPE_CHECKING, Any, get_args

from executor.events import JobId
from executor.fabric.messages import Preview
from executor.models.latent_rgb import Method
from executor.node import NodeId
from executor.ports import DiffusionModel

if TYPE_CHECKING:
    from torch import Tensor

    from executor.models.preview import Drawing

log = logging.getLogger(__name__)

EVERY_S = 0.1
"""Of one job, at most; more than an eye follows."""

SHARE = 0.05
"""Of the device's time that drawing may take from sampling."""


def method_of(extra_data: Mapping[str, Any]) -> Method | None:
    """How a client wants to see its job, if it says that."""
    said = extra_data.get("preview_method")
    return next((method for method in get_args(Method) if method == said), None)


@dataclass(slots=True)
class _Watched:
    """A job that somebody looks at."""

    attempt: int
    method: Method
    next_at: float = float("-inf")


class Previews:
    """The previews of one worker's jobs."""

    def __init__(
        self,
        draw: "Callable[[DiffusionModel, Tensor, Method], Drawing | None]",
        tell: Callable[[Preview], None],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._draw, self._tell, self._clock = draw, tell, clock
        self._jobs: dict[JobId, _Watched] = {}
        self._latents: dict[tuple[JobId, NodeId], tuple[DiffusionModel, Tensor]] = {}
        self._drawn: tuple[JobId, NodeId] | None = None  # what is being drawn, if it still matters
        self._is_over = False
        self._news = Condition()
        self._thread = Thread(target=self._run, name="previews", daemon=True)

    def start(self) -> None:
        """Begin to draw."""
        self._thread.start()

    def close(self) -> None:
        """Stop drawing."""
        with self._news:
            self._is_over = True
            self._news.notify()
        self._thread.join()

    def begin(self, job_id: JobId, attempt: int, method: Method) -> None:
        """Somebody looks at this job."""
        self._jobs[job_id] = _Watched(attempt, method)

    def show(self, job_id: JobId, node_id: NodeId, model: DiffusionModel, latent: "Tensor") -> None:
        """A node has come to this latent (B, C, h, w). Costs nothing if nobody looks."""
        job = self._jobs.get(job_id)
        if job is None:
            return
        now = self._clock()
        if now < job.next_at:
            return
        job.next_at = now + EVERY_S
        with self._news:
            self._latents[job_id, node_id] = model, latent
            self._news.notify()

    def node_ended(self, job_id: JobId, node_id: NodeId) -> None:
        """Its picture is there, or never will be."""
        if job_id in self._jobs:
            with self._news:
                self._forget((job_id, node_id))

    def end(self, job_id: JobId) -> None:
        """The job is over."""
        if job_id in self._jobs:
            with self._news:
                del self._jobs[job_id]
                for place in [*self._latents, self._drawn]:
                    if place and place[0] == job_id:
                        self._forget(place)

    def _forget(self, place: tuple[JobId, NodeId]) -> None:
        self._latents.pop(place, None)
        if self._drawn == place:
            self._drawn = None

    def _run(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._is_over or self._latents)
                if self._is_over:
                    return
            rest_s = self.draw_next()
            with self._news:
                if self._news.wait_for(lambda: self._is_over, timeout=rest_s):
                    return

    def draw_next(self) -> float:
        """Draw and tell what has waited longest; gives how long to rest after it, in seconds."""
        with self._news:
            if not self._latents:
                return 0.0
            place = self._drawn = next(iter(self._latents))
            model, latent = self._latents.pop(place)
            job = self._jobs[place[0]]
        try:
            drawing = self._draw(model, latent, job.method)
        except RuntimeError as error:  # torch's, memory above all: sampling needs it more
            log.warning("a preview of job %s could not be drawn: %s", place[0], error)
            return 1.0
        if drawing is None:
            return 0.0
        with self._news:
            if self._drawn == place:
                self._tell(Preview(place[0], job.attempt, place[1], drawing.jpeg))
        return drawing.cost_s * (1 / SHARE - 1)
