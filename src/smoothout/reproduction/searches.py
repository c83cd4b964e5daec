"""The searches for the strengths of a table's methods, and what they have chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from smoothout.config.experiment import TrainingConfig
from smoothout.jobs.lookup import find_record
from smoothout.jobs.runtime import Runtime
from smoothout.reproduction.choose_strength import StrengthSearch, explain_choice
from smoothout.reproduction.schema import TableConfig
from smoothout.results.records import Record

Choices = Mapping[str, Record]  # by method


def searches_of(
    table: TableConfig, settings_of: Callable[[Sequence[str]], TrainingConfig]
) -> dict[str, StrengthSearch]:
    """By method, the search that chooses its strength; methods with ``chosen_strength`` share one.

    ``settings_of`` composes overrides.
    """
    choice = table.strength_choice
    if choice is None:
        return {}
    settings = settings_of(choice.overrides)
    shared = StrengthSearch(settings.experiment(), choice.grid, settings.seconds_per_epoch())
    searches = {}
    for name, method in table.methods.items():
        if method.chosen_strength:
            searches[name] = shared
        for strengths in method.strengths.values():
            settings = settings_of([*choice.overrides, *method.overrides])
            grid = replace(choice.grid, strengths=strengths)
            epoch = settings.seconds_per_epoch()
            searches[name] = StrengthSearch(settings.experiment(), grid, epoch, method.strength_field, method.title)
    return searches


def find_choices(searches: Mapping[str, StrengthSearch], runtime: Runtime) -> dict[str, Record]:
    """The recorded choices of ``searches``."""
    found = {name: find_record(search.choice, runtime) for name, search in searches.items()}
    return {name: record for name, record in found.items() if record is not None}


def best_methods(searches: Mapping[str, StrengthSearch], choices: Choices, count: int) -> list[str]:
    """The ``count`` methods whose chosen strength has the best mean held-out accuracy; none before all have chosen."""
    if searches.keys() - choices.keys():
        return []
    return sorted(choices, key=lambda name: -_mean(choices[name]))[:count]


def _mean(choice: Record) -> float:
    [row] = [row for row in choice.outcome["strengths"] if row["a"] == choice.outcome["chosen"]]
    return float(row["mean"])


def notes_of(searches: Mapping[str, StrengthSearch], choices: Choices, titles: Mapping[str, str]) -> list[str]:
    """What has been chosen, and how many trainings the rest takes."""
    if len(set(searches.values())) == 1:
        names = dict.fromkeys(choices, "Strength of the noise")
    else:
        names = {name: f"Strength of {titles[name]}" for name in choices}
    notes = list(dict.fromkeys(f"{names[name]}: {explain_choice(record)}." for name, record in choices.items()))
    if open_searches := {search for name, search in searches.items() if name not in choices}:
        trainings = len({job for search in open_searches for job in search.choice.dependencies})
        what = "The strength of the noise is" if len(searches) == 1 else "Strengths are"
        notes.append(
            f"{what} not chosen yet: the table's first {trainings} trainings do that. Methods that take it are planned"
            " and shown from then on."
        )
    return notes
