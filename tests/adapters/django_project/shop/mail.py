"""Tasks of django.tasks, from Django 6.0 on."""

import os
import signal
import sys
import time

from django.db import connection
from django.dispatch import receiver
from django.tasks import task
from django.tasks.signals import task_enqueued, task_finished, task_started

from pq_core import Cancel, Retry, current_attempt
from shop.models import Order

heard = []


@receiver([task_enqueued, task_started, task_finished])
def note(signal, sender, task_result, **kwargs):
    """Write down what is heard: here, and in the worker's children as rows."""
    name = {task_enqueued: "enqueued", task_started: "started", task_finished: "finished"}[signal]
    words = f"{name} {sender.__name__} {task_result.status} {task_result.task.name} {task_result.attempts}"
    error = task_result.errors[-1].exception_class_path if task_result.errors else ""
    heard.append(words)
    if os.environ.get("PROJECT_NOTE_SIGNALS"):
        Order.objects.create(customer=words, receipt=error)


@task
def add(a, b=1):
    return a + b


@task(priority=10, queue_name="mail", takes_context=True)
def greet(context, name):
    result = context.task_result
    return {
        "name": name,
        "attempt": context.attempt,
        "id": result.id,
        "status": result.status,
        "priority": result.task.priority,
        "queue": result.task.queue_name,
        "errors": [error.exception_class_path for error in result.errors],
    }


@task
async def agreet(name):
    return f"{name} of {await Order.objects.acount()}"


@task
def explode(text):
    raise ValueError(text)


@task
def strange_result():
    return lambda: None


@task(takes_context=True)
def second_time(context):
    if context.attempt == 1:
        raise Retry("not yet", after=0)
    return [context.attempt, len(context.task_result.worker_ids), context.task_result.errors[0].exception_class_path]


@task
def give_up():
    raise Cancel("not needed any more")


@task
def crash():
    os.kill(os.getpid(), signal.SIGSEGV)


@task
def sleep(seconds):
    time.sleep(seconds)


@task
def writes_then_fails():
    Order.objects.create(customer="written")
    raise RuntimeError


@task
def facts():
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        backend = cursor.fetchone()[0]
    return {"priority": current_attempt().task.priority, "backend": backend, "django": "django" in sys.modules}
