"""The cookie of a login: which key it was, signed with what only that key's row and the dashboard's secret give.

So there is nothing to store, every process of a dashboard takes it, and it ends with the key.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from typing import TYPE_CHECKING

from itsdangerous import BadSignature, TimestampSigner

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from pq_adapters.dashboard.settings import Settings
    from pq_core.keys import ActiveKey


class Sessions:
    """Makes and reads session cookies. The secret of the settings, else PQ_DASHBOARD_SECRET, is part of the signature:
    with it, reading the database is not enough to make one.
    """

    cookie = "pq_session"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def begin(self, request: Request, response: Response, key: ActiveKey) -> None:
        """Log the key's owner in."""
        response.set_cookie(
            self.cookie,
            self._signer(key).sign(str(key.id)).decode(),
            max_age=int(self._settings.session.total_seconds()),
            path=_path(request),
            secure=self._secure(request),
            httponly=True,
            samesite="lax",
        )

    def end(self, request: Request, response: Response) -> None:
        """Log out."""
        response.delete_cookie(
            self.cookie, path=_path(request), secure=self._secure(request), httponly=True, samesite="lax"
        )

    def key_id(self, cookie: str) -> int | None:
        """Return which key a cookie says it is of; not to be believed before ``holds``."""
        head = cookie.partition(".")[0]
        return int(head) if head.isascii() and head.isdecimal() and len(head) < 19 else None

    def holds(self, cookie: str, key: ActiveKey) -> bool:
        """Tell whether the cookie was made here for this key, and not too long ago."""
        try:
            said = self._signer(key).unsign(cookie, max_age=int(self._settings.session.total_seconds()))
        except BadSignature:  # expired ones are of this class as well
            return False
        return said == str(key.id).encode()

    def _signer(self, key: ActiveKey) -> TimestampSigner:
        secret = self._settings.secret or os.environ.get("PQ_DASHBOARD_SECRET") or ""
        return TimestampSigner(
            hmac.digest(secret.encode(), key.digest, "sha256"), salt="pq session", digest_method=hashlib.sha256
        )

    def _secure(self, request: Request) -> bool:
        chosen = self._settings.secure_cookies
        return request.url.scheme == "https" if chosen is None else chosen


def _path(request: Request) -> str:
    return str(request.scope.get("root_path", "")) or "/"
