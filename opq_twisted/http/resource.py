"""Resources that answer in plain text instead of twisted.web's own HTML."""

from collections.abc import Callable, Mapping

from twisted.web.http import NOT_ALLOWED, NOT_FOUND
from twisted.web.resource import IResource, Resource

from opq_twisted.http.reply import Reply
from opq_twisted.http.request import BoundedRequest


class PlainResource(Resource):
    """
    A resource whose `render_METHOD` returns a `Reply`, or NOT_DONE_YET to answer later.

    Every resource answers HEAD like GET, without the body (RFC 9110, section 9.3.2).
    """

    def getChild(self, path: bytes, request: BoundedRequest) -> IResource:
        """Answer 404 for any other path."""
        return NotFound()

    def render(self, request: BoundedRequest) -> int:
        """Call `render_METHOD`, or answer 405 with `Allow` (RFC 9110, section 15.5.6)."""
        method = "GET" if request.method == b"HEAD" else request.method.decode("charmap")
        render = getattr(self, f"render_{method}", None)
        result = self._no_such_method(request) if render is None else render(request)
        return request.reply(result) if isinstance(result, Reply) else result

    def refuse(
        self,
        request: BoundedRequest,
        code: int,
        sentence: str,
        headers: Mapping[bytes, bytes] | None = None,
    ) -> Reply:
        """Make the reply to a request with an unknown path or method."""
        return Reply.sentence(code, sentence, headers)

    def _no_such_method(self, request: BoundedRequest) -> Reply:
        methods = {name.removeprefix("render_") for name in dir(self) if name.startswith("render_")}
        methods = methods | {"HEAD"} if "GET" in methods else methods - {"HEAD"}
        if not methods:
            return self.refuse(request, NOT_FOUND, "There is nothing here.")
        allowed = ", ".join(sorted(methods))
        sentence = f"Only {allowed} can be asked for here."
        return self.refuse(request, NOT_ALLOWED, sentence, {b"Allow": allowed.encode()})


class FunctionResource(PlainResource):
    """A resource that answers GET with the result of a function."""

    def __init__(self, answer: Callable[[BoundedRequest], Reply]) -> None:
        super().__init__()
        self.render_GET = answer


class NotFound(PlainResource):
    """A resource without methods: it answers 404 with one line of text."""

    isLeaf = True
