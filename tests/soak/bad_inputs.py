"""The broken inputs that are tried: calls with wrong arguments here, calls over broken files from `corrupt_files`.

Each call stands for one way in which input can be wrong; the types and ranges of single settings are checked without a
program, in tests/integration/config.
"""

from __future__ import annotations

from soak.bad_input_runner import RUN, Case
from soak.corrupt_files import CHECKPOINTS, CONFIGS, DATA, RECORDS
from soak.processes import QUIET

# What is given, and the words that the one line must hold: the culprit, its value, what is allowed.
_TRAIN = {
    "seed=1=[": "seed=1=[ KEY=VALUE",
    "seed": "seed KEY=VALUE",
    "init_from.run=[seed=1]": "init_from.run=[seed=1] KEY=VALUE quotes",
    "model=vit": "model: 'vit' f1, resnet18",
    "sede=1": "sede: unknown seed",
    "epochs=3": "epochs: unknown schedule.epochs",
    "+method.strength=1": "method.strength: unknown a, distribution, scaling",
    "table=table2": "table: --help",
    "~seed": "seed: given whole number",
    "~engine": "engine: given group",
    "folders=3": "folders: group 3",
    "seed=${nothing}": "'nothing'",
    "seed=x": "seed: 'x' whole number",
    "optimizer.lr=nan": "optimizer.lr: finite nan",
    "batch.size=5000": "batch.size: 5000 1438",
    "batch.size=479": "batch.size: 1 BatchNorm 2",
    "batch.ghost=1": "batch.ghost: 1 BatchNorm 2",
    "batch.multiplier=3": "batch.size: 720 3 1438",
    "data.validation_size=99999": "data.validation_size: 99999 1438",
    "init_from.run=['sede=1']": "init_from.run: sede: unknown seed",
    "init_from.run=['seed=-1']": "init_from.run: seed: -1",
    "init_from.run=['batch.size=5000']": "init_from.run: batch.size: 5000 1438",
    "device=tpu": "device: 'tpu' auto, cpu, cuda, cuda:N",
    "engine.launch=graph seed=1": "engine.launch: graph cpu auto eager",
    "folders.results=": "folders.results: ''",
    "data=mnist": "data: mnist",
    "model=c1": "model: 11x11 8x8",
    "model._target_=os.system": "model._target_: 'os.system' frozen dataclass",
    "model._target_=elsewhere.Net": "model._target_: 'elsewhere.Net' PYTHONPATH",
    "method._target_=smoothout.training.batch.Batch": "method._target_: smoothout.training.batch.Batch",
    "hydra.callbacks.summary._target_=os.system": ".system'",
    "hydra/launcher=slurm": "hydra/launcher: -m",
    "--experimental-rerun=config.pickle": "config.pickle",
    "--config-dir=nowhere": "nowhere",
    "-m seed=0,": "seed=0, KEY=VALUE",  # the whole sweep is refused
    "-m seed=range(3,1)": "seed=range(3,1): no value",
    "-m seed=0,1 method=glob(smooth_*)": "method=glob(smooth_*): no value adasmoothout, gaussian, smoothout",
    "-m hydra.sweeper.params.seed=0": "hydra.sweeper.params.seed=0",
    "-m ~hydra/launcher": "hydra.launcher",
    "~hydra.run.dir": "hydra.run.dir: deleted",
    "~model._target_": "model: _target_",
}
_ANALYZE = {
    "analysis=flatness": "analysis: 'flatness' sharpness",
    "analysis.subspace=999999999": "analysis.subspace: 999999999 43402",
    "analysis.convention=ours": "analysis.convention: 'ours' converged, keskar, released",
    "analysis._target_=smoothout.models.mlp.MLP": "analysis._target_: smoothout.models.mlp.MLP run",
    "analysis=unseen_test": "data.validation_size: unseen_test",
    "analysis=interpolation second_run=['sede=1']": "second_run: sede: unknown seed",
    "analysis=interpolation second_run=[]": "second_run",
    "analysis=interpolation second_run=['model=f1','batch=large']": "network",
}
_REPRODUCE = {
    "table=quickstart scope.profile=smok": "scope.profile: 'smok' paper, short, smoke",
    "protocoll=v1": "protocoll: unknown scope.protocol",
    "profile=smoke": "profile: scope.profile --help",
    "table=quickstart scope.seeds=[1,1]": "scope.seeds: [1,",
    "table=quickstart rows=[nothing]": "rows: 'nothing' digits, 32; digits, 720",
    "table=quickstart table.rows=[]": "table rows",
    "table=table2 table.rows=[{name:x,overrides:[]}]": "table.rows.0.match",
    "table=none figure=quickstart figure.panels=[{kind:noise,title:a,runs:[x]}]": "figure.panels.0.runs: x group",
    "table=quickstart table.rows.0.overrides=['sede=1']": "table quickstart: digits, 32, baseline: sede: unknown seed",
    "table=none figure=none": "table figure none",
}
_CHOOSE = {
    "strengths=[0,0.1]": "strengths: none, filter, weight",
    "seed=9": "seed: grid.seeds",
    "method=none": "method smoothout, adasmoothout",
}
_OTHERS = {
    ("prepare_data", "data.name=svhn"): "data.name: 'svhn' digits, mnist, cifar10, cifar100, fashion_mnist",
    ("verdicts", "all_pages=true", "claims=keskar"): "all_pages: claims=keskar false",
    ("verdicts", "claim_scope.protocols=[papertext]"): "claim_scope.protocols: 'papertext' paper_text",
    ("verdicts", "~claim_scope"): "claim_scope: given group",
    ("benchmark", "only=[]"): "only: null smoothout-f1",
    ("benchmark", "only=[nothing]"): "only: 'nothing' smoothout-f1",
}


def _calls(program: str, fixed: tuple[str, ...], wrong: dict[str, str]) -> list[Case]:
    return [Case(program, (*fixed, *arguments.split()), words) for arguments, words in wrong.items()]


CALLS = [
    *_calls("train", RUN, _TRAIN),
    *_calls("analyze", RUN, _ANALYZE),
    *_calls("reproduce", QUIET, _REPRODUCE),
    *_calls("choose_strength", RUN, _CHOOSE),
    *(Case(program, tuple(arguments), words) for (program, *arguments), words in _OTHERS.items()),
]
FILES = [
    *(Case("train", (*RUN, "seed=1"), words, spoil) for spoil, words in DATA.items()),
    *(Case("train", RUN, words, spoil) for spoil, words in (CHECKPOINTS | RECORDS).items()),
    *(Case("analyze", RUN, words, spoil) for spoil, words in list(RECORDS.items())[:2]),
    *(Case("train", ("--config-dir=own", *RUN, "model=mine"), words, spoil) for spoil, words in CONFIGS.items()),
]
CASES = [*CALLS, *FILES]
