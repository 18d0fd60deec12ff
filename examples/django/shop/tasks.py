from django.db import connection, transaction

from pq_core import TaskGroup, current_attempt
from shop.models import Order

jobs = TaskGroup("shop")


@jobs.task
def pack(order_id: int) -> str:
    with transaction.atomic():
        order = Order.objects.select_for_update().get(pk=order_id)
        order.state = "packed"
        order.save()
        current_attempt().complete(connection, result=f"{order.item} packed")  # with the order, or not at all
        return f"{order.item} packed"
