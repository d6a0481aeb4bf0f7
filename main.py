"""Runs a pipeline (extract -> transform -> load), from the command line or from Python."""

from __future__ import annotations

import io
import logging
import os
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from etl import collector
from etl.env import load_env
from etl.errors import AccessError, ConfigError, DataError, EtlError, Stopped, translated
from etl.ledger import Account, Reject, account_names
from etl.logs import configure_logging, context
from etl.redact import redact
from etl.report import RunReport
from etl.run import Published, Receipt, Run, new_run_id
from etl.signals import held_signals, stopped_by_signals

if TYPE_CHECKING:  # at run time these would load pydantic and pandas, which --help must not wait for
    from pandas import DataFrame

    from etl.base import Extractor, Loader, Transformer
    from etl.bucket.posture import BucketPosture
    from etl.guard import Guard
    from etl.incremental.step import NewRows
    from etl.learned.step import LearnedSchema
    from etl.loaders.s3 import S3Loader
    from etl.quarantine import Quarantine

_LAST_WORDS_S = 3  # of a run that was stopped: whoever stopped it may not wait long

log = logging.getLogger("etl.pipeline")


@dataclass(frozen=True)
class Pipeline:
    """Moves one table: batches are pulled from the extractor, through the transformers in order, into the loader.

    Either everything is published or nothing. ``max_rejects``: rows that may be rejected, a count or a share ("1%").
    ``posture``: what the bucket should be; a run warns, or stops, where it falls short. ``guard``: how much the table
    may differ from the last time; None: by default. ``schema``: the one of the transformers, if any, that the first run
    teaches what the source holds. ``new_rows``: the first of them, in an incremental run; the run itself puts it there.
    """

    name: str
    extractor: Extractor
    transformers: Sequence[Transformer]
    loader: Loader
    max_rejects: int | str = "1%"
    posture: BucketPosture | None = None
    guard: Guard | None = None
    schema: LearnedSchema | None = None
    new_rows: NewRows | None = None

    @classmethod
    def from_file(cls, path: Path | str, overrides: Iterable[str] = ()) -> Pipeline:
        """Build what a pipeline file describes. Raises ConfigError with every mistake in it."""
        from etl.config import load_pipeline

        return cls(**load_pipeline(Path(path), overrides))

    def run(
        self, *, force: bool = False, dry_run: bool = False, accept: bool = False, replays: str | None = None
    ) -> RunReport:
        """Run once. The report's ``status`` and ``error`` tell how it ended; it is also kept beside the data.

        ``force``: publish even if source, configuration and code are those of what is published.
        ``dry_run``: do everything but publish. ``accept``: publish what the guard would hold back.
        ``replays``: the run because of whose rejects this one is made, as ``etl.replay`` does it.
        """
        from etl.lock import locked

        report = RunReport(new_run_id(), self.name, replays=replays)
        context.run_id = report.run_id
        started = time.perf_counter()
        with self.loader.connected():
            try:
                with translated(), locked(self.name):
                    self._continued(force)._run(report, force=force, dry_run=dry_run, accept=accept)
            except (EtlError, Stopped) as error:
                report.fail(error)
                log.debug("Where it failed:", exc_info=error)
            report.duration_s = time.perf_counter() - started
            if report.steps and not dry_run:
                self._keep_report(report)
        return report

    def check(self) -> Iterator[tuple[str, str, int]]:
        """Try all that a run needs without moving data; yields (what, news, exit code)."""
        from etl.lock import check_lock

        attempts = (
            ("source", self.extractor.blamed, self.extractor.check),
            ("steps", translated, self._check_steps),
            ("destination", self.loader.blamed, self.loader.check),
            ("lock", translated, lambda: check_lock(self.name)),
        )
        for what, blaming, attempt in attempts:
            try:
                with blaming():
                    yield what, attempt(), 0
            except EtlError as error:
                yield what, redact(str(error)), error.exit_code

    def _check_steps(self) -> str:
        for step in self.transformers:
            with step.blamed():
                step.ingredients()
        return "have all that they need"

    def _continued(self, force: bool) -> Pipeline:
        """This pipeline from where what is published ends, if its file says ``[extract.incremental]``."""
        from etl.incremental.options import incremental_of

        if incremental_of(self.extractor) is None:
            return self
        from etl.incremental.step import continued

        extractor, new_rows = continued(self.name, self.extractor, self.loader, force=force)
        return replace(self, extractor=extractor, transformers=(new_rows, *self.transformers), new_rows=new_rows)

    def _run(self, report: RunReport, *, force: bool, dry_run: bool, accept: bool) -> None:
        from etl.repeats import recipe_of, repeats

        extracting = Account(self.extractor.name)
        with self.extractor.blamed(), extracting.timed():
            report.source = self.extractor.inspect()
        steps = (self.extractor, *self.transformers, self.loader)
        recipe = recipe_of(report.source, steps)
        with self.loader.blamed():
            live = self.loader.live()
        if recipe and live and not force and not dry_run and repeats(self.loader, live, recipe):
            report.status = "unchanged"
            return
        if self.schema is not None:
            with self.schema.blamed():
                self.schema.learn(self.extractor, report.source.uri)
            recipe = recipe_of(report.source, steps)
        descriptions = {name: facts for step in self.transformers for name, facts in step.describes().items()}
        run = Run(report.run_id, self.name, report.source, recipe, force, descriptions, report.replays)

        self._check_posture()
        from etl.guard import Guard, check_shape
        from etl.privacy import Veil
        from etl.quarantine import Quarantine

        _, *names = account_names(step.name for step in steps)
        report.steps = [extracting, *map(Account, names)]
        veil = Veil(report.steps[:-1], self.transformers)
        with Quarantine(run, self.max_rejects, veil) as quarantine:
            receipt = self._stream(run, report.steps, quarantine)
            try:
                report.check_ledger()
                report.figures = receipt.figures
                self._keep_rejects(report, quarantine, dry_run=dry_run)
                guard = self.guard or Guard()
                check_shape(guard, receipt.figures, live, self.loader, self.transformers, accept=accept)
                self._publish(run, report, receipt, dry_run=dry_run)
            except BaseException:
                self.loader.abort([receipt])
                raise

    def bucket(self) -> tuple[S3Loader, BucketPosture]:
        """What publishes to the bucket, and what that should be. Raises ConfigError if the loader has none."""
        from etl.bucket.posture import BucketPosture
        from etl.loaders.s3 import S3Loader

        if not isinstance(self.loader, S3Loader):
            raise ConfigError(f"pipeline {self.name} publishes with {self.loader.name}, which has no bucket")
        return self.loader, self.posture or BucketPosture()

    def _check_posture(self) -> None:
        """Warn of what the bucket lacks, or stop the run if the pipeline file says so."""
        if self.posture is None:
            return
        from etl.bucket.command import shortfalls

        lacking = shortfalls(*self.bucket())
        for shortfall in lacking:
            log.warning("%s", shortfall)
        if lacking and self.posture.require_posture:
            raise AccessError("the bucket falls short of [bucket]; run `python main.py bucket`", step=self.loader.name)

    def _stream(self, run: Run, accounts: Sequence[Account], quarantine: Quarantine) -> Receipt:
        """Pull every batch through the steps into the loader; extracting and transforming have a thread each."""
        from etl.engine import in_background
        from etl.progress import progress

        extracting, *transforming, loading = accounts
        with ExitStack() as stack:
            stack.callback(quarantine.veil.cover)  # last, when no step repairs any more
            for account in transforming:
                stack.callback(account.close)
            extracted = stack.enter_context(in_background(self._extracted(extracting), "extract", accounts[1]))
            batches = self._transformed(extracted, transforming, quarantine)
            transformed = stack.enter_context(in_background(batches, "transform", loading))
            advance = stack.enter_context(progress(f"{self.name}, rows", None))
            return self.loader.load(_watched(transformed, advance), run, loading)

    def _extracted(self, account: Account) -> Iterator[tuple[DataFrame, list[Reject]]]:
        with self.extractor.blamed():
            splits = self.extractor.splits()
        for split in splits:
            for batch in split.extract(account):
                yield batch, account.take_rejects()

    def _transformed(
        self,
        extracted: Iterable[tuple[DataFrame, list[Reject]]],
        accounts: Sequence[Account],
        quarantine: Quarantine,
    ) -> Iterator[DataFrame]:
        for batch, rejects in extracted:
            result, columns = batch, [batch.columns]
            for transformer, account in zip(self.transformers, accounts, strict=True):
                result = transformer.transform(result, account)
                columns.append(result.columns)
                rejects += account.take_rejects()
            quarantine.veil.see(columns)
            quarantine.add(rejects, batch, result)
            yield result

    def _keep_rejects(self, report: RunReport, quarantine: Quarantine, *, dry_run: bool) -> None:
        """Store the rejected rows beside the data, and stop the run if there are too many."""
        rejected = report.rows_rejected
        if rejected:
            report.rejects = {"uri": None, "rows": rejected}
            if quarantine.arrow_schema:
                report.rejects["arrow_schema"] = quarantine.arrow_schema
            if not dry_run:
                with self.loader.blamed():
                    report.rejects["uri"] = self.loader.keep(f"_rejects/{report.run_id}.jsonl", quarantine.close())
        quarantine.check(rejected, report.steps[0].rows_in)

    def _publish(self, run: Run, report: RunReport, receipt: Receipt, *, dry_run: bool) -> None:
        """Publish what was written: every row is accounted for, few were rejected, and the table has its shape."""
        if self.new_rows is not None:
            run = self.new_rows.concluded(run, report.steps[1])
        if dry_run or (self.new_rows is not None and not self.new_rows.has_news(run)):
            self.loader.abort([receipt])
            report.status = "dry-run" if dry_run else "unchanged"
            return
        if self.schema is not None:
            with self.schema.blamed():
                self.schema.keep()
        with held_signals(), self.loader.blamed():
            report.published = self.loader.commit([receipt], run)
        report.status = "published" if report.published.changed else "unchanged"
        self._keep_note(run, report.published)

    def _keep_note(self, run: Run, published: Published) -> None:
        """Remember that this recipe gives what is live, if that was found out: the next run need not do so again.

        Not of a replay: who asks for one wants to see what is still rejected.
        """
        from etl.repeats import note

        if run.recipe and published.identity and run.replays is None:
            self._keep("The note that spares the next run this work", *note(run.recipe, published.identity))

    def _keep_report(self, report: RunReport) -> None:
        keep = partial(self._keep, "The run report", f"_runs/{report.run_id}.json", report.to_json())
        if report.was_stopped:
            from etl.engine import within

            try:
                within(_LAST_WORDS_S, keep)
            except TimeoutError:
                log.warning("The run report could not be stored within %s s", _LAST_WORDS_S)
            return
        at_fault = report.error and report.error["step"] == self.loader.name
        if not at_fault or report.exit_code in (DataError.exit_code, EtlError.exit_code):
            keep()  # else: where the data could not go, the report cannot either

    def _keep(self, what: str, name: str, content: str) -> None:
        """Store a small file beside the data. The run is over: failing here is worth a warning, no more."""
        try:
            with self.loader.blamed(), tempfile.TemporaryDirectory(prefix="etl-") as folder:
                file = Path(folder) / "kept"
                file.write_text(content, encoding="utf-8")
                self.loader.keep(name, file)
        except (EtlError, Stopped) as error:
            log.warning("%s could not be stored: %s", what, error)


