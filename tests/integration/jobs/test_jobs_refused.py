"""Jobs: what cannot be run is refused in one line and leaves no trace."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from helpers.tiny_jobs import record_of, tiny

from smoothout.data.image_folder import Collection, ImageFolder
from smoothout.jobs import training_job
from smoothout.jobs.prepared_run import capturable_by_settings
from smoothout.jobs.runner import get_or_run
from smoothout.jobs.runtime import Runtime
from smoothout.training.distributed import ProcessGroup
from smoothout.training.methods.smoothout import NoiseConfig
from smoothout.training.optimizers import Adam, Epsilon


def test_a_fault_in_the_training_leaves_no_record(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(training_job, "Trainer", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            get_or_run(tiny(), runtime)
    assert not record_of(tiny(), runtime).exists()
    assert get_or_run(tiny(), runtime).name == tiny().name


@pytest.mark.parametrize(
    ("changes", "recordable"),
    [
        ({}, True),
        ({"optimizer": Adam(0.01, epsilon=Epsilon.uncorrected)}, False),
        ({"method": NoiseConfig(0.1, copies=2)}, False),
        ({"method": NoiseConfig(0.0, copies=2)}, True),
        ({"data": ImageFolder(Collection.imagenette, (0.5,) * 3, (0.5,) * 3)}, False),
    ],
)
def test_a_cuda_graph_that_settings_rule_out_is_asked_for_in_vain_before_anything_is_written(
    changes: dict[str, Any], recordable: bool, runtime: Runtime
) -> None:
    assert capturable_by_settings(tiny(**changes).settings, runtime) is recordable
    ranks = replace(runtime, ranks=ProcessGroup(0, 2))
    assert not capturable_by_settings(tiny(**changes).settings, ranks)
