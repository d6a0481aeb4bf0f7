"""What every step must do. A step's test class inherits the contract of its kind and says how to make one.

A test class for a new extractor is ``class TestMine(ExtractorContract)`` with ``make`` and ``make_broken``.
"""

from __future__ import annotations

import pickle
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pandas import DataFrame
from pandas.testing import assert_frame_equal
from pydantic import ValidationError

from etl.base import Extractor, Loader, Step, Transformer
from etl.errors import EtlError
from etl.ledger import Account
from etl.run import Published, Run, Source, new_run_id


def published(loader: Loader, batches: Iterable[DataFrame], **facts: Any) -> Published:
    """Publish them, in a run with these facts."""
    run = LoaderContract.a_run(**facts)
    return loader.commit([loader.load(batches, run)], run)


def live_recipe(loader: Loader) -> str | None:
    live = loader.live()
    return live.recipe if live else None


class StepContract(ABC):
    """What extractors, transformers and loaders have in common."""

    @abstractmethod
    def step(self) -> Step: ...

    def test_survives_pickling(self) -> None:
        step = self.step()
        assert pickle.loads(pickle.dumps(step)) == step

    def test_is_frozen(self) -> None:
        step = self.step()
        with pytest.raises(ValidationError):
            step.no_such_option = 1  # type: ignore[attr-defined]

    def test_refuses_unknown_options(self) -> None:
        step = self.step()
        with pytest.raises(ValidationError, match="no_such_option"):
            type(step).model_validate({**step.model_dump(), "no_such_option": 1})

    def test_every_option_is_described(self) -> None:
        undescribed = [
            name
            for name, field in type(self.step()).model_fields.items()
            if not field.description and name not in Extractor.model_fields
        ]
        assert undescribed == []


class ExtractorContract(StepContract):
    """MUST write: ``make`` (at least 5 rows) and ``make_broken`` (constructs, and fails when it is read)."""

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path, clean_environment: None) -> None:
        self.folder = tmp_path

    @abstractmethod
    def make(self, **options: Any) -> Extractor: ...

    @abstractmethod
    def make_broken(self) -> Extractor: ...

    def step(self) -> Step:
        return self.make()

    def test_rows_are_numbered_from_one(self) -> None:
        batches = list(self.make(batch_rows=2).extract())
        numbers = [number for batch in batches for number in batch.index]
        assert numbers[0] == 1
        assert numbers == sorted(set(numbers))

    def test_batches_are_bounded(self) -> None:
        batches = list(self.make(batch_rows=2).extract())
        assert len(batches) > 1
        assert all(len(batch) <= 2 for batch in batches)

    def test_batches_have_the_same_columns_and_types(self) -> None:
        first, *others = self.make(batch_rows=2).extract()
        for batch in others:
            assert_frame_equal(batch.iloc[:0].reset_index(drop=True), first.iloc[:0].reset_index(drop=True))

    def test_reading_twice_agrees(self) -> None:
        extractor = self.make()
        assert_frame_equal(pd.concat(extractor.extract()), pd.concat(extractor.extract()))

    def test_batch_size_does_not_matter(self) -> None:
        small, large = (pd.concat(self.make(batch_rows=rows).extract()) for rows in (1, 1000))
        assert_frame_equal(small, large, check_index_type=False)

    def test_splits_read_the_same_rows(self) -> None:
        extractor = self.make()
        rows = sum(len(batch) for batch in extractor.extract())
        assert sum(len(batch) for split in extractor.splits() for batch in split.extract()) == rows

    def test_splits_number_their_rows_apart(self) -> None:
        """A run reads them one after the other, and finds a rejected row again by its source and number."""
        account = Account("extract")
        batches = [batch for split in self.make().splits() for batch in split.extract(account)]
        rows = [(batch.attrs.get("source"), number) for batch in batches for number in batch.index]
        assert len(set(rows)) == len(rows)

    def test_account_balances(self) -> None:
        account = Account("extract")
        rows = sum(len(batch) for batch in self.make(batch_rows=2).extract(account))
        assert account.rows_out == rows
        assert account.balances()

    def test_inspecting_twice_agrees(self) -> None:
        extractor = self.make()
        assert extractor.inspect() == extractor.inspect()

    def test_check_has_good_news(self) -> None:
        assert self.make().check()

    def test_failure_names_the_step(self) -> None:
        broken = self.make_broken()
        with pytest.raises(EtlError) as failure:
            list(broken.extract())
        assert failure.value.step == broken.name

    def test_stopping_early_is_allowed(self) -> None:
        batches = self.make(batch_rows=1).extract()
        next(batches)
        batches.close()  # type: ignore[attr-defined]


