from django.db import transaction
from django.http import HttpRequest, JsonResponse

from pq_adapters.django import pq
from shop.models import Order
from shop.tasks import pack


@transaction.atomic
def place(request: HttpRequest, item: str) -> JsonResponse:
    """Write the order and its task in one transaction."""
    order = Order.objects.create(item=item)
    task_id = pq.enqueue(pack.call(order.pk))
    if item == "nonsense":
        raise ValueError("we don't sell that")  # takes both back
    return JsonResponse({"order": order.pk, "task": task_id})
