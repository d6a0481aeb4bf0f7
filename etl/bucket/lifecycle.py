"""The bucket's lifecycle: our own rules, known by their IDs, among those of others, which stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from etl.bucket.settings import Document, Line, Setting

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

Rule = dict[str, Any]

_ABORT = ("AbortIncompleteMultipartUpload", "DaysAfterInitiation")
_EXPIRE = ("NoncurrentVersionExpiration", "NoncurrentDays")


class Lifecycle(Setting):
    """Rules for this pipeline's part of the bucket.

    Somebody else's rule may do what is wished for. To abort uploads sooner than wished is fine; to expire versions
    sooner takes away history, and only the rule's owner can change that.
    """

    look = "s3:GetLifecycleConfiguration"
    change = ("s3:PutLifecycleConfiguration",)
    absent = "NoSuchLifecycleConfiguration"

    def read(self, client: S3Client) -> Document:
        reply: Any = client.get_bucket_lifecycle_configuration(**self.place.request)
        return {name: value for name, value in reply.items() if name != "ResponseMetadata"}

    def compare(self, document: Document) -> list[Line]:
        rules = document.get("Rules", [])
        lines = []
        if wanted := self.posture.abort_incomplete_days:
            wish = _say_days(wanted)
            lines.append(Line("abort_incomplete_days", wish, self._say(rules, _ABORT), self._aborts(rules)))
        if self.posture.expire_noncurrent_days or self._own(rules, _EXPIRE):
            wish = _say_days(self.posture.expire_noncurrent_days)
            lines.append(Line("expire_noncurrent_days", wish, self._say(rules, _EXPIRE), self._expires(rules)))
        return lines

    def merged(self, document: Document) -> Document:
        rules = list(document.get("Rules", []))
        if not self._aborts(rules):
            rules = self._with(rules, _ABORT, self.posture.abort_incomplete_days)
        if not self._expires(rules):
            rules = self._with(rules, _EXPIRE, self.posture.expire_noncurrent_days)
        return {**document, "Rules": rules}

    def write(self, client: S3Client, document: Document) -> None:
        if document["Rules"]:
            # Beside the rules there is a setting (TransitionDefaultMinimumObjectSize) that a write would reset.
            options: Any = {name: value for name, value in document.items() if name != "Rules"}
            rules: Any = {"Rules": document["Rules"]}
            client.put_bucket_lifecycle_configuration(**self.place.request, LifecycleConfiguration=rules, **options)
        else:
            client.delete_bucket_lifecycle(**self.place.request)

    def _aborts(self, rules: Sequence[Rule]) -> bool:
        wanted = self.posture.abort_incomplete_days
        return wanted == 0 or 0 < self._days(rules, _ABORT) <= wanted

    def _expires(self, rules: Sequence[Rule]) -> bool:
        if wanted := self.posture.expire_noncurrent_days:
            return self._days(rules, _EXPIRE) == wanted
        return not self._own(rules, _EXPIRE)

    def _days(self, rules: Sequence[Rule], action: tuple[str, str]) -> int:
        """After how many days all of this pipeline's part is dealt with; 0 if never. S3 takes the soonest rule."""
        return min((days for rule in rules if (days := self._days_of(rule, action))), default=0)

    def _days_of(self, rule: Rule, action: tuple[str, str]) -> int:
        """A rule of ours counts for what it is named for, whatever somebody added to it."""
        name, unit = action
        misnamed = rule.get("ID") in (self._id(_ABORT), self._id(_EXPIRE)) and rule["ID"] != self._id(action)
        if misnamed or rule.get("Status") != "Enabled" or not self._covers(rule) or set(rule.get(name, {})) != {unit}:
            return 0
        return int(rule[name][unit])

    def _covers(self, rule: Rule) -> bool:
        """Whether a rule is for all of this pipeline's part: by its prefix alone, in the old or the new form."""
        chosen = rule.get("Filter", {})
        return set(chosen) <= {"Prefix"} and self.place.scope.startswith(chosen.get("Prefix", rule.get("Prefix", "")))

    def _say(self, rules: Sequence[Rule], action: tuple[str, str]) -> str:
        days = self._days(rules, action)
        doers = {str(rule.get("ID")) for rule in rules if days and self._days_of(rule, action) == days}
        by_another = f", by the rule {min(doers)!r}" if doers and self._id(action) not in doers else ""
        return f"{_say_days(days)}{by_another}"

    def _own(self, rules: Sequence[Rule], action: tuple[str, str]) -> list[Rule]:
        return [rule for rule in rules if rule.get("ID") == self._id(action)]

    def _with(self, rules: Sequence[Rule], action: tuple[str, str], days: int) -> list[Rule]:
        """The rules, with our own for ``action`` in its place or at the end; without it if ``days`` is 0."""
        others = [rule for rule in rules if rule.get("ID") != self._id(action)]
        if not days:
            return others
        # S3 refuses the old and the new form side by side.
        old_form = any("Prefix" in rule for rule in others)
        chosen: Rule = {"Prefix": self.place.scope} if old_form else {"Filter": {"Prefix": self.place.scope}}
        ours = {"ID": self._id(action), "Status": "Enabled", **chosen, action[0]: {action[1]: days}}
        if len(others) == len(rules):
            return [*others, ours]
        return [ours if rule.get("ID") == self._id(action) else rule for rule in rules]

    def _id(self, action: tuple[str, str]) -> str:
        return f"etl-{'abort-uploads' if action == _ABORT else 'expire-versions'}-{self.place.tag}"


def _say_days(days: int) -> str:
    return f"after {days} day{'s' if days > 1 else ''}" if days else "never"
