"""What the demo tells of a fleet."""

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from demo.narrator import Json, Narrator, is_done, is_held

GOOD, BAD = 1547860803, 1547947203


def assessment(**numbers: Any) -> Json:
    """Make what is thought of a rollout; all numbers that are not given are 0."""
    found = {"well": 0, "bad": 0, "bad_by_reason": {}, "under_way": 0, **numbers}
    return {**found, "boxes": found["well"] + found["bad"] + found["under_way"]}


def status(found: Json, release: int = GOOD, bp: int = 2000, **fields: Any) -> Json:
    """Make an answer of `opq-fleet status`."""
    rollout = {"channel": "stable", "release": release, "bp": bp, "state": "baking"}
    rollout |= {name: fields.pop(name) for name in ("state",) if name in fields}
    changes = fields.pop("changes", [])
    return {"channels": [{**rollout, "assessment": found}], "changes": changes, **fields}


def change(number: int, what: str, who: str = "engine", release: int = GOOD) -> Json:
    """Make a row of the audit."""
    decided = {"id": number, "who": who, "what": what, "because": f"{number} of 5 boxes are bad."}
    return {**decided, "channel": "stable", "release": release}


class NarratorTests(SynchronousTestCase):
    """`Narrator` compares answers."""

    def setUp(self) -> None:
        self.narrator = Narrator({GOOD: "The good release"})

    def tell(self, *args: Any, **fields: Any) -> list[str]:
        """Tell what is new in a status."""
        return list(self.narrator.describe_news(status(*args, **fields)))

    def test_good(self) -> None:
        """The boxes that are well are told when all are through, and nothing is told twice."""
        begin = ["The good release begins with 20 % of the boxes."]
        self.assertEqual(self.tell(assessment()), begin)
        self.assertEqual(self.tell(assessment(well=4, under_way=1)), [])
        all_well = self.tell(assessment(well=5))
        self.assertEqual(all_well, ["The good release: 5 of 5 boxes are well."])
        self.assertEqual(self.tell(assessment(well=5)), [])
        wider = self.tell(assessment(well=5), bp=5000, changes=[change(1, "widen")])
        self.assertEqual(
            wider, ["The good release goes to 50 % of the boxes: 1 of 5 boxes are bad."]
        )

    def test_bad(self) -> None:
        """Each bad box is told at once, with the reasons; a hold is told with its own."""
        self.tell(assessment(under_way=5))
        reasons = {"unhealthy-service": 1, "silent": 1}
        first = self.tell(assessment(bad=2, bad_by_reason=reasons, under_way=3))
        self.assertEqual(
            first, ["The good release: 2 of 5 boxes are bad (unhealthy-service 1, silent 1)."]
        )
        changes = [change(3, "hold"), change(2, "first-bad")]
        held = self.tell(assessment(bad=2, bad_by_reason=reasons, under_way=3), changes=changes)
        self.assertEqual(
            held, ["The good release is held at 20 % of the boxes: 3 of 5 boxes are bad."]
        )

    def test_next_release(self) -> None:
        """Another release is told from its beginning, and one without a name by its number."""
        self.tell(assessment(well=25), changes=[change(1, "widen")])
        begin = self.tell(assessment(), BAD, changes=[change(2, "widen"), change(1, "widen")])
        self.assertEqual(begin, [f"Release {BAD} begins with 20 % of the boxes."])

    def test_person(self) -> None:
        """What a person decides is told with the name; the engine's questions by their sentence."""
        self.tell(assessment())
        changes = [change(2, "resume", "anna"), change(1, "ask")]
        self.assertEqual(
            self.tell(assessment(), changes=changes),
            [
                "The good release: 1 of 5 boxes are bad.",
                "anna decides about it: resume, because: 2 of 5 boxes are bad.",
            ],
        )


class EndTests(SynchronousTestCase):
    """The ends of the rollouts."""

    def test_done(self) -> None:
        """A release has reached all boxes when all of them run it, and not before."""
        for state, boxes, expected in (
            ("done", 25, True),
            ("done", 24, False),
            ("baking", 25, False),
        ):
            found = status(
                assessment(), state=state, boxes=25, releases=[{"release": GOOD, "boxes": boxes}]
            )
            self.assertIs(is_done(found, GOOD), expected, (state, boxes))

    def test_held(self) -> None:
        """A release is held when it is that one which the channel names."""
        self.assertTrue(is_held(status(assessment(), BAD, state="held"), BAD))
        self.assertFalse(is_held(status(assessment(), BAD, state="held"), GOOD))
        self.assertFalse(is_held(status(assessment(), BAD), BAD))
