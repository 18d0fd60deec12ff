"""Ask the view for orders, as a browser would, and wait for their tasks."""

import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
django.setup()

from django.test import Client  # noqa: E402
from shop.models import Order  # noqa: E402

from pq_adapters.django import pq  # noqa: E402

client = Client(raise_request_exception=False)
task_id = client.get("/place/tea/").json()["task"]
print("refused:", client.get("/place/nonsense/").status_code)
print(pq.wait(task_id, timeout=30))
print("orders:", list(Order.objects.values_list("item", "state")))
print("tasks:", sum(pq.counts().values()))

if django.VERSION >= (6, 0):
    from shop.letters import thank

    result = thank.using(max_attempts=3).enqueue("Ann")
    pq.wait(int(result.id), timeout=30)
    result.refresh()
    assert result.return_value == "Thank you, Ann (attempt 1)"
print("done")
