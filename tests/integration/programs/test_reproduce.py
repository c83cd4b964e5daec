"""`scripts/reproduce.py` from nothing to a rendered table, and what it costs a second time."""

from __future__ import annotations

import re
import shlex
import shutil

import pandas as pd
import pytest
from helpers.common import tree

GIVEN = ("threads=1", "tensorboard=false")


@pytest.fixture
def reproduce(script):
    """Runs scripts/reproduce.py in this process; gives its exit code and what it wrote to stdout and stderr."""

    def run(*overrides):
        code, out, err = script("reproduce", *GIVEN, *overrides)
        return code, "\n".join(out), "\n".join(err)

    return run


def test_a_table_without_records_renders_every_cell_as_not_run_with_its_cost(root, reproduce):
    code, out, err = reproduce("table=table2", "run=false", "scope.protocol=paper_text")
    assert code == 0, err
    frame = pd.read_csv(root / "results" / "tables" / "table2-paper_text-paper.csv")
    assert set(frame["n"]) == {0}
    assert frame["mean"].isna().all()
    published = frame.set_index(["row", "column"])["published"]
    assert published["F1, MNIST, 256", "baseline best"] == 98.49
    assert published["F1, MNIST, 6000", "smoothout best"] == 98.42
    assert published["C3, CIFAR-100, 5000", "smoothout sharpness_released"] == 10.7303
    assert published.filter(like="keskar").isna().all()
    costs = frame[frame["column"].str.endswith("best")]["hours_to_run"]
    assert (costs > 0.1).all()
    assert "…" not in out
    assert any(line.split("  ")[-1].endswith("[4.06]") for line in map(str.strip, out.splitlines()))


def test_the_plan_of_a_table_is_the_commands_behind_its_missing_cells_and_runs_nothing(root, reproduce):
    code, out, err = reproduce("table=table2", "plan=true", "rows=[6000]")
    assert code == 0, err
    commands = [line.strip() for line in out.splitlines() if "python scripts/" in line]
    overrides = "experiment=f1_mnist batch=large method=none protocol=authors_code profile=paper seed=0"
    assert any(line.startswith(f"python scripts/train.py {overrides}  # about ") for line in commands)
    assert sum("analysis=running_statistics" in line for line in commands) == 4
    assert "batch=small" not in out
    assert f"{len(commands)} commands for seed(s) 0: about " in out
    assert tree(root) == {"here": "folder"}


def test_a_table_of_ones_own_in_another_folder_is_made_by_its_commands(root, reproduce, script):
    own = root / "own"
    for group, text in {
        "experiment": "# @package _global_\ndefaults: [digits]\nschedule: {epochs: 1}\n",
        "table": "name: mine\ntitle: Mine\npublished: null\nmetrics: [best]\n"
        "methods: {baseline: {title: Baseline, overrides: [method=none]}}\n"
        "rows: [{name: digits, overrides: [experiment=mine]}]\n",
    }.items():
        (own / group).mkdir(parents=True)
        (own / group / "mine.yaml").write_text(text)
    table = (f"--config-dir={own}", "table=mine")
    [command] = [line for line in reproduce(*table, "plan=true")[1].splitlines() if "python scripts/train.py" in line]
    code, _, err = script("train", *GIVEN, *shlex.split(command.partition("  #")[0])[2:])
    assert code == 0, err
    code, out, err = reproduce(*table, "run=false")
    assert code == 0, err
    assert "not run" not in out


def test_a_picture_alone_is_asked_for_without_a_table_and_is_not_drawn_without_records(root, reproduce):
    code, out, err = reproduce("table=none", "figure=f1", "run=false")
    assert code == 0, err
    assert "figure f1 lacks records" in out
    assert out.count("figure f1: not run: f1-mnist-b256") == 3
    assert tree(root) == {"here": "folder"}


def test_a_figure_without_a_table_takes_no_default_table(root, reproduce):
    code, out, err = reproduce("figure=f1", "plan=true")
    assert code == 0, err
    assert "figure" in out
    assert "scripts/train.py" not in out


@pytest.mark.parametrize(("group", "name"), [("table", "table2"), ("figure", "f1")])
def test_a_file_of_ones_own_cannot_replace_the_results_of_another(root, reproduce, group, name):
    own = root / "own" / group
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text(f"defaults: [{name}]\n")
    code, _, err = reproduce(f"--config-dir={root / 'own'}", "table=none", f"{group}=mine", "run=false")
    assert code == 2
    assert f"error: {group}.name: '{name}' names the results of configs/{group}/{name}.yaml; must be another" in err
    assert not (root / "results").exists()


