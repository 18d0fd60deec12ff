"""Tasks of pq: what every Django version runs."""

import os
import time

from django.db import connection, connections

from pq_adapters.django import pq
from pq_core import TaskGroup, current_attempt
from shop.models import Order

jobs = TaskGroup(prefix="shop")

# What this module does with the database at import must hurt no child.
if os.environ.get("PROJECT_QUERY_AT_IMPORT"):
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


@jobs.task
def write_receipt(order_id):
    order = Order.objects.get(pk=order_id)
    order.receipt = f"for {order.customer}"
    order.save()
    return order.receipt


@pq.task(name="shop.backend_pid")
def backend_pid():
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid(), count(*) FROM shop_order")
        return [os.getpid(), cursor.fetchone()[0]]


@jobs.task
def fail(text):
    raise ValueError(text)


@jobs.task
def complete_with_order(customer):
    from django.db import transaction

    with transaction.atomic():
        Order.objects.create(customer=customer)
        current_attempt().complete(connections["default"], result=customer)


@jobs.task
def leave_transaction_open():
    connection.set_autocommit(False)
    Order.objects.create(customer="never committed")


@jobs.task
def nap(seconds):
    time.sleep(seconds)


@jobs.task
async def count_orders():
    return await Order.objects.acount()


@pq.task
def end_own_session():
    """End the session of this process, as a restart of the server would."""
    from django.db import connections

    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        pid = cursor.fetchone()[0]
    other = connections.create_connection("default")
    with other.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])
    other.close()
