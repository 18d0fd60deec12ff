"""A task of django.tasks, which Django has from 6.0 on."""

from django.tasks import TaskContext, task


@task(takes_context=True)
def thank(context: TaskContext, name: str) -> str:
    return f"Thank you, {name} (attempt {context.attempt})"
