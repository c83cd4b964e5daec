"""One analysis job: load the networks of its runs, check them, run the analysis in float32."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from smoothout.analysis.options import WhichWeights
from smoothout.common import pass_cache, progress
from smoothout.common.errors import CheckpointError, DataError
from smoothout.jobs.job import Job
from smoothout.jobs.prepared_run import PreparedRun, load_splits, network_of, weights_digest
from smoothout.jobs.runtime import Runtime
from smoothout.jobs.steps import Steps
from smoothout.jobs.training_job import train_locked
from smoothout.nn.evaluation import EvalResult, eval_batch_size, evaluate
from smoothout.nn.options import Precision
from smoothout.nn.precision import precision_context
from smoothout.results.digest import canonical_json
from smoothout.results.records import Record, find_non_json_type

SAME_ACCURACY = 0.02  # largest difference in the accuracy of the same weights that rounding explains


def analysis_outcome(job: Job, records: list[Record], runs: list[PreparedRun]) -> Steps[dict[str, Any]]:
    """Analyze the trained ``runs``, whose ``records`` exist, and return the outcome for the record of the analysis.

    Empties ``runs`` to free their checkpoints, which take as much memory as the networks. Raises DataError if a run was
    trained on other data.
    """
    runtime, train_split, test_split = runs[0].runtime, runs[0].train_split, runs[0].test_split
    data_sha256 = runs[0].data_sha256
    for record in records:
        if record.outcome["data_sha256"] != data_sha256:
            raise DataError(
                f"data: {record.labels['data']} in {runtime.folders.data} is not what {record.name} was trained on;"
                " restore that data, or use other folders.results and folders.checkpoints to train again"
            )
    if job.settings.takes_unseen_test:
        experiment = runs[0].experiment
        data: Any = experiment.data  # a dataclass
        _, test_split, _ = load_splits(replace(experiment, data=replace(data, validation_size=None)), runtime)
    models, on_test = [], []
    while runs:
        model, measured = yield from _load_network(runs.pop(0), job.settings.checkpoint)
        models.append(model)
        on_test.append({"test_loss": measured.loss, "test_accuracy": measured.accuracy})
    digests = [weights_digest(model.state_dict()) for model in models]

    # These numbers serve to compare retrained weights with the record, see `results.retrained`.
    recorded = [record.outcome["weights"][str(job.settings.checkpoint)] for record in records]
    retrained = [numbers if digests[i] != recorded[i] else None for i, numbers in enumerate(on_test)]

    # An interrupted analysis resumes from its cached passes, but only with the same weights, data and machine.
    circumstances = canonical_json([digests, data_sha256, runtime.environment()])
    cache = pass_cache.open_pass_cache(pass_cache_path(job, runtime), circumstances)
    bar = progress.Bar(job.name, job.settings.ticks(len(train_split), len(test_split)))
    with bar, cache, precision_context(Precision.float32, runtime.device):  # torch's default lets cuDNN use TF32
        outcome: dict[str, Any] = job.settings.run(models, train_split, test_split, bar.tick)
    if not isinstance(outcome, dict):
        raise TypeError(f"{job.kind}: run() returned a {type(outcome).__name__}; must return a dict")
    for key, value in outcome.items():
        if wrong := find_non_json_type(value):
            raise TypeError(f"{job.kind}: run() returned a {wrong} under {key!r}; a record holds numbers and lists")
    return {**outcome, "weights": digests, **({"retrained": retrained} if any(retrained) else {})}


def _load_network(run: PreparedRun, which: WhichWeights) -> Steps[tuple[nn.Module, EvalResult]]:
    """The run's network with its ``best`` or ``last`` weights, with its loss and accuracy on the run's test split.

    Without a checkpoint it is trained first. Raises CheckpointError if the weights no longer have their accuracy from
    training, because the network's code has changed.
    """
    state = yield from train_locked(run, which)
    model = network_of(run.experiment, run.runtime, state, which)
    accuracy = state.curves["test_accuracy"][-1 if which is WhichWeights.last else state.best_epoch]
    with precision_context(run.experiment.precision, run.runtime.device):
        measured = evaluate(model, run.test_split.batches(eval_batch_size(run.runtime.device)))
    if abs(measured.accuracy - accuracy) > SAME_ACCURACY:
        raise CheckpointError(
            f"model: {run.experiment.slug()}: the same weights had a test accuracy of {accuracy:.2%} and now have"
            f" {measured.accuracy:.2%}: has the code changed? Give the new model another name or setting, or delete the"
            " old record and checkpoint"
        )
    return model, measured


def pass_cache_path(job: Job, runtime: Runtime) -> Path:
    """The folder in which an analysis caches its finished passes until its record is written."""
    return Path(runtime.folders.checkpoints) / f"{job.name}.passes"
