"""Many jobs on one device: whatever is ready runs, what waits for the same model shares a batch.

The engine is driven by ``step``, from one thread. It knows nothing of where jobs come from or who
watches; all that happens is told through ``emit``. A failing node harms neither other jobs nor what
does not depend on it.
"""

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, TypeAlias

from executor.cache import Cache, Outputs
from executor.events import (
    Cached,
    Ended,
    Event,
    Executed,
    Executing,
    Failed,
    Failure,
    JobId,
    Outcome,
    Progress,
    Started,
)
from executor.graph import Key
from executor.job import Job, NodeRun, bind
from executor.meter import Meter
from executor.node import NodeId
from executor.ports import DiffusionModel
from executor.steps import Eval
from executor.workspace import Workspace

if TYPE_CHECKING:
    from torch import Tensor

Answer: TypeAlias = "Tensor | Exception | None"


class Engine:
    """Runs jobs together."""

    def __init__(
        self, workspace: Workspace, emit: Callable[[Event], None], cache: Cache | None = None
    ) -> None:
        self.workspace, self.emit = workspace, emit
        self.cache = cache or workspace.new_cache()
        self.jobs: dict[JobId, Job] = {}
        self.meter = Meter()
        self.on_preview: Callable[[JobId, NodeId, DiffusionModel, Tensor], None] | None = None
        """Told what a sampling node of a job has come to, whenever it is a step further."""
        self.on_picture: Callable[[JobId, NodeId, bytes], None] | None = None
        """Given the PNGs that nodes send to their jobs' clients; without it they become files."""
        self._runs: dict[Key, NodeRun] = {}
        self._starting: deque[tuple[Job, NodeId]] = deque()
        self._ready: deque[tuple[NodeRun, Answer]] = deque()
        self._waiting: deque[NodeRun] = deque()
        self._rows_that_fit: dict[Hashable, int] = {}  # in one forward pass, where not all did
        workspace.devices.residency.on_shortage = self.cache.leave_device

    def submit(self, job: Job) -> None:
        """Take a job on; it runs with the others from the next step on."""
        assert job.id not in self.jobs, f"job {job.id} is running already"
        self.jobs[job.id] = job
        self.emit(Started(job.id))
        job.models = self.workspace.models_to_tell(job.graph.nodes.values())
        ready = job.begin(self.cache)
        spared = job.spared
        self.meter.hits += len(spared)
        self.meter.misses += len(job.graph.nodes) - len(spared)
        if spared:
            self.emit(Cached(job.id, spared))
        for node_id in job.graph.outputs:
            outputs = None if job.waits_for(node_id) else self.cache.get(job.graph.keys[node_id])
            if outputs is not None:
                self.emit(Executed(job.id, node_id, outputs.files))
        self._starting.extend((job, node_id) for node_id in ready)
        self._end_if_over(job)

    def cancel(self, job_id: JobId) -> bool:
        """Stop a job between two steps; what it shares with others goes on. False if it is over."""
        job = self.jobs.get(job_id)
        if job is None:
            return False
        job.abandon(self.cache)
        for run in list(self._runs.values()):
            run.members = [(other, node_id) for other, node_id in run.members if other is not job]
            if not run.members:
                run.close()
                del self._runs[run.key]
        del self.jobs[job_id]
        self.emit(Ended(job_id, Outcome.CANCELLED))
        return True

    def run(self) -> None:
        """Drive all jobs to their ends."""
        while self.step():
            pass

    def step(self) -> bool:
        """Let every run go as far as it can, then evaluate one batch. False if nothing is left."""
        import torch

        with torch.no_grad():
            while self._starting or self._ready:
                while self._starting:
                    self._start(*self._starting.popleft())
                if self._ready:
                    self._resume(*self._ready.popleft())
            batch = self._next_batch()
            if batch:
                self.meter.batches[sum(len(run.wants.x) for run in batch if run.wants)] += 1
                began = perf_counter()
                answers = self._evaluate([run.wants for run in batch if run.wants])
                share = (perf_counter() - began) / len(batch)
                for run, answer in zip(batch, answers, strict=True):
                    run.seconds += share
                    self._ready.append((run, answer))
        return bool(self._ready)

    def _start(self, job: Job, node_id: NodeId) -> None:
        """Begin a node's run, or join the one that makes the same outputs."""
        if not job.waits_for(node_id):
            return  # its job was cancelled
        self.emit(Executing(job.id, node_id))
        key = job.graph.keys[node_id]
        run = self._runs.get(key)
        if run is not None:
            run.members.append((job, node_id))
            return
        outputs = self.cache.get(key)
        if outputs is not None:  # another job has made it since this one began
            if job.pins(node_id):
                self.cache.pin(key)
            self._advance(job, node_id, outputs)
            return
        send = partial(self._send, key) if self.on_picture else None
        context = self.workspace.context(job.prompt, job.extra_pnginfo, send, job.models)
        try:
            run = NodeRun(key, bind(job, node_id, self.cache), context, [(job, node_id)])
        except Exception as error:  # a value that came along a link does not fit: the node's door
            self._fail(job, node_id, error)
            return
        self._runs[key] = run
        self._ready.append((run, None))

    def _resume(self, run: NodeRun, answer: Answer) -> None:
        """Let a run go on; it comes to wait, or ends, or fails."""
        if self._runs.get(run.key) is not run:
            return  # all that wanted it were cancelled
        before = run.wants
        try:
            outputs = run.resume(answer)
        except Exception as error:  # one node's failure is not the others': the node's door
            if self._can_begin_again(run, before or answer, error):
                self._ready.append((run, None))
                return
            del self._runs[run.key]
            for job, node_id in run.members:
                self._fail(job, node_id, error)
            return
        self._tell_progress(run, before)
        if outputs is None:
            self._waiting.append(run)
            return
        del self._runs[run.key]
        self.meter.node_runs[type(run.node).__name__] += 1
        self.meter.node_seconds[type(run.node).__name__] += run.seconds
        pins = sum(job.pins(node_id) for job, node_id in run.members)
        self.cache.put(run.key, outputs, run.seconds, pins)
        for job, node_id in run.members:
            self._advance(job, node_id, outputs)

    def _can_begin_again(self, run: NodeRun, was_further: object, error: Exception) -> bool:
        """Whether a node may be run anew, because there is memory now that had run out."""
        from executor.devices import is_out_of_memory, relieved

        if was_further is not None or run.node.is_output or not is_out_of_memory(error):
            return False
        run.close()
        what = f"in {type(run.node).__name__}"
        return relieved(self.workspace.devices.residency, what)

    def _advance(self, job: Job, node_id: NodeId, outputs: Outputs) -> None:
        """A node's outputs are there: tell, and see what became ready."""
        self.emit(Executed(job.id, node_id, outputs.files))
        self._starting.extend((job, ready) for ready in job.ended(node_id, self.cache))
        self._end_if_over(job)

    def _fail(self, job: Job, node_id: NodeId, cause: Exception) -> None:
        failure = Failure.of(node_id, type(job.graph.nodes[node_id]).__name__, cause)
        job.failed(node_id, failure, self.cache)
        self.emit(Failed(job.id, node_id, failure))
        self._end_if_over(job)

    def _end_if_over(self, job: Job) -> None:
        if job.is_over and self.jobs.pop(job.id, None):
            if not self.jobs:  # the next ones may be smaller
                self._rows_that_fit.clear()
                self.workspace.devices.residency.relax()
            self.emit(Ended(job.id, Outcome.FAILED if job.failures else Outcome.SUCCEEDED))

    def _tell_progress(self, run: NodeRun, before: Eval | None) -> None:
        """Tell when a run has come a step further."""
        now = run.wants
        done = now.step if now else before.steps if before else 0
        steps = now.steps if now else before.steps if before else 0
        if steps and (before is None or done != before.step):
            for job, node_id in run.members:
                self.emit(Progress(job.id, node_id, done, steps))
                if self.on_preview and now and now.denoised is not None:
                    self.on_preview(job.id, node_id, now.model, now.denoised)

    def _send(self, key: Key, png: bytes) -> None:
        """A run gives a picture to the clients of all that wait for it."""
        for job, node_id in self._runs[key].members:
            if self.on_picture:
                self.on_picture(job.id, node_id, png)

    def _next_batch(self) -> list[NodeRun]:
        """Take the run that has waited longest, and those that can share its forward pass."""
        waiting = [run for run in self._waiting if self._runs.get(run.key) is run and run.wants]
        batch: list[NodeRun] = []
        rows = 0
        for run in waiting:
            wants = run.wants
            assert wants is not None, "a waiting run wants an evaluation"
            if batch and batch[0].wants and wants.key != batch[0].wants.key:
                continue
            if batch and rows + len(wants.x) > self.workspace.settings.max_batch_rows:
                continue
            batch.append(run)
            rows += len(wants.x)
        taken = set(map(id, batch))
        self._waiting = deque(run for run in waiting if id(run) not in taken)
        return batch

    def _evaluate(self, requests: Sequence[Eval]) -> Sequence[Answer]:
        """Answer compatible requests with one forward pass, or with several if that one fails."""
        try:
            return self._evaluated(requests)
        except Exception as error:  # one request's failure is not the others': the batch's door
            cause = error
        if len(requests) == 1:
            return [cause]
        half = len(requests) // 2
        return [*self._evaluate(requests[:half]), *self._evaluate(requests[half:])]

    def _evaluated(self, requests: Sequence[Eval]) -> Sequence["Tensor"]:
        """The answers; with fewer rows at once where memory does not allow for all."""
        import torch

        from executor.devices import in_parts
        from executor.sampling.forward import evaluate, rows_of

        key, sizes = requests[0].key, [len(request.x) for request in requests]
        done = in_parts(
            sum(sizes),
            lambda start, stop: evaluate(rows_of(requests, start, stop)),
            at_once=self._rows_that_fit.get(key, sum(sizes)),
            what="evaluating a diffusion model",
            residency=self.workspace.devices.residency,
            advice="make a smaller picture",
        )
        if len(done.parts) == 1:
            return done.parts[0]
        self._rows_that_fit[key] = done.at_once
        return torch.cat([rows for part in done.parts for rows in part]).split(sizes)

    def free_memory(self) -> bool:
        """Forget cached outputs that no running job has planned on. False if there are none."""
        import torch

        before = self.cache.used_bytes[0]
        self.cache.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return self.cache.used_bytes[0] < before
