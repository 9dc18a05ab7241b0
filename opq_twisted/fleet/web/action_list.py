"""All actions of the page, and the sentences about their results."""

from collections.abc import Sequence

from opq_twisted.common import wording
from opq_twisted.fleet.control.answers import Content, RequestInvalid
from opq_twisted.fleet.control.changes import Change, Changes
from opq_twisted.fleet.control.fields import Fields
from opq_twisted.fleet.store.states import RolloutState
from opq_twisted.fleet.web.actions import Action
from opq_twisted.trust.pace import ALL


def make_actions(changes: Changes) -> Sequence[Action]:
    """Make the actions."""

    def widen(fields: Fields) -> Change:
        if fields.number("to_bp", ALL) is None:
            # There is no default, because a second click would then widen to a further step.
            raise RequestInvalid("Give the share in to_bp, in hundredths of a percent.")
        return changes.widen(fields)

    def admit(fields: Fields) -> Change:
        if not fields.text("key_id"):
            return changes.admit(fields)
        key = {"key_id": fields.text("key_id"), "box_id": fields.required_number("box_id")}
        return changes.admit(Fields({"keys": [key]}))

    return (
        *(
            Action(
                name=name,
                make_change=make_change,
                describe=_describe_rollout,
                next_page=lambda typed: f"/fleet#{typed.get('channel', '')}".rstrip("#"),
                after_commit=changes.sign_pace,
            )
            for name, make_change in (
                ("hold", changes.hold),
                ("resume", changes.resume),
                ("widen", widen),
            )
        ),
        Action(
            name="admit",
            make_change=admit,
            describe=_describe_admission,
            next_page=lambda typed: f"/fleet/box/{typed.get('key_id', '')}",
        ),
        Action(
            name="distrust",
            make_change=changes.distrust,
            describe=_describe_distrust,
            next_page=lambda typed: f"/fleet/box/{typed.get('key', '')}",
        ),
        Action(
            name="forget",
            make_change=changes.forget,
            describe=_describe_removal,
            next_page=lambda typed: "/fleet/boxes",
        ),
    )


def _describe_rollout(content: Content) -> str:
    share, ceiling = wording.percent(content["bp"]), wording.percent(content["ceiling_bp"])
    how = {
        RolloutState.HELD: f"held; it was at {share}",
        RolloutState.DONE: f"for all boxes that the release key allows ({ceiling})",
    }.get(content["state"], f"at {share} of {ceiling} that the release key allows")
    return (
        f"Release {content['release']} in {content['channel']} is {how}. Boxes see it at their "
        "next check."
    )


def _describe_admission(content: Content) -> str:
    replaced = content["replaced"]
    more = f" It replaces {wording.count(replaced, 'older key')}." if replaced else ""
    return f"Admitted: {wording.count(content['admitted'], 'key')}.{more}"


def _describe_distrust(content: Content) -> str:
    return (
        f"The key {content['key_id']} of box {content['box_id'] or '-'} is distrusted. To trust it "
        "again, admit it."
    )


def _describe_removal(content: Content) -> str:
    keys, attempts = (
        wording.count(content["keys"], "key"),
        wording.count(content["attempts"], "attempt"),
    )
    return f"Deleted: {keys} and {attempts}."
