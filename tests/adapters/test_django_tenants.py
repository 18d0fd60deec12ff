"""The recipe for django-tenants in docs/tenants.md, run against django-tenants itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.acceptance.pages import ROOT, write_files

SETTINGS = """
import os

SECRET_KEY = "for tests"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {
    "default": {
        "ENGINE": "django_tenants.postgresql_backend",
        "NAME": os.environ["SHOP_NAME"],
        "USER": os.environ["SHOP_USER"],
        "HOST": os.environ["SHOP_HOST"],
    }
}
DATABASE_ROUTERS = ("django_tenants.routers.TenantSyncRouter",)
SHARED_APPS = ["django_tenants", "customers", "pq_adapters.django"]
TENANT_APPS = ["django.contrib.contenttypes", "shop"]
INSTALLED_APPS = [*SHARED_APPS, *TENANT_APPS]
TENANT_MODEL = "customers.Customer"
TENANT_DOMAIN_MODEL = "customers.Domain"
PQ = {"plugins": ["shop.tenancy.Tenants"]}
"""
CUSTOMERS = """
from django.db import models
from django_tenants.models import DomainMixin, TenantMixin


class Customer(TenantMixin):
    auto_create_schema = True


class Domain(DomainMixin):
    pass
"""
MODELS = """
from django.db import models


class Book(models.Model):
    title = models.TextField()
"""
TASKS = """
from pq_core import TaskGroup

jobs = TaskGroup("shop")


@jobs.task
def add(title: str) -> str:
    from django.db import connection
    from shop.models import Book

    Book.objects.create(title=title)
    return connection.schema_name
"""
MANAGE = """
import os
import sys

os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
from django.core.management import execute_from_command_line

execute_from_command_line(sys.argv)
"""
BEGIN = """
import os

os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
import django

django.setup()
from customers.models import Customer
from django_tenants.utils import tenant_context
from shop.models import Book
from shop.tasks import add

from pq_adapters.django import pq
"""
ENQUEUE = f"""{BEGIN}
for name in ("tenant_a", "tenant_b"):
    with tenant_context(Customer.objects.create(schema_name=name)):
        pq.enqueue(add.call(f"of {{name}}").options(client_id=name))
pq.enqueue(add.call("of nobody").options(client_id="tenant_c", headers={{"tenant": "tenant_c"}}))
"""
LOOK = f"""{BEGIN}
for tenant in Customer.objects.filter(schema_name__startswith="tenant_"):
    name = tenant.schema_name
    assert pq.get_task_by_client_id(name).result == name
    with tenant_context(tenant):
        assert list(Book.objects.values_list("title", flat=True)) == [f"of {{name}}"]
lost = pq.get_task_by_client_id("tenant_c")
assert (lost.status, lost.attempts) == ("failed", 1), lost
assert "there is no tenant 'tenant_c'" in lost.error
print("as it should be")
"""


def test_the_recipe_runs(tmp_path: Path, empty_database: str) -> None:
    pytest.importorskip("django_tenants")
    write_files(ROOT / "docs" / "tenants.md", tmp_path)
    for name, text in {
        "settings.py": SETTINGS, "manage.py": MANAGE, "enqueue.py": ENQUEUE, "look.py": LOOK, "shop/models.py": MODELS,
        "shop/tasks.py": TASKS, "shop/__init__.py": "", "customers/__init__.py": "", "customers/models.py": CUSTOMERS,
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    said = conninfo_to_dict(empty_database)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("PQ_", "DJANGO"))},
        "SHOP_NAME": str(said["dbname"]), "SHOP_USER": str(said["user"]), "SHOP_HOST": str(said["host"]),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)]),
    }  # fmt: skip

    for command in (
        ["manage.py", "makemigrations", "customers", "shop"],
        ["manage.py", "migrate_schemas", "--shared"],
        ["enqueue.py"],
        ["manage.py", "pq_worker", "--until-empty", "--concurrency", "2"],
        ["look.py"],
    ):
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"

    assert "as it should be" in done.stdout
