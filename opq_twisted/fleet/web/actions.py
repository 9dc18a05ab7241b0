"""The actions of operators on the page: each needs a reason, and adds a row to the audit."""

import re
from collections.abc import Callable, Mapping
from urllib.parse import parse_qs

from attrs import frozen
from twisted.web.http import FORBIDDEN, OK, SEE_OTHER, UNSUPPORTED_MEDIA_TYPE

from opq_twisted.common.errors import OpqError
from opq_twisted.fleet.audit import AuditNote
from opq_twisted.fleet.control.answers import Content, RequestInvalid, as_json, code_of
from opq_twisted.fleet.control.changes import MakeChange
from opq_twisted.fleet.control.fields import Fields
from opq_twisted.fleet.web.answers import answer, is_browser
from opq_twisted.fleet.web.pages import Sources
from opq_twisted.fleet.web.resource import Guard, PageResource
from opq_twisted.fleet.web.views import render
from opq_twisted.fleet.web.views.viewer import Viewer
from opq_twisted.http.guards.csrf import Forgery, find_forgery
from opq_twisted.http.reply import Reply
from opq_twisted.http.request import BoundedRequest

_FORM = b"application/x-www-form-urlencoded"
_JSON = b"application/json"

#: The limit of fields of a form.
_MAX_FIELDS = 20

#: The paths of the pages to which an action may redirect.
_PAGES = re.compile(
    r"/fleet(/boxes|/audit|/box/[0-9a-f]{1,32}|/release/[0-9]{1,16})?(#[a-z0-9-]{1,40})?", re.ASCII
)

_FORGERIES = {
    Forgery.ANOTHER_PAGE: "Another page asked for this; use the page of the fleet.",
    Forgery.IN_ADVANCE: "A browser asked for this in advance; click the button instead.",
    Forgery.UNPROVEN: "Open the page of the fleet, and click the button there.",
}


@frozen(kw_only=True)
class Action:
    """An action of an operator."""

    #: The last part of its path.
    name: str
    #: Checks the fields, and returns the change.
    make_change: MakeChange
    #: Returns a sentence about the result of the change.
    describe: Callable[[Content], str]
    #: Returns the path of the page that follows, from the fields of the form; for a form without a
    #: field `back`.
    next_page: Callable[[Mapping[str, str]], str]
    #: Called after the commit with the result of the change; returns the answer for programs.
    after_commit: Callable[[Content], Content] = lambda content: content


class ActionResource(PageResource):
    """Does an action by POST; the audit gets the name of the operator."""

    def __init__(self, guard: Guard, sources: Sources, action: Action) -> None:
        super().__init__(guard)
        self._sources = sources
        self._action = action

    def render_POST(self, request: BoundedRequest) -> Reply | int:
        """Answer after the change is committed; refuse a request that another site caused."""
        forgery = find_forgery(request)
        if forgery is not None:
            return self.guard.problem(request, FORBIDDEN, _FORGERIES[forgery])
        return self.serve(request, self._act)

    async def _act(self, request: BoundedRequest, viewer: Viewer) -> Reply:
        if not viewer.is_operator:
            sentence = (
                f"{viewer.name} is a viewer, and may change nothing. The administrator of the "
                "server can change the role with opq-fleet add-operator."
            )
            return self.guard.problem(request, FORBIDDEN, sentence, viewer)
        kind = (request.getHeader(b"Content-Type") or b"").partition(b";")[0].strip().lower()
        if kind == _JSON:
            return await self._change(request, viewer, Fields.of_body(request), {})
        if kind == _FORM:
            typed = _read_form(request)
            return await self._change(request, viewer, Fields(typed, are_texts=True), typed)
        sentence = "Send the fields of a form, or a JSON object with its Content-Type."
        return self.guard.problem(request, UNSUPPORTED_MEDIA_TYPE, sentence, viewer)

    async def _change(
        self, request: BoundedRequest, viewer: Viewer, fields: Fields, typed: Mapping[str, str]
    ) -> Reply:
        try:
            change = self._action.make_change(fields)
            # A browser may send several lines.
            because = " ".join(fields.text("because").split())
            note = AuditNote(who=viewer.name, because=because)
            content = await self._sources.database.write(
                lambda connection: change(connection, note)
            )
        except OpqError as error:
            return self._refused(request, viewer, error, typed)
        content = self._action.after_commit(content)
        # The next page must show the change.
        await self._sources.current.recount()
        if not is_browser(request):
            return as_json(OK, content)
        word = self._sources.notices.add(self._action.describe(content))
        path, hash_mark, fragment = self._next_page(typed).partition("#")
        location = f"{path}?done={word}{hash_mark}{fragment}"
        return Reply.sentence(SEE_OTHER, "It is done.", {b"Location": location.encode()})

    def _next_page(self, typed: Mapping[str, str]) -> str:
        back = typed.get("back", "")
        path = back if _PAGES.fullmatch(back) else self._action.next_page(typed)
        return path if _PAGES.fullmatch(path) else "/fleet"

    def _refused(
        self, request: BoundedRequest, viewer: Viewer, error: OpqError, typed: Mapping[str, str]
    ) -> Reply:
        content = {
            "action": self._action.name,
            "fields": {name: value for name, value in typed.items() if name != "because"},
            "because": typed.get("because", ""),
            "mistake": str(error),
            "code": code_of(error),
            "time": self.guard.now(),
        }
        return answer(
            request,
            code_of(error),
            {"error": str(error)},
            lambda: render.form(content, viewer),
        )


def _read_form(request: BoundedRequest) -> Mapping[str, str]:
    """Read the fields of a form; an empty field counts as missing."""
    body: bytes = request.content.read() if request.content else b""
    try:
        # Decoded first, because `parse_qs` would decode bytes as ASCII.
        found = parse_qs(body.decode("utf-8", "replace"), max_num_fields=_MAX_FIELDS)
    except ValueError:
        raise RequestInvalid(f"The form has more than {_MAX_FIELDS} fields.") from None
    for name, values in found.items():
        if len(values) != 1:
            raise RequestInvalid(f"The field {name[:40]!r} is there twice.")
    return {name: values[0] for name, values in found.items()}
