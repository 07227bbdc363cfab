"""Stream the body of an answer in pieces. A HEAD is answered without any piece being produced."""

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

BODILESS = "placet.bodiless"  # key of the scope of a HEAD that is answered as GET


class Streamed(StreamingResponse):
    """A streamed answer: a campaign's proof or recipients can take minutes to read."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not scope.get(BODILESS):
            await super().__call__(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
