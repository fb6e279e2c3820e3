"""Trials as an NNI experiment: every one a process of NNI's local service, watched on its web page.

    with experiment("my.module:task", "runs/web", strategy="nsga2", trials=50) as page:
        print(page.url)                     http://127.0.0.1:PORT, from this machine alone
        trials = page.wait()

NNI's server is a Node program that listens on every address and outlives whoever started it.  Here it loads _PRELOAD first: it listens
on the loopback address only, keeps its list of experiments in our folder, and ends itself when its parent is gone; tuner and trials end
when the server is.  Its process id is kept in the folder as well, and whatever is left of an earlier server is ended before a new one
starts.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any

from nas.nni_bridge import arch_of, evaluated, headline, mutables, sample_of, searcher_from_nni  # first: it prepares the import of nni
from nas.objectives import Evaluation
from nas.search.core import Scores, Searcher, SearchError, SpaceExhausted
from nas.study import Trial
from searchspaces.space import Arch, Space

import nni  # isort: skip
import psutil  # isort: skip
from nni.experiment import CustomAlgorithmConfig, Experiment, ExperimentConfig, launcher  # isort: skip
from nni.tools.nnictl.config_utils import Experiments  # isort: skip
from nni.tuner import Tuner  # isort: skip

_PRELOAD = """'use strict';
const net = require('net'), os = require('os');
const parent = Number(process.env.EDGENAS_PARENT), home = process.env.EDGENAS_NNI_HOME;
for (const name of ['NODE_OPTIONS', 'EDGENAS_PARENT', 'EDGENAS_NNI_HOME']) delete process.env[name];
process.env.EDGENAS_NNI_SERVER = String(process.pid);
os.homedir = () => home;
const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (...args) {
  const callback = args.find((arg) => typeof arg === 'function');
  const where = args[0] !== null && typeof args[0] === 'object' ? args[0] : { port: args[0] };
  return listen.call(this, { ...where, host: '127.0.0.1' }, callback);
};
setInterval(() => {
  if (process.ppid !== parent) { process.kill(process.pid, 'SIGTERM'); setTimeout(() => process.exit(1), 5000); }
}, 300).unref();
"""
_SECONDS_TO_START = 60
_SECONDS_TO_END = 10


@dataclass(frozen=True)
class Page:
    """A running experiment."""

    url: str
    pid: int
    space: Space
    experiment: Any

    def wait(self, timeout_s: float | None = None) -> list[Trial]:
        """Until every trial is over, or the time is; the trials so far.  Raises SearchError where NNI stopped with an error."""
        end = None if timeout_s is None else time.monotonic() + timeout_s
        while (status := self.experiment.get_status()) not in ("DONE", "STOPPED"):
            if status == "ERROR":
                raise SearchError(f"the NNI experiment stopped with an error: {self.url} and its logs say why")
            if end is not None and time.monotonic() > end:
                break
            time.sleep(0.2)
        return self.trials()

    def trials(self) -> list[Trial]:
        """The trials that are over, by number."""
        found = []
        for job in self.experiment.list_trial_jobs():
            if job.status not in ("SUCCEEDED", "FAILED"):
                continue
            asked = job.hyperParameters[0]
            arch, number = arch_of(self.space, asked.parameters), int(asked.parameter_id)
            if job.status == "SUCCEEDED" and job.finalMetricData:
                columns, state = _columns(job.finalMetricData[0].data)
                found.append(Trial(number, arch, state, columns))
            else:
                found.append(Trial(number, arch, "failed", error=f"{job.trialJobId} {job.status.lower()}: its stderr is on the page"))
        return sorted(found, key=lambda trial: trial.number)


def run_experiment(task: str, folder: str | Path, *, on_start: Callable[[str], None] = print, **settings: Any) -> list[Trial]:
    """`experiment` from start to end; `on_start` is given the address of the page."""
    with experiment(task, folder, **settings) as page:
        on_start(page.url)
        return page.wait()


@contextmanager
def experiment(task: str, folder: str | Path, *, argument: str | None = None, strategy: str = "nsga2", trials: int = 20,
               concurrency: int = 1, seed: int = 0, port: int = 0) -> Iterator[Page]:
    """Start an experiment; leaving the context ends it, its server and its trials.

    `task` is "module:function", importable in other processes: the function returns (Space, Evaluation) and is called with `argument`
    where one is given.  `strategy` is one of our searchers or "nni:NAME".  `port` 0 takes a free one.
    """
    folder = Path(folder).resolve()
    space, _ = load_task(task, argument)
    end_leftover(folder)
    (folder / "experiments").mkdir(parents=True, exist_ok=True)
    port = port or _free_port()
    running = Experiment(_config(task, argument, folder, strategy, trials, concurrency, seed))
    nni.silence_stdout()  # it would print addresses on which it does not listen
    try:
        with _prepared(folder):
            running.start(port)
        server = psutil.Process(running._proc.pid)
        (folder / "server.json").write_text(json.dumps({"pid": server.pid, "created": server.create_time(), "port": port}))
        yield Page(f"http://127.0.0.1:{port}", server.pid, space, running)
    finally:
        with suppress(Exception):
            running.stop()
        end_leftover(folder)


def load_task(task: str, argument: str | None = None) -> tuple[Space, Evaluation]:
    """What "module:function" returns.  Raises SearchError where there is no such function."""
    module, _, name = task.partition(":")
    try:
        make = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as fault:
        raise SearchError(f"task '{task}': {fault}; want module:function, importable from any process") from fault
    return make() if argument is None else make(argument)


def end_leftover(folder: Path) -> bool:
    """End the server that the folder names, with its children, if it still runs; True where there was one."""
    note = folder / "server.json"
    try:
        kept = json.loads(note.read_text())
        server = psutil.Process(kept["pid"])
        if abs(server.create_time() - kept["created"]) > 1.0:  # another process has that number today
            raise psutil.NoSuchProcess(server.pid)
    except (OSError, ValueError, KeyError, psutil.NoSuchProcess):
        note.unlink(missing_ok=True)
        return False
    family = [server, *server.children(recursive=True)]
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    for process in psutil.wait_procs(family, timeout=_SECONDS_TO_END)[1]:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    note.unlink(missing_ok=True)
    return True


def _config(task: str, argument: str | None, folder: Path, strategy: str, trials: int, concurrency: int, seed: int) -> Any:
    space, _ = load_task(task, argument)
    config = ExperimentConfig("local")
    config.experiment_name = f"edgenas {space.name} {strategy}"
    config.search_space = {name: {"_type": "choice", "_value": mutable.values} for name, mutable in mutables(space).items()}
    words = [sys.executable, "-m", "nas.nni_experiment", task] + ([] if argument is None else [argument])
    config.trial_command = " ".join(map(quote, words))
    config.trial_code_directory = str(folder)
    config.trial_concurrency = concurrency
    config.max_trial_number = trials
    config.experiment_working_directory = str(folder / "experiments")
    config.tuner = CustomAlgorithmConfig(
        class_name="nas.nni_experiment.SearcherTuner",
        code_directory=str(folder),
        class_args={"task": task, "argument": argument, "strategy": strategy, "seed": seed},
    )
    config.assessor = config.advisor = None
    return config


@contextmanager
def _prepared(folder: Path) -> Iterator[None]:
    """The environment in which NNI starts its server, and NNI's launcher more patient and keeping its list in our folder."""
    preload = folder / "loopback.cjs"
    preload.write_text(_PRELOAD)
    environment = {
        "NODE_OPTIONS": f'--require "{preload}"',
        "EDGENAS_PARENT": str(os.getpid()),
        "EDGENAS_NNI_HOME": str(folder),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),  # tuner and trials import what this process can
    }
    before = {name: os.environ.get(name) for name in environment}
    check, listed = launcher._check_rest_server, launcher.Experiments
    (folder / "nni-experiments").mkdir(exist_ok=True)
    os.environ.update(environment)
    launcher._check_rest_server = partial(check, retry=_SECONDS_TO_START)
    launcher.Experiments = partial(Experiments, home_dir=str(folder / "nni-experiments"))
    try:
        yield
    finally:
        launcher._check_rest_server, launcher.Experiments = check, listed
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# ------------------------------------------------------------------------------------------ in the processes that NNI starts
def _end_with_server() -> None:
    """Ends this process when NNI's server is gone: killed, it has no time to end its children."""
    server = psutil.Process(int(os.environ["EDGENAS_NNI_SERVER"]))

    def watch() -> None:
        with suppress(psutil.NoSuchProcess):
            while server.is_running() and server.status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, name="server-watch", daemon=True).start()