class TransformerContract(StepContract):
    """MUST write: ``make`` and ``frame`` (dirty input, at least 5 rows, numbered from 1)."""

    @abstractmethod
    def make(self) -> Transformer: ...

    @abstractmethod
    def frame(self) -> DataFrame: ...

    def step(self) -> Step:
        return self.make()

    def outcome(self, *batches: DataFrame) -> tuple[DataFrame, dict[str, Any]]:
        """The rows that come out of these batches, and all that the account tells of them."""
        transformer, account = self.make(), Account("step")
        results = [transformer.transform(batch, account) for batch in batches]
        account.close()
        assert account.balances()
        told = account.as_dict()
        told["rejects"] = sorted(map(repr, account.take_rejects()))
        return pd.concat(results), {key: told[key] for key in told if key not in ("seconds", "waited")}

    @pytest.mark.parametrize("batch_rows", [1, 2, 3, 7])
    def test_batch_size_does_not_matter(self, batch_rows: int) -> None:
        frame = self.frame()
        batches = [frame.iloc[start : start + batch_rows] for start in range(0, len(frame), batch_rows)]
        parts, told_of_parts = self.outcome(*batches)
        whole, told = self.outcome(frame)
        assert_frame_equal(parts, whole, check_index_type=False)
        assert told_of_parts == told

    def test_every_row_is_accounted_for(self) -> None:
        result, told = self.outcome(self.frame())
        assert told["rows_in"] == len(self.frame())
        assert told["rows_out"] == len(result)

    def test_rows_keep_their_numbers(self) -> None:
        result, _ = self.outcome(self.frame())
        assert result.index.isin(self.frame().index).all()

    def test_input_is_left_alone(self) -> None:
        frame = self.frame()
        self.make().transform(frame)
        assert_frame_equal(frame, self.frame())

    def test_empty_batch_keeps_columns_and_types(self) -> None:
        whole, _ = self.outcome(self.frame())
        empty = self.make().transform(self.frame().iloc[:0])
        assert len(empty) == 0
        assert empty.dtypes.to_dict() == whole.dtypes.to_dict()


