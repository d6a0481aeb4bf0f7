"""Every call of a run to S3 fails in every way that S3 is known to fail: the run succeeds, or says what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

from etl.s3.client import shared_clients
from tests.conftest import Bucket
from tests.s3_front import Call, Front, Wanted
from tests.s3_rules import broken_rules
from tests.s3_runs import Proof

OWNER = "123456789012"
OPTIONS = [f"load.expected_bucket_owner={OWNER}", "load.encryption=aws:kms"]
AT_ONCE = [*OPTIONS, "load.deadline_s=0"]  # nothing is tried twice

Fault = Callable[[Front, Wanted], None]


def any_call(_: Call) -> bool:
    return True


def has_body(call: Call) -> bool:
    return call.method in ("PUT", "POST")


def has_condition(call: Call) -> bool:
    return bool({"if-match", "if-none-match"} & {name.lower() for name in call.headers})


def answer(status: int, code: str) -> Fault:
    return lambda front, wanted: front.refuse_if(wanted, status, code)


# What passes by itself, and which calls it can happen to.
PASSING: dict[str, tuple[Fault, Wanted]] = {
    "slow-down": (answer(503, "SlowDown"), any_call),
    "internal-error": (answer(500, "InternalError"), any_call),
    "timeout": (answer(400, "RequestTimeout"), has_body),
    "conflict": (answer(409, "ConditionalRequestConflict"), has_condition),
    "reset": (Front.reset_if, any_call),
    "lost-reply": (Front.lose_reply_if, any_call),
}


@dataclass
class Trial:
    """A pipeline whose calls are known from a run that nobody disturbed."""

    proof: Proof
    front: Front
    calls: list[Call]
    new: str | None

    def run_with(self, fault: Fault, wanted: Wanted, place: str, options: Sequence[str] = OPTIONS) -> int:
        """The exit code of a run that meets the fault. What it sent is held against the rules."""
        self.front.calls.clear()
        fault(self.front, wanted)
        report = self.proof.run(place, more=options)
        self.front.forget_refusals()
        assert broken_rules(self.front.calls, owner=OWNER, encryption="aws:kms") == []
        return report.exit_code

    def prepare(self, place: str) -> str | None:
        self.proof.run(place, "old", OPTIONS)
        return self.proof.seen(place)

    def check_recovery(self, place: str) -> None:
        """The next run publishes what is missing, and the one after has nothing to do."""
        assert self.proof.run(place, more=OPTIONS).exit_code == 0
        self.check_done(place)

    def check_done(self, place: str) -> None:
        assert self.proof.seen(place) == self.new
        assert self.proof.bucket.open_uploads() == []
        self.front.calls.clear()
        assert self.proof.run(place, more=OPTIONS).status == "unchanged"
        assert not any(call.writes for call in self.front.calls)

    def is_over(self, number: int) -> bool:
        """Whether what is left from this call on is not needed: sweeping up, and the report."""
        return all("uploads" in call.query or "/_runs/" in call.key for call in self.calls[number - 1 :])


@pytest.fixture(params=["object", *(pytest.param(each, marks=pytest.mark.slow) for each in ("multipart", "dataset"))])
def trial(request: pytest.FixtureRequest, tmp_path: Path, bucket: Bucket, front: Front) -> Iterator[Trial]:
    trial = Trial(Proof(tmp_path, bucket, request.param), front, [], None)
    with shared_clients():
        trial.prepare("unharmed")
        assert trial.run_with(Front.reset_if, lambda _: False, "unharmed") == 0
        trial.calls, trial.new = list(front.calls), trial.proof.seen("unharmed")
        yield trial


def only(number: int, wanted: Wanted = any_call) -> Wanted:
    """True for one of the wanted calls, told by its number among them."""
    numbers = count(1)
    return lambda call: wanted(call) and next(numbers) == number


def since(number: int) -> Wanted:
    numbers = count(1)
    return lambda _: next(numbers) >= number


@pytest.mark.parametrize("fault", PASSING)
def test_what_passes_is_not_noticed(trial: Trial, subtests: pytest.Subtests, fault: str) -> None:
    happens, may_happen = PASSING[fault]
    for number, call in enumerate(filter(may_happen, trial.calls), 1):
        with subtests.test(call=f"{number} {call}"):
            place = f"p{number}"
            trial.prepare(place)
            assert trial.run_with(happens, only(number, may_happen), place) == 0
            trial.check_done(place)


@pytest.mark.parametrize("fault", ["slow-down", "lost-reply"])
def test_what_lasts_is_for_later(trial: Trial, subtests: pytest.Subtests, fault: str) -> None:
    """S3 is out of reach from one call on, until the deadline: 75, or 0 if all that was left was for information."""
    for number, call in enumerate(trial.calls, 1):
        with subtests.test(call=f"{number} {call}"):
            place = f"p{number}"
            old = trial.prepare(place)
            code = trial.run_with(PASSING[fault][0], since(number), place, AT_ONCE)
            assert code == (0 if trial.is_over(number) else 75)
            assert trial.proof.seen(place) in (old, trial.new)
            trial.check_recovery(place)


@pytest.mark.parametrize(("status", "code"), [(400, "ExpiredToken"), (403, "AccessDenied")])
def test_what_is_refused_says_so(trial: Trial, subtests: pytest.Subtests, status: int, code: str) -> None:
    """From one call on, as when a session expires or a role is changed. After the commit, a run may do without."""
    commit = max(number for number, call in enumerate(trial.calls, 1) if has_condition(call))
    for number, call in enumerate(trial.calls, 1):
        with subtests.test(call=f"{number} {call}"):
            place = f"p{number}"
            old = trial.prepare(place)
            exit_code = trial.run_with(answer(status, code), since(number), place)
            if number <= commit:
                assert (exit_code, trial.proof.seen(place)) == (77, old)
            else:
                assert exit_code in ((0,) if trial.is_over(number) else (0, 77))
                assert trial.proof.seen(place) == trial.new
            trial.check_recovery(place)


def test_conditions_that_do_not_hold_are_lost_races(trial: Trial, subtests: pytest.Subtests) -> None:
    for number, call in enumerate(filter(has_condition, trial.calls), 1):
        with subtests.test(call=f"{number} {call}"):
            place = f"p{number}"
            old = trial.prepare(place)
            assert trial.run_with(answer(412, "PreconditionFailed"), only(number, has_condition), place) == 75
            assert trial.proof.seen(place) == old
            trial.check_recovery(place)
