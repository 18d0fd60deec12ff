from asgiref.sync import sync_to_async
from django.db import transaction
from django.http import JsonResponse

from pq_adapters.django import pq
from shop.models import Order
from shop.tasks import write_receipt


@transaction.atomic
def create_order(request):
    order = Order.objects.create(customer=request.GET["customer"])
    return JsonResponse({"order": order.pk, "task": pq.enqueue(write_receipt.call(order.pk))})


@transaction.atomic
def create_refused_order(request):
    order = Order.objects.create(customer=request.GET["customer"])
    pq.enqueue(write_receipt.call(order.pk))
    raise RuntimeError("refused after all")


async def create_order_async(request):
    order = await Order.objects.acreate(customer=request.GET["customer"])
    task_id = await pq.aenqueue(write_receipt.call(order.pk))
    found = await sync_to_async(pq.get_task)(task_id)
    return JsonResponse({"order": order.pk, "task": task_id, "status": found.status})