class LoaderContract(StepContract):
    """MUST write: ``make`` and ``read`` (what a reader sees: a frame, or None if nothing is published)."""

    @abstractmethod
    def make(self) -> Loader: ...

    @abstractmethod
    def read(self) -> DataFrame | None: ...

    def step(self) -> Step:
        return self.make()

    @staticmethod
    def a_run(**facts: Any) -> Run:
        """Another recipe is made of another source, and there is none where the source cannot tell its content."""
        recipe = facts.get("recipe", "r1")
        fingerprint = {"r1": "fingerprint", None: None}.get(recipe, f"fingerprint for {recipe}")
        return replace(Run(new_run_id(), "test", Source("test:", fingerprint), recipe="r1"), **facts)

    @staticmethod
    def batches(*numbers: int) -> Iterator[DataFrame]:
        """One row a batch."""
        for number in numbers:
            yield DataFrame({"number": [number], "text": [f"row {number}"]})

    def publish(self, *numbers: int, **facts: Any) -> Published:
        return published(self.make(), self.batches(*numbers), **facts)

    def numbers(self) -> list[int] | None:
        frame = self.read()
        return None if frame is None else frame["number"].tolist()

    def test_commit_publishes_every_row(self) -> None:
        published = self.publish(1, 2, 3)
        assert self.numbers() == [1, 2, 3]
        assert published.rows == 3
        assert published.changed

    def test_nothing_is_seen_before_the_commit(self) -> None:
        loader = self.make()
        loader.load(self.batches(1, 2), self.a_run())
        assert self.numbers() is None

    def test_old_data_stays_until_the_commit(self) -> None:
        self.publish(1, 2)
        loader = self.make()
        loader.load(self.batches(3), self.a_run())
        assert self.numbers() == [1, 2]

    def test_abort_leaves_the_old_data(self) -> None:
        self.publish(1, 2)
        loader = self.make()
        loader.abort([loader.load(self.batches(3), self.a_run())])
        assert self.numbers() == [1, 2]

    def test_failing_batches_leave_the_old_data(self) -> None:
        self.publish(1, 2)

        def failing() -> Iterator[DataFrame]:
            yield from self.batches(3)
            raise EtlError("no more")

        with pytest.raises(EtlError, match="no more"):
            self.make().load(failing(), self.a_run())
        assert self.numbers() == [1, 2]

    def test_receipts_travel_between_processes(self) -> None:
        run = self.a_run()
        receipt = pickle.loads(pickle.dumps(self.make().load(self.batches(1, 2), run)))
        self.make().commit([receipt], run)
        assert self.numbers() == [1, 2]

    def test_equal_content_is_not_published_again(self) -> None:
        self.publish(1, 2)
        assert not self.publish(1, 2).changed
        assert self.publish(1, 2, 3).changed
        assert self.numbers() == [1, 2, 3]

    def test_force_publishes_equal_content(self) -> None:
        self.publish(1, 2)
        assert self.publish(1, 2, force=True).changed

    def test_batch_size_does_not_change_the_bytes(self) -> None:
        rows = pd.concat(self.batches(*range(1, 6)), ignore_index=True)
        run = self.a_run()
        whole = self.make().load(iter([rows]), run)
        parts = self.make().load(self.batches(*range(1, 6)), run)
        assert whole.sha256 == parts.sha256

    def test_live_tells_what_is_published(self) -> None:
        assert self.make().live() is None
        self.publish(1, recipe="r7")
        assert live_recipe(self.make()) == "r7"

    def test_an_unchanged_commit_names_what_is_live(self) -> None:
        first = self.publish(1)
        again = self.publish(1, recipe="r2")
        live = self.make().live()
        assert live is not None
        assert (first.identity, again.identity) == (None, live.identity)
        self.publish(2, recipe="r3")
        now = self.make().live()
        assert now is not None
        assert (now.identity == live.identity) == (live.identity is None)

    def test_changed_types_are_refused(self) -> None:
        def changing() -> Iterator[DataFrame]:
            yield from self.batches(1)
            yield DataFrame({"number": ["two"], "text": ["row 2"]})

        with pytest.raises(EtlError, match=r"number is .*string.*, was int64"):
            self.make().load(changing(), self.a_run())
        assert self.numbers() is None

    def test_changed_columns_are_refused(self) -> None:
        def changing() -> Iterator[DataFrame]:
            yield from self.batches(1)
            yield DataFrame({"number": [2]})

        with pytest.raises(EtlError, match="columns"):
            self.make().load(changing(), self.a_run())

    def test_keeps_small_files_beside_the_data(self, tmp_path: Path) -> None:
        file = tmp_path / "note.json"
        file.write_text("{}")
        loader = self.make()
        uri = loader.keep("_runs/note.json", file)
        assert uri is not None
        assert uri.endswith("_runs/note.json")
        assert loader.kept_names("_runs/") in ([], ["note.json"])
        assert loader.kept_names("_others/") == []

    def test_gives_small_files_back(self, tmp_path: Path) -> None:
        self.publish(1)
        loader = self.make()
        file = tmp_path / "note.json"
        file.write_text("{}")
        loader.keep("_runs/note.json", file)
        assert loader.kept("_runs/note.json") == b"{}"
        assert loader.kept("_runs/none.json") is None

    def test_figures_of_the_rows_come_with_the_receipt(self) -> None:
        receipt = self.make().load(self.batches(1, 2), self.a_run())
        number = {"type": receipt.schema["number"], "nulls": 0, "low": 1, "high": 2}
        assert receipt.figures["rows"] == 2
        assert receipt.figures["columns"]["number"] == number

    def test_check_has_good_news(self) -> None:
        assert self.make().check()