def _watched(batches: Iterable[DataFrame], advance: Callable[[int], None]) -> Iterator[DataFrame]:
    for batch in batches:
        collector.resume()  # by now, all that the steps import is there
        advance(len(batch))
        yield batch
        del batch  # or it would stay in memory while the next is awaited


# -- command line ---------------------------------------------------------------------------------

DEFAULT_PIPELINE = "pipelines/lego.toml"
COMMANDS = ("run", "check", "demo", "rejects", "replay", "bucket", "iam", "versions", "rollback", "sweep", "schema")
EXAMPLES = """\
examples:
  python main.py demo                          see a whole run, without any account
  python main.py                               run pipelines/lego.toml, as cron would
  python main.py check                         is everything right, without moving data?
  python main.py run pipelines/other.toml      run another pipeline
  python main.py --dry-run                     do everything but publish
  python main.py --set load.key=lego/test.csv  change one option for this run
  python main.py --json > report.json          the run report, for machines
  python main.py --explain set_id=75313-1      what becomes of one row, step by step
  python main.py --accept                      publish what the guard held back
  python main.py rejects latest                the rows that broke a rule, and which
  python main.py bucket --apply                make the bucket versioned, encrypted and private
  python main.py rollback RUN                  make what an earlier run published live again
  python main.py schema S3Loader               the options of a step

exit codes: 0 done or unchanged, 65 the data is bad, 69 the source is down, 70 a bug, 74 disk or I/O,
75 try again later, 77 permission, 78 configuration, 129, 130 and 143 stopped by a signal
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] not in (*COMMANDS, "-h", "--help"):
        given.insert(0, "run")
    options = _parser().parse_args(given)
    sys.path.append(str(Path.cwd()))  # so that a pipeline can name a class in a file beside it
    try:
        with translated():
            return _done(options)
    except (EtlError, Stopped) as error:
        log.error("%s", error)
        log.debug("Where it failed:", exc_info=error)
        return error.exit_code


def _done(options: Namespace) -> int:
    """Do what the command line says, in the environment that ``.env`` adds to; returns the exit code."""
    warning = load_env(options.env_file)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # more would busily wait for linear algebra that never comes
    configure_logging(quiet=getattr(options, "json", False))
    if warning:
        log.warning(warning)
    exit_code = 0
    try:
        with stopped_by_signals():
            exit_code = _act(options)
            print(end="", flush=True)  # also where stdout was closed before we began, and is None
    except BrokenPipeError:  # whoever read our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return exit_code


def _act(options: Namespace) -> int:
    if "pipeline" not in options:  # a command that needs none
        return int(options.action(options))
    return int(options.action(Pipeline.from_file(options.pipeline, options.set), options))


def run_command(pipeline: Pipeline, options: Namespace) -> int:
    if options.explain:
        from etl.explain import explain

        return explain(pipeline, options.explain)
    return _shown(pipeline.run(force=options.force, dry_run=options.dry_run, accept=options.accept), options)


def replay_command(pipeline: Pipeline, options: Namespace) -> int:
    from etl.replay import replay

    report = replay(pipeline, options.run_id)
    return _shown(report, options) if report else 0


def _shown(report: RunReport, options: Namespace) -> int:
    for line in report.details():
        log.info(line)
    log.log(logging.ERROR if report.error else logging.INFO, "%s", report.summary())
    if options.json:
        with suppress(BrokenPipeError):  # how the run ended is to be told all the same
            print(report.to_json())
    return report.exit_code


def rejects_command(pipeline: Pipeline, options: Namespace) -> int:
    from etl.rejects import show_rejects

    return show_rejects(pipeline.loader, pipeline.name, options.run_id, as_json=options.json)


def check_command(pipeline: Pipeline, _options: Namespace) -> int:
    steps = " -> ".join(step.name for step in (pipeline.extractor, *pipeline.transformers, pipeline.loader))
    print(f"ok    config       {pipeline.name}: {steps}")
    worst = 0
    for what, news, exit_code in pipeline.check():
        print(f"{'FAIL' if exit_code else 'ok':<5} {what:<12} {news}")
        worst = worst or exit_code
    return worst


def bucket_command(pipeline: Pipeline, options: Namespace) -> int:
    from etl.bucket import command

    return command.bucket_command(*pipeline.bucket(), apply=options.apply, create=options.create)


def iam_command(pipeline: Pipeline, _options: Namespace) -> int:
    from etl.bucket import iam

    print(iam.iam_command(*pipeline.bucket()))
    return 0


def versions_command(pipeline: Pipeline, _options: Namespace) -> int:
    from etl.history import show_versions

    return show_versions(pipeline.loader)


def rollback_command(pipeline: Pipeline, options: Namespace) -> int:
    from etl.history import roll_back
    from etl.lock import locked

    with locked(pipeline.name):
        return roll_back(pipeline.loader, options.run_id)


def sweep_command(pipeline: Pipeline, options: Namespace) -> int:
    from datetime import timedelta

    from etl.history import sweep
    from etl.lock import locked

    with locked(pipeline.name):
        return sweep(pipeline.loader, timedelta(days=options.grace_days), apply=options.apply)


def schema_command(options: Namespace) -> int:
    from etl.describe import described

    print(described(options.step, as_json=options.json))
    return 0


def demo_command(_options: Namespace) -> int:
    from etl.demo import run_demo

    return run_demo(Pipeline.from_file)


def _parser() -> ArgumentParser:
    shared, piped, rejecting, published = (ArgumentParser(add_help=False) for _ in range(4))
    shared.add_argument("--env-file", type=Path, metavar="FILE", help="default: .env beside main.py")
    piped.add_argument("pipeline", nargs="?", default=DEFAULT_PIPELINE, help=f"default: {DEFAULT_PIPELINE}")
    piped.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change an option, as in load.key=a.csv"
    )
    rejecting.add_argument("run_id", metavar="RUN", help='its id, the beginning of that, or "latest"')
    published.add_argument("run_id", metavar="RUN", help="a run that `versions` lists")

    parser = ArgumentParser(
        prog="python main.py",
        description="Moves a table from its source, cleaned, to S3. Without a command: run.",
        epilog=EXAMPLES,
        formatter_class=RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, action: Callable[..., int], help: str, *parents: ArgumentParser) -> ArgumentParser:
        command = commands.add_parser(name, parents=[shared, *parents], help=help)
        command.set_defaults(action=action)
        return command

    run = add("run", run_command, "run a pipeline and publish the result", piped)
    run.add_argument("--force", action="store_true", help="publish even if nothing changed")
    run.add_argument("--dry-run", action="store_true", help="do everything but publish")
    run.add_argument("--accept", action="store_true", help="publish even if the guard finds the table suspicious")
    run.add_argument("--explain", metavar="ROW", help="show what becomes of row 12, or name=value; publishes nothing")
    run.add_argument("--json", action="store_true", help="print the run report as JSON on stdout, and nothing else")
    add("check", check_command, "try all that a run needs; moves no data", piped)
    rejects = add("rejects", rejects_command, "show the rejected rows of a run, by rule", rejecting, piped)
    rejects.add_argument("--json", action="store_true", help="print all of them, a JSON object a line")
    replay = add("replay", replay_command, "run the rejected rows of a run again, and add them", rejecting, piped)
    replay.add_argument("--json", action="store_true", help="print the run report as JSON on stdout, and nothing else")
    bucket = add("bucket", bucket_command, "show what the bucket is beside what it should be", piped)
    bucket.add_argument("--apply", action="store_true", help="change what differs; loosens nothing")
    bucket.add_argument("--create", action="store_true", help="create the bucket first, then apply")
    add("iam", iam_command, "print the least that AWS must allow, as policies", piped)
    add("versions", versions_command, "list what was published", piped)
    add("rollback", rollback_command, "make what an earlier run published live again", published, piped)
    sweep = add("sweep", sweep_command, "find what no published version needs", piped)
    sweep.add_argument("--grace-days", type=int, default=7, metavar="N", help="leave what is younger; default: 7")
    sweep.add_argument("--apply", action="store_true", help="remove it; without this it is only listed")
    schema = add("schema", schema_command, "list all steps, or the options of one")
    schema.add_argument("step", nargs="?", metavar="CLASS", help="such as S3Loader")
    schema.add_argument("--json", action="store_true", help="as JSON Schema, for editors to complete and check files")
    add("demo", demo_command, "run the LEGO pipeline on a sample, without any account")
    return parser


if __name__ == "__main__":
    collector.rest()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # not every terminal can show all that data may hold
    status = main()
    collector.leave()
    sys.exit(status)