def test_missing_data_leave_out_their_own_jobs_and_sink_no_other(root, reproduce):
    rest = ("table.metrics=[best,late,last]", "scope.profile=smoke", "download=false")
    code, out, err = reproduce("table=quickstart", "figure=f1", *rest)
    assert code == 2
    assert len(re.findall("error: .*mnist.npz", err)) == 1
    assert "failed" not in err
    assert re.search(r"figure f1 +0 +0 +no data", out)
    trained = {path.name.partition("-b")[0] for path in (root / "results" / "train").iterdir()}
    assert trained == {"small_mlp-digits"}


def test_rows_choose_what_is_run_and_the_table_keeps_all_rows(root, reproduce):
    code, _, err = reproduce(
        "table=quickstart", "rows=['720']", "scope.profile=smoke", "table.metrics=[best,late,last]"
    )
    assert code == 0, err
    frame = pd.read_csv(root / "results" / "tables" / "quickstart-authors_code-smoke.csv")
    assert dict(frame.groupby("row")["n"].max()) == {"digits, 32": 0, "digits, 720": 1}


def test_methods_are_compared_image_by_image_where_their_records_say_which_images_are_right(root, reproduce):
    few = ("table=quickstart", "scope.profile=smoke", "table.metrics=[best]", "rows=['720']")
    code, out, err = reproduce(*few, "scope.seeds=[0,1]")
    assert code == 0, err
    assert re.search(r"Image by image(.|\n)+  digits, 720 +AdaSmoothOut - Baseline +2 ", out)
    page = (root / "results" / "tables" / "quickstart-authors_code-smoke.md").read_text()
    lines = [line for line in page.partition("## Image by image")[2].splitlines() if line.startswith("| digits")]
    assert [line.split("|")[2].strip() for line in lines] == ["SmoothOut - Baseline", "AdaSmoothOut - Baseline"]

    # The counts of a line are those of all test images, and the difference is the table's own.
    _, _, _, seeds, *numbers, _, difference, _, _ = (cell.strip() for cell in lines[0].split("|"))
    assert seeds == "2"
    assert sum(map(float, numbers)) == pytest.approx(359, abs=0.2)
    frame = pd.read_csv(root / "results" / "tables" / "quickstart-authors_code-smoke.csv").set_index(["row", "column"])
    assert float(difference.split()[0]) == pytest.approx(
        frame["mean"]["digits, 720", "smoothout improvement"], abs=0.006
    )
    assert reproduce(*few, "run=false", "rows=['32']")[1].count("Image by image") == 0

    # Seeds choose what is printed; the files have all that are recorded.
    # One that is not recorded is in no file, and a damaged record of another training does not matter.
    (root / "results" / "train" / "other-00000000.json").write_text("{")
    code, out, err = reproduce(*few, "run=false", "scope.seeds=[1,5]")
    assert code == 0, err
    assert "seeds 1, 5;" in out
    again = pd.read_csv(root / "results" / "tables" / "quickstart-authors_code-smoke.csv").set_index(["row", "column"])
    pd.testing.assert_frame_equal(again, frame)

    # A further column needs weights: where they are not here, the plan counts the trainings that make them again.
    more = (*few, "scope.seeds=[0,1]", "table.metrics=[best,sharpness_keskar]", "plan=true")
    assert "first train" not in reproduce(*more)[1]
    shutil.rmtree(root / "checkpoints")
    assert "3 commands for seed(s) 0, 1, which first train 6 run(s) whose weights are not here" in reproduce(*more)[1]
    only = (*few, "scope.seeds=[2]", "table.metrics=[sharpness_keskar]", "+table.accuracy=null", "plan=true")
    assert "3 commands for seed(s) 2, which first train 3 run(s) whose weights are not here" in reproduce(*only)[1]


def test_a_table_can_be_printed_row_by_row_without_a_file(root, reproduce):
    code, out, err = reproduce("table=table2", "figure=figure1", "rows=[F1]", "run=false", "save=false")
    assert code == 0, err
    assert "F1, MNIST, 6000" in out
    assert "C1, CIFAR-10" not in out
    assert tree(root) == {"here": "folder"}
