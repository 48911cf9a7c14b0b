"""Step keys and the store of what steps found: a changed limit decides anew and computes nothing.

step key = hash(step, its version, the settings its result depends on, the identity of what it looked at). Results live
in the unit's parts; a rerun of the unit finds them there.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.store import stable_hash
from schemas.verdict import STORAGE, CandidateError, Reason


def step_key(step: str, version: int, settings: Mapping[str, Any], identity: str) -> str:
    """32 hex digits."""
    return stable_hash([step, version, settings, identity])[:32]


@dataclass
class StepStore:
    """Results of steps by key: `known` from earlier parts of the unit, `used` what this run needed of them or added.

    again: errors that are no results to keep.
    """

    known: dict[str, Any] = field(default_factory=dict)
    earlier: dict[str, dict[str, Any]] = field(default_factory=dict)  # the same by source row
    again: frozenset[Reason] = STORAGE
    used: dict[str, Any] = field(default_factory=dict)
    computed: int = 0
    reused: int = 0

    def knows(self, key: str) -> bool:
        """Whether `get` would compute nothing."""
        result = self.known.get(key)
        return result is not None and result.get("error", [None])[0] not in self.again

    def get(self, key: str, compute: Callable[[], Any]) -> Any:
        """The stored JSON-ready result, or that of `compute`, which is stored. A CandidateError is a result too."""
        result = self.known[key] if self.knows(key) else None
        if result is None:
            self.computed += 1
            try:
                # Through JSON at once: a result that cannot be stored fails here, and a fresh one is what a stored one will be.
                result = json.loads(json.dumps({"ok": compute()}))
            except CandidateError as error:
                result = {"error": [str(error.reason), error.message[:500]]}
        else:
            self.reused += 1
        self.used[key] = result
        if "error" in result:
            raise CandidateError(Reason(result["error"][0]), result["error"][1])
        return result["ok"]

    def take(self, sample_id: str) -> str:
        """What was used for this source row since the last call, as JSON for the part, and what earlier runs knew of it.

        A limit that is tightened keeps later stages from running; loosened again, it must not make them run anew.
        """
        taken, self.used = {**self.earlier.get(sample_id, {}), **self.used}, {}
        return json.dumps(taken, sort_keys=True, separators=(",", ":"))

    def learn(self, sample_id: str, features: str) -> None:
        """Take in the results that an earlier part holds for a source row."""
        results = json.loads(features)
        self.known.update(results)
        self.earlier.setdefault(sample_id, {}).update(results)
