"""Many jobs on one device: each runs as if alone, and what can be shared is done once."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_nodes
from toy_nodes import CALLS, KEPT, MODELS

from executor.cache import Cache
from executor.engine import Engine
from executor.events import Cached, Ended, Executed, Executing, Failed, Outcome, Progress, Started
from executor.graph import check
from executor.job import Job
from executor.settings import Settings
from executor.workspace import Workspace


@pytest.fixture(autouse=True)
def _fresh():
    CALLS.clear()
    KEPT.clear()
    MODELS.clear()


class Bench:
    """An engine on the CPU, and what it told."""

    def __init__(self, base: Path, **settings) -> None:
        self.workspace = Workspace(Settings(base_directory=base, device="cpu", **settings))
        self.events = []
        self.engine = Engine(self.workspace, self.events.append)
        self.count = 0

    def submit(self, prompt) -> Job:
        checked = check(prompt, self.workspace.folders)
        assert checked.graph is not None, checked.problems
        self.count += 1
        job = Job(f"job {self.count}", checked.graph, prompt)
        self.engine.submit(job)
        return job

    def run(self, *prompts):
        """Run these workflows together; gives what was told of them."""
        self.events.clear()
        for prompt in prompts:
            self.submit(prompt)
        self.engine.run()
        return self.events

    def told(self, kind, job=None):
        return [e for e in self.events if isinstance(e, kind) and job in (None, e.job_id)]


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def number(value) -> dict[str, Any]:
    return {"class_type": "ToyNumber", "inputs": {"value": value}}


def add(a, b) -> dict[str, Any]:
    return {"class_type": "ToyAdd", "inputs": {"a": a, "b": b}}


def sink(value, name="toy") -> dict[str, Any]:
    return {"class_type": "ToySink", "inputs": {"value": value, "name": name}}


def sample(seed=0, steps=4, name="kept", model="m", size=2) -> dict[str, Any]:
    return {
        "1": {"class_type": "ToyLoad", "inputs": {"name": model}},
        "2": {
            "class_type": "ToySample",
            "inputs": {"model": ["1", 0], "seed": seed, "steps": steps, "size": size},
        },
        "3": {"class_type": "ToyKeep", "inputs": {"samples": ["2", 0], "name": name}},
    }


def nodes_of(events):
    return [event.node_id for event in events]


SUM = {"1": number(2), "2": add(["1", 0], 3), "3": sink(["2", 0])}


def test_a_job_is_told_from_start_to_end(bench):
    assert [type(event) for event in bench.run(SUM)] == [
        Started,
        *[Executing, Executed] * 3,
        Ended,
    ]
    assert nodes_of(bench.told(Executed)) == ["1", "2", "3"]
    (file,) = bench.told(Executed)[-1].files
    saved = bench.workspace.folders.place("output") / file.filename
    assert saved.read_text() == "5.0"


def test_a_second_run_executes_nothing_and_tells_the_files_again(bench):
    bench.run(SUM)
    files = bench.told(Executed)[-1].files
    CALLS.clear()
    events = bench.run(SUM)
    assert [type(event) for event in events] == [Started, Cached, Executed, Ended]
    assert CALLS == []
    assert events[1].node_ids == ("1", "2", "3")
    assert events[2].files == files


def test_a_change_runs_again_only_what_it_feeds(bench):
    prompt = {"1": number(2), "2": number(7), "3": add(["1", 0], ["2", 0]), "4": sink(["3", 0])}
    bench.run(prompt)
    bench.run(prompt | {"2": number(8)})
    assert nodes_of(bench.told(Executing)) == ["2", "3", "4"]


def test_equal_nodes_of_one_graph_run_once(bench):
    bench.run({"1": number(2), "2": number(2), "3": sink(["1", 0]), "4": sink(["2", 0], "b")})
    assert CALLS.count("number 2") == 1
    assert len(bench.told(Executed)) == 4


def test_equal_work_of_two_running_jobs_is_done_once(bench):
    bench.run(sample(1, name="a"), sample(1, name="b"))
    assert MODELS["m"].calls == [1, 1, 1, 1]
    assert torch.equal(KEPT["a"], KEPT["b"])


def test_a_shuffled_graph_gives_the_same(bench, tmp_path):
    prompt = {str(i): add([str(i - 1), 0], i) for i in range(1, 30)}
    prompt |= {"0": number(1), "out": sink(["29", 0])}
    bench.run(prompt)
    keys = list(prompt)
    random.Random(3).shuffle(keys)
    CALLS.clear()
    bench.run({key: prompt[key] for key in keys})
    assert CALLS == []


@pytest.mark.parametrize("shape", ["chain", "fan"])
def test_graphs_of_thousands_of_nodes_run(bench, shape):
    prompt = {"0": number(1), "out": sink(["5000", 0])}
    prompt |= {str(i): add([str(i - 1) if shape == "chain" else "0", 0], i) for i in range(1, 5001)}
    bench.run(prompt)
    (ended,) = bench.told(Ended)
    assert ended.outcome is Outcome.SUCCEEDED


def test_jobs_with_other_steps_share_forward_passes(bench):
    bench.run(sample(5, 4, "a"), sample(6, 6, "b"), sample(7, 3, "c"))
    assert MODELS["m"].calls == [3, 3, 3, 2, 1, 1]


def test_branches_of_one_graph_share_forward_passes(bench):
    prompt = {"1": sample()["1"]}
    for i in range(3):
        prompt[f"s{i}"] = sample(20 + i, 5)["2"]
        prompt[f"k{i}"] = {
            "class_type": "ToyKeep",
            "inputs": {"samples": [f"s{i}", 0], "name": str(i)},
        }
    bench.run(prompt)
    assert MODELS["m"].calls == [3] * 5


def test_together_is_as_alone(bench, tmp_path):
    prompts = {name: sample(31 + i, 3 + i, name) for i, name in enumerate("abc")}
    bench.run(*prompts.values())
    together = dict(KEPT)
    for name, prompt in prompts.items():
        Bench(tmp_path).run(prompt)
        # Elementwise arithmetic in float32: batching may change the last bits only.
        torch.testing.assert_close(KEPT[name], together[name], rtol=1e-6, atol=1e-6)


def test_a_batch_has_no_more_rows_than_the_settings_say(tmp_path):
    bench = Bench(tmp_path, max_batch_rows=2)
    bench.run(*(sample(seed, 2, str(seed)) for seed in range(5)))
    assert max(MODELS["m"].calls) == 2
    assert sum(MODELS["m"].calls) == 10


def test_latents_of_other_sizes_do_not_share_a_batch(bench):
    bench.run(sample(1, 2, "a", size=2), sample(1, 2, "b", size=3))
    assert MODELS["m"].calls == [1, 1, 1, 1]


def test_progress_counts_steps(bench):
    bench.run(sample(steps=3))
    assert [(p.value, p.of) for p in bench.told(Progress)] == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_a_failing_node_stops_what_needs_it_and_nothing_else(bench):
    prompt = {
        "1": {"class_type": "ToyFail", "inputs": {"a": 1}},
        "2": add(["1", 0], 1),
        "3": sink(["2", 0], "lost"),
        "4": sink(4, "kept"),
    }
    bench.run(prompt, SUM)
    (failed,) = bench.told(Failed)
    assert failed.node_id == "1"
    assert str(failed.failure) == "ToyFail (node 1): it had to be"
    outcomes = {event.job_id: event.outcome for event in bench.told(Ended)}
    assert outcomes == {"job 1": Outcome.FAILED, "job 2": Outcome.SUCCEEDED}
    assert nodes_of(bench.told(Executed, "job 1")) == ["4"]


def test_a_failure_beside_a_node_that_has_not_run_yet_unpins_nothing(bench):
    prompt = {
        "1": {"class_type": "ToyFail", "inputs": {"a": 1}},
        "2": number(2),
        "3": add(["1", 0], ["2", 0]),
        "4": sink(["3", 0]),
    }
    bench.run(prompt)
    assert nodes_of(bench.told(Failed)) == ["1"]
    assert [event.outcome for event in bench.told(Ended)] == [Outcome.FAILED]


def test_what_failed_is_not_cached(bench):
    prompt = {"1": {"class_type": "ToyFail", "inputs": {}}, "2": sink(["1", 0])}
    bench.run(prompt)
    bench.run(prompt)
    assert len(bench.told(Failed)) == 1


def test_a_node_that_returns_something_else_than_it_says_fails(bench):
    bench.run({"1": {"class_type": "ToyLiar", "inputs": {}}, "2": sink(["1", 0])})
    (failed,) = bench.told(Failed)
    assert "run must return INT, but returned NoneType" in str(failed.failure)


def test_a_value_that_does_not_fit_fails_the_node_that_it_reaches(bench):
    prompt = {"1": number(0), "2": {"class_type": "ToyDivide", "inputs": {"a": 1, "by": ["1", 0]}}}
    bench.run(prompt | {"3": sink(["2", 1])})
    (failed,) = bench.told(Failed)
    assert failed.node_id == "2"
    assert "by" in str(failed.failure)


def test_an_error_in_a_batch_stays_with_those_that_cannot_run_alone(bench):
    bench.run(sample(1, 2, "a", "broken"), sample(2, 2, "b", "broken"), sample(3, 2, "c"))
    assert [event.outcome for event in bench.told(Ended)] == [Outcome.SUCCEEDED] * 3
    assert set(KEPT) == {"a", "b", "c"}


def test_an_error_of_the_model_reaches_the_node_that_asked(bench):
    class Wrong(toy_nodes.ToyModel):
        def denoise(self, x, sigma, inputs):
            return x @ torch.empty(5, 5)

    MODELS["wrong"] = Wrong("wrong")
    bench.run(sample(model="wrong"), SUM)
    (failed,) = bench.told(Failed)
    assert failed.node_id == "2"
    assert "RuntimeError" in str(failed.failure)
    assert bench.told(Ended, "job 2")[0].outcome is Outcome.SUCCEEDED


def test_cancel_stops_between_steps_and_leaves_others_alone(bench):
    bench.submit(sample(1, 5, "a"))
    bench.submit(sample(2, 5, "b"))
    assert bench.engine.step()
    assert bench.engine.cancel("job 1")
    bench.engine.run()
    assert MODELS["m"].calls == [2, 1, 1, 1, 1]
    assert set(KEPT) == {"b"}
    assert bench.told(Ended, "job 1")[0].outcome is Outcome.CANCELLED
    assert not bench.engine.cancel("job 1")


def test_cancelling_one_of_two_that_share_a_run_does_not_stop_it(bench):
    bench.submit(sample(1, 5, "a"))
    bench.submit(sample(1, 5, "b"))
    bench.engine.step()
    bench.engine.cancel("job 1")
    bench.engine.run()
    assert set(KEPT) == {"b"}
    assert MODELS["m"].calls == [1] * 5


def test_a_job_that_joins_later_shares_from_the_next_step_on(bench):
    bench.submit(sample(1, 3, "a"))
    bench.engine.step()
    bench.submit(sample(2, 3, "b"))
    bench.engine.run()
    assert MODELS["m"].calls == [1, 2, 2, 1]


def test_outputs_are_pinned_only_while_they_are_needed(tmp_path):
    bench = Bench(tmp_path)
    cache = bench.engine.cache = Cache(torch.device("cpu"), device_bytes=0, host_bytes=0)
    bench.run(sample(1, 2, "a"), SUM)
    assert [event.outcome for event in bench.told(Ended)] == [Outcome.SUCCEEDED] * 2
    assert len(cache) == 0  # no budget: what nobody needs any more is gone
    bench.run(
        {
            "1": {"class_type": "ToyFail", "inputs": {"a": 1}},
            "2": add(["1", 0], 1),
            **{"3": sink(["2", 0])},
        }
    )
    bench.submit(sample(3, 4, "c"))
    bench.engine.step()
    bench.engine.cancel(f"job {bench.count}")
    assert len(cache) == 0


def test_running_out_of_memory_splits_the_batch(bench):
    class Small(toy_nodes.ToyModel):
        def denoise(self, x, sigma, inputs):
            if len(x) > 2:
                raise torch.OutOfMemoryError("too many rows")
            return super().denoise(x, sigma, inputs)

    MODELS["small"] = Small("small")
    bench.run(*(sample(seed, 2, str(seed), "small") for seed in range(5)))
    assert [event.outcome for event in bench.told(Ended)] == [Outcome.SUCCEEDED] * 5
    assert sum(MODELS["small"].calls) == 10
