"""The project with the dashboard beside it: staff that is logged in to Django needs no key."""

import os
from importlib import import_module

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
django = get_asgi_application()  # before anything that needs the settings

from django.conf import settings  # noqa: E402
from django.contrib.auth import aget_user  # noqa: E402
from django.http import HttpRequest  # noqa: E402
from starlette.applications import Starlette  # noqa: E402
from starlette.routing import Mount  # noqa: E402

from pq_adapters.dashboard import Principal, Role, create_app  # noqa: E402
from pq_adapters.django import pq  # noqa: E402
from pq_core import PQ  # noqa: E402

sessions = import_module(settings.SESSION_ENGINE)


async def staff(request):
    known = HttpRequest()
    known.session = sessions.SessionStore(request.cookies.get(settings.SESSION_COOKIE_NAME))
    user = await aget_user(known)
    if not user.is_staff:
        return None
    return Principal(name=user.get_username(), role=Role.ADMIN if user.is_superuser else Role.VIEWER)


# One of its own, on the same database: Django's has Django's connections, which know no asynchronous transactions.
look = PQ(pq.dsn, schema=pq.schema, tasks=["shop.tasks"])
application = Starlette(routes=[Mount("/ops/tasks", create_app(look, auth=staff)), Mount("/", django)])