class SearcherTuner(Tuner):
    """A searcher in the place of NNI's tuner: it is told all columns, not only the one number that the page shows."""

    def __init__(self, task: str, argument: str | None, strategy: str, seed: int) -> None:
        from nas.search.searchers import searcher

        _end_with_server()
        self._space, self._evaluation = load_task(task, argument)
        objectives = self._evaluation.objectives
        self._searcher: Searcher
        if strategy.startswith("nni:"):
            self._searcher = searcher_from_nni(strategy.removeprefix("nni:"), self._space, objectives, seed=seed)
        else:
            self._searcher = searcher(strategy, self._space, objectives, seed)
        self._open: dict[int, Arch] = {}

    def update_search_space(self, search_space: Mapping[str, Any]) -> None:
        """The task has told it before."""

    def generate_parameters(self, parameter_id: int, **kwargs: Any) -> dict[str, Any]:
        try:
            arch = self._open[parameter_id] = self._searcher.ask()
        except SpaceExhausted:
            raise nni.NoMoreTrialError from None
        return sample_of(self._space, arch)

    def receive_trial_result(self, parameter_id: int, parameters: Any, value: Mapping[str, Any], **kwargs: Any) -> None:
        columns, state = _columns(value)
        self._searcher.tell(Trial(parameter_id, self._open.pop(parameter_id), state, columns))

    def trial_end(self, parameter_id: int, success: bool, **kwargs: Any) -> None:
        arch = self._open.pop(parameter_id, None)
        if arch is not None:
            self._searcher.tell(Trial(parameter_id, arch, "failed", error="the NNI trial failed"))


def _columns(metric: Mapping[str, Any]) -> tuple[dict[str, float], Any]:
    columns = {name: float(value) for name, value in metric.items() if name not in ("default", "infeasible")}
    return columns, "infeasible" if metric.get("infeasible") else "ok"


def main(task: str, argument: str | None = None) -> None:
    """One trial: takes its network from NNI, evaluates it, reports its columns beside the one number."""
    _end_with_server()
    space, evaluation = load_task(task, argument)
    trial = evaluated(0, arch_of(space, nni.get_next_parameter()), evaluation)
    infeasible = int(Scores(evaluation.objectives).violation(trial) > 0)
    nni.report_final_result({"default": headline(trial, evaluation.objectives), "infeasible": infeasible, **trial.columns})


if __name__ == "__main__":
    main(*sys.argv[1:])
